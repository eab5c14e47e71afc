//! The floor F: an echo over raw sockets with the bytes, the thread layout and the batching of the RPC, and no RPC.
//!
//! Frames have the bytes that calls of `Echo` have; only their ids change, and both sides have the body at hand. A side reads,
//! handles every whole frame, and writes once; after 50 frames of a short read it writes once more, as the transport does. Large
//! bodies are not copied.
//!
//! [`Gather`] has the floors of those who do otherwise: who writes each message by itself, and whose callers are tasks of tokio.

mod client;
mod due;
mod pipe;
mod server;
mod tasks;

use mio::Interest;
use prost::Message;
use rpc_core::protocol::Form;
use rpc_core::protocol::ttheader::{ReplyHead, ReplyKind, RequestHead, RequestHeadSpec};

pub use self::client::FloorClient;
pub use self::server::serve;
pub(crate) use self::tasks::TokioFloor;

use self::pipe::Frames;
use crate::Failure;
use crate::idl::testee::Blob;

type Result<T> = std::result::Result<T, Failure>;

/// How a side of the floor writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Gather {
    /// What there is, at once.
    All,
    /// Each message by itself.
    Nothing,
}

/// What a client and a server send, and expect from each other.
fn frames(payload: usize, gather: Gather) -> Result<[Frames; 2]> {
    let body = Blob { payload: vec![b'x'; payload].into() }.encode_to_vec();
    let (service, method) = ("Testee", "Echo");
    let spec = RequestHeadSpec {
        service,
        method,
        to_service: service,
        multiplexed: true,
        announce: true,
        ..Default::default()
    };
    let spec = RequestHeadSpec { connect_timeout_ms: Some(1000), usual_timeout_ms: 5000, ..spec };
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    RequestHead::new(&spec)?.write(&mut request, 0, Some(5000), b"", body.len())?;
    ReplyHead::new(method)?.write(&mut reply, Form::TtHeader, ReplyKind::Reply, 0, body.len(), b"")?;
    let singly = gather == Gather::Nothing;
    let frames = |head: &[u8], theirs: &[u8]| {
        let theirs = theirs.len() + body.len();
        Frames { head: head.to_vec(), body: body.clone(), theirs, singly }
    };
    Ok([frames(&request, &reply), frames(&reply, &request)])
}

/// What a socket is asked for: the same as by the transport.
fn interest(url: &str) -> Interest {
    if url.starts_with("unix:") { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
}
