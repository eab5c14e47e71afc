//! One call: a value with options first, a future when it is awaited.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use rpc_transport::local;

use super::channel::{Channel, ChannelInner};
use super::pooled::Pooled;
use super::wire::{Wire, deadline_of, explain};
use crate::codegen::MethodDescriptor;
use crate::context::{Cancelled, Context, Inherited, Origin};
use crate::error::{Error, Phase, Refusal, Result, Sent};
use crate::metadata::Metadata;
use crate::middleware::{self, Middleware, Next, Payload};
use crate::mux::{Encoded, Reply};
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
            State::New(..) => Sent::No,
            State::Direct(wire) if wire.is_unsent() => Sent::No,
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
