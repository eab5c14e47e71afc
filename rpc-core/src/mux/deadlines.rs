//! The deadlines of a connection's calls: one timer for all of them.

use std::time::Instant;

/// Slots that are kept when there is no call, as many as the pairing table keeps: 32 KiB.
const KEPT: usize = 2048;

/// Deadlines by slot of the pairing table.
///
/// A connection has thousands of calls under way, most of which end long before their deadline and have about the same timeout. So one timer
/// is armed, for a time at or before the earliest deadline; a call that begins touches it only if its deadline is earlier, and one that
/// ends does not. When it comes, a walk over the slots finds who is due and when the next is. There is at most one such walk a tick
/// of the timer, of 16 bytes for each slot that was in use since there was last no deadline: 2 MiB at the worst.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    at: Vec<Option<Instant>>,
    armed: Option<Instant>,
}

impl Deadlines {
    /// A call begins. True if the timer comes too late for it, or is not armed: it is to be armed for `at`.
    #[inline]
    pub(crate) fn set(&mut self, slot: usize, at: Instant) -> bool {
        if self.at.len() <= slot {
            self.at.resize(slot + 1, None);
        }
        self.at[slot] = Some(at);
        let sooner = self.armed.is_none_or(|armed| at < armed);
        if sooner {
            self.armed = Some(at);
        }
        sooner
    }

    /// A call has ended.
    #[inline]
    pub(crate) fn clear(&mut self, slot: usize) {
        if let Some(at) = self.at.get_mut(slot) {
            *at = None;
        }
    }

    /// The timer has come. First the slots that are due, each of them cleared, then `None`: the walk is over. No deadline may be
    /// [set](Deadlines::set) before it has been given to [`rearm`](Deadlines::rearm).
    pub(crate) fn next_due(&mut self, walk: &mut Walk, now: Instant) -> Option<usize> {
        while let Some(at) = self.at.get_mut(walk.next) {
            walk.next += 1;
            match *at {
                Some(due) if due <= now => {
                    *at = None;
                    return Some(walk.next - 1);
                }
                Some(later) if walk.earliest.is_none_or(|earliest| later < earliest) => walk.earliest = Some(later),
                _ => {}
            }
        }
        None
    }

    /// When the timer that has come is to be armed next; `None` if there is no deadline.
    pub(crate) fn rearm(&mut self, walk: Walk) -> Option<Instant> {
        self.armed = walk.earliest;
        if self.armed.is_none() && self.at.len() > KEPT {
            self.at.truncate(KEPT);
            self.at.shrink_to_fit(); // what a burst needed does not stay
        }
        self.armed
    }

    /// The deadline of a call, and that the timer is early enough for it.
    #[cfg(feature = "testing")]
    pub(crate) fn is_kept(&self, slot: usize) -> bool {
        let at = self.at.get(slot).copied().flatten();
        at.is_some_and(|at| self.armed.is_some_and(|armed| armed <= at))
    }
}

/// Where a walk is, and the earliest deadline that it has passed.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    next: usize,
    earliest: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Who is due, and when the timer comes next.
    fn walk(deadlines: &mut Deadlines, now: Instant) -> (Vec<usize>, Option<Instant>) {
        let mut walk = Walk::default();
        let due = std::iter::from_fn(|| deadlines.next_due(&mut walk, now)).collect();
        (due, deadlines.rearm(walk))
    }

    #[test]
    fn the_timer_is_touched_for_the_earliest_only() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        assert!(deadlines.set(0, at(50)), "the first");
        assert!(!deadlines.set(5, at(50)), "as late");
        assert!(!deadlines.set(1, at(70)), "later");
        assert!(deadlines.set(2, at(20)), "earlier");
        deadlines.clear(2);
        assert!(!deadlines.set(3, at(30)), "the timer is early enough, though its call has ended");

        assert_eq!(walk(&mut deadlines, at(20)), (vec![], Some(at(30))), "it comes for nobody");
        assert_eq!(walk(&mut deadlines, at(50)), (vec![0, 3, 5], Some(at(70))), "each that is due, once");
        assert_eq!(walk(&mut deadlines, at(50)), (vec![], Some(at(70))));
        deadlines.clear(1);
        deadlines.clear(1000);
        assert_eq!(walk(&mut deadlines, at(70)), (vec![], None));
        assert!(deadlines.set(2 * KEPT, at(80)));
        assert_eq!(walk(&mut deadlines, at(80)), (vec![2 * KEPT], None));
        assert!(deadlines.at.capacity() <= KEPT);
        assert!(deadlines.set(1, at(90)), "and anew");
    }
}
