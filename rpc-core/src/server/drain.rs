//! Every peer's way out: how a connection is left, by a server that stops or because of what its peer did.
//!
//! ```text
//!                    negotiated: at once                                     otherwise: when nothing runs
//!  Serving ─ drain ─► goaway 0, ping ─► serves what was on its way           ► Kitex's goodbye, or crrst in replies
//!                       pong, or 1 s ─► goaway LAST: refuses, unexecuted       1 s (100 ms) ─► refuses, unexecuted
//!                                       nothing runs ─► closes                                 nothing runs ─► closes
//! ```

use std::time::{Duration, Instant};

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

/// How often is looked whether all has been read that came before the end.
const LOOK: Duration = Duration::from_millis(5);

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

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    /// Serving what comes; says goodbye when nothing runs.
    Draining,
    /// The peer has been told, or the time for stragglers runs.
    Goodbye,
    /// That time is over: what comes now is refused, unexecuted. Closes when nothing runs, and what had come is read, or after this.
    Over {
        until: Instant,
    },
}

impl ServerHandler {
    /// Shuts this connection down; the peer hears why if it knows `goaway`.
    pub(super) fn drain_for(&mut self, cx: &mut Cx<'_>, reason: Reason) {
        if self.drain == Drain::No {
            self.drain = Drain::Draining;
            self.reason = reason;
            self.go_on_draining(cx);
        }
    }

    /// Goes on shutting down as far as it can be done now. A peer that knows `goaway` is told at once, and opens no calls from then on;
    /// when it has answered a ping, everything it sent before is here. Any other peer that multiplexes gets the goodbye frame, which
    /// some clients do not survive with calls under way: first everything that runs ends. The rest would take that for a reply, and
    /// see `crrst` in their replies instead.
    pub(super) fn go_on_draining(&mut self, cx: &mut Cx<'_>) {
        match (self.drain, &mut self.control) {
            (Drain::Draining, Control::On(agreed)) => {
                let probe = agreed.keepalive.probe();
                self.drain = Drain::Goodbye;
                self.go_away(cx, 0, self.reason.name());
                if let Some(number) = probe {
                    self.ping(cx, number);
                }
                let at = cx.now() + GOODBYE_LINGER;
                cx.arm(at, DRAIN);
            }
            (Drain::Draining, _) if self.running.len() == 0 => {
                let linger = if self.multiplexed {
                    write_goodbye(cx.output());
                    GOODBYE_LINGER
                } else {
                    PING_PONG_LINGER
                };
                self.drain = Drain::Goodbye;
                let at = cx.now() + linger;
                cx.arm(at, DRAIN);
            }
            // Not at once: by now more may have come, which is refused by name and not dropped.
            (Drain::Over { .. }, _) if self.running.len() == 0 && !std::mem::replace(&mut self.closes, true) => {
                let now = cx.now();
                cx.look();
                cx.arm(now, DRAIN);
            }
            _ => {}
        }
    }

    /// Its timer has come.
    pub(super) fn drain_further(&mut self, cx: &mut Cx<'_>) {
        let Drain::Over { until } = self.drain else { return self.stragglers_are_in(cx) };
        if self.running.len() > 0 {
            self.closes = false;
        } else if cx.has_input() && cx.now() < until {
            let at = cx.now() + LOOK;
            cx.arm(at, DRAIN);
        } else {
            cx.close(self.reason.closes());
        }
    }

    /// What the peer sent before it knew is here, or has had its time.
    pub(super) fn stragglers_are_in(&mut self, cx: &mut Cx<'_>) {
        if self.drain != Drain::Goodbye {
            return;
        }
        self.drain = Drain::Over { until: cx.now() + GOODBYE_LINGER };
        if matches!(self.control, Control::On(_)) {
            self.go_away(cx, self.last_seq, self.reason.name());
        }
        self.go_on_draining(cx);
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
