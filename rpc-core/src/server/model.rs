//! Models of a server's end: the real server, its connections and workers over a simulated network that one thread turns, beside the
//! thread that shuts it down.
//!
//! Time is the network's: it passes when nothing else is left to do. So no request is late, and whatever is cut is a mistake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_transport::ReactorPool;
use rpc_transport::sync::model::explore;
use rpc_transport::testing::{Knobs, Network, RawPeer, Received, Step};

use super::{Drained, Server, ServerHandle};
use crate::codegen::{Blocking, MethodDescriptor, Methods, Service, ServiceDescriptor};
use crate::context::Context;
use crate::limits::Limits;
use crate::middleware::Middleware;
use crate::protocol::ttheader::{ControlFrame, TtFrame, write_frame_head};
use crate::protocol::{MessageType, Payload};
use crate::sync::thread;

#[derive(Clone, PartialEq, Message)]
struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
}

static ECHO: ServiceDescriptor = ServiceDescriptor::new("model", "Echo", &[&NOW, &LATER]);
static NOW: MethodDescriptor = MethodDescriptor::new("model", "Echo", "Now");
static LATER: MethodDescriptor = MethodDescriptor::new("model", "Echo", "Later");

/// `Now` ends at once, `Later` after a while; on the worker pool that makes no difference.
struct Echo(Blocking);

impl Service for Echo {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.0
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        let waits = !self.0.lane("Later").is_some();
        methods.unary(&NOW, Arc::new(()), |this, cx: Context, req: Blob| async move { (this, cx, Ok(req)) });
        methods.unary(&LATER, Arc::new(waits), |waits: Arc<bool>, cx: Context, req: Blob| async move {
            if *waits {
                rpc_transport::sleep(Duration::from_micros(30)).await; // makes it a pending task
            }
            (waits, cx, Ok(req))
        });
    }
}

/// A server, and what it is connected to.
struct World {
    net: Network,
    server: ServerHandle,
    peers: Vec<RawPeer>,
    /// Peers that ask as soon as they are connected, and whether they announce control frames.
    arriving: Vec<(usize, bool)>,
}

impl World {
    fn new(blocking: Blocking) -> World {
        let knobs = Knobs { latency: (Duration::from_micros(1), Duration::from_micros(2)), ..Knobs::default() };
        let net = Network::new(1, knobs);
        let pool: Arc<ReactorPool> = Arc::new(net.pool("server", 2));
        let mut limits = Limits::server();
        limits.reactor_stall = Duration::from_secs(3600); // its watchdog is no part of the model
        let server = Server::builder().pool(pool).workers(1).limits(limits).add(Echo(blocking));
        let server = server.bind("tcp://127.0.0.1:7000").expect("nobody else listens there");
        World { net, server, peers: Vec::new(), arriving: Vec::new() }
    }

    /// A peer that has connected as far as the system knows. With time to spare the server knows it, too.
    fn connect(&mut self, time: Duration) -> usize {
        self.peers.push(self.net.connect_raw(&self.server.url()));
        self.net.run_for(time);
        self.peers.len() - 1
    }

    /// A request on its way; the first one announces control frames if it is to.
    fn ask(&mut self, peer: usize, seq: i32, method: &MethodDescriptor, announces: bool) {
        let body = Blob { payload: Bytes::from_static(b"hi") }.encode_to_vec();
        let announcement: &[u8] = if announces { b"\x10\0\x01\x79\x19\0\x011" } else { b"" };
        let mut frame = Vec::new();
        let name = method.name().as_bytes();
        write_frame_head(&mut frame, 1, seq, [announcement, b""], MessageType::Call, name, body.len()).expect("short");
        frame.extend(body);
        assert_eq!(self.peers[peer].write(&frame), frame.len());
    }

    /// Shuts the server down on a thread of its own, while the reactors are turned here until nothing is left. Every one of `asked`
    /// requests was on its way before; those of arriving peers come to that.
    fn shut_down(mut self, mut asked: u64) {
        let over = Arc::new(AtomicBool::new(false));
        let stopper = {
            let (server, over) = (self.server.clone(), Arc::clone(&over));
            thread::spawn(move || {
                let drained = server.shutdown();
                let stats = server.stats();
                over.store(true, Ordering::Release);
                (drained, stats)
            })
        };
        let (mut replies, mut idle) = (0, 0);
        loop {
            match self.net.step() {
                Step::Idle if over.load(Ordering::Acquire) => break,
                Step::Idle => {
                    idle += 1;
                    assert!(idle < 1000, "nothing is left to do, and the shutdown waits");
                }
                _ => idle = 0,
            }
            for (peer, announces) in std::mem::take(&mut self.arriving) {
                if self.peers[peer].is_open() {
                    self.ask(peer, 1, &NOW, announces);
                    asked += 1;
                } else {
                    self.arriving.push((peer, announces));
                }
            }
            replies += self.peers.iter_mut().map(heard).sum::<u64>();
            thread::yield_now();
        }
        let (Drained { cut_connections, cut_calls, .. }, stats) = stopper.join().expect("no panic");
        assert_eq!((cut_connections, cut_calls), (0, 0), "something was cut");
        assert_eq!((stats.connections, stats.accepted, stats.replied), (0, asked, asked), "it did not wait for all");
        assert_eq!(replies, asked, "each has its reply");
    }
}

/// Reads what has come: how many replies that is, none of them a refusal. Pings are answered, and the peer leaves when it is told to.
fn heard(peer: &mut RawPeer) -> u64 {
    let mut bytes = Vec::new();
    let end = peer.read(&mut bytes);
    let mut replies = 0;
    let mut rest = &bytes[..];
    while let Some(length) = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) {
        let (frame, after) = rest.split_at(4 + length); // the server writes whole frames, and here they arrive so
        rest = after;
        let tt = TtFrame::decode(frame).expect("a frame");
        match ControlFrame::decode(&tt) {
            Ok(Some(ControlFrame::Ping(number))) => {
                let mut pong = Vec::new();
                ControlFrame::Pong(number).encode(&mut pong);
                peer.write(&pong);
            }
            Ok(None) if tt.seq != 0 => {
                let payload = Payload::decode(tt.payload).expect("a reply");
                assert_eq!(payload.kind, MessageType::Reply, "what was on its way is served, not refused");
                replies += 1;
            }
            _ => {}
        }
    }
    if end == Received::End {
        peer.finish();
    }
    replies
}

/// B18, I23: requests are on their way to connections of both reactors, running, or answered, when the shutdown begins. All are
/// answered before it is over, whichever way the peer is told to go.
#[test]
fn shutdown_requests() {
    explore("shutdown_requests", || {
        let mut world = World::new(Blocking::default());
        let (a, b) = (world.connect(Duration::from_micros(20)), world.connect(Duration::from_micros(20)));
        world.ask(a, 1, &NOW, true);
        world.net.run_for(Duration::from_micros(20));
        world.ask(a, 2, &LATER, true);
        world.ask(b, 1, &LATER, false);
        world.ask(b, 2, &NOW, false);
        world.shut_down(4);
    });
}

/// B18: who has connected, and has not been accepted or is on the way to its reactor, is served before the end. Who comes later finds
/// nobody.
#[test]
fn shutdown_arrivals() {
    explore("shutdown_arrivals", || {
        let mut world = World::new(Blocking::default());
        for announces in [false, true] {
            world.peers.push(world.net.connect_raw(&world.server.url()));
            world.arriving.push((world.peers.len() - 1, announces));
        }
        world.shut_down(0);
    });
}

/// B18, B25: the same with handlers on the worker pool, which answer from another thread.
#[test]
fn shutdown_workers() {
    explore("shutdown_workers", || {
        let mut blocking = Blocking::default();
        blocking.all();
        let mut world = World::new(blocking);
        let peer = world.connect(Duration::from_micros(20));
        world.ask(peer, 1, &LATER, true);
        world.ask(peer, 2, &NOW, true);
        world.shut_down(2);
    });
}
