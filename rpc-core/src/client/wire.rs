//! A request on its way through a connection and back.
//!
//! ```text
//!  begin ─┬─ this thread turns the connection's reactor ─► Local ────► reply
//!         │                                                │ polled on another thread
//!         │                                                ▼
//!         └─ through the inbox ──────────────────────────► Foreign ──► reply
//!                                                            ▲   │ came back unsent
//!                                       another connection ──┴───┘ Again
//! ```

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use rpc_transport::{ConnId, local};

use super::channel::ChannelInner;
use super::handler::{ClientHandler, Waiter};
use super::refusals::expired;
use crate::codegen::MethodDescriptor;
use crate::error::{Error, Phase, Result, Sent};
use crate::metadata::Metadata;
use crate::mux::{Body, Found, Reply, ReplyCell, Request, SeqId, Spec};
use crate::protocol::ttheader::request_metadata;

/// A request on its way through a connection and back.
pub(super) struct Wire<'a> {
    channel: &'a Arc<ChannelInner>,
    method: &'static MethodDescriptor,
    started: Instant,
    /// The slot that counts this call.
    entered: Option<usize>,
    moves: usize,
    step: Step,
}

enum Step {
    /// It did not come as far as a connection.
    Failed(Error),
    Local {
        slot: usize,
        conn: ConnId,
        seq: SeqId,
    },
    Foreign {
        slot: usize,
        cell: Arc<ReplyCell>,
    },
    /// It came back unsent, encoded already.
    Again(Box<Request>),
    Done,
}

impl<'a> Wire<'a> {
    /// Hands the request to a connection.
    pub(super) fn begin<B: Body>(
        cx: &mut TaskContext<'_>,
        channel: &'a Arc<ChannelInner>,
        method: &'static MethodDescriptor,
        timeout: Duration,
        metadata: &(Metadata, Metadata),
        body: B,
        prefer: Option<usize>,
    ) -> Self {
        let started = local::now();
        let deadline = deadline_of(started, timeout);
        let mut wire = Wire { channel, method, started, entered: None, moves: 0, step: Step::Done };
        let step = match request_metadata(&metadata.0, &metadata.1) {
            Ok(_) if timeout.is_zero() => Err(expired(timeout)),
            Ok(extra) => wire.start(cx, Spec { method, extra, timeout, deadline }, body, prefer),
            Err(error) => Err(Error::from(error).with_phase(Phase::Encode).with_sent(Sent::No)),
        };
        wire.step = step.unwrap_or_else(Step::Failed);
        wire
    }

    /// Whether it waits at a connection of this thread, and so cannot have come to its end when it has just begun. At a foreign cell
    /// it can.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.step, Step::Local { .. })
    }

    /// Whether it is certain that no connection has it.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self.step, Step::Failed(_) | Step::Again(_))
    }

    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Reply>> {
        loop {
            if let Step::Local { slot, conn, seq } = self.step {
                match self.collect(cx, slot, conn, seq) {
                    Collected::Pending => return Poll::Pending,
                    Collected::Found(Found::Done(outcome)) => {
                        self.step = Step::Done;
                        return Poll::Ready(outcome);
                    }
                    Collected::Found(Found::Returned(request)) => self.step = Step::Again(request),
                    Collected::Elsewhere(cell) => self.step = Step::Foreign { slot, cell },
                }
                continue;
            }
            match std::mem::replace(&mut self.step, Step::Done) {
                Step::Again(request) => {
                    // Not to be carried to another connection, perhaps a new one, only to be found late there.
                    if let Some(spec) = request.spec.as_ref().filter(|spec| local::now() >= spec.deadline) {
                        return Poll::Ready(Err(expired(spec.timeout)));
                    }
                    self.moves += 1;
                    let since = local::now().saturating_duration_since(self.started);
                    if self.moves > self.channel.moves_in(since) {
                        let text = "each of several connections ended before the request could be sent";
                        return Poll::Ready(Err(Error::closed(text).with_sent(Sent::No).with_phase(Phase::Queue)));
                    }
                    let (slot, _) = self.channel.pick();
                    self.step = self.start_foreign(cx, slot, *request);
                }
                Step::Foreign { slot, cell } => match cell.poll(cx) {
                    Poll::Ready(Found::Done(outcome)) => {
                        self.channel.keep_cell(cell);
                        return Poll::Ready(outcome);
                    }
                    Poll::Ready(Found::Returned(request)) => self.step = Step::Again(request),
                    Poll::Pending => {
                        self.step = Step::Foreign { slot, cell };
                        return Poll::Pending;
                    }
                },
                Step::Failed(error) => return Poll::Ready(Err(error)),
                Step::Local { .. } | Step::Done => return Poll::Ready(Err(Error::cancelled())),
            }
        }
    }

    /// Asks the connection. A call that was begun on its reactor's thread may be polled on another later: then it waits at a cell.
    fn collect(&self, cx: &mut TaskContext<'_>, slot: usize, conn: ConnId, seq: SeqId) -> Collected {
        let channel = self.channel;
        let reactor = &channel.slots[slot].reactor;
        if reactor.is_current() {
            let plain = local::peek::<ClientHandler, _>(conn, |handler| handler.collect_plainly(seq)).flatten();
            if let Some((found, _waiter)) = plain {
                return Collected::Found(found);
            }
            match local::visit::<ClientHandler, _>(conn, |handler, io| handler.collect(io, seq, cx.waker())) {
                Some(None) => return Collected::Pending,
                Some(Some(found)) => return Collected::Found(found),
                // The connection has ended, or its handler is running just now.
                None => {
                    if let Some(found) = channel.slots[slot].adopt(conn, seq) {
                        return Collected::Found(found);
                    }
                }
            }
        }
        let cell = channel.take_cell();
        cell.follow(conn, seq, cx.waker());
        let moved = Moved { channel: Arc::clone(channel), slot, conn, seq, cell: Arc::clone(&cell) };
        reactor.run(move || drop(moved));
        Collected::Elsewhere(cell)
    }

    fn start<B: Body>(&mut self, cx: &mut TaskContext<'_>, spec: Spec, body: B, prefer: Option<usize>) -> Result<Step> {
        let channel = self.channel;
        let (slot, is_local) = match prefer {
            Some(slot) => (slot, channel.slots[slot].reactor.is_current()),
            None => channel.pick(),
        };
        if !is_local {
            return Ok(self.start_foreign(cx, slot, Request { spec: Some(spec), body: body.into_link() }));
        }
        let conn = channel.ensure(slot)?;
        let mut parts = Some((spec, body));
        let submitted = local::visit::<ClientHandler, _>(conn, |handler, io| {
            let (spec, body) = handler.admits(io).then(|| parts.take()).flatten()?;
            Some(handler.submit(io, spec, body, Waiter::new(cx.waker())))
        });
        match (submitted.flatten(), parts) {
            (Some(seq), _) => {
                let step = Step::Local { slot, conn, seq: seq? };
                self.enter(slot);
                Ok(step)
            }
            // The connection's handler is running just now, or it ends: through the inbox, then.
            (None, Some((spec, body))) => {
                Ok(self.start_foreign(cx, slot, Request { spec: Some(spec), body: body.into_link() }))
            }
            (None, None) => Err(Error::closed("the connection's handler panicked").with_phase(Phase::Write)),
        }
    }

    fn start_foreign(&mut self, cx: &mut TaskContext<'_>, slot: usize, request: Request) -> Step {
        self.enter(slot);
        let channel = self.channel;
        let cell = channel.take_cell();
        cell.submit(request, cx.waker());
        channel.send(slot, &cell);
        Step::Foreign { slot, cell }
    }

    fn enter(&mut self, slot: usize) {
        let before = self.entered.replace(slot);
        let channel = self.channel;
        channel.enter(slot);
        if let Some(before) = before {
            channel.leave(before);
        }
    }

    pub(super) fn explain(&self, error: Error) -> Error {
        let elapsed = local::now().saturating_duration_since(self.started);
        explain(error, self.channel, self.method, elapsed)
    }
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        let channel = self.channel;
        if let Some(slot) = self.entered {
            channel.leave(slot);
        }
        match &self.step {
            &Step::Local { slot, conn, seq } => {
                let give_up = move |channel: &ChannelInner| {
                    let slot = &channel.slots[slot];
                    slot.reactor.is_current()
                        && (local::visit::<ClientHandler, _>(conn, |handler, io| handler.cancel(io, seq)).is_some()
                            || slot.adopt(conn, seq).is_some())
                };
                if !give_up(channel) {
                    // Dropped on another thread than it was begun on, or under the connection's own handler.
                    let there = Arc::clone(channel);
                    channel.slots[slot].reactor.run(move || _ = give_up(&there));
                }
            }
            Step::Foreign { slot, cell } => {
                if let Some(conn) = cell.drop_call() {
                    channel.slots[*slot].reactor.send(conn, Arc::clone(cell));
                }
            }
            Step::Failed(_) | Step::Again(_) | Step::Done => {}
        }
    }
}

/// What a look at a call's connection finds.
#[allow(clippy::large_enum_variant, reason = "passed on at once, never kept")]
enum Collected {
    Pending,
    Found(Found),
    /// The call has left its reactor's thread and waits here now.
    Elsewhere(Arc<ReplyCell>),
}

/// A call that has left its reactor's thread, on its way back there to tell the connection. Works when it is dropped, so that it is
/// never silent: if the reactor has stopped, that is the answer.
struct Moved {
    channel: Arc<ChannelInner>,
    slot: usize,
    conn: ConnId,
    seq: SeqId,
    cell: Arc<ReplyCell>,
}

impl Drop for Moved {
    fn drop(&mut self) {
        let slot = &self.channel.slots[self.slot];
        let tell =
            || local::visit::<ClientHandler, _>(self.conn, |handler, io| handler.hand_over(io, self.seq, &self.cell));
        if slot.reactor.is_current() && tell().is_some() {
            return;
        }
        let gone = || {
            let error = Error::closed("the reactor stopped").with_phase(Phase::Wait).with_sent(Sent::Maybe);
            Found::Done(Err(error.with_id(self.seq.to_wire())))
        };
        let found = slot.adopt(self.conn, self.seq).unwrap_or_else(gone);
        if let Some(waker) = self.cell.complete(found) {
            waker.wake();
        }
    }
}

/// A timeout that no clock can tell is one of 136 years.
pub(super) fn deadline_of(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}

/// An error of this call, with what is known of it.
pub(super) fn explain(
    error: Error,
    channel: &ChannelInner,
    method: &'static MethodDescriptor,
    elapsed: Duration,
) -> Error {
    error.with_method(method.to_string()).with_peer(channel.peer.clone()).with_elapsed(elapsed).with_attempt(1)
}
