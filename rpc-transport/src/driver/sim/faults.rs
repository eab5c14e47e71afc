//! What goes wrong on purpose: counted, and caused.

use std::time::Duration;

use super::socket::{Link, SockId, Socket};
use super::state::{Due, State};

/// What went wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names are those of the knobs")]
pub struct Faults {
    pub cuts: u64,
    pub finishes: u64,
    pub stalls: u64,
    pub short_writes: u64,
    pub empty_writes: u64,
    pub spurious: u64,
    pub stale: u64,
    pub late_events: u64,
    pub left_events: u64,
    pub late_wakes: u64,
    pub lost_syns: u64,
    pub aborted_accepts: u64,
    pub starved_accepts: u64,
    pub refusals: u64,
}

impl Faults {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.cuts
            + self.finishes
            + self.stalls
            + self.short_writes
            + self.empty_writes
            + self.spurious
            + self.stale
            + self.late_events
            + self.left_events
            + self.late_wakes
            + self.lost_syns
            + self.aborted_accepts
            + self.starved_accepts
            + self.refusals
    }
}

impl State {
    /// One of the established connections, by one of its ends.
    fn any_connection(&mut self) -> Option<(SockId, SockId)> {
        let open = |(id, socket): (&SockId, &Socket)| matches!(socket.link, Link::Open).then_some((*id, socket.peer?));
        let all: Vec<_> = self.sockets.iter().filter_map(open).collect();
        self.rng.choice(all)
    }

    pub(super) fn cut_one(&mut self) -> bool {
        let Some((one, other)) = self.any_connection() else { return false };
        self.faults.cuts += 1;
        self.note("cut", one.0 as u64, other.0 as u64);
        for id in [one, other] {
            self.tell(|observer| observer.broke(id.0));
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.peer = None;
                socket.input.lose();
            }
            let at = self.now + self.latency();
            self.schedule(at, Due::Reset(id));
        }
        true
    }

    pub(super) fn finish_one(&mut self) -> bool {
        let Some((one, _)) = self.any_connection() else { return false };
        self.faults.finishes += 1;
        self.note("finish", one.0 as u64, 0);
        self.tell(|observer| observer.broke(one.0));
        self.finish(one);
        true
    }

    pub(super) fn stall_one(&mut self, time: Duration) -> bool {
        let Some((one, _)) = self.any_connection() else { return false };
        self.faults.stalls += 1;
        let until = self.now + time;
        self.note("stall", one.0 as u64, time.as_micros() as u64);
        if let Some(socket) = self.sockets.get_mut(&one) {
            socket.stalled_until = socket.stalled_until.max(until);
        }
        true
    }

    pub(super) fn starve(&mut self, time: Duration) {
        self.starved_until = self.now + time;
        self.note("starve", time.as_micros() as u64, 0);
    }
}
