//! Durations, counted by their size: an eighth of each one's size is what is not known of it.

use std::time::Duration;

/// Counts for each power of two of nanoseconds.
const STEPS: usize = 8;

/// From a nanosecond to some eighteen minutes; what is longer counts as that.
const POWERS: usize = 40;

/// How often durations of each size have come.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64; STEPS * POWERS]>,
    total: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: Box::new([0; STEPS * POWERS]), total: 0, longest: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.counts[place(duration)] += 1;
        self.total += 1;
        self.longest = self.longest.max(duration);
    }

    /// How many have come.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest of them, exactly; zero if there are none.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// What the share `q` of them is not longer than, from 0 to 1: at most an eighth more than that. Zero if there are none.
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = (self.total as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        at.map_or(Duration::ZERO, |at| end_of(at).min(self.longest))
    }
}

fn place(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let power = nanos.ilog2() as usize; // at least 3
    let step = (nanos >> (power - 3)) as usize & (STEPS - 1);
    ((power - 2) * STEPS + step).min(STEPS * POWERS - 1)
}

/// The longest duration that counts there.
fn end_of(place: usize) -> Duration {
    let (power, step) = (place / STEPS, (place % STEPS) as u64);
    match power {
        0 => Duration::from_nanos(step),
        power => Duration::from_nanos(((STEPS as u64 + step + 1) << (power - 1)) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_known_to_an_eighth() {
        for nanos in (0..64).map(|power| 1_u64 << power).flat_map(|n| [n - 1, n, n + n / 3]) {
            let end = end_of(place(Duration::from_nanos(nanos))).as_nanos() as u64;
            if place(Duration::from_nanos(nanos)) < STEPS * POWERS - 1 {
                assert!((nanos..=nanos + nanos / 8).contains(&end), "{nanos} ns counts as at most {end} ns");
            }
        }
        assert_eq!(place(Duration::MAX), STEPS * POWERS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_came() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.longest()), (Duration::ZERO, Duration::ZERO));
        (1..=1000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (q, micros) in [(0.0, 1), (0.5, 500), (0.99, 990), (1.0, 1000)] {
            let (found, exact) = (histogram.quantile(q), Duration::from_micros(micros));
            assert!((exact..=exact + exact / 8).contains(&found), "{q}: {found:?}, not {exact:?}");
        }
        assert_eq!((histogram.total(), histogram.longest()), (1000, Duration::from_millis(1)));
    }
}
