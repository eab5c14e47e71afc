//! The pairing table of one connection.

use super::seq::{MAX_SLOTS, SeqId};

/// Slots that an empty table keeps if it had more than twice as many: what a burst of calls needed does not stay, and so many calls in turn
/// allocate nothing.
const KEPT: usize = 1024;

/// Calls of one connection that have an id, by id: an index and a compare.
///
/// Invariant: a slot is free, waiting or abandoned. Only a late reply or the end of the connection frees an abandoned one: until
/// then its id can be on the wire. Free slots are reused first in, first out, so that a version comes round as late as possible.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    slots: Vec<Slot<T>>,
    /// Versions of slots that were given up after a burst, the first of them last: when they come back, their ids go on from there.
    gone: Vec<u16>,
    /// The free slots, linked from the first to the last.
    first_free: u32,
    last_free: u32,
    waiting: usize,
    abandoned: usize,
    limit: usize,
}

#[derive(Debug)]
struct Slot<T> {
    version: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    /// The slot that becomes free after it, or `NIL`.
    Free(u32),
    Waiting(T),
    Abandoned,
}

/// No slot.
const NIL: u32 = u32::MAX;

/// Why an id has no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// Its call timed out or was cancelled; this was the late reply, and the slot is free again.
    Abandoned,
    /// It was never given out, or its reply came already.
    Unknown,
}

/// What leaves a slot's id behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abandon {
    /// The request may be on the wire: the id stays occupied.
    OnWire,
    /// The peer never heard of the id.
    Unsent,
}

impl<T> Pending<T> {
    pub(crate) fn new(limit: usize) -> Self {
        let (slots, gone, limit) = (Vec::new(), Vec::new(), limit.min(MAX_SLOTS));
        Pending { slots, gone, first_free: NIL, last_free: NIL, waiting: 0, abandoned: 0, limit }
    }

    /// Gives a call an id; `None` when all are taken. The call is made where it stays: it is large.
    #[inline]
    pub(crate) fn insert(&mut self, call: impl FnOnce() -> T) -> Option<SeqId> {
        let mut slot = self.first_free as usize;
        if slot >= self.slots.len() {
            slot = self.slot_more()?;
        }
        let entry = &mut self.slots[slot];
        let State::Free(next) = entry.state else { return None };
        self.first_free = next;
        entry.version = SeqId::next_version(entry.version);
        entry.state = State::Waiting(call());
        self.waiting += 1;
        Some(SeqId::new(slot, entry.version))
    }

    /// Another slot, when none is free.
    #[cold]
    fn slot_more(&mut self) -> Option<usize> {
        if self.slots.len() >= self.limit {
            return None;
        }
        let version = self.gone.pop().map_or_else(SeqId::before_first, u32::from);
        self.slots.push(Slot { version, state: State::Free(NIL) });
        Some(self.slots.len() - 1)
    }

    #[inline]
    pub(crate) fn get(&mut self, seq: SeqId) -> Option<&mut T> {
        match self.slots.get_mut(seq.slot()) {
            Some(Slot { version, state: State::Waiting(call) }) if *version == seq.version() => Some(call),
            _ => None,
        }
    }

    /// Ends a waiting call; its id stays occupied if the peer may know it.
    pub(crate) fn abandon(&mut self, seq: SeqId, how: Abandon) -> Option<T> {
        self.get(seq)?;
        let left = if how == Abandon::OnWire { State::Abandoned } else { State::Free(NIL) };
        let State::Waiting(call) = std::mem::replace(&mut self.slots[seq.slot()].state, left) else { return None };
        self.waiting -= 1;
        match how {
            Abandon::OnWire => self.abandoned += 1,
            Abandon::Unsent => self.is_free(seq.slot()),
        }
        Some(call)
    }

    /// As [`abandon`](Pending::abandon), of a call that nobody wants any more.
    #[inline]
    pub(crate) fn end(&mut self, seq: SeqId, how: Abandon) {
        if self.get(seq).is_none() {
            return;
        }
        self.waiting -= 1;
        match how {
            Abandon::OnWire => {
                self.slots[seq.slot()].state = State::Abandoned;
                self.abandoned += 1;
            }
            Abandon::Unsent => {
                self.slots[seq.slot()].state = State::Free(NIL);
                self.is_free(seq.slot());
            }
        }
    }

    /// Takes something out of a waiting call whose id the peer does not know any more. If there is something, that ends it.
    #[inline]
    pub(crate) fn end_with<R>(&mut self, seq: SeqId, take: impl FnOnce(&mut T) -> Option<R>) -> Option<R> {
        let taken = take(self.get(seq)?)?;
        self.slots[seq.slot()].state = State::Free(NIL);
        self.waiting -= 1;
        self.is_free(seq.slot());
        Some(taken)
    }

    /// The id of the call that has this slot.
    pub(crate) fn in_slot(&self, slot: usize) -> Option<SeqId> {
        match self.slots.get(slot)? {
            Slot { version, state: State::Waiting(_) } => Some(SeqId::new(slot, *version)),
            _ => None,
        }
    }

    /// A reply came for an id without a waiting call.
    pub(crate) fn late(&mut self, seq: SeqId) -> Late {
        match self.slots.get_mut(seq.slot()) {
            Some(slot) if slot.version == seq.version() && matches!(slot.state, State::Abandoned) => {
                slot.state = State::Free(NIL);
                self.abandoned -= 1;
                self.is_free(seq.slot());
                Late::Abandoned
            }
            _ => Late::Unknown,
        }
    }

    /// Ends every waiting call, in slot order, and forgets the abandoned ones: the connection is over.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (SeqId, T)> + use<T> {
        self.waiting = 0;
        self.abandoned = 0;
        (self.first_free, self.last_free) = (NIL, NIL);
        let slots = std::mem::take(&mut self.slots).into_iter().enumerate();
        slots.filter_map(|(index, slot)| match slot.state {
            State::Waiting(call) => Some((SeqId::new(index, slot.version), call)),
            State::Free(_) | State::Abandoned => None,
        })
    }

    /// Every waiting call.
    #[cfg(feature = "testing")]
    pub(crate) fn calls(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match &slot.state {
            State::Waiting(call) => Some((index, call)),
            State::Free(_) | State::Abandoned => None,
        })
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Adds a slot that has become free at the end of their list.
    #[inline(always)]
    fn is_free(&mut self, slot: usize) {
        let slot = slot as u32;
        match self.slots.get_mut(self.last_free as usize) {
            Some(last) if self.first_free != NIL => last.state = State::Free(slot),
            _ => self.first_free = slot,
        }
        self.last_free = slot;
        if self.slots.len() > 2 * KEPT && self.waiting + self.abandoned == 0 {
            self.forget_slots();
        }
    }

    /// All slots are free: keeps the first of them.
    #[cold]
    fn forget_slots(&mut self) {
        self.gone.extend(self.slots.drain(KEPT..).rev().map(|slot| slot.version as u16));
        self.slots.shrink_to_fit();
        (self.first_free, self.last_free) = (NIL, NIL);
        for slot in 0..KEPT {
            self.slots[slot].state = State::Free(NIL);
            self.is_free(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// B28, I4, I7: a late reply reaches nobody.
    #[test]
    fn an_abandoned_id_is_not_given_out_again_before_its_late_reply() {
        let mut pending = Pending::new(2);
        let a = pending.insert(|| 'a').unwrap();
        let b = pending.insert(|| 'b').unwrap();
        assert_eq!(pending.insert(|| 'c'), None, "all ids are taken");
        assert_eq!(pending.abandon(a, Abandon::OnWire), Some('a'));
        assert_eq!(pending.insert(|| 'c'), None, "an abandoned id stays occupied");
        assert_eq!((pending.waiting(), pending.abandoned()), (1, 1));

        assert_eq!(pending.late(a), Late::Abandoned);
        assert_eq!(pending.late(a), Late::Unknown, "a second late reply is nobody's");
        let c = pending.insert(|| 'c').unwrap();
        assert_eq!(c.slot(), a.slot());
        assert_eq!(pending.get(a), None, "I7: the old id must not reach the new call");
        assert_eq!(pending.abandon(c, Abandon::Unsent), Some('c'));
        assert_eq!(pending.abandon(c, Abandon::Unsent), None, "I1: once");
        assert_eq!(pending.abandon(b, Abandon::Unsent), Some('b'));
        assert_eq!((pending.waiting(), pending.abandoned()), (0, 0));
    }

    #[test]
    fn an_unsent_call_frees_its_id_at_once() {
        let mut pending = Pending::new(1);
        let a = pending.insert(|| 'a').unwrap();
        assert_eq!(pending.abandon(a, Abandon::Unsent), Some('a'));
        assert_eq!(pending.late(a), Late::Unknown);
        assert!(pending.insert(|| 'b').is_some());
    }

    #[test]
    fn free_slots_are_reused_first_in_first_out() {
        let mut pending = Pending::new(8);
        let ids: Vec<_> = (0..4).map(|n| pending.insert(|| n).unwrap()).collect();
        for i in [2, 0, 3, 1] {
            pending.abandon(ids[i], Abandon::Unsent);
        }
        let slots: Vec<_> = (0..4).map(|n| pending.insert(|| n).unwrap().slot()).collect();
        assert_eq!(slots, [2, 0, 3, 1]);
    }

    /// I7: a burst leaves neither its memory behind nor its ids to others.
    #[test]
    fn a_burst_leaves_a_small_table_and_no_id_of_it_comes_back() {
        let mut pending = Pending::new(MAX_SLOTS);
        let mut seen = HashSet::new();
        for burst in [5 * KEPT, 2 * KEPT + 1, 7 * KEPT, 2 * KEPT, 10] {
            let ids: Vec<_> = (0..burst).map(|n| pending.insert(|| n).unwrap()).collect();
            assert!(ids.iter().all(|id| seen.insert(*id)), "{burst} calls: each has an id of its own");
            let (last, others) = ids.split_last().unwrap();
            others.iter().for_each(|id| assert!(pending.abandon(*id, Abandon::Unsent).is_some()));
            pending.abandon(*last, Abandon::OnWire);
            assert!(pending.slots.len() >= burst, "an id is on the wire");
            assert_eq!(pending.late(*last), Late::Abandoned);
            assert!(pending.slots.capacity() <= 4 * KEPT, "{burst} calls");
            assert!(ids.iter().all(|id| pending.get(*id).is_none() && pending.late(*id) == Late::Unknown));
        }
        assert_eq!(pending.slots.len(), 2 * KEPT, "what a steady load needs stays");
    }

    #[test]
    fn unknown_ids_are_nobody_s() {
        let mut pending = Pending::new(4);
        let a = pending.insert(|| 'a').unwrap();
        for wire in [0, 1, -1, i32::MIN, i32::MAX, a.to_wire() ^ 1 << 20] {
            assert_eq!(pending.get(SeqId::from_wire(wire)), None);
            assert_eq!(pending.late(SeqId::from_wire(wire)), Late::Unknown);
        }
        assert_eq!(pending.drain().collect::<Vec<_>>(), [(a, 'a')]);
        assert_eq!(pending.waiting(), 0);
    }
}
