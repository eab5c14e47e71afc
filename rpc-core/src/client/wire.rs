//! A request on its way through a connection and back.
//!
//! ```text
//!  begin ─┬─ this thread turns the connection's reactor ─► Local ────► reply
//!         │                                                │ polled on another thread
//!         │                                                ▼
//!         └─ through the outbox ─────────────────────────► Foreign ──► reply
//!                                                            ▲   │ came back unsent
//!                                       another connection ──┴───┘ Again
//! ```

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use rpc_transport::{ConnId, Cx, caught, local};

use super::channel::{ChannelInner, Slot};
use super::handler::{ClientHandler, Waiter};
use super::refusals::expired;
use crate::codegen::MethodDescriptor;
use crate::error::{Error, Phase, Result, Sent};
use crate::metadata::Metadata;
use crate::mux::{Body, Found, Reply, ReplyCell, Request, SeqId, Spec, Ticket};
use crate::protocol::ttheader::request_metadata;

/// A request on its way through a connection and back.
pub(super) struct Wire<'a> {
    channel: &'a Arc<ChannelInner>,
    method: &'static MethodDescriptor,
    started: Instant,
    /// The place of its connection.
    slot: u32,
    moves: u16,
    /// Its slot counts this call.
    counted: bool,
    step: Step,
}

enum Step {
    /// It did not come as far as a connection.
    Failed(Error),
    Local {
        conn: ConnId,
        seq: SeqId,
    },
    Foreign {
        cell: Arc<ReplyCell>,
        /// Its place in the slot's outbox; it may have left that.
        ticket: Option<Ticket>,
    },
    /// It came back unsent, encoded already.
    Again(Box<Request>),
    Done,
}

impl<'a> Wire<'a> {
    /// A request that is to [`begin`](Wire::begin) with this timeout, at this slot. Returns its deadline, too.
    #[inline]
    pub(super) fn new(
        channel: &'a Arc<ChannelInner>,
        method: &'static MethodDescriptor,
        timeout: Duration,
        slot: u32,
    ) -> (Self, Instant) {
        let (started, deadline) = local::now_and_after(timeout);
        (Wire { channel, method, started, slot, moves: 0, counted: false, step: Step::Done }, deadline)
    }

    /// Hands the request to a connection; once.
    #[inline]
    pub(super) fn begin<B: Body>(
        &mut self,
        cx: &mut TaskContext<'_>,
        timeout: Duration,
        deadline: Instant,
        metadata: Option<&(Metadata, Metadata)>,
        body: B,
    ) {
        let mut extra = Vec::new();
        if let Some((persistent, transient)) = metadata {
            match request_metadata(persistent, transient) {
                Ok(pairs) => extra = pairs,
                Err(error) => {
                    return self.fail(Error::from(error).with_phase(Phase::Encode).with_sent(Sent::No));
                }
            }
        }
        if timeout.is_zero() {
            return self.fail(expired(timeout));
        }
        let mut spec = Spec { method: self.method, extra, timeout, deadline };
        let mut body = Some(body);
        let begun = match self.slot().conn() {
            Some(conn) => self.start_local(cx, conn, &mut spec, &mut body),
            None => false,
        };
        if !begun && let Some(body) = body {
            self.begin_elsewhere(cx, spec, body);
        }
    }

    /// Hands the request to a connection of this thread's reactor. Not if there is none, if its handler is running just now, or if it ends;
    /// then the message is left.
    #[inline]
    fn start_local<B: Body>(
        &mut self,
        cx: &mut TaskContext<'_>,
        conn: ConnId,
        spec: &mut Spec,
        body: &mut Option<B>,
    ) -> bool {
        let reactor = &self.channel.slots[self.slot as usize].reactor;
        let step = &mut self.step;
        let submitted = local::visit::<ClientHandler, _>(reactor, conn, |handler, io| {
            let Some(body) = body.take_if(|_| handler.admits(io)) else { return false };
            let waiter = Waiter::new(io, cx.waker());
            *step = match handler.submit(io, spec, body, waiter) {
                Ok(seq) => Step::Local { conn, seq },
                Err(error) => Step::Failed(error),
            };
            true
        });
        match submitted {
            Some(true) => self.enter(),
            None if body.is_none() => {
                self.fail(Error::closed("the connection's handler panicked").with_phase(Phase::Write));
            }
            _ => return false,
        }
        true
    }

    /// The connection is another thread's, or there is none yet, or it takes no call now.
    #[cold]
    fn begin_elsewhere<B: Body>(&mut self, cx: &mut TaskContext<'_>, mut spec: Spec, body: B) {
        let mut body = Some(body);
        if self.slot().reactor.is_current() {
            match self.channel.ensure(self.slot as usize) {
                Ok(conn) if self.start_local(cx, conn, &mut spec, &mut body) => return,
                Ok(_) => {} // its handler is running just now: through the outbox, then
                Err(error) => return self.fail(error),
            }
        }
        if let Some(body) = body {
            self.start_foreign(cx, spec, body);
        }
    }

    #[cold]
    fn fail(&mut self, error: Error) {
        self.step = Step::Failed(error);
    }

    /// Whether it waits at a connection or a cell, and is woken if it has come to its end already.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        matches!(self.step, Step::Local { .. } | Step::Foreign { .. })
    }

    /// Waits for the reply, and takes from it what is asked for. A reply is large: it stays where it is meanwhile.
    ///
    /// # Panics
    /// After it has ended.
    #[inline]
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut TaskContext<'_>,
        of_reply: impl FnOnce(&mut Reply) -> Result<T>,
    ) -> Poll<Result<T>> {
        let mut of_reply = Some(of_reply);
        if let Step::Local { conn, seq } = self.step {
            let reactor = &self.slot().reactor;
            let plain = local::peek::<ClientHandler, _>(reactor, conn, |handler| {
                handler.collect_plainly(seq, |reply| of_reply.take().map(|of_reply| of_reply(reply)))
            });
            if let Some(Some(result)) = plain {
                self.step = Step::Done;
                return Poll::Ready(result);
            }
            // A guest looks at it outside.
            let taken = local::look_in(reactor, conn, |handler: &mut ClientHandler| {
                handler.collect_plainly(seq, |reply| Some(reply.take()))
            });
            if let Some(Some(mut reply)) = taken
                && let Some(of_reply) = of_reply.take()
            {
                self.step = Step::Done;
                return Poll::Ready(of_reply(&mut reply));
            }
        }
        match self.poll_steps(cx) {
            Poll::Ready(Ok(mut reply)) => match of_reply {
                Some(of_reply) => Poll::Ready(of_reply(&mut reply)),
                None => Poll::Ready(Err(Error::closed("its reply was lost"))),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline(never)]
    fn poll_steps(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Reply>> {
        loop {
            if let Step::Local { conn, seq } = self.step {
                match self.collect(cx, conn, seq) {
                    Collected::Pending => return Poll::Pending,
                    Collected::Found(Found::Done(outcome)) => {
                        self.step = Step::Done;
                        return Poll::Ready(outcome);
                    }
                    Collected::Found(Found::Returned(request)) => self.step = Step::Again(request),
                    Collected::Elsewhere(cell) => self.step = Step::Foreign { cell, ticket: None },
                }
                continue;
            }
            match std::mem::replace(&mut self.step, Step::Done) {
                Step::Again(request) => {
                    let now = local::now();
                    // Not to be carried to another connection, perhaps a new one, only to be found late there.
                    let Request { spec, body } = *request;
                    if now >= spec.deadline {
                        return Poll::Ready(Err(expired(spec.timeout)));
                    }
                    self.moves = self.moves.saturating_add(1);
                    if self.moves as usize > self.channel.moves_in(self.elapsed(now)) {
                        let text = "each of several connections ended before the request could be sent";
                        return Poll::Ready(Err(Error::closed(text).with_sent(Sent::No).with_phase(Phase::Queue)));
                    }
                    self.move_to(self.channel.pick());
                    self.start_foreign(cx, spec, body);
                }
                Step::Foreign { cell, ticket } => match cell.poll(cx) {
                    Poll::Ready(Found::Done(outcome)) => {
                        cell.keep();
                        return Poll::Ready(outcome);
                    }
                    Poll::Ready(Found::Returned(request)) => self.step = Step::Again(request),
                    Poll::Pending => {
                        self.step = Step::Foreign { cell, ticket };
                        return Poll::Pending;
                    }
                },
                Step::Failed(error) => return Poll::Ready(Err(error)),
                Step::Local { .. } | Step::Done => {
                    panic!("a call's future was polled after it had ended")
                }
            }
        }
    }

    /// Asks the connection. A call that was begun on its reactor's thread may be polled on another later: then it waits at a cell.
    fn collect(&self, cx: &mut TaskContext<'_>, conn: ConnId, seq: SeqId) -> Collected {
        let (channel, slot) = (self.channel, self.slot as usize);
        let reactor = &channel.slots[slot].reactor;
        let waits = |handler: &mut ClientHandler| handler.waits_with(seq, cx.waker());
        if local::look_in(reactor, conn, waits) == Some(true) {
            return Collected::Pending;
        }
        let ask = |handler: &mut ClientHandler, io: &mut Cx<'_>| handler.collect(io, seq, cx.waker());
        match reactor.enter(|| local::visit(reactor, conn, ask)) {
            Some(None) => return Collected::Pending,
            Some(Some(found)) => return Collected::Found(found),
            // The connection has ended, or its handler is running just now.
            None if reactor.is_current() => {
                if let Some(found) = channel.slots[slot].adopt(conn, seq) {
                    return Collected::Found(found);
                }
            }
            None => {}
        }
        let cell = ReplyCell::take();
        cell.follow(conn, seq, cx.waker());
        let moved = Moved { channel: Arc::clone(channel), slot, conn, seq, cell: Arc::clone(&cell) };
        reactor.run(move || drop(moved));
        Collected::Elsewhere(cell)
    }

    fn start_foreign<B: Body>(&mut self, cx: &mut TaskContext<'_>, spec: Spec, body: B) {
        self.enter();
        let cell = ReplyCell::take();
        cell.wait(cx.waker());
        let ticket = Some(self.channel.post(self.slot as usize, &cell, spec, body));
        self.step = Step::Foreign { cell, ticket };
    }

    #[inline]
    fn slot(&self) -> &'a Slot {
        &self.channel.slots[self.slot as usize]
    }

    /// Its slot counts it from now on, if anybody counts.
    #[inline]
    fn enter(&mut self) {
        if !self.channel.config.multiplexed && !std::mem::replace(&mut self.counted, true) {
            self.channel.enter(self.slot as usize);
        }
    }

    fn move_to(&mut self, slot: usize) {
        let before = std::mem::replace(&mut self.slot, slot as u32);
        if self.counted {
            self.channel.enter(slot);
            self.channel.leave(before as usize);
        }
    }

    /// Lets go of the connection.
    #[inline]
    pub(super) fn end(&mut self) {
        if self.counted || !matches!(self.step, Step::Done) {
            self.leave();
        }
    }

    pub(super) fn explain(&self, error: Error) -> Error {
        explain(error, self.channel, self.method, self.elapsed(local::now()))
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl Drop for Wire<'_> {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

impl Wire<'_> {
    /// Nobody waits for it any more.
    #[inline(never)]
    fn leave(&mut self) {
        let channel = self.channel;
        let slot = self.slot as usize;
        if std::mem::take(&mut self.counted) {
            channel.leave(slot);
        }
        match &std::mem::replace(&mut self.step, Step::Done) {
            &Step::Local { conn, seq } => {
                let slot = &channel.slots[slot];
                let cancel = |handler: &mut ClientHandler, io: &mut Cx<'_>| handler.cancel(io, seq);
                let told = slot.reactor.enter(|| {
                    local::visit(&slot.reactor, conn, cancel).is_some()
                        || slot.reactor.is_current() && slot.adopt(conn, seq).is_some()
                });
                if !told {
                    // Dropped on another thread than it was begun on, or under the connection's own handler.
                    let given_up = GivenUp { channel: Arc::clone(channel), slot: self.slot as usize, conn, seq };
                    slot.reactor.run(move || drop(given_up));
                }
            }
            Step::Foreign { cell, ticket } => {
                let slot = &channel.slots[slot];
                match (cell.drop_call(), ticket) {
                    (Some(conn), _) => slot.reactor.send(conn, Arc::clone(cell)),
                    (None, Some(ticket)) => slot.outbox.remove(*ticket),
                    (None, None) => {}
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
        let tell = |handler: &mut ClientHandler, io: &mut Cx<'_>| handler.hand_over(io, self.seq, &self.cell);
        if local::visit(&slot.reactor, self.conn, tell).is_some() {
            return;
        }
        let gone = || {
            let error = Error::closed("the reactor stopped").with_phase(Phase::Wait).with_sent(Sent::Maybe);
            Found::Done(Err(error.with_id(self.seq.to_wire())))
        };
        let found = slot.adopt(self.conn, self.seq).unwrap_or_else(gone);
        if let Some(waker) = self.cell.complete(found) {
            caught(|| waker.wake());
        }
    }
}

/// A call that was dropped elsewhere, on its way to its connection. Works when it is dropped, like [`Moved`]: what the reactor's end may have
/// left for the call goes, too.
struct GivenUp {
    channel: Arc<ChannelInner>,
    slot: usize,
    conn: ConnId,
    seq: SeqId,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let slot = &self.channel.slots[self.slot];
        let cancel = |handler: &mut ClientHandler, io: &mut Cx<'_>| handler.cancel(io, self.seq);
        if local::visit(&slot.reactor, self.conn, cancel).is_none() {
            drop(slot.adopt(self.conn, self.seq));
        }
    }
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
