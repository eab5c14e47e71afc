//! The client's side of a connection: a hostile server's bytes, in any pieces, to the real client over a simulated network.
//!
//! ```text
//!  hostile server ─ pieces ─┐
//!                           ├─ simulated network ─ reactor ─ KitexFraming ─ ClientHandler ─ calls
//!  polite server ─ secrets ─┘
//! ```

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::protocol::MessageType;
use rpc_core::testing::audit_channel;
use rpc_core::{Channel, Code, Limits};
use rpc_transport::testing::{Knobs, Network, RawListener, RawPeer, Received, audit};
use rpc_transport::{ReactorPool, Url};

use crate::client_model::{self, Answer, Expected, Rules};
use crate::reference::Control;
use crate::service::{self, Blob, ECHO_BLOB, SECRET};
use crate::{detect, meter, reach, reference, stream};

/// Calls that wait while the hostile server talks, and the number of the first on every new connection. Another is made when it has
/// said everything.
const CALLS: usize = 4;
const FIRST: i32 = 0x20000;
const TIMEOUT: Duration = Duration::from_millis(40);
const MAX_FRAME: u32 = 128 * 1024;
const MAX_GLITCHES: u32 = 10_000;
/// In everything that a call says.
const CANARY: &str = "canary";
const HOSTILE: &str = "tcp://127.0.0.1:7001";
const POLITE: &str = "tcp://127.0.0.1:7002";

struct World {
    net: Network,
    pool: Arc<ReactorPool>,
    listener: RawListener,
    /// Another server of the same process, and the connection to it.
    polite: Channel,
    polite_peer: RawPeer,
}

thread_local! {
    // Never dropped: at the end of a thread there is nothing left to drive it with.
    static WORLD: &'static RefCell<World> = Box::leak(Box::new(RefCell::new(World::new())));
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Reply(Bytes),
    /// With a line for people, in which the peer may be quoted.
    Failed(Code, String),
}

/// What came of a conversation.
struct Outcome {
    /// How the calls ended, the late one last.
    ends: Vec<End>,
    /// Everything that the client sent to the hostile server.
    output: Vec<u8>,
    glitches: u64,
}

/// A hostile server: each call ends once and in time, as the bytes say and in whatever pieces they come; control frames are heeded once
/// they are agreed on and fatal before; no error is more than a line, nothing is left behind, no more memory is held than was sent, and
/// no connection is told what another one said.
pub fn client_conn(data: &[u8]) {
    let data = &numbered(&stream::expand(data))[..];
    let strikes = Limits::client().keepalive_strikes;
    let checksum = holds(data, "crc32c");
    let rules = Rules { max_frame: MAX_FRAME, strikes, first: FIRST, calls: CALLS, checksum };
    let expected = client_model::expect(data, rules);
    // The server stays until the calls have timed out, or leaves before.
    let stays = data.len().is_multiple_of(2);
    WORLD.with(|world| {
        let world = &mut *world.borrow_mut();
        let pieces = stream::pieces(data);
        for pieces in [&[data][..], &pieces] {
            let outcome = meter::conversation(data.len(), pieces.len(), || world.converse(pieces, stays, checksum));
            for end in &outcome.ends {
                if let End::Failed(_, line) = end {
                    assert!(!line.contains(CANARY) || holds(data, CANARY), "bytes of a call: {line:?}");
                }
            }
            check(&outcome, &expected, stays);
        }
    });
}

/// Compares with what follows from the bytes.
fn check(outcome: &Outcome, expected: &Expected, stays: bool) {
    for (call, (end, answer)) in outcome.ends.iter().zip(&expected.answers).enumerate() {
        let right = match (end, answer) {
            (End::Reply(found), Answer::Reply(meant)) => found == meant,
            (End::Failed(code, _), Answer::None) => !stays || expected.closed || *code == Code::DeadlineExceeded,
            (End::Failed(..), Answer::Error) => true,
            _ => false,
        };
        assert!(right, "call {call} ended with {end:02x?}, it should have had {answer:02x?}");
    }
    // With its last call answered a client that was told to go may go, and hear nothing more.
    if !expected.may_have_left {
        assert_eq!(outcome.glitches, expected.glitches);
    }
    let said = said(&outcome.output);
    assert_eq!(said.calls[..CALLS], (FIRST..).take(CALLS).collect::<Vec<_>>()[..]);
    // The late call goes elsewhere if the peer said that it should, or is gone.
    let late = said.calls.get(CALLS).copied();
    assert_eq!(late.is_some(), !expected.closed && !expected.retired, "the late call is not where it should be");
    let mut pings = expected.pings.iter();
    assert!(said.pongs.iter().all(|pong| pings.any(|ping| ping == pong)), "{said:?} for {:?}", expected.pings);
    let all = !expected.closed && !expected.may_have_left;
    assert!(!all || said.pongs.last() == expected.pings.last(), "{said:?} for {:?}", expected.pings);
    if !expected.may_have_left {
        assert_eq!(said.goaway.as_deref(), expected.goaway.map(str::as_bytes));
    }
    // Who stops waiting says so, where the peer understands it.
    let waiting = expected.answers.iter().zip(FIRST..).filter(|(answer, _)| **answer == Answer::None);
    let mut waiting: Vec<i32> = waiting.map(|(_, call)| call).collect();
    assert!(late.is_none_or(|late| !waiting.contains(&late)), "two calls have one number");
    waiting.extend(late);
    let cancels = stays && expected.agreed && !expected.closed;
    assert_eq!(said.cancels, if cancels { waiting } else { Vec::new() });
    for event in &expected.events {
        reach::event("client", event);
    }
    for (event, happened) in [("says pong", !said.pongs.is_empty()), ("says cancel", !said.cancels.is_empty())] {
        if happened {
            reach::event("client", event);
        }
    }
    let answered = expected.answers.iter().any(|answer| *answer != Answer::None);
    for (it, taken) in [(answered, true), (expected.closed, false)] {
        if it {
            reach::note("rpc-core/src/client/handler.rs", "on_frame", &taken);
        }
    }
}

/// What a client said on one connection.
#[derive(Debug, Default)]
struct Said {
    /// Numbers of its calls, in their order.
    calls: Vec<i32>,
    pongs: Vec<u64>,
    cancels: Vec<i32>,
    goaway: Option<Vec<u8>>,
}

/// Takes a client's bytes apart. Each request has the bytes of its call, and of no other.
fn said(output: &[u8]) -> Said {
    let (frames, rest) = detect::cut(output, u32::MAX);
    assert_eq!(rest, detect::Ending::Waits(0), "the client's own bytes are no frames: {output:02x?}");
    let mut said = Said::default();
    for frame in frames {
        let tt = reference::frame(&frame).expect("every frame of a client has a header");
        if tt.seq == 0 {
            match reference::control(&tt.info, &tt.payload).expect("a control frame by the rules").expect("one of ours")
            {
                Control::Pong(number) => said.pongs.push(number),
                Control::Cancel(seq) => said.cancels.push(seq),
                Control::GoAway(_, reason) => said.goaway = Some(reason),
                Control::Ping(_) => panic!("there was no silence to ask about"),
            }
            continue;
        }
        let message = reference::message(&tt.payload).expect("a request");
        let body = Blob::decode(&message.body[..]).expect("a request");
        let call = said.calls.len();
        assert_eq!((message.seq, message.kind), (tt.seq, 1));
        assert_eq!(body.payload, request(call), "call {call} says what another one has to say");
        said.calls.push(tt.seq);
    }
    said
}

/// What a call has to say: nobody else may.
fn request(call: usize) -> Bytes {
    Bytes::from(format!("the {CANARY} of call {call}"))
}

fn holds(data: &[u8], word: &str) -> bool {
    data.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Inputs say 1 to 4 where they mean the four calls: those are numbers that a fuzzer finds by itself.
fn numbered(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    let mut start = 0;
    while let Some(length) = number(&data, start) {
        let frame = start;
        start = start.saturating_add(length as usize).saturating_add(4);
        let mut payload = frame;
        if data.get(frame + 4..frame + 6) == Some(&[0x10, 0x00]) {
            renumber(&mut data, frame + 8);
            let units =
                data.get(frame + 12..frame + 14).map_or(0, |size| usize::from(size[0]) << 8 | usize::from(size[1]));
            payload = frame + 14 + 4 * units;
        }
        if let Some(method) = number(&data, payload + 8) {
            renumber(&mut data, (payload + 12).saturating_add(method as usize));
        }
    }
    data
}

fn number(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

fn renumber(data: &mut [u8], at: usize) {
    if let Some(number @ 1..=4) = number(data, at) {
        data[at..at + 4].copy_from_slice(&(FIRST + number as i32 - 1).to_be_bytes());
    }
}

impl World {
    fn new() -> World {
        let knobs = Knobs { latency: (Duration::from_micros(1), Duration::from_micros(2)), ..Knobs::default() };
        let net = Network::new(2, knobs);
        let pool = Arc::new(net.pool("client", 1));
        let listen = |url: &str| net.listen_raw(&url.parse::<Url>().expect("an address"));
        let listener = listen(HOSTILE);
        let mut polite_listener = listen(POLITE);
        let polite = Channel::builder(POLITE).pool(Arc::clone(&pool)).connections(1).build().expect("an address");
        let first = call(&polite, &pool, Bytes::new());
        net.run_for(Duration::from_millis(1));
        let polite_peer = polite_listener.accept().expect("the client connects");
        let mut world = World { net, pool, listener, polite, polite_peer };
        world.answer_politely();
        assert_eq!(*first.lock().expect("no panic"), Some(End::Reply(Bytes::from_static(SECRET))));
        world
    }

    /// Makes the calls, answers them with the pieces one by one, then leaves.
    fn converse(&mut self, pieces: &[&[u8]], stays: bool, checksum: bool) -> Outcome {
        self.be_polite();
        let mut limits = Limits::client();
        limits.max_frame_size = MAX_FRAME;
        limits.max_glitches = MAX_GLITCHES;
        let channel = Channel::builder(HOSTILE).pool(Arc::clone(&self.pool)).connections(1).limits(limits);
        let channel = channel.checksum(checksum).build().expect("an address");
        let mut ends: Vec<_> = (0..CALLS).map(|n| call(&channel, &self.pool, request(n))).collect();
        self.net.run_for(Duration::from_micros(200));
        let mut peer = self.listener.accept().expect("the client connects");
        self.net.run_for(Duration::from_micros(200));
        let mut output = Vec::new();
        for piece in pieces {
            if !matches!(peer.read(&mut output), Received::Bytes(_)) {
                break;
            }
            peer.write(piece);
            self.net.run_for(Duration::from_micros(20));
            self.audit(&channel);
        }
        self.net.run_for(Duration::from_millis(1));
        ends.push(call(&channel, &self.pool, request(CALLS)));
        self.net.run_for(Duration::from_micros(200));
        if stays {
            self.net.run_for(2 * TIMEOUT);
        }
        while matches!(peer.read(&mut output), Received::Bytes(1..)) {}
        peer.finish();
        self.net.run_for(Duration::from_millis(1));
        while matches!(peer.read(&mut output), Received::Bytes(1..)) {}
        assert!(!service::leaks(&output, &pieces.concat()), "bytes of others: {output:02x?}");
        drop(peer);
        while let Some(peer) = self.listener.accept() {
            drop(peer);
        }
        self.net.run_for(2 * TIMEOUT);
        let ends = ends.iter().map(|end| end.lock().expect("no panic").clone().expect("a call has no end")).collect();
        self.audit(&channel);
        let glitches = channel.stats().glitches.get();
        drop(channel);
        self.net.run_for(TIMEOUT);
        self.be_polite();
        for reactor in self.pool.handles() {
            let left = audit(reactor).expect("it runs").unwrap_or_else(|broken| panic!("{broken}"));
            assert_eq!((left.connections, left.tasks, left.held), (1, 0, 0), "something of the connection is left");
        }
        Outcome { ends, output, glitches }
    }

    /// A call to the polite server, which has a secret for it.
    fn be_polite(&mut self) {
        let end = call(&self.polite, &self.pool, Bytes::from_static(SECRET));
        self.net.run_for(Duration::from_micros(100));
        self.answer_politely();
        assert_eq!(*end.lock().expect("no panic"), Some(End::Reply(Bytes::from_static(SECRET))));
    }

    fn answer_politely(&mut self) {
        let mut output = Vec::new();
        self.polite_peer.read(&mut output);
        let asked =
            reference::frame(&output).unwrap_or_else(|kind| panic!("the polite server got {output:02x?}: {kind}"));
        self.polite_peer.write(&service::frame(asked.seq, MessageType::Reply, SECRET));
        self.net.run_for(Duration::from_micros(100));
    }

    fn audit(&self, channel: &Channel) {
        if let Err(broken) = audit_channel(channel) {
            panic!("{broken}");
        }
        for reactor in self.pool.handles() {
            if let Some(Err(broken)) = audit(reactor) {
                panic!("{broken}");
            }
        }
    }
}

/// Makes a call on the reactor; where its end will be.
fn call(channel: &Channel, pool: &ReactorPool, payload: Bytes) -> Arc<Mutex<Option<End>>> {
    let end = Arc::new(Mutex::new(None));
    let (channel, slot) = (channel.clone(), Arc::clone(&end));
    pool.next().spawn(async move {
        let end = match channel.unary::<Blob, Blob>(&ECHO_BLOB, Blob { payload }).timeout(TIMEOUT).await {
            Ok(reply) => End::Reply(reply.payload),
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains(char::is_control), "{line:?}");
                End::Failed(error.code(), line)
            }
        };
        let before = slot.lock().expect("no panic").replace(end);
        assert_eq!(before, None, "a call ended twice");
    });
    end
}
