//! What goes out: a request's message, and what has to be known to send it.

use std::time::{Duration, Instant};

use bytes::BufMut;
use rpc_transport::LinkBuffer;

use crate::codegen::MethodDescriptor;

/// What the connection has to know to send a request, but for its message.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) method: &'static MethodDescriptor,
    /// Encoded metadata; usually none.
    pub(crate) extra: Vec<u8>,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

/// A request with its message encoded.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) spec: Spec,
    pub(crate) body: LinkBuffer,
}

/// An encodable message: encoded straight into a connection's output, or into memory that can travel.
pub(crate) trait Body {
    fn len(&self) -> usize;
    fn write(self, out: &mut LinkBuffer);
    fn copy(self, out: &mut Vec<u8>);
    fn into_link(self) -> LinkBuffer;
}

/// A protobuf message that was measured once.
pub(crate) struct Encoded<'m, T> {
    message: &'m T,
    len: usize,
}

impl<'m, T: prost::Message> Encoded<'m, T> {
    #[inline]
    pub(crate) fn new(message: &'m T) -> Self {
        let len = message.encoded_len();
        Encoded { message, len }
    }
}

impl<T: prost::Message> Body for Encoded<'_, T> {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn write(self, out: &mut LinkBuffer) {
        self.message.encode_raw(out);
    }

    fn copy(self, out: &mut Vec<u8>) {
        self.message.encode_raw(out);
    }

    fn into_link(self) -> LinkBuffer {
        let mut link = LinkBuffer::new();
        self.message.encode_raw(&mut link);
        link.seal();
        link
    }
}

impl Body for LinkBuffer {
    fn len(&self) -> usize {
        LinkBuffer::len(self)
    }

    fn write(self, out: &mut LinkBuffer) {
        out.append(self);
    }

    fn copy(self, out: &mut Vec<u8>) {
        out.put(self);
    }

    fn into_link(self) -> LinkBuffer {
        self
    }
}
