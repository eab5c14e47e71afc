//! A budget for content errors: a peer that makes many is told to stop, then cut off (HAProxy's idea).

use std::time::Instant;

/// Glitches of one connection; one is forgiven every second.
#[derive(Debug)]
pub(crate) struct Glitches {
    count: u32,
    budget: u32,
    since: Option<Instant>,
}

/// What another glitch means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Tolerate,
    /// 75 % of the budget: finish what is under way and close.
    Drain,
    /// 100 %: close now.
    Cut,
}

impl Glitches {
    pub(crate) fn new(budget: u32) -> Self {
        Glitches { count: 0, budget, since: None }
    }

    pub(crate) fn add(&mut self, now: Instant) -> Verdict {
        let since = *self.since.get_or_insert(now);
        let forgiven = now.saturating_duration_since(since).as_secs();
        if forgiven > 0 {
            self.count = self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
            self.since = Some(now);
        }
        self.count = self.count.saturating_add(1);
        if self.count >= self.budget {
            Verdict::Cut
        } else if self.count >= self.budget - self.budget / 4 {
            Verdict::Drain
        } else {
            Verdict::Tolerate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_drains_then_cuts_and_a_trickle_is_forgiven() {
        let start = Instant::now();
        let mut glitches = Glitches::new(4);
        let verdicts: Vec<_> = (0..4).map(|_| glitches.add(start)).collect();
        assert_eq!(verdicts, [Verdict::Tolerate, Verdict::Tolerate, Verdict::Drain, Verdict::Cut]);

        let mut glitches = Glitches::new(4);
        for second in 0..100 {
            assert_eq!(glitches.add(start + Duration::from_secs(second)), Verdict::Tolerate);
        }
    }
}
