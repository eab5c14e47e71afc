//! Runs one method's handler on one reactor.
//!
//! The future's type is known here and nowhere above: [`Runner`] is the `dyn` boundary. Behind it nothing is allocated in steady
//! state: the box a future runs in is kept and filled again, and so are the service handle and the context that the future
//! borrows, which it gives back with its result.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use rpc_transport::{
    ConnRef, Cx, Frame, Lane, LinkBuffer, LocalTask, Message, Refused, ReservedTask, TaskId, caught, local,
};

use super::handler::{Caller, ServerHandler};
use super::reply::{self, Encode, ReplyTo};
use super::running::CallKey;
use super::runtime::Runtime;
use super::shared::InFlight;
use super::watchdog::Polling;
use crate::codegen::MethodDescriptor;
use crate::context::{self, Cancellation, Context, Heritage, Inherited};
use crate::error::{Error, Refusal, Result, Sent};
use crate::metadata::Metadata;
use crate::protocol::ttheader::ReplyHead;
use crate::status::type_id;

/// Boxes of one method kept by one reactor.
const KEPT: usize = 1024;

/// One method on one reactor.
pub(crate) trait Runner: Send {
    fn start(&mut self, call: Incoming<'_>, cx: &mut Cx<'_>) -> Started;

    /// Says whether a handler of it is being polled on the reactor just now; `None` if they run elsewhere.
    fn polling(&self) -> Option<Arc<Polling>> {
        None
    }
}

/// A request on its way to its handler.
pub(crate) struct Incoming<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) to: &'a ReplyTo,
    pub(crate) caller: &'a Caller,
    /// The header is too large to be kept after the call.
    pub(crate) large: bool,
    pub(crate) deadline: Option<Instant>,
    /// The name the call has if it does not end at once.
    pub(crate) key: CallKey,
    pub(crate) reserved: &'a mut Option<ReservedTask>,
}

/// What became of it.
pub(crate) enum Started {
    /// The reply stands in the output.
    Done,
    /// The request cannot be decoded; the error stands in the output.
    Malformed,
    Task(TaskId, InFlight),
    Blocking(Context),
}

/// A method whose handler runs on the reactor.
pub(crate) fn local<E, S, P, R, Prepare, Run, Fut>(
    method: &'static MethodDescriptor,
    head: Arc<ReplyHead>,
    service: Arc<S>,
    prepare: Prepare,
    run: Run,
    runtime: Runtime,
) -> Box<dyn Runner>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    E: Encode<R>,
    Prepare: Fn(&Bytes, &[u8]) -> Result<P, prost::DecodeError> + Send + 'static,
    Run: Fn(Arc<S>, Context, P) -> Fut + Send + 'static,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    let (kept, polling) = (Arc::default(), Arc::default());
    Box::new(Local::<_, _, _, _, E> { method, head, service, prepare, run, runtime, spare: None, kept, polling })
}

struct Local<S, Prepare, Run, Fut, E> {
    method: &'static MethodDescriptor,
    head: Arc<ReplyHead>,
    service: Arc<S>,
    prepare: Prepare,
    run: Run,
    runtime: Runtime,
    spare: Option<Box<Slot<S, Fut, E>>>,
    kept: Arc<Kept<S, Fut, E>>,
    polling: Arc<Polling>,
}

/// Slots of calls that had to wait, free again.
type Kept<S, Fut, E> = Mutex<Vec<Box<Slot<S, Fut, E>>>>;

/// A box for a call's future, and what the future gives back when it ends.
struct Slot<S, Fut, E> {
    future: Pin<Box<Option<Fut>>>,
    parts: Option<(Arc<S>, Context)>,
    /// What the handler's own calls take over.
    inherited: Heritage,
    /// The context's, for the case that the future does not come to its end.
    cancellation: Arc<Cancellation>,
    method: &'static MethodDescriptor,
    head: Arc<ReplyHead>,
    kept: Weak<Kept<S, Fut, E>>,
    polling: Arc<Polling>,
    runtime: Runtime,
    /// It is not used again: what it keeps has the call's header, which is large.
    once: bool,
    to: Option<(ConnRef, CallKey, ReplyTo)>,
    encode: PhantomData<fn() -> E>,
}

impl<S, P, R, Prepare, Run, Fut, E> Runner for Local<S, Prepare, Run, Fut, E>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    E: Encode<R>,
    Prepare: Fn(&Bytes, &[u8]) -> Result<P, prost::DecodeError> + Send + 'static,
    Run: Fn(Arc<S>, Context, P) -> Fut + Send + 'static,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    fn start(&mut self, call: Incoming<'_>, cx: &mut Cx<'_>) -> Started {
        let prepared = match (self.prepare)(call.frame.owner(), call.body) {
            Ok(prepared) => prepared,
            Err(error) => {
                let error = Error::from(error).with_sent(Sent::No);
                reply::write_error(cx.output(), self.method.name().as_bytes(), call.to, &Metadata::new(), &error);
                return Started::Malformed;
            }
        };
        let mut slot = self.spare.take().or_else(|| self.kept.lock().pop()).unwrap_or_else(|| self.new_slot());
        let (service, mut context) = slot.parts.take().unwrap_or_else(|| (Arc::clone(&self.service), Context::take()));
        context.receive(self.method, &call.caller.peer, &call.caller.info, cx.now(), call.deadline);
        slot.inherited.set(call.deadline, call.caller.info.persistent());
        slot.once = call.large;
        if !Arc::ptr_eq(&slot.cancellation, context.cancellation()) {
            slot.cancellation = Arc::clone(context.cancellation());
        }
        slot.future.set(Some((self.run)(service, context, prepared)));

        if call.reserved.is_none() {
            *call.reserved = local::reserve();
        }
        let waker = call.reserved.as_ref().map_or(Waker::noop(), ReservedTask::waker);
        match slot.poll_once(waker) {
            Polled::Ready(result) => {
                slot.write(cx, call.to, result);
                self.keep(slot);
                Started::Done
            }
            Polled::Panicked => {
                slot.write(cx, call.to, Err::<R, _>(panicked()));
                self.keep(slot);
                Started::Done
            }
            Polled::Pending => match InFlight::begin(&call.caller.shared) {
                Ok(in_flight) => {
                    let Some(reserved) = call.reserved.take() else {
                        unreachable!("frames are handled on a reactor's thread")
                    };
                    let task = reserved.id();
                    slot.to = Some((cx.conn_ref(), call.key, *call.to));
                    local::spawn_reserved(reserved, slot);
                    Started::Task(task, in_flight)
                }
                Err(refusal) => {
                    slot.clear();
                    // It has begun, so it is not called unexecuted.
                    let error = Error::from(refusal).with_sent(Sent::Maybe);
                    slot.write(cx, call.to, Err::<R, _>(error));
                    self.keep(slot);
                    Started::Done
                }
            },
        }
    }

    fn polling(&self) -> Option<Arc<Polling>> {
        Some(Arc::clone(&self.polling))
    }
}

impl<S, Prepare, Run, Fut, E> Local<S, Prepare, Run, Fut, E> {
    fn new_slot(&self) -> Box<Slot<S, Fut, E>> {
        Box::new(Slot {
            future: Box::pin(None),
            parts: None,
            inherited: Heritage::default(),
            cancellation: Arc::default(),
            method: self.method,
            head: Arc::clone(&self.head),
            kept: Arc::downgrade(&self.kept),
            polling: Arc::clone(&self.polling),
            runtime: self.runtime.clone(),
            once: false,
            to: None,
            encode: PhantomData,
        })
    }

    /// For the next call.
    #[inline]
    fn keep(&mut self, slot: Box<Slot<S, Fut, E>>) {
        if !slot.once {
            self.spare = Some(slot);
        }
    }
}

enum Polled<R> {
    Ready(Result<R>),
    Pending,
    Panicked,
}

impl<S, R, Fut, E> Slot<S, Fut, E>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    E: Encode<R>,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    #[inline(always)]
    fn poll_once(&mut self, waker: &Waker) -> Polled<R> {
        self.polling.set(true);
        let Slot { future, inherited, runtime, .. } = self;
        let polled = caught(|| {
            let _entered = (runtime.enter(), inherited.enter());
            let poll = match future.as_mut().as_pin_mut() {
                Some(future) => future.poll(&mut TaskContext::from_waker(waker)),
                None => Poll::Pending,
            };
            if poll.is_ready() {
                future.set(None);
            }
            poll
        });
        self.polling.set(false);
        match polled {
            Some(Poll::Ready((service, context, result))) => {
                self.parts = Some((service, context));
                Polled::Ready(result.map_err(executed))
            }
            Some(Poll::Pending) => Polled::Pending,
            None => {
                self.clear();
                Polled::Panicked
            }
        }
    }

    /// Writes what the handler has returned, and the pairs that it set to go back.
    #[inline(always)]
    fn write(&mut self, cx: &mut Cx<'_>, to: &ReplyTo, result: Result<R>) {
        let backward = self.parts.as_mut().map_or_else(Metadata::new, |(_, context)| context.take_backward());
        reply::write::<E, R>(cx.output(), &self.head, self.method.name(), to, &backward, result);
    }
}

impl<S, Fut, E> Slot<S, Fut, E> {
    /// Drops the future, if it has not come to its end; a panic in its destructors is not ours. What it has sent elsewhere hears
    /// that nobody waits any more.
    fn clear(&mut self) {
        if self.future.is_none() {
            return;
        }
        self.cancellation.cancel();
        let _entered = self.runtime.enter();
        let future = &mut self.future;
        if caught(|| future.set(None)).is_none() {
            self.future = Box::pin(None);
        }
    }
}

/// The end of the reactor.
impl<S, Fut, E> Drop for Slot<S, Fut, E> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<S, R, Fut, E> LocalTask for Slot<S, Fut, E>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    E: Encode<R>,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let result = match self.poll_once(cx.waker()) {
            Polled::Pending => return Poll::Pending,
            Polled::Ready(result) => result,
            Polled::Panicked => Err(panicked()),
        };
        if let Some((conn, key, to)) = self.to.take() {
            local::visit::<ServerHandler, _>(conn.reactor(), conn.id(), |handler, cx| {
                if let Some(to) = handler.ended(cx, key, to) {
                    self.write(cx, &to, result);
                }
                handler.after(cx);
            });
        }
        Poll::Ready(())
    }

    fn finished(mut self: Box<Self>) {
        self.clear();
        self.to = None;
        if self.once {
            return;
        }
        // What its handler set to go back and nobody was there to hear.
        if let Some((_, context)) = &mut self.parts {
            drop(context.take_backward());
        }
        if let Some(kept) = self.kept.upgrade() {
            let mut kept = kept.lock();
            if kept.len() < KEPT {
                kept.push(self);
            }
        }
    }
}

/// An error of a handler may come from a call of its own that was not sent; to this caller it says nothing of the kind.
fn executed(error: Error) -> Error {
    error.with_sent(Sent::Maybe)
}

fn panicked() -> Error {
    Error::exception(type_id::INTERNAL_ERROR, "panic: the handler panicked")
}

/// A method whose handler blocks its thread, and therefore runs on the worker pool.
pub(crate) fn blocking<E, S, P, R, Prepare, Run, Fut>(
    method: &'static MethodDescriptor,
    head: Arc<ReplyHead>,
    service: Arc<S>,
    prepare: Prepare,
    run: Run,
    runtime: Runtime,
    lane: Lane,
) -> Box<dyn Runner>
where
    S: Send + Sync + 'static,
    P: 'static,
    R: Send + 'static,
    E: Encode<R>,
    Prepare: Fn(&Bytes, &[u8]) -> Result<P, prost::DecodeError> + Clone + Send + 'static,
    Run: Fn(Arc<S>, Context, P) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    Box::new(OnWorkers { method, head, service, prepare, run, runtime, lane, encode: PhantomData::<fn() -> E> })
}

struct OnWorkers<S, Prepare, Run, E> {
    method: &'static MethodDescriptor,
    head: Arc<ReplyHead>,
    service: Arc<S>,
    prepare: Prepare,
    run: Run,
    runtime: Runtime,
    lane: Lane,
    encode: PhantomData<fn() -> E>,
}

impl<S, P, R, Prepare, Run, Fut, E> Runner for OnWorkers<S, Prepare, Run, E>
where
    S: Send + Sync + 'static,
    P: 'static,
    R: Send + 'static,
    E: Encode<R>,
    Prepare: Fn(&Bytes, &[u8]) -> Result<P, prost::DecodeError> + Clone + Send + 'static,
    Run: Fn(Arc<S>, Context, P) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = (Arc<S>, Context, Result<R>)> + Send + 'static,
{
    fn start(&mut self, call: Incoming<'_>, cx: &mut Cx<'_>) -> Started {
        let refused = |cx: &mut Cx<'_>, refusal| {
            let error = Error::from(refusal);
            reply::write_error(cx.output(), self.method.name().as_bytes(), call.to, &Metadata::new(), &error);
            Started::Done
        };
        let Some(workers) = call.caller.shared.workers() else { return refused(cx, Refusal::ShuttingDown) };
        let in_flight = match InFlight::begin(&call.caller.shared) {
            Ok(in_flight) => in_flight,
            Err(refusal) => return refused(cx, refusal),
        };
        let mut context = Context::take();
        context.receive(self.method, &call.caller.peer, &call.caller.info, cx.now(), call.deadline);
        let (method, head, service) = (self.method, Arc::clone(&self.head), Arc::clone(&self.service));
        let (prepare, run, runtime) = (self.prepare.clone(), self.run.clone(), self.runtime.clone());
        let body = call.frame.slice(call.body);
        let (to, key, conn, deadline) = (*call.to, call.key, cx.conn_ref(), call.deadline);
        let watched = context.clone();
        let taken = workers.run(self.lane, move || {
            let _entered = runtime.enter();
            // Late in the queue: the caller has given up, so the handler does not start.
            let expired = context.is_cancelled() || deadline.is_some_and(|at| local::now() >= at);
            let answer = || {
                let mut backward = Metadata::new();
                let result = if expired {
                    Err(Refusal::Expired.into())
                } else {
                    prepare(&body, &body).map_err(|e| Error::from(e).with_sent(Sent::No)).and_then(|prepared| {
                        // Nobody can drop a handler that blocks; its calls watch the context instead.
                        let inherited = Inherited::watching(&context);
                        let handler = context::scope(inherited, run(service, context, prepared));
                        let (_, mut context, result) = conn.reactor().block_on(handler);
                        backward = context.take_backward();
                        result.map_err(executed)
                    })
                };
                let mut out = LinkBuffer::new();
                reply::write::<E, R>(&mut out, &head, method.name(), &to, &backward, result);
                out
            };
            let mut out = caught(answer).unwrap_or_else(|| {
                let mut out = LinkBuffer::new();
                reply::write_error(&mut out, method.name().as_bytes(), &to, &Metadata::new(), &panicked());
                out
            });
            out.seal();
            drop(in_flight);
            conn.send(Arc::new(Finished { key, frame: Mutex::new(Some(out)) }));
        });
        match taken {
            Ok(()) => Started::Blocking(watched),
            Err(Refused { limit: Some(limit), .. }) => {
                refused(cx, Refusal::TooManyInFlight { name: "worker_queue", limit })
            }
            Err(Refused { limit: None, .. }) => refused(cx, Refusal::ShuttingDown),
        }
    }
}

/// A worker's reply, on its way to its connection.
pub(crate) struct Finished {
    pub(crate) key: CallKey,
    pub(crate) frame: Mutex<Option<LinkBuffer>>,
}

impl Message for Finished {
    /// The connection is gone: nobody waits for the reply.
    fn undelivered(self: Arc<Self>) {}
}
