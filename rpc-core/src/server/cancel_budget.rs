//! A budget for calls that are begun and soon ended unfinished (T15, T16): work for us, nearly none for the peer. Envoy's rule.
//!
//! A deadline that passes counts as a cancellation does. It is the peer's: a server sets none. One that is too short to be kept has handlers
//! begun and dropped as fast as requests come, and `max_inflight` does not bound that, because each drop makes room. An honest peer whose
//! deadlines are too tight loses no call by it: it hears `goaway`, and goes on with another connection.

use std::time::{Duration, Instant};

/// A call that ends unfinished within this time of its start counts.
const SOON: Duration = Duration::from_secs(1);

/// The calls of one connection that were cancelled, or timed out.
#[derive(Debug, Default)]
pub(super) struct CancelBudget {
    /// Cancellations that came, for whatever call.
    cancels: u64,
    /// Calls that ended so soon after they began.
    soon: u64,
    /// Calls that are not counted any more.
    forgotten: u64,
}

impl CancelBudget {
    /// A cancellation came, after so many calls: whether there were more of those than of calls.
    pub(super) fn on_cancel(&mut self, calls: u64) -> bool {
        self.cancels += 1;
        self.cancels > calls
    }

    /// One of `calls` so far, which began at `began`, ended unfinished: whether the budget, a number of calls before which nothing is
    /// concluded, is spent, with more than half of the calls ended so.
    pub(super) fn on_unfinished(&mut self, budget: u32, calls: u64, began: Instant, now: Instant) -> bool {
        let budget = u64::from(budget);
        if now.saturating_duration_since(began) >= SOON {
            return false;
        }
        self.soon += 1;
        let mut counted = calls - self.forgotten;
        if counted > 2 * budget {
            // What was long ago weighs no more than the budget, so that a million good calls do not pay for as many bad ones.
            self.soon = self.soon * budget / counted;
            counted = budget;
            self.forgotten = calls - counted;
        }
        counted >= budget && 2 * self.soon > counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of this kind in turn until the budget of 10 is spent: after how many, at most 1,000.
    fn spent(kinds: &str) -> Option<u64> {
        let now = Instant::now();
        let mut budget = CancelBudget::default();
        (1..=1000).zip(kinds.chars().cycle()).find_map(|(calls, kind)| {
            let spent = match kind {
                'x' => budget.on_unfinished(10, calls, now, now + SOON - Duration::from_millis(1)),
                'l' => budget.on_unfinished(10, calls, now, now + SOON),
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
    fn there_is_at_most_one_cancellation_for_a_call() {
        let mut budget = CancelBudget::default();
        let too_many = [2, 2, 2, 3, 5].map(|calls| budget.on_cancel(calls));
        assert_eq!(too_many, [false, false, true, true, false]);
    }

    #[test]
    fn good_calls_of_the_past_are_forgotten() {
        let now = Instant::now();
        let mut budget = CancelBudget::default();
        let spent = (1..100).find(|bad| budget.on_unfinished(10, 1_000_000 + bad, now, now));
        assert_eq!(spent, Some(13));
    }
}
