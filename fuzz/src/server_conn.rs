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

use crate::server_model::{self, Expected, Rules, Said};
use crate::service::{self, Blob, Echo, SECRET};
use crate::{meter, reach, reference, stream};

/// Limits that small inputs reach, and none that depends on how much time a conversation takes.
const MAX_FRAME: u32 = 128 * 1024;
const MAX_HEADER: u32 = 256;
const MAX_ENTRIES: u32 = 8;
const CANCEL_BUDGET: u32 = 4;
/// More glitches than an input has room for.
const MAX_GLITCHES: u32 = 10_000;
/// How long `Later` takes: longer than any conversation, so that only its end or a cancellation ends it. And how long the server is
/// given for everything that is under way.
const LATER: Duration = Duration::from_millis(200);
const ENOUGH: Duration = Duration::from_millis(1);
/// An unfinished frame may hold a block, or twice what arrived of it; and a little output may be on its way.
const HELD: u64 = (64 + 4) * 1024;

/// A server for all inputs: what one connection leaves behind would be seen by the next.
struct World {
    net: Network,
    pool: Arc<ReactorPool>,
    server: ServerHandle,
    rules: Rules,
    polite: RawPeer,
    calls: i32,
}

thread_local! {
    // Never dropped: at the end of a thread there is nothing left to drive them with. The second one compares checksums.
    static WORLDS: &'static [std::cell::RefCell<World>; 2] =
        Box::leak(Box::new([false, true].map(|checksum| std::cell::RefCell::new(World::new(checksum)))));
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
/// request answered once, control frames heeded once they are agreed on and fatal before, content errors counted, nothing left behind,
/// no memory of others shown, no more of it held than was sent, and a polite client is served.
pub fn server_conn(data: &[u8]) {
    let data = &stream::expand(data)[..];
    let checksum = data.windows(6).any(|window| window == b"crc32c");
    WORLDS.with(|worlds| {
        let world = &mut *worlds[usize::from(checksum)].borrow_mut();
        let expected = server_model::expect(data, world.rules);
        let pieces = stream::pieces(data);
        for pieces in [&[data][..], &pieces] {
            let outcome = meter::conversation(data.len(), pieces.len(), || world.converse(pieces));
            assert!(!service::leaks(&outcome.output, data), "bytes of others: {:02x?}", outcome.output);
            if let Some(expected) = &expected {
                check(&outcome, expected, checksum);
            }
        }
    });
}

impl World {
    fn new(checksum: bool) -> World {
        let knobs = Knobs { latency: (Duration::from_micros(1), Duration::from_micros(2)), ..Knobs::default() };
        let net = Network::new(1, knobs);
        let pool = Arc::new(net.pool("server", 1));
        let mut limits = Limits::server();
        limits.max_frame_size = MAX_FRAME;
        limits.max_header_size = MAX_HEADER;
        limits.max_header_entries = MAX_ENTRIES;
        limits.max_glitches = MAX_GLITCHES;
        limits.cancel_budget = CANCEL_BUDGET;
        let rules = Rules {
            max_frame: MAX_FRAME,
            max_header: MAX_HEADER as usize,
            max_entries: MAX_ENTRIES as usize,
            strikes: limits.keepalive_strikes,
            cancel_budget: CANCEL_BUDGET.into(),
            checksum,
        };
        let echo = Echo { blocking: Default::default(), later: LATER };
        let server = Server::builder().pool(Arc::clone(&pool)).limits(limits).checksum(checksum).add(echo);
        let server = server.bind("tcp://127.0.0.1:7000").expect("nobody else listens there");
        let polite = net.connect_raw(&server.url());
        net.run_for(ENOUGH);
        assert!(polite.is_open());
        World { net, pool, server, rules, polite, calls: 0 }
    }

    /// Sends the pieces one by one, each after the one before was handled, then leaves.
    fn converse(&mut self, pieces: &[&[u8]]) -> Outcome {
        self.be_polite();
        let before = self.server.stats();
        let mut peer = self.net.connect_raw(&self.server.url());
        self.net.run_for(Duration::from_micros(50));
        assert!(peer.is_open(), "the server does not accept");
        let (mut output, mut sent) = (Vec::new(), 0);
        let mut end = Received::Bytes(0);
        for piece in pieces {
            if !matches!(end, Received::Bytes(_)) {
                break;
            }
            assert_eq!(peer.write(piece), piece.len(), "the network has room");
            sent += piece.len() as u64;
            self.net.run_for(Duration::from_micros(20));
            let held = self.server.stats().buffered_bytes;
            assert!(held <= HELD + 2 * sent + output.len() as u64, "{sent} bytes were sent, {held} are held");
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
        // Requests in order are handled one after the other, and a server that does not read meanwhile does not hear of the end.
        let whole = pieces.concat();
        let waits = whole.windows(5).filter(|name| name == b"Later").count().max(1);
        self.net.run_for(ENOUGH + LATER * waits as u32);
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

/// Compares with what follows from the bytes.
fn check(outcome: &Outcome, expected: &Expected, checksum: bool) {
    let (said, pongs) = server_model::heard(&outcome.output, checksum);
    assert_eq!(outcome.closed, expected.closed, "{outcome:02x?}");
    assert_eq!(outcome.accepted - outcome.replied, expected.unanswered);
    match expected.left {
        None => {
            assert_eq!(said, expected.said);
            assert_eq!((outcome.accepted, outcome.glitches), (expected.accepted, expected.glitches));
        }
        Some(left) => {
            assert_eq!(said, expected.said[..said.len().clamp(left.said, expected.said.len())]);
            assert!((left.accepted..=expected.accepted).contains(&outcome.accepted), "{outcome:02x?}");
            assert!((left.glitches..=expected.glitches).contains(&outcome.glitches), "{outcome:02x?}");
        }
    }
    // Of several pings at once the last is answered, and what is owed at the end of a connection is not.
    let mut pings = expected.pings.iter();
    assert!(pongs.iter().all(|pong| pings.any(|ping| ping == pong)), "pongs {pongs:?} for {:?}", expected.pings);
    assert!(expected.closed || pongs.last() == expected.pings.last(), "pongs {pongs:?} for {:?}", expected.pings);
    for event in &expected.events {
        reach::event("server", event);
    }
    if !pongs.is_empty() {
        reach::event("server", "says pong");
    }
    let answered = said.iter().any(|said| matches!(said, Said::Reply { .. }));
    for (it, taken) in [(answered, true), (expected.closed, false)] {
        if it {
            reach::note("rpc-core/src/server/handler.rs", "on_frame", &taken);
        }
    }
}
