//! What do generated stub, pairing, deadlines, routing and handler cost over handlers written by hand on the same transport?
//!
//! By hand means: the same reactors and sockets, the same bytes, but a client that sends the next frame when a reply comes and a
//! server that answers without looking. On paper: one call at a time is two round trips through the kernel, 15 to 20 µs, for
//! both; the rest, some 4,000 instructions, adds 1 µs. At 100 in flight the kernel's share is 0.3 µs a call, and the rest shows:
//! twice to three times the time by hand.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use benches::Service;
use benches::idl::testee::{Blob, TesteeClient, TesteeServer};
use bytes::{BufMut, Bytes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpc_core::protocol::ttheader::{ReplyHead, ReplyKind, RequestHead, RequestHeadSpec};
use rpc_core::protocol::{Form, KitexFraming};
use rpc_core::{Channel, Server};
use rpc_transport::{
    Connector, Cx, Endpoint, Frame, Handler, ListenOptions, PoolOptions, ReactorHandle, ReactorPool, Url,
};

const PAYLOAD: usize = 32;
const BODY: usize = PAYLOAD + 2;

/// Makes `calls` calls, `in_flight` at a time, through the generated client.
fn by_stub(client: &TesteeClient, reactor: &ReactorHandle, in_flight: u64, calls: u64) -> Duration {
    let (done, ended) = channel();
    let start = Instant::now();
    for index in 0..in_flight {
        let (client, done) = (client.clone(), done.clone());
        let calls = (calls + index) / in_flight;
        reactor.spawn(async move {
            let payload = Bytes::from(vec![b'x'; PAYLOAD]);
            for _ in 0..calls {
                let reply = client.echo(Blob { payload: payload.clone() }).await.expect("the server is there");
                assert_eq!(reply.payload.len(), PAYLOAD);
            }
            done.send(()).expect("it is waited for");
        });
    }
    (0..in_flight).for_each(|_| ended.recv().expect("the tasks end"));
    start.elapsed()
}

struct HandServer(ReplyHead);

impl Handler for HandServer {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let bytes = frame.bytes();
        let seq = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        self.0.write(cx.output(), Form::TtHeader, ReplyKind::Reply, seq, BODY, b"").expect("it is short");
        cx.output().put_slice(&bytes[bytes.len() - BODY..]);
    }
}

struct HandClient {
    head: Arc<RequestHead>,
    in_flight: u64,
    to_send: u64,
    to_come: u64,
    start: Instant,
    done: Sender<Duration>,
}

impl HandClient {
    fn send(&mut self, cx: &mut Cx<'_>, seq: i32) {
        if self.to_send > 0 {
            self.to_send -= 1;
            self.head.write(cx.output(), seq, Some(5000), b"", BODY).expect("it is short");
            cx.output().put_slice(&[b'x'; BODY]);
        }
    }
}

impl Handler for HandClient {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.start = Instant::now();
        (0..self.in_flight).for_each(|seq| self.send(cx, seq as i32 + 1));
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let bytes = frame.bytes();
        let seq = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        self.send(cx, seq);
        self.to_come -= 1;
        if self.to_come == 0 {
            self.done.send(self.start.elapsed()).expect("it is waited for");
            cx.close(rpc_transport::CloseReason::Local("all calls are made"));
        }
    }
}

/// As [`by_stub`], on a connection of its own, whose making is not timed.
fn by_hand(
    server: &Endpoint,
    reactor: &ReactorHandle,
    head: &Arc<RequestHead>,
    in_flight: u64,
    calls: u64,
) -> Duration {
    let (done, ended) = channel();
    let (server, head) = (server.clone(), Arc::clone(head));
    reactor.run(move || {
        let client = HandClient { head, in_flight, to_send: calls, to_come: calls, start: Instant::now(), done };
        Connector::default().connect(&server, KitexFraming::default(), client);
    });
    ended.recv().expect("the connection is made")
}

fn pool(name: &str) -> Arc<ReactorPool> {
    let options = PoolOptions { reactors: 1, name: name.to_owned(), ..PoolOptions::default() };
    Arc::new(ReactorPool::start(options).expect("the system has a thread to give"))
}

fn compare(c: &mut Criterion) {
    let clients = pool("client");
    let server =
        Server::builder().reactors(1).add(TesteeServer::new(Service)).bind("tcp://127.0.0.1:0").expect("it binds");
    let channel =
        Channel::builder(server.url().to_string()).pool(Arc::clone(&clients)).build().expect("the URL is right");
    let client = TesteeClient::new(channel);

    let servers = pool("by-hand");
    let anywhere: Url = "tcp://127.0.0.1:0".parse().expect("it is a URL");
    let head = ReplyHead::new("Echo").expect("it has a name");
    let listener = servers
        .listen(&anywhere, ListenOptions::default(), move |_| (KitexFraming::default(), HandServer(head.clone())))
        .expect("it binds");
    let endpoint = listener.url().resolve().expect("it is an address").remove(0);
    let spec = RequestHeadSpec {
        service: "Testee",
        method: "Echo",
        to_service: "Testee",
        multiplexed: true,
        announce: true,
        connect_timeout_ms: Some(1000),
        usual_timeout_ms: 5000,
        ..RequestHeadSpec::default()
    };
    let head = Arc::new(RequestHead::new(&spec).expect("the names are short"));

    let reactor = &clients.handles()[0];
    let mut group = c.benchmark_group("stub_vs_handwritten");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    for in_flight in [1, 100] {
        group.bench_function(format!("stub/unary_32b_x{in_flight}_in_flight"), |b| {
            b.iter_custom(|calls| by_stub(&client, reactor, in_flight, calls));
        });
        group.bench_function(format!("handwritten/unary_32b_x{in_flight}_in_flight"), |b| {
            b.iter_custom(|calls| by_hand(&endpoint, reactor, &head, in_flight, calls));
        });
    }
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
