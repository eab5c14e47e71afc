//! The calls of one connection that did not end at once.

use std::time::{Duration, Instant};

use rpc_transport::{TaskId, TimerId};

use super::reply::ReplyTo;
use super::shared::InFlight;
use crate::codegen::MethodDescriptor;
use crate::context::Context;

/// Names a call of a connection that did not end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallKey {
    slot: u32,
    generation: u32,
}

/// Calls of a connection that run.
#[derive(Default)]
pub(super) struct Running {
    slots: Vec<(u32, Option<RunningCall>)>,
    /// Their callers' ids, 0 in free slots and after the answer, side by side: whoever cancels a call knows nothing else of it, and a
    /// cancellation must not cost more than a look at a few kilobytes.
    seqs: Vec<i32>,
    free: Vec<u32>,
    len: usize,
    answered: usize,
}

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
        self.len
    }

    /// Calls whose callers wait.
    #[inline]
    pub(super) fn unanswered(&self) -> usize {
        self.len - self.answered
    }

    /// [`len`](Running::len) and [`unanswered`](Running::unanswered), counted.
    #[cfg(feature = "testing")]
    pub(super) fn held(&self) -> (usize, usize) {
        let held = || self.slots.iter().filter_map(|(_, call)| call.as_ref());
        (held().count(), held().filter(|call| !call.answered).count())
    }

    /// The key that the next insert will use.
    pub(super) fn next(&mut self) -> CallKey {
        let slot = *self.free.last().unwrap_or(&(self.slots.len() as u32));
        let generation = self.slots.get(slot as usize).map_or(0, |(generation, _)| *generation);
        CallKey { slot, generation }
    }

    pub(super) fn insert(&mut self, call: RunningCall) -> CallKey {
        let key = self.next();
        if self.free.pop().is_none() {
            self.slots.push((0, None));
            self.seqs.push(0);
        }
        self.seqs[key.slot as usize] = call.to.seq;
        self.slots[key.slot as usize].1 = Some(call);
        self.len += 1;
        key
    }

    pub(super) fn get(&mut self, key: CallKey) -> Option<&mut RunningCall> {
        match self.slots.get_mut(key.slot as usize) {
            Some((generation, call)) if *generation == key.generation => call.as_mut(),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: CallKey) -> Option<RunningCall> {
        self.get(key)?;
        let (generation, call) = &mut self.slots[key.slot as usize];
        *generation = generation.wrapping_add(1);
        self.seqs[key.slot as usize] = 0;
        self.free.push(key.slot);
        self.len -= 1;
        let call = call.take();
        self.answered -= usize::from(call.as_ref().is_some_and(|call| call.answered));
        call
    }

    /// The caller of this call has its answer, though the call runs on: its id may be another's from here on.
    pub(super) fn answer(&mut self, key: CallKey) {
        if let Some(call) = self.get(key)
            && !std::mem::replace(&mut call.answered, true)
        {
            self.seqs[key.slot as usize] = 0;
            self.answered += 1;
        }
    }

    /// The call that its caller waits for by this id, if it runs.
    pub(super) fn find(&self, seq: i32) -> Option<CallKey> {
        let slot = self.seqs.iter().position(|running| *running == seq && seq != 0)?;
        Some(CallKey { slot: slot as u32, generation: self.slots[slot].0 })
    }

    pub(super) fn drain(&mut self) -> Vec<RunningCall> {
        let keys = self.slots.iter().enumerate().filter(|(_, (_, call))| call.is_some());
        let keys: Vec<_> =
            keys.map(|(slot, (generation, _))| CallKey { slot: slot as u32, generation: *generation }).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
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
