//! What a call carries besides its message.

mod cancellation;
mod inherited;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rpc_transport::local;

pub(crate) use self::cancellation::Cancellation;
pub use self::cancellation::Cancelled;
pub(crate) use self::inherited::{Heritage, Inherited, Origin, scope};
use crate::codegen::MethodDescriptor;
use crate::error::Peer;
use crate::metadata::Metadata;
use crate::protocol::ttheader::RequestInfo;

/// What a handler or a middleware knows of the call it serves or makes. Cheap to clone; a clone may outlive the call.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    method: &'static MethodDescriptor,
    peer: Option<Peer>,
    started: Instant,
    deadline: Option<Instant>,
    /// At a server: the request's header. It is shared by all calls of a connection that have the same one.
    received: Option<Arc<RequestInfo>>,
    /// At a client: what is sent.
    persistent: Metadata,
    transient: Metadata,
    backward: Mutex<Metadata>,
    /// There are some.
    has_backward: AtomicBool,
    /// Apart from the rest: who runs the handler keeps a handle, while the handler has the context.
    cancellation: Arc<Cancellation>,
}

static NO_METHOD: MethodDescriptor = MethodDescriptor::new("", "", "");

/// Contexts kept for reuse by a thread.
const KEPT: usize = 1024;

thread_local! {
    static SPARE: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
}

impl Context {
    /// The method called.
    pub fn method(&self) -> &'static MethodDescriptor {
        self.0.method
    }

    /// The other end of the connection: at a server the caller's address (for a Unix socket the listener's path), at a client the
    /// URL it calls.
    pub fn peer(&self) -> Option<&Peer> {
        self.0.peer.as_ref()
    }

    /// What the caller's TLS handshake has told, at a server: its verified certificate chain, the name it asked for, and so on. `None`
    /// without TLS, and at a client.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&rpc_transport::TlsPeer> {
        self.peer()?.tls()
    }

    /// When the call was received or begun.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    /// When the caller stops waiting, if it said so.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// What is left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.deadline.map(|at| at.saturating_duration_since(local::read_clock()))
    }

    /// The calling service's name, if it said so.
    pub fn caller(&self) -> Option<&[u8]> {
        self.0.received.as_ref()?.from_service()
    }

    /// Metadata that travels on through every hop.
    pub fn persistent(&self) -> &Metadata {
        self.0.received.as_ref().map_or(&self.0.persistent, |info| info.persistent())
    }

    /// Metadata for this hop only.
    pub fn transient(&self) -> &Metadata {
        self.0.received.as_ref().map_or(&self.0.transient, |info| info.transient())
    }

    /// At a server: adds a pair that the caller gets with the reply. Reserved names are refused when the reply is sent. At a client
    /// middleware: what a reply brought can be read by [`Context::backward`].
    pub fn set_backward(&self, key: impl Into<bytes::Bytes>, value: impl Into<bytes::Bytes>) {
        self.0.backward.lock().insert(key, value);
        self.0.has_backward.store(true, Ordering::Release);
    }

    /// The pairs that travel back to the caller, so far.
    pub fn backward(&self) -> Metadata {
        self.0.backward.lock().clone()
    }

    /// Whether nobody waits for the reply any more: the caller's connection ended or the deadline passed. A handler that waits is
    /// dropped then and need not ask; one that runs on the worker pool cannot be, and may ask from time to time.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancellation.is_cancelled()
    }

    /// Waits until [`is_cancelled`](Context::is_cancelled): for work that a handler has sent elsewhere, and which therefore is not
    /// dropped with it. Never ends if the call does not end like this.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::new(self.clone())
    }

    /// Runs a future on behalf of this call wherever it is polled: the calls it makes inherit the deadline and the persistent
    /// metadata, and end when this call is cancelled. A handler's own future needs no such thing; one that is spawned does.
    pub fn scope<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        scope(Inherited::watching(self), future)
    }

    pub(crate) fn cancel(&self) {
        self.0.cancellation.cancel();
    }

    pub(crate) fn cancellation(&self) -> &Arc<Cancellation> {
        &self.0.cancellation
    }

    /// A context whose content is to be set; its memory is reused.
    pub(crate) fn take() -> Context {
        let spare = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop()).ok().flatten();
        spare.unwrap_or_else(Context::empty)
    }

    /// Keeps the memory, if nobody else has a clone.
    pub(crate) fn give_back(mut self) {
        if Arc::get_mut(&mut self.0).is_some_and(Inner::clear) {
            let _ = SPARE.try_with(|spare| {
                if let Ok(mut spare) = spare.try_borrow_mut()
                    && spare.len() < KEPT
                {
                    spare.push(self);
                }
            });
        }
    }

    fn empty() -> Context {
        Context(Arc::new(Inner {
            method: &NO_METHOD,
            peer: None,
            started: local::now(),
            deadline: None,
            received: None,
            persistent: Metadata::new(),
            transient: Metadata::new(),
            backward: Mutex::new(Metadata::new()),
            has_backward: AtomicBool::new(false),
            cancellation: Arc::default(),
        }))
    }

    /// The inside, if nobody else has a clone; a fresh one otherwise.
    fn inner(&mut self) -> &mut Inner {
        if Arc::strong_count(&self.0) != 1 {
            *self = Context::empty();
        }
        Arc::get_mut(&mut self.0).expect("just made unique")
    }

    /// Makes this the context of a received call. Costs no reference count when the connection and the header are the last call's.
    pub(crate) fn receive(
        &mut self,
        method: &'static MethodDescriptor,
        peer: &Peer,
        info: &Arc<RequestInfo>,
        now: Instant,
        deadline: Option<Instant>,
    ) {
        let inner = self.inner();
        inner.method = method;
        inner.started = now;
        inner.deadline = deadline;
        if inner.cancellation.is_cancelled() {
            inner.cancellation = Arc::default();
        }
        // A clone that outlived the last call may have added to it since.
        if std::mem::take(inner.has_backward.get_mut()) {
            inner.backward.get_mut().clear();
        }
        if !inner.received.as_ref().is_some_and(|old| Arc::ptr_eq(old, info)) {
            inner.received = Some(Arc::clone(info));
        }
        // By itself: connections share headers.
        if !inner.peer.as_ref().is_some_and(|old| old.is(peer)) {
            inner.peer = Some(peer.clone());
        }
    }

    /// Makes this the context of a call to be made.
    pub(crate) fn send(
        &mut self,
        method: &'static MethodDescriptor,
        peer: &Peer,
        started: Instant,
        deadline: Instant,
        metadata: (Metadata, Metadata),
    ) {
        let inner = self.inner();
        inner.method = method;
        inner.started = started;
        inner.deadline = Some(deadline);
        inner.peer = Some(peer.clone());
        (inner.persistent, inner.transient) = metadata;
    }

    pub(crate) fn put_backward(&self, metadata: Metadata) {
        if !metadata.is_empty() {
            *self.0.backward.lock() = metadata;
            self.0.has_backward.store(true, Ordering::Release);
        }
    }

    /// Takes the backward pairs out: without a lock when there are none.
    #[inline]
    pub(crate) fn take_backward(&mut self) -> Metadata {
        if self.0.has_backward.load(Ordering::Acquire) { self.take_some_backward() } else { Metadata::new() }
    }

    #[cold]
    fn take_some_backward(&mut self) -> Metadata {
        let mut backward = self.0.backward.lock();
        self.0.has_backward.store(false, Ordering::Relaxed);
        std::mem::take(&mut backward)
    }
}

impl Inner {
    fn clear(&mut self) -> bool {
        self.received = None;
        self.peer = None;
        self.persistent = Metadata::new();
        self.transient = Metadata::new();
        *self.backward.get_mut() = Metadata::new();
        *self.has_backward.get_mut() = false;
        true
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("method", &format_args!("{}", self.0.method))
            .field("peer", &self.0.peer)
            .field("deadline", &self.0.deadline)
            .finish_non_exhaustive()
    }
}
