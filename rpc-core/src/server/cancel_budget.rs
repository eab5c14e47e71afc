//! A budget for calls that are begun and soon ended unfinished (T15, T16): work for us, nearly none for the peer. Envoy's rule.
//!
//! A deadline that passes counts as a cancellation does. It is the peer's: a server sets none. One that is too short to be kept has handlers
//! begun and dropped as fast as requests come, and `max_inflight` does not bound that, because each drop makes room. An honest peer whose
//! deadlines are too tight loses no call by it: it hears `goaway`, and goes on with another connection.

use std::time::{Duration, Instant};

/// A call that ends unfinished within this time of its start counts.
const SOON: Duration = Duration::from_secs(1);

/// How many calls of one connection were cancelled, or timed out, within a second.
#[derive(Debug)]
pub(super) struct CancelBudget {
    soon: u64,
    /// Calls that are not counted any more.
    forgotten: u64,
    /// Calls before which nothing is concluded.
    budget: u64,
}

impl CancelBudget {
    pub(super) fn new(budget: u32) -> Self {
        CancelBudget { soon: 0, forgotten: 0, budget: budget.into() }
    }

    /// One of `calls` so far, which began at `began`, ended unfinished: whether the budget is spent, with more than half of the calls
    /// ended so.
    pub(super) fn on_unfinished(&mut self, calls: u64, began: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(began) >= SOON {
            return false;
        }
        self.soon += 1;
        let mut counted = calls - self.forgotten;
        if counted > 2 * self.budget {
            // What was long ago weighs no more than the budget, so that a million good calls do not pay for as many bad ones.
            self.soon = self.soon * self.budget / counted;
            counted = self.budget;
            self.forgotten = calls - counted;
        }
        counted >= self.budget && 2 * self.soon > counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of this kind in turn until the budget of 10 is spent: after how many, at most 1,000.
    fn spent(kinds: &str) -> Option<u64> {
        let now = Instant::now();
        let mut budget = CancelBudget::new(10);
        (1..=1000).zip(kinds.chars().cycle()).find_map(|(calls, kind)| {
            let spent = match kind {
                'x' => budget.on_unfinished(calls, now, now + SOON - Duration::from_millis(1)),
                'l' => budget.on_unfinished(calls, now, now + SOON),
                _ => false,
            };
            spent.then_some(calls)
        })
    }

    #[test]
    #[rustfmt::skip]
    fn more_than_half_of_the_calls_spend_it_and_not_before_there_were_enough() {
        let check = |kinds: &str, after| assert_eq!(spent(kinds), after, "{kinds}");
        check("x",     Some(10));
        check("xxo",   Some(10));
        check("ox",    None);
        check("oox",   None);
        check("l",     None); // not soon
    }

    #[test]
    fn good_calls_of_the_past_are_forgotten() {
        let now = Instant::now();
        let mut budget = CancelBudget::new(10);
        let spent = (1..100).find(|bad| budget.on_unfinished(1_000_000 + bad, now, now));
        assert_eq!(spent, Some(13));
    }
}
