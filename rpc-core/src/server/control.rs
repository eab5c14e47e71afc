//! What the server says beside calls to a peer that agreed on it: control frames between our own peers.

use std::sync::Arc;
use std::time::Instant;

use rpc_transport::{CloseReason, Cx, LogLimit, TimerId, local};

use super::cancel_budget::CancelBudget;
use super::drain::Reason;
use super::handler::ServerHandler;
use super::reply;
use super::running::{CallKey, What};
use crate::error::Error;
use crate::metadata::Metadata;
use crate::mux::{Keepalive, Next, Pong, TooManyPings, View};
use crate::protocol::ProtocolError;
use crate::protocol::ttheader::ControlFrame;

/// The timer of the next look at a silent peer. Calls use their [`CallKey`], whose slots do not come that far.
pub(super) const KEEPALIVE: u64 = u64::MAX - 1;

/// Whether the peer knows control frames.
pub(super) enum Control {
    No,
    /// It says so; the next reply says the same to it.
    Announced,
    /// Both have said so.
    On(Box<Agreed>),
}

/// What there is only with control frames.
pub(super) struct Agreed {
    pub(super) keepalive: Keepalive,
    /// When the keepalive looks at the peer next.
    look: Option<TimerId>,
    /// From the first cancellation or deadline on. Boxed: most connections have none, and of idle ones there are many.
    cancels: Option<Box<CancelBudget>>,
}

impl ServerHandler {
    /// A reply that confirms control frames is about to be written: from there on both sides may send them.
    #[cold]
    pub(super) fn confirmed(&mut self, cx: &mut Cx<'_>) {
        self.control = Control::On(Box::new(Agreed {
            keepalive: Keepalive::new(Arc::clone(&self.caller.shared.keepalive)),
            look: None,
            cancels: None,
        }));
        if self.running.len() > 0 {
            self.watch(cx);
        }
    }

    /// A call is under way: the peer is looked at from now on.
    #[inline]
    pub(super) fn watch(&mut self, cx: &mut Cx<'_>) {
        if let Control::On(agreed) = &mut self.control
            && let Some(at) = agreed.keepalive.watch(cx.now())
        {
            agreed.look = Some(cx.remind(at, KEEPALIVE));
        }
    }

    /// Does what a control frame says.
    ///
    /// # Errors
    /// Nobody agreed on control frames here: fatal for the connection.
    pub(super) fn obey(&mut self, cx: &mut Cx<'_>, frame: ControlFrame<'_>) -> Result<(), Error> {
        let Control::On(agreed) = &mut self.control else {
            return Err(ProtocolError::Control("nobody agreed on them").into());
        };
        if self.running.len() == 0 {
            agreed.keepalive.note_quiet(cx.now(), self.calls);
        }
        match frame {
            ControlFrame::Ping(number) => {
                if agreed.keepalive.on_ping(number, cx.now()) == Err(TooManyPings) {
                    static PINGS: LogLimit = LogLimit::new();
                    if let Some(skipped) = PINGS.pass(cx.now()) {
                        tracing::info!(peer = %self.caller.peer, skipped, "too many pings; closing");
                    }
                    // 0: what runs is not waited for.
                    self.go_away(cx, 0, "too_many_pings");
                    cx.close(CloseReason::Limit("keepalive_min_interval"));
                }
            }
            ControlFrame::Pong(number) => match agreed.keepalive.on_pong(number) {
                Pong::Alive => {}
                Pong::Unasked => self.glitch(cx, "a pong that nobody asked for"),
                Pong::Probe(number) => self.ping(cx, number),
                Pong::Probed => self.stragglers_are_in(cx),
            },
            ControlFrame::Cancel(seq) => self.cancel(cx, seq),
            // It closes when it has its replies; nothing of ours begins there.
            ControlFrame::GoAway { .. } => {}
        }
        Ok(())
    }

    /// What is owed at the end of a batch.
    #[inline]
    pub(super) fn pay(&mut self, cx: &mut Cx<'_>) {
        if let Control::On(agreed) = &mut self.control
            && let Some(number) = agreed.keepalive.owed()
        {
            ControlFrame::Pong(number).encode(cx.output());
        }
    }

    /// The time for a look at the peer has come.
    pub(super) fn look(&mut self, cx: &mut Cx<'_>) {
        let Control::On(agreed) = &mut self.control else { return };
        let Agreed { keepalive, look, .. } = &mut **agreed;
        *look = None;
        let view = View { busy: self.running.len() > 0, heard: cx.heard(), reads: cx.is_read(), written: cx.written() };
        let at = match keepalive.look(cx.now(), view) {
            Next::Rest => return,
            Next::Look(at) => at,
            Next::Ping(number) => {
                ControlFrame::Ping(number).encode(cx.output());
                keepalive.sent(number, end_of_output(cx), cx.now())
            }
            Next::Dead => {
                static SILENT: LogLimit = LogLimit::new();
                if let Some(skipped) = SILENT.pass(cx.now()) {
                    tracing::info!(peer = %self.caller.peer, skipped, "the peer is silent; closing");
                }
                return cx.abort(CloseReason::Limit("keepalive_timeout"));
            }
        };
        *look = Some(cx.remind(at, KEEPALIVE));
    }

    /// The connection has ended.
    pub(super) fn stop_looking(&mut self, cx: &mut Cx<'_>) {
        if let Control::On(agreed) = &mut self.control
            && let Some(look) = agreed.look.take()
        {
            cx.forget(look);
        }
    }

    pub(super) fn ping(&mut self, cx: &mut Cx<'_>, number: u64) {
        if let Control::On(agreed) = &mut self.control {
            ControlFrame::Ping(number).encode(cx.output());
            agreed.keepalive.sent(number, end_of_output(cx), cx.now());
        }
    }

    pub(super) fn go_away(&mut self, cx: &mut Cx<'_>, last: i32, reason: &str) {
        ControlFrame::GoAway { last, reason: reason.as_bytes() }.encode(cx.output());
    }

    /// The caller of this request has given up. Its answer is an exception, so that there is one reply to every request and its caller
    /// knows when the id is free; a request that has been answered already needs no second one.
    fn cancel(&mut self, cx: &mut Cx<'_>, seq: i32) {
        let Control::On(agreed) = &mut self.control else { return };
        if agreed.cancels.get_or_insert_default().on_cancel(self.calls) {
            return self.glitch(cx, "more cancellations than requests");
        }
        if let Some(key) = self.running.find(seq) {
            self.cut(cx, key, &Error::cancelled());
        }
    }

    /// Ends a running call before its handler does, and answers it with this error. A handler on the worker pool goes on, and counts,
    /// until it returns.
    pub(super) fn cut(&mut self, cx: &mut Cx<'_>, key: CallKey, error: &Error) {
        let Some(call) = self.running.get(key).filter(|call| !call.answered) else { return };
        let (method, to, began) = (call.method.name().as_bytes(), call.to, call.began);
        match &call.what {
            What::Task(task, _) => {
                // Dropping the future is what cancels it.
                if let Some(task) = local::cancel(*task) {
                    task.finished();
                }
                if let Some(to) = self.ended(cx, key, to) {
                    reply::write_error(cx.output(), method, &to, &Metadata::new(), error);
                }
            }
            What::Blocking(context) => {
                context.cancel();
                self.running.answer(key);
                self.in_order.take_if(|awaited| *awaited == key);
                self.here.counters.replied.add(1);
                let to = self.as_of_now(to);
                reply::write_error(cx.output(), method, &to, &Metadata::new(), error);
                self.wrote(cx, to);
            }
        }
        self.unfinished(cx, began);
        self.after(cx);
    }

    /// Since when its peer has sent nothing but control frames, if it is so.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        match &self.control {
            Control::On(agreed) => agreed.keepalive.quiet_since(self.calls),
            _ => None,
        }
    }

    fn unfinished(&mut self, cx: &mut Cx<'_>, began: Instant) {
        let Control::On(agreed) = &mut self.control else { return };
        let cancels = agreed.cancels.get_or_insert_default();
        if cancels.on_unfinished(self.caller.shared.limits.cancel_budget, self.calls, began, cx.now()) {
            static CUT: LogLimit = LogLimit::new();
            if let Some(skipped) = CUT.pass(cx.now()) {
                tracing::info!(peer = %self.caller.peer, skipped, "more than half of its calls are cut short at once; closing");
            }
            self.drain_for(cx, Reason::CancelBudget);
        }
    }
}

/// Where what has been written so far ends in the stream.
fn end_of_output(cx: &Cx<'_>) -> u64 {
    cx.written() + cx.output_len() as u64
}
