//! The client's side of a connection: a hostile server's bytes, in any pieces, to the real client over a simulated network.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::testing::audit_channel;
use rpc_core::{Channel, Code, Limits};
use rpc_transport::testing::{Knobs, Network, RawListener, Received, audit};
use rpc_transport::{ReactorPool, Url};

use crate::service::{self, Blob, ECHO_BLOB};
use crate::{detect, reference, stream};

/// Calls that wait while the hostile server talks, and the number of the first on every new connection.
const CALLS: i32 = 4;
const FIRST: i32 = 0x20000;
const TIMEOUT: Duration = Duration::from_millis(20);
const MAX_FRAME: u32 = 4096;
const MAX_GLITCHES: u32 = 10_000;
const URL: &str = "tcp://127.0.0.1:7001";

struct World {
    net: Network,
    pool: Arc<ReactorPool>,
    listener: RawListener,
}

thread_local! {
    // Never dropped: at the end of a thread there is nothing left to drive it with.
    static WORLD: &'static RefCell<World> = Box::leak(Box::new(RefCell::new(World::new())));
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Reply(Bytes),
    Failed(Code),
}

/// A hostile server: each call ends once and in time, with a reply only if the bytes hold one for its number; the pieces make no
/// difference; no error is more than a line, nothing is left behind.
pub fn client_conn(data: &[u8]) {
    WORLD.with(|world| {
        let world = &mut *world.borrow_mut();
        let data = &numbered(data)[..];
        let whole = world.converse(&[data]);
        assert_eq!(world.converse(&stream::pieces(data)), whole, "the pieces make a difference");
        let (frames, _) = detect::frames(data, MAX_FRAME);
        let messages: Vec<_> = frames
            .iter()
            .filter_map(|frame| {
                let payload = reference::frame(frame).map_or(frame.clone(), |tt| tt.payload);
                reference::message(&payload).ok()
            })
            .collect();
        for (call, end) in (FIRST..).zip(&whole) {
            if let End::Reply(payload) = end {
                let mut replies = messages.iter().filter(|message| message.seq == call && message.kind == 2);
                let meant =
                    replies.any(|message| Blob::decode(&message.body[..]).is_ok_and(|blob| blob.payload == payload));
                assert!(meant, "call {call} got {payload:02x?}, which nobody sent it");
            }
        }
    });
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
        let listener = net.listen_raw(&URL.parse::<Url>().expect("an address"));
        World { net, pool, listener }
    }

    /// Makes the calls, answers them with the pieces one by one, then leaves.
    fn converse(&mut self, pieces: &[&[u8]]) -> Vec<End> {
        let mut limits = Limits::client();
        limits.max_frame_size = MAX_FRAME;
        limits.max_glitches = MAX_GLITCHES;
        let channel = Channel::builder(URL).pool(Arc::clone(&self.pool)).connections(1).limits(limits);
        let channel = channel.build().expect("an address");
        let ends: Arc<Mutex<Vec<Option<End>>>> = Arc::new(Mutex::new(vec![None; CALLS as usize]));
        for call in 0..CALLS as usize {
            let (channel, ends) = (channel.clone(), Arc::clone(&ends));
            self.pool.next().spawn(async move {
                let request = Blob { payload: Bytes::from(vec![call as u8; 3]) };
                let end = channel.unary::<Blob, Blob>(&ECHO_BLOB, request).timeout(TIMEOUT).await;
                let end = match end {
                    Ok(reply) => End::Reply(reply.payload),
                    Err(error) => {
                        let line = error.to_string();
                        assert!(!line.contains(char::is_control), "{line:?}");
                        End::Failed(error.code())
                    }
                };
                let before = ends.lock().expect("no panic").get_mut(call).and_then(|slot| slot.replace(end));
                assert_eq!(before, None, "a call ended twice");
            });
        }
        self.net.run_for(Duration::from_micros(200));
        let mut peer = self.listener.accept().expect("the client connects");
        self.net.run_for(Duration::from_micros(200));
        let mut requests = Vec::new();
        peer.read(&mut requests);
        let numbers =
            detect::frames(&requests, MAX_FRAME).0.into_iter().filter_map(|frame| reference::frame(&frame).ok());
        assert_eq!(numbers.map(|frame| frame.seq).collect::<Vec<_>>(), (FIRST..FIRST + CALLS).collect::<Vec<_>>());
        for piece in pieces {
            if !matches!(peer.read(&mut requests), Received::Bytes(_)) {
                break;
            }
            peer.write(piece);
            self.net.run_for(Duration::from_micros(20));
            self.audit(&channel);
        }
        self.net.run_for(Duration::from_millis(1));
        peer.finish();
        self.net.run_for(Duration::from_millis(1));
        peer.read(&mut requests);
        assert!(!service::leaks(&requests, &pieces.concat()), "bytes of others: {requests:02x?}");
        drop(peer);
        self.net.run_for(2 * TIMEOUT);
        let ends: Vec<End> =
            ends.lock().expect("no panic").iter().cloned().map(|end| end.expect("a call has no end")).collect();
        self.audit(&channel);
        drop(channel);
        while let Some(peer) = self.listener.accept() {
            drop(peer);
        }
        self.net.run_for(TIMEOUT);
        for reactor in self.pool.handles() {
            let left = audit(reactor).expect("it runs").unwrap_or_else(|broken| panic!("{broken}"));
            assert_eq!((left.connections, left.tasks, left.held), (0, 0, 0), "something of the connection is left");
        }
        ends
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
