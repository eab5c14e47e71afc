//! The server's side of a connection: any bytes, in any pieces, to the real server over a simulated network.
//!
//! ```text
//!  hostile peer ─ pieces ─┐
//!                         ├─ simulated network ─ reactor ─ KitexFraming ─ ServerHandler ─ echo
//!  polite peer ─ secrets ─┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use rpc_core::protocol::MessageType;
use rpc_core::testing::audit_server;
use rpc_core::{Limits, Server, ServerHandle};
use rpc_transport::ReactorPool;
use rpc_transport::testing::{Knobs, Network, RawPeer, Received, audit};

use crate::detect::{self, Ending};
use crate::reference::{self, Entry};
use crate::service::{self, Blob, Echo, SECRET};
use crate::stream;

/// Limits that small inputs reach, and none that depends on how much time a conversation takes.
const MAX_FRAME: u32 = 4096;
const MAX_HEADER: u32 = 256;
const MAX_ENTRIES: u32 = 8;
/// More glitches than an input has room for.
const MAX_GLITCHES: u32 = 10_000;
/// How long `Later` takes, and how long the server is given for everything that is under way.
const LATER: Duration = Duration::from_millis(2);
const ENOUGH: Duration = Duration::from_millis(1);

/// One server for all inputs: what one connection leaves behind would be seen by the next.
struct World {
    net: Network,
    pool: Arc<ReactorPool>,
    server: ServerHandle,
    polite: RawPeer,
    calls: i32,
}

thread_local! {
    // Never dropped: at the end of a thread there is nothing left to drive it with.
    static WORLD: &'static std::cell::RefCell<World> = Box::leak(Box::new(std::cell::RefCell::new(World::new())));
}

/// How a conversation went.
#[derive(Debug, PartialEq)]
struct Outcome {
    output: Vec<u8>,
    /// The server ended it before the peer did.
    closed: bool,
    accepted: u64,
    replied: u64,
    glitches: u64,
}

/// A hostile client: the same replies in whatever pieces it sends, those of the reference where they follow from the bytes alone; every
/// request answered once, content errors counted, nothing left behind, no memory of others shown, and a polite client is served.
pub fn server_conn(data: &[u8]) {
    WORLD.with(|world| {
        let world = &mut *world.borrow_mut();
        let whole = world.converse(&[data]);
        let in_pieces = world.converse(&stream::pieces(data));
        for outcome in [&whole, &in_pieces] {
            assert!(!service::leaks(&outcome.output, data), "bytes of others: {:02x?}", outcome.output);
        }
        // A handler that takes its time is cut short by whatever comes behind its request, sooner or later.
        if data.windows(5).any(|window| window == b"Later") {
            return;
        }
        assert_eq!(in_pieces, whole, "the pieces make a difference");
        check(&whole, data);
    });
}

impl World {
    fn new() -> World {
        let knobs = Knobs { latency: (Duration::from_micros(1), Duration::from_micros(2)), ..Knobs::default() };
        let net = Network::new(1, knobs);
        let pool = Arc::new(net.pool("server", 1));
        let mut limits = Limits::server();
        limits.max_frame_size = MAX_FRAME;
        limits.max_header_size = MAX_HEADER;
        limits.max_header_entries = MAX_ENTRIES;
        limits.max_glitches = MAX_GLITCHES;
        let echo = Echo { blocking: Default::default(), later: LATER };
        let server = Server::builder().pool(Arc::clone(&pool)).limits(limits).add(echo);
        let server = server.bind("tcp://127.0.0.1:7000").expect("nobody else listens there");
        let polite = net.connect_raw(&server.url());
        net.run_for(ENOUGH);
        assert!(polite.is_open());
        World { net, pool, server, polite, calls: 0 }
    }

    /// Sends the pieces one by one, each after the one before was handled, then leaves.
    fn converse(&mut self, pieces: &[&[u8]]) -> Outcome {
        self.be_polite();
        let before = self.server.stats();
        let mut peer = self.net.connect_raw(&self.server.url());
        self.net.run_for(Duration::from_micros(50));
        assert!(peer.is_open(), "the server does not accept");
        let mut output = Vec::new();
        let mut end = Received::Bytes(0);
        for piece in pieces {
            if !matches!(end, Received::Bytes(_)) {
                break;
            }
            assert_eq!(peer.write(piece), piece.len(), "the network has room");
            self.net.run_for(Duration::from_micros(20));
            end = peer.read(&mut output);
            self.audit();
        }
        self.net.run_for(ENOUGH);
        while matches!(end, Received::Bytes(_)) {
            end = match peer.read(&mut output) {
                Received::Bytes(0) => break,
                other => other,
            };
        }
        let closed = !matches!(end, Received::Bytes(_));
        peer.finish();
        self.net.run_for(ENOUGH + LATER);
        while matches!(peer.read(&mut output), Received::Bytes(1..)) {}
        drop(peer);
        self.net.run_for(ENOUGH);
        self.audit();
        self.be_polite();
        let after = self.server.stats();
        assert_eq!((after.connections, after.in_flight), (1, 0), "something of the connection is left");
        Outcome {
            output,
            closed,
            accepted: after.accepted - before.accepted - 1,
            replied: after.replied - before.replied - 1,
            glitches: after.glitches - before.glitches,
        }
    }

    fn audit(&self) {
        if let Err(broken) = audit_server(&self.server) {
            panic!("{broken}");
        }
        for reactor in self.pool.handles() {
            if let Some(Err(broken)) = audit(reactor) {
                panic!("{broken}");
            }
        }
    }

    /// One call of the polite client, with a secret.
    fn be_polite(&mut self) {
        self.calls = self.calls % 1_000_000 + 1;
        let request = service::frame(self.calls, MessageType::Call, SECRET);
        assert_eq!(self.polite.write(&request), request.len());
        let mut reply = Vec::new();
        self.net.run_for(ENOUGH);
        self.polite.read(&mut reply);
        let payload = reference::frame(&reply).and_then(|frame| reference::message(&frame.payload));
        let payload = payload.unwrap_or_else(|kind| panic!("the polite client got {reply:02x?}: {kind}"));
        let body = Blob::decode(&payload.body[..]).expect("an echo");
        assert_eq!((payload.seq, &body.payload[..]), (self.calls, SECRET));
    }
}

/// Compares with what follows from the bytes: one answer for each request before the connection ends, and glitches for the rest.
fn check(outcome: &Outcome, data: &[u8]) {
    let (frames, ending) = detect::frames(data, MAX_FRAME);
    let (mut replies, mut closed) = (Vec::new(), ending == Ending::Closed);
    let (mut accepted, mut glitches) = (0, 0);
    for frame in frames {
        let (info, message) = match reference::frame(&frame) {
            Ok(tt) => (tt.info, tt.payload),
            Err(_) => (Vec::new(), frame),
        };
        let message = reference::message(&message).expect("it was read before");
        let (entries, error) = reference::entries(&info);
        let over = info.len() + 2 > MAX_HEADER as usize || entries.len() > MAX_ENTRIES as usize;
        if !over && error.is_some() {
            closed = true;
            break;
        }
        if !matches!(message.kind, 1 | 4) {
            glitches += 1;
            continue;
        }
        accepted += 1;
        let service = entries.iter().rev().find_map(|entry| match entry {
            Entry::Str(key, value) if key == b"isn" => Some(&value[..]),
            _ => None,
        });
        let _ = service; // a service that nobody knows is as good as none
        let known = !over && message.method == b"Blob";
        let echo = Blob::decode(&message.body[..]).ok().filter(|_| known);
        glitches += u64::from(over || (known && echo.is_none()));
        if message.kind == 1 {
            replies.push((message.seq, echo.map(|blob| blob.encode_to_vec())));
        }
    }
    assert_eq!(outcome.closed, closed, "{outcome:02x?}");
    assert_eq!((outcome.accepted, outcome.replied), (accepted, accepted));
    assert_eq!(outcome.glitches, glitches);
    let (output, rest) = detect::frames(&outcome.output, u32::MAX);
    assert_eq!(rest, Ending::Waits(0), "the server's own bytes are no frames: {:02x?}", outcome.output);
    let output = output.iter().map(|frame| {
        let payload = reference::frame(frame).map_or(frame.clone(), |tt| tt.payload);
        let message = reference::message(&payload).expect("it was read before");
        (message.seq, (message.kind == 2).then_some(message.body))
    });
    assert_eq!(output.collect::<Vec<_>>(), replies);
}
