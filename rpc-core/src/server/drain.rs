//! Every peer's way out: how a connection is left, by a server that stops or because of what its peer did.
//!
//! ```text
//!                    negotiated: at once                                     otherwise: when nothing runs
//!  Serving ─ drain ─► goaway 0, ping ─► serves what was on its way           ► Kitex's goodbye, or crrst in replies
//!     │                 pong, or 1 s ─► goaway LAST: refuses, unexecuted       1 s (100 ms) ─► refuses, unexecuted
//!     │                                 nothing runs, all is read ─► closes                    nothing runs, all is read ─► closes
//!     └─ half the grace, and something always runs ─► refuses, unexecuted, until nothing runs: then the goodbye
//! ```
//!
//! What a connection owes at its end is an answer to every request that has come. Calls that run are not all of them: others stand behind
//! one that has no room, or output that nobody reads, or are in the system's buffers. So the last step is to read, not to close.

use std::time::Duration;

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx};

use super::control::Control;
use super::handler::ServerHandler;
use crate::protocol::ttheader::StringBlock;
use crate::protocol::ttheader::layout::str_key;

/// How long a drained connection without multiplexing stays for a request that may be on its way.
const PING_PONG_LINGER: Duration = Duration::from_millis(100);

/// How long a multiplexing peer has to leave after the goodbye, or to answer a ping after `goaway`.
const GOODBYE_LINGER: Duration = Duration::from_secs(1);

/// The timer of a connection that is shutting down.
pub(super) const DRAIN: u64 = u64::MAX;

/// Why a connection is drained.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The whole server stops.
    ShuttingDown,
    Glitches,
    CancelBudget,
}

impl Reason {
    /// As the peer is told.
    fn name(self) -> &'static str {
        match self {
            Reason::ShuttingDown => "shutting_down",
            Reason::Glitches => "max_glitches",
            Reason::CancelBudget => "cancel_budget",
        }
    }

    fn closes(self) -> CloseReason {
        match self {
            Reason::ShuttingDown => CloseReason::Local("the server is shutting down"),
            Reason::Glitches | Reason::CancelBudget => CloseReason::Limit(self.name()),
        }
    }
}

/// How far a connection is on its way out. No I/O and no clock here: the handler does each [`Step`] and sets the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    /// Serving what comes; the peer is told at once if it knows `goaway`, and otherwise when nothing runs.
    Serving,
    /// That moment did not come: what comes is refused, unexecuted, so that it does.
    Refusing,
    /// The peer has been told as one of its kind, and the time for stragglers runs.
    Told {
        kind: Kind,
        refuses: bool,
    },
    /// That time is over: what comes now is refused, unexecuted. Closes when nothing runs.
    Over,
}

/// What is known of the peer, and so how it can be told. A connection that is taken in while the server stops has shown nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It would take a goodbye for a reply, and sees `crrst` in its replies instead.
    OneByOne,
    Multiplexing,
    /// It knows control frames.
    Negotiated,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Tell the peer as one of this kind; the time for stragglers begins.
    Tell(Kind),
    /// Nothing runs: read what has come, and close.
    Close,
}

impl Drain {
    /// Whether requests are refused, unexecuted.
    #[inline]
    pub(super) fn refuses(self) -> bool {
        match self {
            Drain::No | Drain::Serving => false,
            Drain::Told { refuses, .. } => refuses,
            Drain::Refusing | Drain::Over => true,
        }
    }

    /// What can be done now: `busy` is whether calls run. Some clients do not survive Kitex's goodbye with calls under way, so it waits
    /// until nothing runs.
    fn next(&mut self, busy: bool, kind: Kind) -> Step {
        let untold = match *self {
            Drain::Serving | Drain::Refusing => true,
            Drain::Told { kind: told, .. } => told < kind,
            Drain::No | Drain::Over => false,
        };
        match *self {
            Drain::Over if !busy => Step::Close,
            _ if untold && (kind == Kind::Negotiated || !busy) => {
                *self = Drain::Told { kind, refuses: self.refuses() };
                Step::Tell(kind)
            }
            _ => Step::Wait,
        }
    }

    /// The time of this step is over, or the peer has shown that it needs no more of it. Whether the line is drawn now: the peer has
    /// had its time.
    fn go_on(&mut self, kind: Kind) -> bool {
        match *self {
            Drain::No | Drain::Refusing | Drain::Over => return false,
            Drain::Told { kind: told, .. } if told == kind => *self = Drain::Over,
            Drain::Serving | Drain::Told { .. } => *self = Drain::Refusing,
        }
        *self == Drain::Over
    }
}

impl ServerHandler {
    /// Shuts this connection down; the peer hears why if it knows `goaway`.
    pub(super) fn drain_for(&mut self, cx: &mut Cx<'_>, reason: Reason) {
        if self.drain == Drain::No {
            self.drain = Drain::Serving;
            self.reason = reason;
            self.arm_drain(cx, self.shared.limits.shutdown_grace / 2);
            self.go_on_draining(cx);
        }
    }

    /// Goes on shutting down as far as it can be done now.
    #[inline]
    pub(super) fn go_on_draining(&mut self, cx: &mut Cx<'_>) {
        if self.drain != Drain::No {
            self.take_step(cx);
        }
    }

    #[cold]
    fn take_step(&mut self, cx: &mut Cx<'_>) {
        match self.drain.next(self.running.len() > 0, self.kind()) {
            Step::Wait => {}
            Step::Tell(Kind::Negotiated) => {
                self.go_away(cx, 0, self.reason.name());
                // With the pong all is here that the peer sent before it knew.
                if let Control::On(agreed) = &mut self.control
                    && let Some(number) = agreed.keepalive.probe()
                {
                    self.ping(cx, number);
                }
                self.arm_drain(cx, GOODBYE_LINGER);
            }
            Step::Tell(Kind::Multiplexing) => {
                write_goodbye(cx.output());
                self.arm_drain(cx, GOODBYE_LINGER);
            }
            // One that has asked nothing yet may multiplex, and write in a moment.
            Step::Tell(Kind::OneByOne) if self.calls == 0 => self.arm_drain(cx, GOODBYE_LINGER),
            Step::Tell(Kind::OneByOne) => self.arm_drain(cx, PING_PONG_LINGER),
            Step::Close => cx.close_when_read(self.reason.closes()),
        }
    }

    fn kind(&self) -> Kind {
        match (&self.control, self.multiplexed) {
            (Control::On(_), _) => Kind::Negotiated,
            (_, true) => Kind::Multiplexing,
            (_, false) => Kind::OneByOne,
        }
    }

    /// The time of its timer has come.
    pub(super) fn drain_on_time(&mut self, cx: &mut Cx<'_>) {
        self.drain_timer = None;
        let kind = self.kind();
        if self.drain.go_on(kind) && kind == Kind::Negotiated {
            self.go_away(cx, self.last_seq, self.reason.name());
        }
        self.after(cx); // what had no room is refused now
    }

    /// What the peer sent before it knew is here.
    pub(super) fn stragglers_are_in(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.drain, Drain::Told { .. }) {
            self.drain_on_time(cx);
        }
    }

    /// The connection has ended.
    pub(super) fn stop_draining(&mut self, cx: &mut Cx<'_>) {
        if let Some(timer) = self.drain_timer.take() {
            cx.disarm(timer);
        }
    }

    fn arm_drain(&mut self, cx: &mut Cx<'_>, time: Duration) {
        self.stop_draining(cx);
        self.drain_timer = cx.now().checked_add(time).map(|at| cx.arm(at, DRAIN));
    }
}

/// "Connection will be closed", as Kitex's multiplexing clients know it: id 0, `crrst`, and an empty Thrift reply that nobody reads.
fn write_goodbye(out: &mut impl BufMut) {
    let mut strings = StringBlock::new();
    if strings.push(str_key::CLOSING, b"1").is_err() {
        return;
    }
    let payload = b"\x80\x01\x00\x02\x00\x00\x00\x04none\x00\x00\x00\x00\x00";
    let header = (2 + strings.as_bytes().len()).next_multiple_of(4);
    out.put_u32((10 + header + payload.len()) as u32);
    out.put_slice(&[0x10, 0x00, 0, 0, 0, 0, 0, 0]);
    out.put_u16((header / 4) as u16);
    out.put_slice(&[0, 0]);
    out.put_slice(strings.as_bytes());
    out.put_bytes(0, header - 2 - strings.as_bytes().len());
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that drains, when its timer fires and when calls begin or end: each row is what happens, what is known of the peer
    /// by then, whether calls run, what is done, and whether a request that comes after it is refused.
    #[track_caller]
    fn check(rows: &[(&str, Kind, bool, Step, bool)]) {
        let mut drain = Drain::Serving;
        for (row, (what, kind, busy, step, refuses)) in rows.iter().copied().enumerate() {
            if what == "time" || what == "pong" {
                drain.go_on(kind);
            }
            assert_eq!((drain.next(busy, kind), drain.refuses()), (step, refuses), "row {row}: {what}, then {drain:?}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn every_peer_is_told_and_what_it_sent_is_answered() {
        use Kind::{Multiplexing as Multi, Negotiated as Agreed, OneByOne as One};
        use Step::{Close, Tell, Wait};
        // who knows goaway is told though calls run, and the pong draws the line
        check(&[("begin",  Agreed, true,  Tell(Agreed), false), ("ends",   Agreed, true,  Wait,         false),
                ("pong",   Agreed, true,  Wait,         true),  ("ends",   Agreed, true,  Wait,         true),
                ("ends",   Agreed, false, Close,        true)]);
        // requests stand behind the one that has room, and the pong behind them: they are refused when the time is over
        check(&[("begin",  Agreed, true,  Tell(Agreed), false), ("time",   Agreed, true,  Wait,         true),
                ("ends",   Agreed, false, Close,        true),  ("reads",  Agreed, false, Close,        true),
                ("pong",   Agreed, false, Close,        true)]);
        // another one is told when nothing runs
        check(&[("begin",  Multi,  true,  Wait,         false), ("ends",   Multi,  false, Tell(Multi),  false),
                ("time",   Multi,  false, Close,        true)]);
        check(&[("begin",  Multi,  false, Tell(Multi),  false), ("begins", Multi,  true,  Wait,         false),
                ("time",   Multi,  true,  Wait,         true),  ("ends",   Multi,  false, Close,        true)]);
        // calls that overlap: there is no such moment until new ones are refused
        check(&[("begin",  Multi,  true,  Wait,         false), ("ends",   Multi,  true,  Wait,         false),
                ("time",   Multi,  true,  Wait,         true),  ("ends",   Multi,  true,  Wait,         true),
                ("ends",   Multi,  false, Tell(Multi),  true),  ("reads",  Multi,  false, Wait,         true),
                ("time",   Multi,  false, Close,        true)]);
        // one at a time, in order: the next begins when the one before ends
        check(&[("begin",  One,    true,  Wait,         false), ("ends",   One,    false, Tell(One),    false),
                ("begins", One,    true,  Wait,         false), ("time",   One,    true,  Wait,         true),
                ("ends",   One,    false, Close,        true)]);
        // taken in while the server stops: what it is shows with its first requests, and then it is told
        check(&[("begin",  One,    false, Tell(One),    false), ("begins", Multi,  true,  Wait,         false),
                ("ends",   Agreed, true,  Tell(Agreed), false), ("pong",   Agreed, false, Close,        true)]);
        check(&[("begin",  One,    false, Tell(One),    false), ("begins", Multi,  true,  Wait,         false),
                ("time",   Multi,  true,  Wait,         true),  ("ends",   Multi,  false, Tell(Multi),  true),
                ("time",   Multi,  false, Close,        true)]);
    }

    #[test]
    fn the_goodbye_is_what_kitex_sends() {
        let mut out = Vec::new();
        write_goodbye(&mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        let vectors = include_str!("../../tests/wire/wire_vectors.tsv");
        let expected = vectors.lines().find_map(|line| line.strip_prefix("E9b-mux-control-close\tok\t"));
        assert_eq!(Some(hex.as_str()), expected);
    }
}
