//! Code around every call, in one shape for clients and servers.
//!
//! ```text
//!  client: stub ─► encode ─► A ─► B ─► wire          server: wire ─► A ─► B ─► decode ─► handler ─► encode
//! ```
//!
//! A stack is fixed in the type of the client or server: no box, no allocation, and nothing at all when it is empty.

mod logging;

use std::future::Future;

use bytes::{Buf, Bytes};
use rpc_transport::LinkBuffer;

pub use logging::Logging;

use crate::context::Context;
use crate::error::Result;

/// Code around calls: it sees the context and the encoded messages, and decides whether and how the call goes on.
///
/// ```
/// use rpc_core::{Context, Middleware, Next, Payload, Result};
///
/// /// Refuses large requests.
/// struct AtMost(usize);
///
/// impl Middleware for AtMost {
///     async fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> Result<Payload> {
///         if req.len() > self.0 {
///             return Err(rpc_core::Error::new(rpc_core::Code::ResourceExhausted, "too large for us"));
///         }
///         next.run(cx, req).await
///     }
/// }
/// ```
pub trait Middleware: Send + Sync + 'static {
    /// No middleware at all: calls take the short way.
    #[doc(hidden)]
    const IDENTITY: bool = false;

    /// Handles one call; usually passes it on by [`Next::run`].
    fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> impl Future<Output = Result<Payload>> + Send;
}

/// The rest of the way.
pub trait Next: Send {
    /// Passes the call on and waits for its reply.
    fn run(self, cx: &Context, req: Payload) -> impl Future<Output = Result<Payload>> + Send;
}

/// No middleware.
impl Middleware for () {
    const IDENTITY: bool = true;

    fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> impl Future<Output = Result<Payload>> + Send {
        next.run(cx, req)
    }
}

/// `Outer` around `Inner`.
#[derive(Clone, Debug)]
pub struct Stack<Outer, Inner> {
    outer: Outer,
    inner: Inner,
}

impl<Outer, Inner> Stack<Outer, Inner> {
    pub(crate) fn new(outer: Outer, inner: Inner) -> Self {
        Stack { outer, inner }
    }
}

impl<Outer: Middleware, Inner: Middleware> Middleware for Stack<Outer, Inner> {
    fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> impl Future<Output = Result<Payload>> + Send {
        self.outer.call(cx, req, Through { middleware: &self.inner, next })
    }
}

struct Through<'a, M, N> {
    middleware: &'a M,
    next: N,
}

impl<M: Middleware, N: Next> Next for Through<'_, M, N> {
    fn run(self, cx: &Context, req: Payload) -> impl Future<Output = Result<Payload>> + Send {
        self.middleware.call(cx, req, self.next)
    }
}

/// An encoded message, shared or in blocks; never copied on its way.
#[derive(Debug)]
pub struct Payload(Form);

#[derive(Debug)]
enum Form {
    Whole(Bytes),
    Linked(LinkBuffer),
}

impl Payload {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Whole(bytes) => bytes.len(),
            Form::Linked(link) => link.len(),
        }
    }

    /// Whether it is empty, as a message with all fields at their defaults is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in one piece: no copy if they lie in one piece already.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Form::Whole(bytes) => bytes,
            Form::Linked(mut link) => link.copy_to_bytes(link.len()),
        }
    }

    pub(crate) fn encode(message: &impl prost::Message) -> Payload {
        let mut link = LinkBuffer::new();
        message.encode_raw(&mut link);
        link.seal();
        Payload(Form::Linked(link))
    }

    pub(crate) fn into_link(self) -> LinkBuffer {
        match self.0 {
            Form::Whole(bytes) => {
                let mut link = LinkBuffer::new();
                link.write_bytes(bytes);
                link
            }
            Form::Linked(link) => link,
        }
    }

    pub(crate) fn decode<T: prost::Message + Default>(self) -> Result<T, prost::DecodeError> {
        match self.0 {
            Form::Whole(bytes) => decode(&bytes, &bytes),
            Form::Linked(link) => T::decode(link),
        }
    }
}

/// Decodes `part` of `owner`; `bytes` fields become slices of it.
pub(crate) fn decode<T: prost::Message + Default>(owner: &Bytes, part: &[u8]) -> Result<T, prost::DecodeError> {
    T::decode(rpc_transport::FrameBuf::new(owner, part))
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload(Form::Whole(bytes))
    }
}
