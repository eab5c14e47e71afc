//! What a connection holds of its process's budget of bytes, and what follows when that is short.

use std::time::{Duration, Instant};

use super::{Conn, Phase};
use crate::error::CloseReason;

/// Changes of the held bytes below this are not reported to the process's budget: a counter that all reactors share has
/// no place on the path of a call. An unfinished frame is reported, since it holds a block.
pub(super) const ACCOUNT_STEP: usize = 4 * 1024;

/// How often a connection is looked at that is not read for what it holds; and how long its output has not moved when it is taken for
/// stuck.
pub(super) const RECHECK: Duration = Duration::from_millis(50);

/// How long such a connection has to become smaller by an eighth while others' work is refused for what it and its like hold: long enough
/// for a far peer's acknowledgements to come. After a few times that there is room, or they have ended.
const PATIENCE: Duration = Duration::from_millis(250);

impl Conn {
    /// Bytes of memory that it keeps from others. Output that is being written has its block until then only.
    pub(super) fn held(&self) -> usize {
        // The peer takes its replies in a moment, or is stuck.
        let passing = self.paused.by_output && !self.stuck;
        let input = if passing { self.inbound.len() } else { self.inbound.pinned() };
        #[cfg(feature = "tls")]
        let input = input + self.held_by_tls();
        input + if self.stuck { self.outbound.pinned() } else { self.outbound.len() }
    }

    /// Gives back what is hardly used: of a peer that has been quiet for a while, and of anybody when memory is tight.
    fn give_back(&mut self, now: Instant) {
        self.stuck = self.stalled_since.is_some_and(|since| now >= since + RECHECK);
        let tight = self.memory.is_tight_with(self.held().saturating_sub(self.accounted));
        if now >= self.heard + RECHECK {
            self.inbound.shrink(ACCOUNT_STEP);
        } else if tight {
            self.inbound.shrink(usize::MAX);
        }
        if tight || self.stuck {
            self.outbound.shrink();
        }
    }

    /// When there may be something to [give back](Conn::give_back) of a peer that is quiet; and when its share may have become too large for it,
    /// because others have come. Who holds what while little is in use needs no such look: all of that is a quarter, and with the half
    /// that small shares come to it is less than is tight.
    pub(super) fn recheck_at(&self, now: Instant) -> Option<Instant> {
        let unread = self.is_held_back().then_some(now);
        let unfinished = (self.inbound.waste() >= ACCOUNT_STEP).then_some(self.heard);
        let untaken = self.stalled_since.filter(|_| !self.stuck);
        let soon = [unread, unfinished, untaken].into_iter().flatten().min().map(|since| since + RECHECK);
        let holds = self.accounted >= ACCOUNT_STEP && self.memory.used() >= self.memory.limit() / 4;
        soon.into_iter().chain(holds.then(|| now + PATIENCE)).min()
    }

    /// Notes what is held, and what follows at once.
    pub(super) fn account(&mut self, now: Instant) {
        self.give_back(now);
        let held = self.held();
        if held.abs_diff(self.accounted) >= ACCOUNT_STEP || (held == 0 && self.accounted > 0) {
            let grown = held > self.accounted;
            self.memory.adjust(self.accounted, held);
            self.accounted = held;
            self.pause_for_memory();
            if grown && self.paused.by_memory && self.memory.is_spent() {
                self.abort(CloseReason::Limit("max_buffered_bytes"));
            }
        }
        if self.outbound.len() > self.limits.write_hard {
            self.abort(CloseReason::Limit("write_hard"));
        }
        // A pause that is over: from now on the peer is awaited again. One for memory does not count: what has come of a frame may be what
        // memory is short of, and nobody else would ever give that back.
        let paused = self.paused.frames_wait();
        if std::mem::replace(&mut self.was_paused, paused) && !paused {
            self.inbound.partial_since = self.inbound.partial_since.map(|_| now);
            if !self.inbound.frames_done {
                self.opened = now;
            }
        }
    }

    /// Stops reading a connection that holds more than its share while memory is tight.
    fn pause_for_memory(&mut self) {
        let share = self.memory.limit() / self.memory.holders().max(4);
        self.paused.by_memory = self.memory.is_tight() && self.accounted > share / 2;
    }

    /// At a check of a connection that is not read for what it holds, and has not become smaller: ends it if others' work is refused for that.
    /// Otherwise, if an unfinished frame is most of it, the others may wait for just that: it may read on while there is room, and ends
    /// when there is none. Time tells, so this is not for a moment in which it has just written some output.
    pub(super) fn step_or_shed(&mut self, now: Instant) {
        self.pause_for_memory();
        if !self.paused.by_memory {
            if self.looked.take().is_some() && !self.inbound.frames_done {
                self.opened = now;
            }
            return;
        }
        let before = match self.looked.as_deref() {
            Some((at, _)) if now < *at + PATIENCE => return,
            looked => looked.map(|(_, before)| *before),
        };
        self.looked = Some(Box::new((now, self.accounted)));
        if before.is_some_and(|before| self.accounted > before - before / 8) {
            let unfinished = self.is_mostly_input();
            let would_read = matches!(self.phase, Phase::Open) && !self.paused.frames_wait();
            if self.memory.sheds() || would_read && unfinished && !self.has_room_to_step() {
                self.abort(CloseReason::Limit("max_buffered_bytes"));
            }
            // Until the next look. What a client reads makes no output, and its server may wait for just that.
            self.paused.by_memory = !(would_read && (unfinished || self.admission.is_none()));
        }
    }

    /// How much it may read now, of `most`, as others have left it: nothing if memory has become tight and it holds more than its share, little
    /// if it was let read on all the same.
    pub(super) fn allowed(&mut self, most: usize) -> usize {
        if self.looked.is_none() {
            if self.memory.is_tight() {
                self.pause_for_memory();
            }
            return most;
        }
        self.paused.by_memory |= self.is_mostly_input() && !self.has_room_to_step();
        self.limits.turn_bytes.min(most)
    }

    fn is_mostly_input(&self) -> bool {
        self.inbound.pinned() > self.accounted / 2
    }

    /// Whether it can read for a turn, and its block grow for that, without others' work being refused.
    fn has_room_to_step(&self) -> bool {
        !self.memory.would_refuse_work_with(self.inbound.growth(self.limits.turn_bytes))
    }

    /// Whether want of memory keeps it from being read, or allows it a little now and then.
    pub(super) fn is_held_back(&self) -> bool {
        self.paused.by_memory || self.looked.is_some()
    }
}
