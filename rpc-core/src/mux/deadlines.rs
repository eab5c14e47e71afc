//! The deadlines of a connection's calls: one timer for all of them.

use std::time::Instant;

/// Slots that are kept when there is no call: 16 KiB.
const KEPT: usize = 1024;

/// Deadlines by slot of the pairing table.
///
/// A connection has thousands of calls under way, most of which end long before their deadline and have about the same timeout. So one timer
/// is armed, for a time at or before the earliest deadline; a call that begins or ends touches it only if its deadline is earlier. When
/// it comes, a walk over the slots finds who is due and when the next is. There is at most one such walk a tick of the timer,
/// of 16 bytes for each slot.
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

    /// The timer has come. First the slots that are due, each of them cleared, then `None`: what [`rearm`](Deadlines::rearm) says counts
    /// from there.
    pub(crate) fn next_due(&mut self, from: &mut usize, now: Instant) -> Option<usize> {
        let due = self.at.iter().skip(*from).position(|at| at.is_some_and(|at| at <= now))? + *from;
        *from = due + 1;
        self.at[due] = None;
        Some(due)
    }

    /// When the timer that has come is to be armed next; `None` if there is no deadline.
    pub(crate) fn rearm(&mut self) -> Option<Instant> {
        self.armed = self.at.iter().flatten().min().copied();
        if self.armed.is_none() {
            self.at.clear();
            self.at.shrink_to(KEPT); // what a burst needed does not stay
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(deadlines: &mut Deadlines, now: Instant) -> Vec<usize> {
        let mut from = 0;
        std::iter::from_fn(|| deadlines.next_due(&mut from, now)).collect()
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

        assert_eq!(due(&mut deadlines, at(20)), [0; 0], "it comes for nobody");
        assert_eq!(deadlines.rearm(), Some(at(30)));
        assert_eq!(due(&mut deadlines, at(50)), [0, 3, 5], "each that is due, once");
        assert_eq!(due(&mut deadlines, at(50)), [0; 0]);
        assert_eq!(deadlines.rearm(), Some(at(70)));
        deadlines.clear(1);
        deadlines.clear(1000);
        assert_eq!(due(&mut deadlines, at(70)), [0; 0]);
        assert_eq!(deadlines.rearm(), None);
        assert!(deadlines.set(2 * KEPT, at(80)) && due(&mut deadlines, at(80)) == [2 * KEPT]);
        assert!(deadlines.rearm().is_none() && deadlines.at.capacity() <= KEPT);
        assert!(deadlines.set(1, at(90)), "and anew");
    }
}
