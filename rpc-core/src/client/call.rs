//! One call: a value with options first, a future when it is awaited.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use rpc_transport::{ConnId, local};

use super::channel::{Channel, ChannelInner};
use super::handler::{ClientHandler, Waiter};
use super::pooled::Pooled;
use super::refusals::expired;
use crate::codegen::MethodDescriptor;
use crate::context::{Cancelled, Context, Inherited, Origin};
use crate::error::{Error, Phase, Refusal, Result, Sent};
use crate::metadata::Metadata;
use crate::middleware::{self, Middleware, Next, Payload};
use crate::mux::{Body, Encoded, Found, Reply, ReplyCell, Request, SeqId, Spec};
use crate::protocol::ttheader::request_metadata;
use crate::protocol::{Exception, MessageType};
use crate::status::Code;

/// A call that has not begun. Await it, or [`wait`](Call::wait) for it.
#[must_use = "a call does nothing until it is awaited or waited for"]
pub struct Call<'a, M, Req, Resp> {
    channel: &'a Channel<M>,
    method: &'static MethodDescriptor,
    req: Req,
    timeout: Option<Duration>,
    metadata: Option<Box<(Metadata, Metadata)>>,
    origin: Origin,
    reply: PhantomData<fn() -> Resp>,
}

/// A reply with what came beside its message.
#[derive(Clone, Debug, PartialEq)]
pub struct Response<T> {
    /// The message.
    pub message: T,
    /// The pairs that the server sent back: [`Context::set_backward`].
    pub metadata: Metadata,
}

impl<'a, M: Middleware, Req, Resp> Call<'a, M, Req, Resp> {
    pub(crate) fn new(channel: &'a Channel<M>, method: &'static MethodDescriptor, req: Req) -> Self {
        Call { channel, method, req, timeout: None, metadata: None, origin: Origin::default(), reply: PhantomData }
    }

    /// The time from now to the reply, connecting and queueing included. Default: `default_timeout`, 5 s. The server is told. A call
    /// made by a handler has no more than what is left of the handler's own deadline.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends a pair to the called service only ("transient").
    pub fn metadata(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.metadata.get_or_insert_default().1.insert(key, value);
        self
    }

    /// Sends a pair to the called service and every service behind it ("persistent"). It wins over an inherited pair of the same key;
    /// with an empty value it takes that away.
    pub fn persistent(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.metadata.get_or_insert_default().0.insert(key, value);
        self
    }

    /// Makes the call on behalf of the one that `cx` belongs to, wherever it is polled: it has no more time than what is left of that
    /// one's deadline, carries its persistent metadata on, and ends when that one is cancelled.
    ///
    /// Calls that a handler awaits or waits for do this by themselves. This is for futures that it has sent elsewhere; for several
    /// calls at once there is [`Context::scope`].
    pub fn inherit(mut self, cx: &Context) -> Self {
        self.origin = Origin::Of(cx.clone());
        self
    }

    /// Makes a call of its own: it inherits nothing of the call whose handler makes it. It still ends when its future is dropped.
    pub fn detached(mut self) -> Self {
        self.origin = Origin::Nobody;
        self
    }

    /// Asks for the reply's metadata, too.
    pub fn response(self) -> ResponseCall<'a, M, Req, Resp> {
        ResponseCall(self)
    }
}

impl<M, Req, Resp> Call<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    /// Makes the call and blocks this thread until it ends. Needs no executor. If the connection's reactor is idle, this thread
    /// turns it meanwhile, so that no other thread is involved.
    ///
    /// # Errors
    /// As the call; and at once on a reactor's thread, which would wait for itself.
    pub fn wait(self) -> Result<Resp> {
        self.response().wait().map(|response| response.message)
    }
}

/// A call that ends with a [`Response`]: the message and the metadata that came with it.
#[must_use = "a call does nothing until it is awaited or waited for"]
pub struct ResponseCall<'a, M, Req, Resp>(Call<'a, M, Req, Resp>);

impl<M, Req, Resp> ResponseCall<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    /// As [`Call::wait`].
    ///
    /// # Errors
    /// As [`Call::wait`].
    pub fn wait(mut self) -> Result<Response<Resp>> {
        if local::current().is_some() {
            let error = Error::from(Refusal::WaitOnReactor).with_phase(Phase::Queue);
            return Err(explain(error, self.0.channel.inner(), self.0.method, Duration::ZERO));
        }
        let channel = self.0.channel.inner();
        let (slot, _) = channel.pick();
        // Taken over now and not at the first poll: this thread may poll others' futures meanwhile, which take over nothing from here.
        let inherited = Inherited::of(std::mem::take(&mut self.0.origin));
        let mut future = ResponseFuture { state: State::New(self.0, Some(inherited)), prefer: Some(slot), watch: None };
        let mut nothing = Inherited::NOTHING;
        let _outside = nothing.enter();
        channel.slots[slot].reactor.block_on(&mut future)
    }
}

impl<'a, M, Req, Resp> IntoFuture for Call<'a, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    type Output = Result<Resp>;
    type IntoFuture = CallFuture<'a, M, Req, Resp>;

    fn into_future(self) -> Self::IntoFuture {
        CallFuture(self.response().into_future())
    }
}

impl<'a, M, Req, Resp> IntoFuture for ResponseCall<'a, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    type Output = Result<Response<Resp>>;
    type IntoFuture = ResponseFuture<'a, M, Req, Resp>;

    fn into_future(self) -> Self::IntoFuture {
        ResponseFuture { state: State::New(self.0, None), prefer: None, watch: None }
    }
}

/// A call under way. Dropping it cancels the call: nobody waits for the reply, which is dropped when it comes.
pub struct CallFuture<'a, M, Req: Message, Resp: 'static>(ResponseFuture<'a, M, Req, Resp>);

/// As [`CallFuture`], for a [`ResponseCall`].
pub struct ResponseFuture<'a, M, Req: Message, Resp: 'static> {
    state: State<'a, M, Req, Resp>,
    /// The connection's slot, if it has been chosen already.
    prefer: Option<usize>,
    /// The end of the call on whose behalf this one is made, if that does not drop it.
    watch: Option<Box<Watch>>,
}

/// Looks whether the call on whose behalf another is made has been cancelled.
struct Watch {
    cancelled: Cancelled,
    channel: Arc<ChannelInner>,
    method: &'static MethodDescriptor,
    started: Instant,
}

impl Watch {
    fn new(watched: &Context, channel: &Arc<ChannelInner>, method: &'static MethodDescriptor) -> Self {
        Watch { cancelled: watched.cancelled(), channel: Arc::clone(channel), method, started: local::now() }
    }

    fn error(&self) -> Error {
        let now = local::now();
        let cx = self.cancelled.context();
        let error = match cx.deadline().filter(|at| *at <= now) {
            Some(at) => Error::deadline(at.saturating_duration_since(cx.started())),
            None => Error::cancelled(),
        };
        explain(error.with_phase(Phase::Wait), &self.channel, self.method, now.saturating_duration_since(self.started))
    }
}

#[allow(clippy::large_enum_variant, reason = "one per call, in the caller's frame: a box would be an allocation")]
enum State<'a, M, Req: Message, Resp: 'static> {
    /// With what it takes over, if that has been taken already.
    New(Call<'a, M, Req, Resp>, Option<Inherited>),
    /// Without middleware: the message is encoded where it is sent from.
    Direct(Wire<'a>),
    Layered(Pooled<Result<Response<Resp>>>),
    Done,
}

impl<M, Req: Message, Resp> State<'_, M, Req, Resp> {
    /// Whether the peer can have seen the request.
    fn sent(&self) -> Sent {
        match self {
            State::New(..) | State::Direct(Wire { step: Step::Failed(_) | Step::Again(_), .. }) => Sent::No,
            _ => Sent::Maybe,
        }
    }
}

// Neither future is ever pinned in place by itself: what needs pinning is boxed.
impl<M, Req: Message, Resp> Unpin for CallFuture<'_, M, Req, Resp> {}
impl<M, Req: Message, Resp> Unpin for ResponseFuture<'_, M, Req, Resp> {}

impl<M, Req, Resp> Future for CallFuture<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    type Output = Result<Resp>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(|response| response.message)
    }
}

impl<M, Req, Resp> Future for ResponseFuture<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    type Output = Result<Response<Resp>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Some(watch) = &mut this.watch
                && Pin::new(&mut watch.cancelled).poll(cx).is_ready()
            {
                let error = watch.error().with_sent(this.state.sent());
                this.watch = None;
                this.state = State::Done;
                return Poll::Ready(Err(error));
            }
            match &mut this.state {
                State::Direct(wire) => {
                    let Poll::Ready(outcome) = wire.poll(cx) else { return Poll::Pending };
                    let result = outcome.and_then(decode).map_err(|error| wire.explain(error));
                    this.state = State::Done;
                    return Poll::Ready(result);
                }
                State::Layered(future) => {
                    let poll = future.poll(cx);
                    if poll.is_ready() {
                        this.state = State::Done;
                    }
                    return poll;
                }
                State::New(..) => {
                    let State::New(mut call, inherited) = std::mem::replace(&mut this.state, State::Done) else {
                        continue;
                    };
                    let inherited = inherited.unwrap_or_else(|| Inherited::of(std::mem::take(&mut call.origin)));
                    if let Some(watched) = inherited.watched() {
                        let mut watch = Watch::new(watched, call.channel.inner(), call.method);
                        if Pin::new(&mut watch.cancelled).poll(cx).is_ready() {
                            return Poll::Ready(Err(watch.error().with_sent(Sent::No)));
                        }
                        this.watch = Some(Box::new(watch));
                    }
                    this.state = call.begin(cx, this.prefer, &inherited);
                    if matches!(&this.state, State::Direct(wire) if wire.is_local()) {
                        return Poll::Pending;
                    }
                }
                State::Done => panic!("a call's future was polled after it had ended"),
            }
        }
    }
}

impl<'a, M, Req, Resp> Call<'a, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    fn begin(self, cx: &mut TaskContext<'_>, prefer: Option<usize>, inherited: &Inherited) -> State<'a, M, Req, Resp> {
        let channel = self.channel.inner();
        let own = self.timeout.unwrap_or(channel.config.limits.default_timeout);
        let timeout = inherited.remaining().map_or(own, |left| left.min(own));
        let (persistent, transient) = self.metadata.map(|pairs| *pairs).unwrap_or_default();
        let metadata = (inherited.persistent(persistent), transient);
        if M::IDENTITY {
            let message = Encoded::new(self.req);
            return State::Direct(Wire::begin(cx, channel, self.method, timeout, &metadata, message, prefer));
        }
        let channel = self.channel.clone();
        let (method, req) = (self.method, self.req);
        State::Layered(Pooled::new(async move {
            let mut cx = Context::take();
            let now = local::now();
            let deadline = deadline_of(now, timeout);
            cx.send(method, &channel.inner().peer, now, deadline, metadata.clone());
            let terminal = Terminal { channel: channel.inner(), method, timeout, metadata, prefer };
            let result = channel.layers.call(&cx, Payload::encode(&req), terminal).await;
            let result = result.and_then(|payload| payload.decode().map_err(undecodable)).map_err(|e| {
                let elapsed = local::now().saturating_duration_since(now);
                explain(e, channel.inner(), method, elapsed)
            });
            let metadata = cx.take_backward();
            cx.give_back();
            result.map(|message| Response { message, metadata })
        }))
    }
}

/// The innermost step of a client's middleware stack.
struct Terminal<'a> {
    channel: &'a Arc<ChannelInner>,
    method: &'static MethodDescriptor,
    timeout: Duration,
    metadata: (Metadata, Metadata),
    prefer: Option<usize>,
}

impl Next for Terminal<'_> {
    async fn run(self, cx: &Context, req: Payload) -> Result<Payload> {
        let Terminal { channel, method, timeout, metadata, prefer } = self;
        let timeout = cx.deadline().map_or(timeout, |at| at.saturating_duration_since(local::now()).min(timeout));
        let (mut wire, mut body) = (None::<Wire<'_>>, req.into_link());
        let reply = std::future::poll_fn(|task| match &mut wire {
            Some(wire) => wire.poll(task),
            None => {
                let body = std::mem::take(&mut body);
                let wire = wire.insert(Wire::begin(task, channel, method, timeout, &metadata, body, prefer));
                if wire.is_local() { Poll::Pending } else { wire.poll(task) }
            }
        });
        let reply = reply.await.and_then(accept)?;
        if let Some(info) = reply.info {
            cx.put_backward(info.backward);
        }
        Ok(Payload::from(reply.body))
    }
}

/// A request on its way through a connection and back.
struct Wire<'a> {
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
    fn begin<B: Body>(
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
    fn is_local(&self) -> bool {
        matches!(self.step, Step::Local { .. })
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Reply>> {
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
                    if self.moves > self.channel.moves() {
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
            (None, None) => Err(Error::closed("the connection's handler panicked")),
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

    fn explain(&self, error: Error) -> Error {
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
        let gone = || Found::Done(Err(Error::closed("the reactor stopped")));
        let found = slot.adopt(self.conn, self.seq).unwrap_or_else(gone);
        if let Some(waker) = self.cell.complete(found) {
            waker.wake();
        }
    }
}

/// A timeout that no clock can tell is one of 136 years.
fn deadline_of(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}

fn explain(error: Error, channel: &ChannelInner, method: &'static MethodDescriptor, elapsed: Duration) -> Error {
    error.with_method(method.to_string()).with_peer(channel.peer.clone()).with_elapsed(elapsed).with_attempt(1)
}

/// Turns what the peer calls an error into one.
fn accept(reply: Reply) -> Result<Reply> {
    let id = reply.id.to_wire();
    if reply.kind == MessageType::Exception {
        let exception = Exception::decode(&reply.body).map_err(|error| undecodable(error).with_id(id))?;
        return Err(Error::remote(exception, reply.info.as_deref()).with_phase(Phase::Wait).with_id(id));
    }
    match reply.info {
        Some(mut info) if info.business.is_some() => {
            let status = info.business.take().unwrap_or_default();
            Err(Error::from(status).with_phase(Phase::Wait).with_id(id))
        }
        info => Ok(Reply { info, ..reply }),
    }
}

fn decode<Resp: Message + Default>(reply: Reply) -> Result<Response<Resp>> {
    let reply = accept(reply)?;
    let message = middleware::decode(&reply.body, &reply.body);
    let message = message.map_err(|error| undecodable(error).with_id(reply.id.to_wire()))?;
    Ok(Response { message, metadata: reply.info.map(|info| info.backward).unwrap_or_default() })
}

fn undecodable(error: prost::DecodeError) -> Error {
    Error::from(error).with_code(Code::Internal).with_phase(Phase::Decode).with_sent(Sent::Maybe)
}
