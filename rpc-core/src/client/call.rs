//! One call: a value with options first, a future when it is awaited.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use rpc_transport::{OwnedBuf, local};

use super::channel::{Channel, ChannelInner};
use super::pooled::Pooled;
use super::wire::{Wire, explain};
use crate::codegen::MethodDescriptor;
use crate::context::{Cancelled, Context, Heritage, Inherited, Origin};
use crate::error::{Error, Phase, Refusal, Result, Sent};
use crate::metadata::Metadata;
use crate::middleware::{Middleware, Next, Payload};
use crate::mux::{Encoded, Reply, with_encoded};
use crate::protocol::{Exception, MessageType};
use crate::status::Code;

/// A call that has not begun. Await it, or [`wait`](Call::wait) for it.
#[must_use = "a call does nothing until it is awaited or waited for"]
pub struct Call<'a, M, Req, Resp> {
    channel: &'a Channel<M>,
    method: &'static MethodDescriptor,
    message: Req,
    timeout: Option<Duration>,
    more: Option<Box<More>>,
    reply: PhantomData<fn() -> Resp>,
}

/// What few calls have.
#[derive(Default)]
struct More {
    /// Persistent and transient pairs.
    metadata: Option<(Metadata, Metadata)>,
    origin: Origin,
    /// The end of the call on whose behalf this one is made, if that does not drop it.
    watch: Option<Watch>,
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
        Call { channel, method, message: req, timeout: None, more: None, reply: PhantomData }
    }

    /// The time from now to the reply, connecting and queueing included. Default: `default_timeout`, 5 s. The server is told. A call
    /// made by a handler has no more than what is left of the handler's own deadline.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends a pair to the called service only ("transient").
    pub fn metadata(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.more().metadata.get_or_insert_default().1.insert(key, value);
        self
    }

    /// Sends a pair to the called service and every service behind it ("persistent"). It wins over an inherited pair of the same key;
    /// with an empty value it takes that away.
    pub fn persistent(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.more().metadata.get_or_insert_default().0.insert(key, value);
        self
    }

    /// Makes the call on behalf of the one that `cx` belongs to, wherever it is polled: it has no more time than what is left of that
    /// one's deadline, carries its persistent metadata on, and ends when that one is cancelled.
    ///
    /// Calls that a handler awaits or waits for do this by themselves. This is for futures that it has sent elsewhere; for several
    /// calls at once there is [`Context::scope`].
    pub fn inherit(mut self, cx: &Context) -> Self {
        self.more().origin = Origin::Of(cx.clone());
        self
    }

    /// Makes a call of its own: it inherits nothing of the call whose handler makes it. It still ends when its future is dropped.
    pub fn detached(mut self) -> Self {
        self.more().origin = Origin::Nobody;
        self
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
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
    /// As [`Call::wait`]. Made under a handler that blocks, it takes over from that one's call what an awaited call would.
    ///
    /// # Errors
    /// As [`Call::wait`].
    pub fn wait(self) -> Result<Response<Resp>> {
        let Call { channel, method, .. } = self.0;
        let channel = channel.inner();
        if local::is_on_reactor() {
            let error = Error::from(Refusal::WaitOnReactor).with_phase(Phase::Queue);
            return Err(explain(error, channel, method, Duration::ZERO));
        }
        let slot = channel.pick();
        let mut future = self.into_future();
        if let Way::New { prefer, .. } = &mut future.way {
            *prefer = Some(slot as u32);
        }
        // This thread may poll others' futures meanwhile, which take over nothing from here.
        let mut nothing = Heritage::default();
        let mut outside = nothing.enter();
        let mut own = std::future::poll_fn(|cx| {
            let _inside = outside.suspend();
            Pin::new(&mut future).poll(cx)
        });
        channel.slots[slot].reactor.block_on(&mut own)
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
        let Call { channel, method, message, timeout, more, .. } = self.0;
        let way = Way::New { method, timeout, prefer: None };
        ResponseFuture { channel, message: Some(message), more, way }
    }
}

/// A call under way. Dropping it cancels the call: nobody waits for the reply, which is dropped when it comes.
pub struct CallFuture<'a, M, Req: Message, Resp: 'static>(ResponseFuture<'a, M, Req, Resp>);

/// As [`CallFuture`], for a [`ResponseCall`].
pub struct ResponseFuture<'a, M, Req: Message, Resp: 'static> {
    channel: &'a Channel<M>,
    /// Until the call begins.
    message: Option<Req>,
    more: Option<Box<More>>,
    way: Way<'a, Resp>,
}

enum Way<'a, Resp: 'static> {
    /// It is to begin, with a timeout of its own if it has one, and perhaps at a slot that has been chosen already.
    New { method: &'static MethodDescriptor, timeout: Option<Duration>, prefer: Option<u32> },
    /// Without middleware: the message is encoded where it is sent from.
    Wire(Wire<'a>),
    /// With middleware.
    Layered(Pooled<Result<Response<Resp>>>),
    /// It was layered, and has ended.
    Ended,
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
        self.0.poll_with(cx, decode, |response| response.message)
    }
}

impl<M, Req, Resp> Future for ResponseFuture<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    type Output = Result<Response<Resp>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let whole = |reply: &mut Reply| {
            let message = decode(reply)?;
            Ok(Response { message, metadata: reply.info.take().map(|info| info.backward).unwrap_or_default() })
        };
        self.poll_with(cx, whole, |response| response)
    }
}

impl<M, Req, Resp> ResponseFuture<'_, M, Req, Resp>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    /// Polls the call, and takes what is asked for from its reply, or from what came through the middleware.
    #[inline]
    fn poll_with<T>(
        &mut self,
        cx: &mut TaskContext<'_>,
        of_reply: impl FnOnce(&mut Reply) -> Result<T>,
        of_response: impl FnOnce(Response<Resp>) -> T,
    ) -> Poll<Result<T>> {
        if self.message.is_some() {
            if let Some(error) = self.begin(cx) {
                return Poll::Ready(Err(error));
            }
            if matches!(&self.way, Way::Wire(wire) if wire.waits()) {
                return Poll::Pending;
            }
        } else if self.more.is_some()
            && let Some(error) = self.poll_watch(cx)
        {
            return Poll::Ready(Err(error));
        }
        let poll = match &mut self.way {
            Way::Wire(wire) => match wire.poll(cx, of_reply) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(wire.explain(error))),
                poll => poll,
            },
            Way::Layered(layered) => layered.poll(cx).map_ok(of_response),
            Way::New { .. } | Way::Ended => panic!("a call's future was polled after it had ended"),
        };
        if poll.is_ready() {
            self.end();
        }
        poll
    }

    /// Begins the call. Returns its error if it ends before that.
    #[inline]
    fn begin(&mut self, cx: &mut TaskContext<'_>) -> Option<Error> {
        if M::IDENTITY && self.more.is_none() && Inherited::is_none_here() {
            self.wire(cx, None);
            return None;
        }
        self.begin_with_more(cx)
    }

    /// As [`begin`](Self::begin), with middleware, or with what few calls have.
    #[inline(never)]
    fn begin_with_more(&mut self, cx: &mut TaskContext<'_>) -> Option<Error> {
        let Way::New { method, timeout, .. } = &mut self.way else { return None };
        let method = *method;
        let (mut origin, mut metadata) = (&Origin::Current, None);
        if let Some(more) = &mut self.more {
            (origin, metadata) = (&more.origin, more.metadata.take());
        }
        if let Some(inherited) = Inherited::of(origin) {
            if let Some(left) = inherited.remaining() {
                *timeout = Some(left.min(timeout.unwrap_or(self.channel.inner().config.limits.default_timeout)));
            }
            let (persistent, transient) = metadata.unwrap_or_default();
            metadata = Some((inherited.persistent(persistent), transient));
            if let Some(watched) = inherited.watched() {
                self.more.get_or_insert_default().watch = Some(Watch::new(watched, self.channel.inner(), method));
                if let Some(error) = self.poll_watch(cx) {
                    return Some(error);
                }
            }
        }
        self.more.take_if(|more| more.watch.is_none());
        if M::IDENTITY {
            self.wire(cx, metadata.as_ref());
        } else if let (Some(message), Way::New { timeout, prefer, .. }) = (self.message.take(), &self.way) {
            let timeout = timeout.unwrap_or(self.channel.inner().config.limits.default_timeout);
            let options = Options { timeout, metadata, prefer: *prefer };
            self.way = Way::Layered(layered(self.channel, method, options, message));
        }
        None
    }

    /// Begins the call, without middleware. The message is encoded where it stands: it is large.
    #[inline]
    fn wire(&mut self, cx: &mut TaskContext<'_>, metadata: Option<&(Metadata, Metadata)>) {
        let Way::New { method, timeout, prefer } = self.way else { return };
        let channel = self.channel.inner();
        let timeout = timeout.unwrap_or(channel.config.limits.default_timeout);
        let slot = prefer.unwrap_or_else(|| channel.pick() as u32);
        if channel.slots.get(slot as usize).is_some_and(|slot| slot.reactor.takes_guests()) {
            return self.wire_as_guest(cx, metadata, method, timeout, slot);
        }
        let (wire, deadline) = Wire::new(channel, method, timeout, slot);
        self.way = Way::Wire(wire);
        if let (Way::Wire(wire), Some(message)) = (&mut self.way, &self.message) {
            wire.begin(cx, timeout, deadline, metadata, Encoded::new(message));
        }
        self.message = None;
    }

    /// As [`wire`](Self::wire), for a guest of the connection's reactor. The message is encoded before, and dropped after.
    #[inline(never)]
    fn wire_as_guest(
        &mut self,
        cx: &mut TaskContext<'_>,
        metadata: Option<&(Metadata, Metadata)>,
        method: &'static MethodDescriptor,
        timeout: Duration,
        slot: u32,
    ) {
        let channel = self.channel.inner();
        let Some(message) = self.message.take() else { return };
        with_encoded(Encoded::new(&message), |body| {
            channel.slots[slot as usize].reactor.enter_to_call(|| {
                let (wire, deadline) = Wire::new(channel, method, timeout, slot);
                self.way = Way::Wire(wire);
                if let Way::Wire(wire) = &mut self.way {
                    wire.begin(cx, timeout, deadline, metadata, body);
                }
            });
        });
    }

    /// The error of a call that ends because the one on whose behalf it is made does.
    #[cold]
    fn poll_watch(&mut self, cx: &mut TaskContext<'_>) -> Option<Error> {
        let watch = self.more.as_mut()?.watch.as_mut()?;
        if Pin::new(&mut watch.cancelled).poll(cx).is_pending() {
            return None;
        }
        let sent = if self.message.is_some() { Sent::No } else { Sent::Maybe };
        let error = watch.error().with_sent(sent);
        self.message = None;
        self.end();
        Some(error)
    }

    /// Lets go of the connection, and of whatever else the call held.
    #[inline]
    fn end(&mut self) {
        if self.more.is_some() {
            self.more = None;
        }
        match &mut self.way {
            Way::Wire(wire) => wire.end(),
            way => *way = Way::Ended,
        }
    }
}

/// A call through the middleware.
fn layered<M, Req, Resp>(
    channel: &Channel<M>,
    method: &'static MethodDescriptor,
    options: Options,
    req: Req,
) -> Pooled<Result<Response<Resp>>>
where
    M: Middleware,
    Req: Message + 'static,
    Resp: Message + Default + 'static,
{
    let channel = channel.clone();
    Pooled::new(async move {
        let mut cx = Context::take();
        let (now, deadline) = local::now_and_after(options.timeout);
        cx.send(method, &channel.inner().peer, now, deadline, options.metadata.clone().unwrap_or_default());
        let terminal = Terminal { channel: channel.inner(), method, options };
        let result = channel.layers.call(&cx, Payload::encode(&req), terminal).await;
        let result = result.and_then(|payload| payload.decode().map_err(undecodable)).map_err(|e| {
            let elapsed = local::now().saturating_duration_since(now);
            explain(e, channel.inner(), method, elapsed)
        });
        let metadata = cx.take_backward();
        cx.give_back();
        result.map(|message| Response { message, metadata })
    })
}

/// What a call through the middleware begins with, beside its message.
struct Options {
    timeout: Duration,
    /// Persistent and transient pairs.
    metadata: Option<(Metadata, Metadata)>,
    /// The connection's slot, if it has been chosen already.
    prefer: Option<u32>,
}

/// The innermost step of a client's middleware stack.
struct Terminal<'a> {
    channel: &'a Arc<ChannelInner>,
    method: &'static MethodDescriptor,
    options: Options,
}

impl Next for Terminal<'_> {
    async fn run(self, cx: &Context, req: Payload) -> Result<Payload> {
        let Terminal { channel, method, mut options } = self;
        if let Some(at) = cx.deadline() {
            options.timeout = options.timeout.min(at.saturating_duration_since(local::now()));
        }
        let slot = options.prefer.unwrap_or_else(|| channel.pick() as u32);
        let (mut wire, deadline) = Wire::new(channel, method, options.timeout, slot);
        let mut new = Some(req.into_link());
        let reply = std::future::poll_fn(|task| {
            if let Some(body) = new.take() {
                let begin = || wire.begin(task, options.timeout, deadline, options.metadata.as_ref(), body);
                channel.slots[slot as usize].reactor.enter_to_call(begin);
                if wire.waits() {
                    return Poll::Pending;
                }
            }
            wire.poll(task, |reply| {
                accept(reply)?;
                Ok((reply.info.take(), std::mem::take(&mut reply.body)))
            })
        });
        let (info, body) = reply.await?;
        if let Some(info) = info {
            cx.put_backward(info.backward);
        }
        Ok(Payload::from(body))
    }
}

/// What the peer calls an error.
#[inline]
fn accept(reply: &mut Reply) -> Result<()> {
    let business = reply.info.as_ref().is_some_and(|info| info.business.is_some());
    if reply.kind == MessageType::Exception || business { Err(refused(reply)) } else { Ok(()) }
}

#[cold]
fn refused(reply: &mut Reply) -> Error {
    let id = reply.id.to_wire();
    let error = if reply.kind == MessageType::Exception {
        match Exception::decode(&reply.body) {
            Ok(exception) => Error::remote(exception, reply.info.as_deref()).with_phase(Phase::Wait),
            Err(error) => undecodable(error),
        }
    } else {
        let status = reply.info.as_mut().and_then(|info| info.business.take());
        Error::from(status.unwrap_or_default()).with_phase(Phase::Wait)
    };
    error.with_id(id)
}

#[inline]
fn decode<Resp: Message + Default>(reply: &mut Reply) -> Result<Resp> {
    accept(reply)?;
    let message = Resp::decode(OwnedBuf::from(std::mem::take(&mut reply.body)));
    message.map_err(|error| undecodable(error).with_id(reply.id.to_wire()))
}

#[cold]
fn undecodable(error: prost::DecodeError) -> Error {
    Error::from(error).with_code(Code::Internal).with_phase(Phase::Decode).with_sent(Sent::Maybe)
}
