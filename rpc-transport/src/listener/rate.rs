//! How fast connections are taken in.

use std::time::{Duration, Instant};

/// How much of a second's share may come at once.
const BURST: Duration = Duration::from_millis(100);

/// At most so many a second, evenly but for bursts of a tenth of them. It is the generic cell rate algorithm (ITU-T I.371): one moment says
/// all, that when the next would come if all came evenly.
#[derive(Debug)]
pub(super) struct Rate {
    interval: Duration,
    even: Option<Instant>,
}

impl Rate {
    /// One a second at least; more than one a nanosecond is no limit.
    pub(super) fn new(a_second: u32) -> Rate {
        Rate { interval: Duration::from_secs(1) / a_second.max(1), even: None }
    }

    /// Until when the next has to wait; `None` if it may come now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        // Behind the last one it may come, however long the interval is.
        let earliest = self.even?.checked_sub(BURST.saturating_sub(self.interval))?;
        (earliest > now).then_some(earliest)
    }

    /// One has come.
    pub(super) fn count(&mut self, now: Instant) {
        self.even = self.even.map_or(now, |even| even.max(now)).checked_add(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many come at that moment, and until when the next has to wait.
    fn taken(rate: &mut Rate, now: Instant) -> (usize, Option<Instant>) {
        let come = (0..1000).take_while(|_| rate.wait(now).is_none().then(|| rate.count(now)).is_some()).count();
        (come, rate.wait(now))
    }

    #[test]
    fn bursts_are_a_tenth_and_the_rest_is_even() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut rate = Rate::new(100);
        assert_eq!(taken(&mut rate, at(0)), (10, Some(at(10))));
        assert_eq!(taken(&mut rate, at(10)), (1, Some(at(20))));
        assert_eq!(
            taken(&mut rate, at(1000)),
            (10, Some(at(1010))),
            "what was not used is not saved up beyond a tenth"
        );
    }

    #[test]
    fn slow_rates_take_one_at_a_time_and_none_takes_all() {
        let now = Instant::now();
        assert_eq!(taken(&mut Rate::new(2), now), (1, Some(now + Duration::from_millis(500))));
        assert_eq!(taken(&mut Rate::new(u32::MAX), now), (1000, None));
    }
}
