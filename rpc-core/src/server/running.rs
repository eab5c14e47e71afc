//! The calls of one connection that did not end at once.

use std::time::{Duration, Instant};

use rpc_transport::{TaskId, TimerId};

use super::reply::ReplyTo;
use super::shared::InFlight;
use crate::codegen::MethodDescriptor;
use crate::context::Context;
use crate::sync::Mutex;

/// Tables that one reactor keeps, and the most calls that one of them has room for: 0.5 MiB in all.
const SPARE_TABLES: usize = 16;
const SPARE_SLOTS: usize = 256;

/// Names a call of a connection that did not end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallKey {
    slot: u32,
    generation: u32,
}

/// Calls of a connection that run. Their table is lent by the reactor while there are any, so that a connection without costs next to
/// nothing, whatever it has been through, and nothing is allocated for the next.
#[derive(Default)]
pub(super) struct Running {
    table: Option<Box<CallTable>>,
    /// Of the next call. It is the connection's, not the slot's, so that keys of one table find nothing in a later one.
    generation: u32,
}

#[derive(Default)]
pub(super) struct CallTable {
    slots: Vec<(u32, Option<RunningCall>)>,
    /// Their callers' ids, 0 in free slots and after the answer, side by side: whoever cancels a call knows nothing else of it, and a
    /// cancellation must not cost more than a look at a few kilobytes.
    seqs: Vec<i32>,
    free: Vec<u32>,
    len: usize,
    answered: usize,
}

/// A reactor's tables that no connection needs at the moment.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "connections hold them by a pointer, and are lent just that")]
pub(super) struct SpareTables(Mutex<Vec<Box<CallTable>>>);

pub(super) struct RunningCall {
    pub(super) what: What,
    pub(super) began: Instant,
    pub(super) timer: Option<TimerId>,
    pub(super) timeout: Duration,
    pub(super) method: &'static MethodDescriptor,
    pub(super) to: ReplyTo,
    /// Its caller has been answered already: the deadline passed, or it was cancelled. See [`Running::answer`].
    pub(super) answered: bool,
}

pub(super) enum What {
    Task(TaskId, #[allow(dead_code, reason = "held for its drop")] InFlight),
    /// Runs on the worker pool, and counts until it returns.
    Blocking(Context),
}

impl RunningCall {
    pub(super) fn is_blocking(&self) -> bool {
        matches!(self.what, What::Blocking(_))
    }
}

impl Running {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.len)
    }

    /// Calls whose callers wait.
    #[inline]
    pub(super) fn unanswered(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.len - table.answered)
    }

    /// [`len`](Running::len) and [`unanswered`](Running::unanswered), counted.
    #[cfg(feature = "testing")]
    pub(super) fn held(&self) -> (usize, usize) {
        let held = || self.table.iter().flat_map(|table| &table.slots).filter_map(|(_, call)| call.as_ref());
        (held().count(), held().filter(|call| !call.answered).count())
    }

    /// Whether this call's caller waits.
    #[cfg(feature = "testing")]
    pub(super) fn awaits(&self, key: CallKey) -> bool {
        let call = self.table.as_ref().and_then(|table| table.slots.get(key.slot as usize));
        call.is_some_and(|(generation, call)| {
            *generation == key.generation && call.as_ref().is_some_and(|call| !call.answered)
        })
    }

    /// The key that the next insert will use.
    #[inline]
    pub(super) fn next(&self) -> CallKey {
        CallKey { slot: self.table.as_ref().map_or(0, |table| table.next()), generation: self.generation }
    }

    pub(super) fn insert(&mut self, call: RunningCall, spare: &SpareTables) -> CallKey {
        let key = self.next();
        self.generation = self.generation.wrapping_add(1);
        self.table.get_or_insert_with(|| spare.lend()).insert(key, call);
        key
    }

    pub(super) fn get(&mut self, key: CallKey) -> Option<&mut RunningCall> {
        self.table.as_mut()?.get(key)
    }

    pub(super) fn remove(&mut self, key: CallKey, spare: &SpareTables) -> Option<RunningCall> {
        let table = self.table.as_mut()?;
        let call = table.remove(key)?;
        if table.len == 0 {
            self.table.take().into_iter().for_each(|table| spare.take_back(table));
        }
        Some(call)
    }

    /// The caller of this call has its answer, though the call runs on: its id may be another's from here on.
    pub(super) fn answer(&mut self, key: CallKey) {
        if let Some(table) = &mut self.table
            && let Some(call) = table.get(key)
            && !std::mem::replace(&mut call.answered, true)
        {
            table.seqs[key.slot as usize] = 0;
            table.answered += 1;
        }
    }

    /// The call that its caller waits for by this id, if it runs.
    pub(super) fn find(&self, seq: i32) -> Option<CallKey> {
        let table = self.table.as_ref()?;
        let slot = table.seqs.iter().position(|running| *running == seq && seq != 0)?;
        Some(CallKey { slot: slot as u32, generation: table.slots[slot].0 })
    }

    /// Those of them that want a reply, or those that want none.
    pub(super) fn keys(&self, oneway: bool) -> Vec<CallKey> {
        let slots = self.table.iter().flat_map(|table| &table.slots).enumerate();
        let wanted = slots.filter(|(_, (_, call))| call.as_ref().is_some_and(|call| call.to.oneway == oneway));
        wanted.map(|(slot, (generation, _))| CallKey { slot: slot as u32, generation: *generation }).collect()
    }

    /// Ends all of them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = RunningCall> + use<> {
        self.table.take().into_iter().flat_map(|table| table.slots).filter_map(|(_, call)| call)
    }
}

impl CallTable {
    fn next(&self) -> u32 {
        *self.free.last().unwrap_or(&(self.slots.len() as u32))
    }

    fn insert(&mut self, key: CallKey, call: RunningCall) {
        if self.free.pop().is_none() {
            self.slots.push((0, None));
            self.seqs.push(0);
        }
        self.seqs[key.slot as usize] = call.to.seq;
        self.slots[key.slot as usize] = (key.generation, Some(call));
        self.len += 1;
    }

    fn get(&mut self, key: CallKey) -> Option<&mut RunningCall> {
        match self.slots.get_mut(key.slot as usize) {
            Some((generation, call)) if *generation == key.generation => call.as_mut(),
            _ => None,
        }
    }

    fn remove(&mut self, key: CallKey) -> Option<RunningCall> {
        self.get(key)?;
        let call = self.slots[key.slot as usize].1.take();
        self.seqs[key.slot as usize] = 0;
        self.free.push(key.slot);
        self.len -= 1;
        self.answered -= usize::from(call.as_ref().is_some_and(|call| call.answered));
        call
    }
}

impl SpareTables {
    fn lend(&self) -> Box<CallTable> {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Keeps an empty table, if it is of use to most connections and there are not too many.
    fn take_back(&self, mut table: Box<CallTable>) {
        // Its next call is in its first slot, as a connection without a table says of its own.
        table.slots.clear();
        table.seqs.clear();
        table.free.clear();
        let mut spare = self.0.lock();
        if spare.len() < SPARE_TABLES && table.slots.capacity() <= SPARE_SLOTS {
            spare.push(table);
        }
    }
}

impl CallKey {
    pub(super) fn to_timer(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(super) fn from_timer(key: u64) -> CallKey {
        CallKey { slot: key as u32, generation: (key >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Form;

    static METHOD: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Blob");

    fn call(seq: i32) -> RunningCall {
        let to = ReplyTo {
            form: Form::TtHeader,
            seq,
            oneway: false,
            ours: false,
            confirm: false,
            checksum: false,
            closing: false,
            max_frame_size: 1 << 20,
        };
        let (began, timeout) = (Instant::now(), Duration::ZERO);
        RunningCall {
            what: What::Blocking(Context::take()),
            began,
            timer: None,
            timeout,
            method: &METHOD,
            to,
            answered: false,
        }
    }

    /// I10: after a burst of calls a connection holds no more than before its first, and the reactor a bounded number of tables.
    #[test]
    fn a_connection_without_calls_has_no_table() {
        let spare = SpareTables::default();
        let mut connections: Vec<Running> = (0..2 * SPARE_TABLES).map(|_| Running::default()).collect();
        for running in &mut connections {
            let keys: Vec<_> = (1..=64).map(|seq| running.insert(call(seq), &spare)).collect();
            running.answer(keys[3]);
            assert_eq!((running.len(), running.unanswered()), (64, 63));
        }
        for running in &mut connections {
            let keys: Vec<_> = (1..=64).filter_map(|seq| running.find(seq)).collect();
            assert_eq!(keys.len(), 63, "the answered one has no id");
            assert!(keys.iter().all(|key| running.remove(*key, &spare).is_some()));
            let answered = CallKey { slot: 3, generation: 3 };
            assert!(running.table.is_some() && running.remove(answered, &spare).is_some());
            assert!(running.table.is_none());
        }
        assert_eq!(spare.0.lock().len(), SPARE_TABLES);
        let (names, keys): (Vec<_>, Vec<_>) =
            (1..=3).map(|seq| (connections[0].next(), connections[0].insert(call(seq), &spare))).unzip();
        assert_eq!(names, keys, "a call has the name that was foretold, in a table that was another's, too");
        assert_eq!((1..=3).filter_map(|seq| connections[0].find(seq)).collect::<Vec<_>>(), keys, "each is another");
        keys.into_iter().for_each(|key| assert!(connections[0].remove(key, &spare).is_some()));
        let large: Vec<_> = (0..=SPARE_SLOTS).map(|_| connections[0].insert(call(1), &spare)).collect();
        assert_eq!(spare.0.lock().len(), SPARE_TABLES - 1, "it is lent");
        large.into_iter().for_each(|key| drop(connections[0].remove(key, &spare)));
        assert_eq!(spare.0.lock().len(), SPARE_TABLES - 1, "and too large to be kept");
    }

    /// I7: a key of a call that has ended finds nothing, also when its slot, or its whole table, is another's.
    #[test]
    fn stale_keys_find_nothing() {
        let spare = SpareTables::default();
        let (mut one, mut other) = (Running::default(), Running::default());
        let mut stale = Vec::new();
        for round in 0..3 {
            let key = one.insert(call(1), &spare);
            assert_eq!(key.slot, 0, "round {round}");
            for stale in stale.iter().copied() {
                assert!(one.get(stale).is_none() && one.remove(stale, &spare).is_none(), "round {round}");
                one.answer(stale);
                assert_eq!(one.unanswered(), 1, "round {round}");
            }
            assert!(one.remove(key, &spare).is_some() && one.get(key).is_none());
            stale.push(key);
            // The table that was given back goes to another connection.
            let key = other.insert(call(1), &spare);
            assert!(other.remove(key, &spare).is_some());
        }
        assert_eq!(one.drain().count() + one.len(), 0);
    }
}
