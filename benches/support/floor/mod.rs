//! The floor F: an echo over raw sockets with the bytes, the thread layout and the batching of the RPC, and no RPC.
//!
//! Frames have the bytes that calls of `Echo` have; only their ids change, and both sides have the body at hand. A side reads,
//! handles every whole frame, and writes once; after 50 frames of a short read it writes once more, as the transport does. Large
//! bodies are not copied.
//!
//! [`Manner`] has the floors of those who do otherwise: who writes each message by itself, or never sleeps; `tasks` is that of
//! those whose callers are tasks of tokio.

mod client;
mod due;
mod pipe;
mod server;
mod tasks;

use std::time::Duration;

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

/// How a side of the floor goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Manner {
    /// Writes what there is at once, and sleeps while there is nothing.
    #[default]
    Gathering,
    /// The same, but writes each message by itself.
    Singly,
    /// Writes what there is at once, and never sleeps.
    Spinning,
}

impl Manner {
    /// How long to wait for events.
    fn wait(self) -> Option<Duration> {
        match self {
            Manner::Spinning => Some(Duration::ZERO),
            Manner::Gathering | Manner::Singly => Some(SILENCE),
        }
    }
}

/// A client to which no reply comes for so long gives up.
const SILENCE: Duration = Duration::from_secs(10);

/// A call as it goes over the wire; its id is 0.
pub(crate) fn request(payload: usize) -> Result<Vec<u8>> {
    let [Frames { head, body, .. }, _] = frames(payload, Manner::Gathering)?;
    Ok([head, body].concat())
}

/// What a client and a server send, and expect from each other.
fn frames(payload: usize, manner: Manner) -> Result<[Frames; 2]> {
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
    let singly = manner == Manner::Singly;
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
