//! Every peer's way out: how a connection is left, by a server that stops or because of what its peer did.
//!
//! ```text
//!                    negotiated: at once                                     otherwise: crrst in replies, or when it is quiet
//!  Serving ─ drain ─► goaway 0, ping ─► serves what was on its way           ► Kitex's goodbye
//!     │                 pong, or 1 s ─► goaway LAST: refuses, unexecuted       1 s (100 ms) ─► refuses, unexecuted
//!     │                                 nothing runs, all is read ─► closes                    quiet, or 1 s, all is read ─► closes
//!     └─ half the grace, and it is never quiet ─► refuses, unexecuted, until it is: then the goodbye
//! ```
//!
//! Quiet is a connection where nothing runs and no byte has come for a while, longer within a request. Kitex's clients lose the calls that meet the end of
//! their connection, and some those that are under way when they hear the goodbye: who has left, or pauses, loses none.
//!
//! What a connection owes at its end is an answer to every request that has come. Calls that run are not all of them: others stand behind
//! one that has no room, or output that nobody reads, or are in the system's buffers. So the last step is to read, not to close.

use std::time::{Duration, Instant};

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx, TimerId};

use super::control::Control;
use super::handler::ServerHandler;
use crate::protocol::ttheader::StringBlock;
use crate::protocol::ttheader::layout::str_key;

/// How long a drained connection without multiplexing stays for a request that may be on its way.
const PING_PONG_LINGER: Duration = Duration::from_millis(100);

/// How long a multiplexing peer has to leave after the goodbye, or to answer a ping after `goaway`.
const GOODBYE_LINGER: Duration = Duration::from_secs(1);

/// How long no byte comes until it is quiet: calls that follow each other leave no such gap.
const QUIET: Duration = Duration::from_millis(50);

/// The same within a request: a large one comes in parts, and a lost packet is sent anew after some 200 ms.
const STALLED: Duration = Duration::from_secs(1);

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
    /// Serving what comes; the peer is told at once if it knows `goaway`, or by its replies, and otherwise when it is quiet.
    Serving,
    /// That moment did not come: what comes is refused, unexecuted, so that it does.
    Refusing,
    /// The peer has been told as one of its kind, and the time for stragglers runs.
    Told {
        kind: Kind,
        refuses: bool,
    },
    /// That time is over: what comes now is refused, unexecuted. Closes when it is quiet.
    Over,
    /// It was not. Closes when nothing runs.
    Out,
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
            Drain::Refusing | Drain::Over | Drain::Out => true,
        }
    }

    /// What can be done now. Who has negotiated needs no quiet: it knows which of its requests was the last.
    fn next(&mut self, traffic: Traffic, kind: Kind) -> Step {
        let untold = match *self {
            Drain::Serving | Drain::Refusing => true,
            Drain::Told { kind: told, .. } => told < kind,
            Drain::No | Drain::Over | Drain::Out => false,
        };
        let told_now = match kind {
            Kind::Negotiated => true,
            Kind::OneByOne => traffic != Traffic::Busy,
            Kind::Multiplexing => traffic == Traffic::Quiet,
        };
        match *self {
            Drain::Over if traffic == Traffic::Quiet || (traffic == Traffic::Idle && kind == Kind::Negotiated) => {
                Step::Close
            }
            Drain::Out if traffic != Traffic::Busy => Step::Close,
            _ if untold && told_now => {
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
            Drain::No | Drain::Refusing | Drain::Out => return false,
            Drain::Over => {
                *self = Drain::Out;
                return false;
            }
            Drain::Told { kind: told, .. } if told == kind => *self = Drain::Over,
            Drain::Serving | Drain::Told { .. } => *self = Drain::Refusing,
        }
        *self == Drain::Over
    }
}

/// The step that a connection takes on its way out. In memory of its own: most connections are not.
pub(super) struct Leaving {
    timer: Option<TimerId>,
    /// When it is over at the latest.
    until: Option<Instant>,
}

/// What a connection does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Calls run.
    Busy,
    /// None do.
    Idle,
    /// None do, and no byte has come for a while.
    Quiet,
}

impl ServerHandler {
    /// Shuts this connection down; the peer hears why if it knows `goaway`.
    pub(super) fn drain_for(&mut self, cx: &mut Cx<'_>, reason: Reason) {
        if self.drain == Drain::No {
            self.drain = Drain::Serving;
            self.reason = reason;
            self.go_on_draining(cx);
        }
    }

    /// Goes on shutting down as far as it can be done now.
    #[inline]
    pub(super) fn go_on_draining(&mut self, cx: &mut Cx<'_>) {
        if self.drain != Drain::No {
            if self.leaving.is_none() {
                self.begin_step(cx, self.caller.shared.limits.shutdown_grace / 2); // taken in while the server stops
            }
            self.take_step(cx, Traffic::Idle);
        }
    }

    /// What can be done, if nothing runs.
    #[cold]
    fn take_step(&mut self, cx: &mut Cx<'_>, idle: Traffic) {
        let traffic = if self.running.len() > 0 { Traffic::Busy } else { idle };
        match self.drain.next(traffic, self.kind()) {
            Step::Wait => {}
            Step::Tell(Kind::Negotiated) => {
                self.go_away(cx, 0, self.reason.name());
                // With the pong all is here that the peer sent before it knew.
                if let Control::On(agreed) = &mut self.control
                    && let Some(number) = agreed.keepalive.probe()
                {
                    self.ping(cx, number);
                }
                self.begin_step(cx, GOODBYE_LINGER);
            }
            Step::Tell(Kind::Multiplexing) => {
                write_goodbye(cx.output());
                self.begin_step(cx, GOODBYE_LINGER);
            }
            // One that has asked nothing yet may multiplex, and write in a moment.
            Step::Tell(Kind::OneByOne) if self.calls == 0 => self.begin_step(cx, GOODBYE_LINGER),
            Step::Tell(Kind::OneByOne) => self.begin_step(cx, PING_PONG_LINGER),
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

    /// Its timer: looks whether it is quiet, and whether the time of this step is over.
    pub(super) fn drain_on_time(&mut self, cx: &mut Cx<'_>) {
        let Some(leaving) = &mut self.leaving else { return };
        leaving.timer = None;
        if leaving.until.is_some_and(|until| until <= cx.now()) {
            self.end_step(cx);
        } else {
            self.look_again(cx);
        }
        // Of one that is not read it says nothing: there the end has to wait for the peer to read.
        let pause = if cx.is_within_frame() && cx.is_read() { STALLED } else { QUIET };
        let quiet = cx.now().saturating_duration_since(cx.heard()) >= pause;
        self.take_step(cx, if quiet { Traffic::Quiet } else { Traffic::Idle });
    }

    /// The time of this step is over.
    fn end_step(&mut self, cx: &mut Cx<'_>) {
        let kind = self.kind();
        let over = self.drain.go_on(kind);
        if over && kind == Kind::Negotiated {
            self.go_away(cx, self.last_seq, self.reason.name());
        }
        match over {
            true => self.begin_step(cx, GOODBYE_LINGER),
            false => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.until = None;
                }
                self.look_again(cx);
            }
        }
        self.after(cx); // what had no room is refused now
    }

    /// What the peer sent before it knew is here.
    pub(super) fn stragglers_are_in(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.drain, Drain::Told { .. }) {
            self.end_step(cx);
        }
    }

    /// The connection has ended.
    pub(super) fn stop_draining(&mut self, cx: &mut Cx<'_>) {
        if let Some(timer) = self.leaving.as_mut().and_then(|leaving| leaving.timer.take()) {
            cx.disarm(timer);
        }
    }

    /// A step that takes so long at most.
    fn begin_step(&mut self, cx: &mut Cx<'_>, time: Duration) {
        self.stop_draining(cx);
        let until = cx.now().checked_add(time);
        self.leaving = Some(Box::new(Leaving { timer: None, until }));
        self.look_again(cx);
    }

    fn look_again(&mut self, cx: &mut Cx<'_>) {
        self.stop_draining(cx);
        let soon = cx.now() + QUIET;
        if let Some(leaving) = &mut self.leaving {
            leaving.timer = Some(cx.arm(leaving.until.map_or(soon, |until| until.min(soon)), DRAIN));
        }
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
    /// by then, what it does, what is done, and whether a request that comes after it is refused.
    #[track_caller]
    fn check(rows: &[(&str, Kind, Traffic, Step, bool)]) {
        let mut drain = Drain::Serving;
        for (row, (what, kind, traffic, step, refuses)) in rows.iter().copied().enumerate() {
            if what == "time" || what == "pong" {
                drain.go_on(kind);
            }
            assert_eq!(
                (drain.next(traffic, kind), drain.refuses()),
                (step, refuses),
                "row {row}: {what}, then {drain:?}"
            );
        }
    }

    #[test]
    #[rustfmt::skip]
    fn every_peer_is_told_and_what_it_sent_is_answered() {
        use Kind::{Multiplexing as Multi, Negotiated as Agreed, OneByOne as One};
        use Traffic::{Busy, Idle, Quiet};
        use Step::{Close, Tell, Wait};
        // who knows goaway is told though calls run, and the pong draws the line
        check(&[("begin",  Agreed, Busy,  Tell(Agreed), false), ("ends",   Agreed, Busy,  Wait,         false),
                ("pong",   Agreed, Busy,  Wait,         true),  ("ends",   Agreed, Busy,  Wait,         true),
                ("ends",   Agreed, Idle,  Close,        true)]);
        // requests stand behind the one that has room, and the pong behind them: they are refused when the time is over
        check(&[("begin",  Agreed, Busy,  Tell(Agreed), false), ("time",   Agreed, Busy,  Wait,         true),
                ("ends",   Agreed, Idle,  Close,        true),  ("reads",  Agreed, Idle,  Close,        true),
                ("pong",   Agreed, Idle,  Close,        true)]);
        // another one is told when it is quiet
        check(&[("begin",  Multi,  Busy,  Wait,         false), ("ends",   Multi,  Idle,  Wait,         false),
                ("pause",  Multi,  Quiet, Tell(Multi),  false), ("time",   Multi,  Quiet, Close,        true)]);
        check(&[("begin",  Multi,  Quiet, Tell(Multi),  false), ("begins", Multi,  Busy,  Wait,         false),
                ("time",   Multi,  Busy,  Wait,         true),  ("ends",   Multi,  Idle,  Wait,         true),
                ("pause",  Multi,  Quiet, Close,        true)]);
        // calls without a pause: there is no such moment until new ones are refused
        check(&[("begin",  Multi,  Busy,  Wait,         false), ("ends",   Multi,  Idle,  Wait,         false),
                ("time",   Multi,  Idle,  Wait,         true),  ("ends",   Multi,  Busy,  Wait,         true),
                ("pause",  Multi,  Quiet, Tell(Multi),  true),  ("reads",  Multi,  Idle,  Wait,         true),
                ("time",   Multi,  Quiet, Close,        true)]);
        // one that heeds nothing is closed when its time is over, twice
        check(&[("begin",  Multi,  Quiet, Tell(Multi),  false), ("time",   Multi,  Idle,  Wait,         true),
                ("reads",  Multi,  Idle,  Wait,         true),  ("time",   Multi,  Busy,  Wait,         true),
                ("ends",   Multi,  Idle,  Close,        true)]);
        // one at a time, in order: the next begins when the one before ends
        check(&[("begin",  One,    Busy,  Wait,         false), ("ends",   One,    Idle,  Tell(One),    false),
                ("begins", One,    Busy,  Wait,         false), ("time",   One,    Busy,  Wait,         true),
                ("ends",   One,    Idle,  Wait,         true),  ("pause",  One,    Quiet, Close,        true)]);
        // taken in while the server stops: what it is shows with its first requests, and then it is told
        check(&[("begin",  One,    Idle,  Tell(One),    false), ("begins", Multi,  Busy,  Wait,         false),
                ("ends",   Agreed, Busy,  Tell(Agreed), false), ("pong",   Agreed, Idle,  Close,        true)]);
        check(&[("begin",  One,    Idle,  Tell(One),    false), ("begins", Multi,  Busy,  Wait,         false),
                ("time",   Multi,  Busy,  Wait,         true),  ("pause",  Multi,  Quiet, Tell(Multi),  true),
                ("time",   Multi,  Quiet, Close,        true)]);
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
