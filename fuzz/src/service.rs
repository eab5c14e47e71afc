//! A service that echoes, as the generator would write it, and the requests to it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use rpc_core::codegen::{Blocking, MethodDescriptor, Methods, Service, ServiceDescriptor};
use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::write_frame_head;
use rpc_core::{Context, Middleware};

/// The one message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) payload: Bytes,
}

pub(crate) static ECHO: ServiceDescriptor = ServiceDescriptor::new("test", "Echo", &[&ECHO_BLOB, &ECHO_LATER]);
pub(crate) static ECHO_BLOB: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Blob");
pub(crate) static ECHO_LATER: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Later");

/// `Blob` answers at once, `Later` after a while.
pub(crate) struct Echo {
    pub(crate) blocking: Blocking,
    pub(crate) later: std::time::Duration,
}

impl Service for Echo {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        let later = self.later;
        methods.unary(&ECHO_BLOB, Arc::new(()), |this, cx: Context, req: Blob| async move { (this, cx, Ok(req)) });
        methods.unary(
            &ECHO_LATER,
            Arc::new(later),
            |later: Arc<std::time::Duration>, cx: Context, req: Blob| async move {
                rpc_core::sleep(*later).await; // of the virtual clock
                (later, cx, Ok(req))
            },
        );
    }
}

/// A frame of a multiplexing peer.
pub(crate) fn frame(seq: i32, kind: MessageType, payload: &[u8]) -> Vec<u8> {
    let body = Blob { payload: Bytes::copy_from_slice(payload) }.encode_to_vec();
    let mut out = Vec::new();
    write_frame_head(&mut out, 1, seq, [b"", b""], kind, b"Blob", body.len()).expect("short");
    out.extend(body);
    out
}

/// Whether memory that was given back is seen in `output`, or the secret of another call, without being in `input`.
pub(crate) fn leaks(output: &[u8], input: &[u8]) -> bool {
    let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    [&[0xdd; 4][..], SECRET].iter().any(|what| has(output, what) && !has(input, what))
}

/// What another connection's calls say.
pub(crate) const SECRET: &[u8] = b"the canary of another call";
