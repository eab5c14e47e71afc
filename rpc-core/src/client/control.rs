//! The client's side of what is said beside calls: control frames with a peer of ours, and any peer's goodbye.
//!
//! Every request announces them; the first reply that confirms them is when both sides may begin. A call that is given up is told to
//! the server, which answers it with an exception: so every request has exactly one reply, and an id is free when that has come,
//! cancelled or not.

use rpc_transport::{CloseReason, Cx, LogLimit};
use std::sync::Arc;

use super::handler::ClientHandler;
use crate::error::Error;
use crate::mux::{Keepalive, Next, Pong, SeqId, TooManyPings, View};
use crate::protocol::ProtocolError;
use crate::protocol::ttheader::layout::capability;
use crate::protocol::ttheader::{ControlFrame, ReplyInfo, TtFrame};

/// The timer of the next look at a silent peer.
pub(super) const KEEPALIVE: u64 = 1;

impl ClientHandler {
    /// Looks for the peer's word that it knows control frames.
    pub(super) fn read_confirmation(&mut self, cx: &mut Cx<'_>, info: &ReplyInfo) {
        if self.channel.config.multiplexed
            && info.capabilities.is_some_and(|bits| bits & capability::CONTROL_FRAMES != 0)
        {
            self.keepalive = Some(Box::new(Keepalive::new(Arc::clone(&self.channel.keepalive))));
            if self.pending.waiting() > 0 {
                self.watch(cx);
            }
        }
    }

    /// A call is under way: the peer is looked at from now on.
    #[inline]
    pub(super) fn watch(&mut self, cx: &mut Cx<'_>) {
        if let Some(keepalive) = &mut self.keepalive
            && let Some(at) = keepalive.watch(cx.now())
        {
            self.look = Some(cx.remind(at, KEEPALIVE));
        }
    }

    /// Tells the server that nobody waits for this reply any more. With a full output it does without: the reply frees the id then.
    pub(super) fn tell_cancelled(&mut self, cx: &mut Cx<'_>, seq: SeqId) {
        if self.keepalive.is_some() && !cx.is_closing() && !cx.is_crowded() {
            ControlFrame::Cancel(seq.to_wire()).encode(cx.output());
        }
    }

    /// A frame with id 0: a control frame, or the goodbye of a Kitex server, whose payload is Thrift and not read.
    ///
    /// # Errors
    /// A malformed frame, or a control frame that nobody agreed on: fatal for the connection.
    #[cold]
    pub(super) fn control(&mut self, cx: &mut Cx<'_>, tt: &TtFrame<'_>) -> Result<(), Error> {
        if let Some(frame) = ControlFrame::decode(tt)? {
            return self.obey(cx, frame);
        }
        match ReplyInfo::parse(tt.info, &self.channel.config.limits.header()) {
            Ok(info) if info.closing => {
                tracing::debug!(peer = %cx.peer(), "the peer says goodbye");
                self.turn_away(cx, "the peer says goodbye at once");
            }
            Err(error) if error.is_fatal() => return Err(error.into()),
            _ => self.glitch(cx, "a frame with id 0 that is no goodbye"),
        }
        Ok(())
    }

    fn obey(&mut self, cx: &mut Cx<'_>, frame: ControlFrame<'_>) -> Result<(), Error> {
        let Some(keepalive) = &mut self.keepalive else {
            return Err(ProtocolError::Control("nobody agreed on them").into());
        };
        if self.pending.waiting() == 0 {
            keepalive.note_quiet(cx.now(), self.calls);
        }
        match frame {
            ControlFrame::Ping(number) => {
                if keepalive.on_ping(number, cx.now()) == Err(TooManyPings) {
                    static PINGS: LogLimit = LogLimit::new();
                    if let Some(skipped) = PINGS.pass(cx.now()) {
                        tracing::warn!(peer = %cx.peer(), skipped, "too many pings; closing");
                    }
                    ControlFrame::GoAway { last: 0, reason: b"too_many_pings" }.encode(cx.output());
                    cx.close(CloseReason::Limit("keepalive_min_interval"));
                }
            }
            ControlFrame::Pong(number) => {
                if keepalive.on_pong(number) == Pong::Unasked {
                    self.glitch(cx, "a pong that nobody asked for");
                }
            }
            ControlFrame::GoAway { last, reason } => {
                tracing::debug!(peer = %cx.peer(), last, reason = %reason.escape_ascii(), "the peer says goaway");
                self.turn_away(cx, "the peer says goaway at once");
            }
            ControlFrame::Cancel(_) => self.glitch(cx, "a cancellation from a server"),
        }
        Ok(())
    }

    /// What is owed at the end of a batch.
    #[inline]
    pub(super) fn pay(&mut self, cx: &mut Cx<'_>) {
        if let Some(keepalive) = &mut self.keepalive
            && let Some(number) = keepalive.owed()
        {
            ControlFrame::Pong(number).encode(cx.output());
        }
    }

    /// The time for a look at the peer has come.
    pub(super) fn look(&mut self, cx: &mut Cx<'_>) {
        self.look = None;
        let Some(keepalive) = &mut self.keepalive else { return };
        let busy = self.pending.waiting() > 0;
        let view = View { busy, heard: cx.heard(), reads: cx.is_read(), written: cx.written() };
        let at = match keepalive.look(cx.now(), view) {
            Next::Rest => return,
            Next::Look(at) => at,
            Next::Ping(number) => {
                ControlFrame::Ping(number).encode(cx.output());
                keepalive.sent(number, cx.written() + cx.output_len() as u64, cx.now())
            }
            Next::Dead => {
                static SILENT: LogLimit = LogLimit::new();
                if let Some(skipped) = SILENT.pass(cx.now()) {
                    tracing::warn!(peer = %cx.peer(), skipped, "the peer is silent; closing");
                }
                return cx.abort(CloseReason::Limit("keepalive_timeout"));
            }
        };
        self.look = Some(cx.remind(at, KEEPALIVE));
    }
}
