//! Calls over connections that end, retire or change, and futures that move: each call ends once, with its own reply.

mod support;

use std::future::{Future, IntoFuture};
use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::ControlFrame::GoAway;
use rpc_core::protocol::ttheader::write_frame_head;
use rpc_core::transport::{PoolOptions, ReactorHandle, ReactorPool};
use rpc_core::{Channel, Code, Phase, Result, Sent, Server};
use support::{
    Blob, ECHO_BLOB, EchoClient, EchoServer, GOODBYE, blob, call_apart, confirming_reply, control, on_reactor, peer,
    raw_frame, raw_reply, read_raw,
};

const LIMIT: Duration = Duration::from_secs(10);

type Boxed = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// A call that owns all it needs, so that it can go anywhere.
fn call(channel: &Channel, payload: &'static [u8], timeout: Duration) -> Boxed {
    let client = EchoClient(channel.clone());
    Box::pin(async move {
        let call = client.blob(Blob { payload: Bytes::from_static(payload) }).timeout(timeout);
        call.await.map(|reply| reply.payload)
    })
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn one_reactor() -> Arc<ReactorPool> {
    pool(1)
}

fn pool(reactors: usize) -> Arc<ReactorPool> {
    let options = PoolOptions { reactors, ..PoolOptions::default() };
    Arc::new(ReactorPool::start(options).expect("reactors"))
}

/// Runs a closure on a reactor and waits for what it returns.
fn there<T: Send + 'static>(reactor: &ReactorHandle, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear) = mpsc::channel();
    reactor.run(move || drop(tell.send(f())));
    hear.recv_timeout(LIMIT).expect("the reactor runs it")
}

/// Answers every call but those that begin with `held`, whose ids it tells.
fn answer_others(mut socket: &TcpStream, held: &Mutex<Sender<(i32, Vec<u8>)>>, before: &[u8]) {
    while let Some(request) = read_raw(&mut socket.try_clone().expect("a handle")) {
        if blob(&request.body).starts_with(b"held") {
            let _ = held.lock().expect("no panic").send((request.seq, request.body));
        } else {
            let _ = socket.write_all(&[before, &raw_reply(request.seq, &request.body)].concat());
        }
    }
}

/// I1, I7: who gives up a call on a connection that says goodbye must not take away the call that has the same id on the next one.
#[test]
fn a_dropped_call_ends_no_call_of_another_connection() {
    let (tell, held) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let (tell, gone) = (Mutex::new(tell), Mutex::new(Some(gone)));
    let url = peer(move |n, socket| {
        if n == 1 {
            let (mut late, go) = (socket.try_clone().expect("a handle"), gone.lock().unwrap().take().expect("once"));
            std::thread::spawn(move || {
                let (seq, body): (i32, Vec<u8>) = go.recv().expect("the test goes on");
                late.write_all(&raw_reply(seq, &body)).expect("written");
            });
        }
        answer_others(&socket, &tell, if n == 0 { GOODBYE } else { b"" });
    });
    let channel = Channel::builder(url).connections(1).pool(one_reactor()).build().unwrap();
    let mut first = call(&channel, b"held: first", LIMIT);
    assert!(poll_once(&mut first).is_pending());
    let (first_seq, _) = held.recv_timeout(LIMIT).expect("it arrives");
    // The goodbye stands before this reply.
    call_apart(&channel, b"probe", LIMIT).recv_timeout(LIMIT).unwrap().expect("an echo");
    let second = call_apart(&channel, b"held: second", LIMIT);
    let (second_seq, body) = held.recv_timeout(LIMIT).expect("it arrives");
    assert_eq!((first_seq, channel.stats().connects.get()), (second_seq, 2), "the same id on another connection");

    drop(first);
    call_apart(&channel, b"probe", LIMIT).recv_timeout(LIMIT).unwrap().expect("the drop has been seen");
    go.send((second_seq, body)).expect("the peer waits");
    assert_eq!(&second.recv_timeout(LIMIT).expect("it ends").expect("its reply")[..], b"held: second");
}

/// A call begun on one reactor and polled or dropped on another, whose connection has the same number and knows a call by the same id.
#[test]
fn a_call_may_move_to_another_thread() {
    let (tell, held) = mpsc::channel();
    let (tell, sockets) = (Mutex::new(tell), Arc::new(Mutex::new(Vec::new())));
    let keep = Arc::clone(&sockets);
    let url = peer(move |_, socket| {
        keep.lock().unwrap().push(socket.try_clone().expect("a handle"));
        answer_others(&socket, &tell, b"");
    });
    for dropped in [false, true] {
        sockets.lock().unwrap().clear();
        let pool = pool(2);
        let [one, other] = [0, 1].map(|i| pool.handles()[i].clone());
        let channel = Channel::builder(url.clone()).connections(2).pool(pool).build().unwrap();
        let begin = |reactor: &ReactorHandle, payload| {
            let mut future = call(&channel, payload, LIMIT);
            let future = there(reactor, move || {
                assert!(poll_once(&mut future).is_pending());
                future
            });
            (future, held.recv_timeout(LIMIT).expect("it arrives"))
        };
        let (mut moving, moving_id) = begin(&one, b"held: moving");
        let (staying, staying_id) = begin(&other, b"held: staying");
        assert_eq!(moving_id.0, staying_id.0, "the same id");
        let moving = there(&other, move || {
            if dropped {
                return None;
            }
            assert!(poll_once(&mut moving).is_pending());
            Some(moving)
        });
        {
            let sockets = sockets.lock().unwrap();
            for (mut socket, (seq, body)) in sockets.iter().zip([&moving_id, &staying_id]) {
                socket.write_all(&raw_reply(*seq, body)).expect("written");
            }
        }
        let finish = |reactor: &ReactorHandle, future: Boxed| {
            let (tell, hear) = mpsc::channel();
            reactor.spawn(async move { drop(tell.send(future.await)) });
            hear.recv_timeout(LIMIT).expect("it ends").expect("a reply")
        };
        assert_eq!(&finish(&other, staying)[..], b"held: staying");
        if let Some(moving) = moving {
            assert_eq!(&finish(&one, moving)[..], b"held: moving", "and it may go back");
        }
    }
}

/// A connection without multiplexing is done for when its call has timed out; calls that wait behind it go on.
#[test]
fn calls_behind_a_timed_out_one_go_to_another_connection() {
    let (tell, held) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, socket| answer_others(&socket, &tell, b""));
    let channel = Channel::builder(url).ping_pong().connections(1).pool(one_reactor()).build().unwrap();
    let stuck = call_apart(&channel, b"held", Duration::from_millis(200));
    held.recv_timeout(LIMIT).expect("it is on the wire");
    let (local, foreign) = (call(&channel, b"local", LIMIT), call_apart(&channel, b"foreign", LIMIT));
    let local = on_reactor(&channel, local);
    assert_eq!(stuck.recv_timeout(LIMIT).unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(&local.expect("it moved on")[..], b"local");
    assert_eq!(&foreign.recv_timeout(LIMIT).unwrap().expect("it moved on")[..], b"foreign");
    assert_eq!(channel.stats().connects.get(), 2);
}

/// However many of those before it do: a call that has time was given up with its sixth connection.
#[test]
fn a_call_outlives_more_connections_than_it_may_try_at_once() {
    let (tell, held) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, socket| answer_others(&socket, &tell, b""));
    let channel = Channel::builder(url).ping_pong().connections(1).pool(one_reactor()).build().unwrap();
    let reactor = channel.reactors().next().unwrap().clone();
    let (tell, ends) = mpsc::channel();
    let begin = |payload, timeout| {
        let (call, tell) = (call(&channel, payload, timeout), tell.clone());
        reactor.spawn(async move { drop(tell.send(call.await)) });
    };
    // One after the other is on the wire, and its end is the connection's.
    (1..=8).for_each(|n| begin(b"held", n * Duration::from_millis(150)));
    begin(b"patient", LIMIT);
    for _ in 0..8 {
        assert_eq!(ends.recv_timeout(LIMIT).unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
    assert_eq!(&ends.recv_timeout(LIMIT).unwrap().expect("it has moved on each time")[..], b"patient");
    assert!(held.try_iter().count() <= 8);
}

/// Callers choose a connection faster than reactors hear of it.
#[test]
fn a_ping_pong_pool_is_used_by_callers_elsewhere() {
    let (tell, held) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, socket| answer_others(&socket, &tell, b""));
    let channel = Channel::builder(url).ping_pong().connections(8).pool(one_reactor()).build().unwrap();
    let mut calls: Vec<Boxed> = (0..8).map(|_| call(&channel, b"held", LIMIT)).collect();
    let reactor = channel.reactors().next().unwrap().clone();
    let (go, wait) = mpsc::channel::<()>();
    reactor.run(move || _ = wait.recv());
    assert!(calls.iter_mut().all(|call| poll_once(call).is_pending()));
    go.send(()).unwrap();
    for _ in 0..8 {
        held.recv_timeout(LIMIT).expect("all of them are on the wire at once");
    }
    assert_eq!(channel.stats().connects.get(), 8);
}

/// A future that has ended and is kept, as a join keeps it, holds no connection.
#[test]
fn a_call_that_has_ended_frees_its_connection() {
    let (tell, _held) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, socket| answer_others(&socket, &tell, b""));
    let channel = Channel::builder(url).ping_pong().connections(8).pool(one_reactor()).build().unwrap();
    let client = EchoClient(channel.clone());
    let reactor = channel.reactors().next().unwrap();
    let mut ended: Vec<_> = (0..3).map(|_| client.blob(Blob::default()).into_future()).collect();
    for call in &mut ended {
        reactor.block_on(&mut *call).expect("an echo");
    }
    assert_eq!(channel.stats().connects.get(), 1);
    let again = catch_unwind(AssertUnwindSafe(|| poll_once(&mut ended[0]).is_ready()));
    assert!(again.is_err(), "an ended call is not polled");
}

/// `Sent::No` is a promise: a request in the output leaves even when its call has timed out meanwhile.
#[test]
fn a_call_that_timed_out_in_the_output_may_be_processed() {
    let (keep, kept) = mpsc::channel();
    let keep = Mutex::new(keep);
    let url = peer(move |_, socket| drop(keep.lock().unwrap().send(socket)));
    let channel = Channel::builder(url).connections(1).pool(one_reactor());
    let channel = channel.set("write_high", "64MiB").set("write_hard", "64MiB").build().unwrap();
    static LARGE: [u8; 1 << 20] = [7; 1 << 20];
    let calls: Vec<_> = (0..24).map(|_| call_apart(&channel, &LARGE, Duration::from_millis(400))).collect();
    let errors: Vec<_> = calls.iter().map(|call| call.recv_timeout(LIMIT).unwrap().unwrap_err()).collect();
    for error in &errors {
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        let expected =
            if matches!(error.phase(), Some(Phase::Queue | Phase::Connect)) { Sent::No } else { Sent::Maybe };
        assert_eq!(error.sent(), expected, "{error}");
    }
    assert!(errors.iter().any(|error| error.phase() == Some(Phase::Write)), "some stood in the output: {errors:?}");
    drop(kept);
}

/// Nobody waits: no reason to connect, and nothing that would keep the channel alive.
#[test]
fn a_call_dropped_before_the_reactor_saw_it_does_not_connect() {
    let url = peer(|_, _| {});
    let channel = Channel::builder(url).connections(1).pool(one_reactor()).build().unwrap();
    let reactor = channel.reactors().next().unwrap().clone();
    let (go, wait) = mpsc::channel::<()>();
    reactor.run(move || _ = wait.recv());
    let mut dropped = call(&channel, b"dropped", LIMIT);
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    go.send(()).unwrap();
    there(&reactor, || ());
    assert_eq!(channel.stats().connects.get(), 0);
}

/// B35.
#[test]
fn no_timeout_is_too_long() {
    let (tell, _held) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, socket| answer_others(&socket, &tell, b""));
    let long = Duration::MAX;
    let plain = Channel::builder(&url).pool(one_reactor()).timeout(long).build().unwrap();
    call_apart(&plain, b"plain", long).recv_timeout(LIMIT).expect("it ends").expect("an echo");
    let layered = Channel::builder(&url).pool(one_reactor()).layer(rpc_core::Logging).build().unwrap();
    EchoClient(layered).blob(Blob::default()).timeout(long).wait().expect("an echo");
}

/// T37: a peer that sends its clients away on every connection, in whatever way, and keeps them open is not given one for each call.
#[test]
fn a_peer_that_sends_everybody_away_is_backed_off_from() {
    let ways: [(&str, Vec<u8>); 3] = [
        ("Kitex's goodbye", GOODBYE.to_vec()),
        ("goaway", [confirming_reply(i32::MAX, b""), control(GoAway { last: 0, reason: b"go" })].concat()),
        ("glitches", raw_reply(i32::MAX, b"").repeat(150)),
    ];
    for (way, bytes) in ways {
        let url = peer(move |_, mut socket| {
            let _ = socket.write_all(&bytes);
            while read_raw(&mut socket).is_some() {}
        });
        let channel = Channel::builder(url).connections(1).pool(one_reactor()).build().unwrap();
        let start = Instant::now();
        let mut calls = Vec::new();
        while start.elapsed() < Duration::from_millis(500) {
            let next = call_apart(&channel, b"call", Duration::from_secs(2));
            calls.push(next.recv_timeout(Duration::from_millis(5)));
        }
        let connects = channel.stats().connects.get();
        assert!((2..=12).contains(&connects), "{way}: {} calls made {connects} connections", calls.len());
    }
}

/// A header that cannot be read leaves nothing of the stream to trust, whoever the frame is for.
#[test]
fn a_malformed_header_ends_the_connection_whoever_it_is_for() {
    let malformed = |seq, kind| {
        let mut out = Vec::new();
        // A block of string pairs that ends within its count.
        write_frame_head(&mut out, 0, seq, [b"\x01\xff", b""], kind, b"Blob", 0).expect("short");
        out
    };
    let frames = [
        ("to nobody", malformed(i32::MAX, MessageType::Reply)),
        ("an exception to nobody", malformed(i32::MAX, MessageType::Exception)),
        ("a request", malformed(i32::MAX, MessageType::Call)),
        ("with id 0", malformed(0, MessageType::Reply)),
    ];
    for (which, bytes) in frames {
        let (tell, held) = mpsc::channel();
        let (tell, url_bytes) = (Mutex::new(tell), bytes);
        let url = peer(move |_, mut socket| {
            let Some(request) = read_raw(&mut socket) else { return };
            let _ = socket.write_all(&url_bytes);
            let _ = tell.lock().unwrap().send(request.seq);
            while read_raw(&mut socket).is_some() {}
        });
        let channel = Channel::builder(url).connections(1).pool(one_reactor()).build().unwrap();
        let waits = call_apart(&channel, b"waits", LIMIT);
        held.recv_timeout(LIMIT).expect("it arrives");
        let error = waits.recv_timeout(LIMIT).expect("it ends").expect_err("nobody answers");
        assert_eq!(error.code(), Code::Unavailable, "{which}: {error}");
    }
}

/// Kitex's servers close a connection behind some of their errors, of which only the client's next call would hear.
#[test]
fn a_ping_pong_connection_is_not_used_again_after_an_error_of_kitex() {
    for ping_pong in [true, false] {
        let url = peer(|_, mut socket| {
            while let Some(request) = read_raw(&mut socket.try_clone().expect("a handle")) {
                let fails = blob(&request.body).starts_with(b"fails");
                let kind = if fails { MessageType::Exception } else { MessageType::Reply };
                let body = if fails { &b""[..] } else { &request.body[..] };
                let _ = socket.write_all(&raw_frame(0, request.seq, kind, body));
            }
        });
        let builder = Channel::builder(url).connections(1).pool(one_reactor());
        let channel = if ping_pong { builder.ping_pong() } else { builder }.build().unwrap();
        let outcome = |payload| call_apart(&channel, payload, LIMIT).recv_timeout(LIMIT).unwrap();
        for connects in 1..4 {
            outcome(b"good").expect("an echo");
            outcome(b"fails").expect_err("an exception");
            let connects = if ping_pong { connects } else { 1 };
            assert_eq!(channel.stats().connects.get(), connects, "one at a time: {ping_pong}");
        }
    }
}

/// An exception is its call's by the header's id alone: of a request that Kitex could not read it does not know the payload's.
#[test]
fn an_exception_is_taken_whatever_its_payload_s_id_is() {
    let url = peer(|_, mut socket| {
        while let Some(request) = read_raw(&mut socket) {
            let mut out = Vec::new();
            write_frame_head(&mut out, 0, request.seq, [b"", b""], MessageType::Exception, b"Blob", 4).expect("short");
            out.extend_from_slice(b"\x12\x02no");
            let at = out.len() - 4 - 4; // the payload's id stands before its body
            out[at..at + 4].copy_from_slice(&0_i32.to_be_bytes());
            let _ = socket.write_all(&out);
        }
    });
    let channel = Channel::builder(url).connections(1).pool(one_reactor()).build().unwrap();
    for _ in 0..2 {
        let error = call_apart(&channel, b"call", LIMIT).recv_timeout(LIMIT).unwrap().expect_err("an exception");
        assert!(error.to_string().contains("no"), "{error}");
        assert_ne!(error.code(), Code::Unavailable, "{error}");
    }
    assert_eq!(channel.stats().connects.get(), 1, "the connection is kept");
}

/// A peer that answers nothing until it is told to, and notes what it was asked to do.
struct Slow {
    url: String,
    go: Sender<()>,
    reads: mpsc::Receiver<()>,
    done: Arc<Mutex<Vec<Vec<u8>>>>,
}

fn slow_peer() -> Slow {
    let ((go, wait), (tell, reads), done) = (mpsc::channel::<()>(), mpsc::channel(), Arc::<Mutex<Vec<_>>>::default());
    let (both, noted) = (Mutex::new((wait, tell)), Arc::clone(&done));
    let url = peer(move |_, mut socket| {
        let both = both.lock().unwrap();
        while let Some(request) = read_raw(&mut socket) {
            noted.lock().unwrap().push(blob(&request.body));
            let _ = both.1.send(());
            let _ = both.0.recv(); // at once when the other end is gone
            let _ = socket.write_all(&raw_reply(request.seq, &request.body));
        }
    });
    Slow { url, go, reads, done }
}

/// I3, I6, I7: an id comes round after 32,767 uses, and calls that were given up while they waited for their turn have had it: none of
/// them is sent, least of all for who has the id now.
#[test]
fn what_was_given_up_in_the_queue_is_never_sent() {
    const LIVE: [&[u8]; 4] = [b"live 0", b"live 1", b"live 2", b"live 3"];
    let Slow { url, go, reads, done } = slow_peer();
    let channel =
        Channel::builder(url).connections(1).set("client_max_inflight", "1").pool(one_reactor()).build().unwrap();
    let first = call_apart(&channel, b"first", LIMIT);
    reads.recv_timeout(LIMIT).expect("it is on the wire");
    let late = call(&channel, b"too late", Duration::from_millis(1));
    assert_eq!(on_reactor(&channel, late).unwrap_err().sent(), Sent::No);
    let reactor = channel.reactors().next().unwrap().clone();
    let waiting = channel.clone();
    let live = there(&reactor, move || {
        for _ in 0..40_000 {
            assert!(poll_once(&mut call(&waiting, b"given up", LIMIT)).is_pending(), "there is room in the queue");
        }
        let mut live = LIVE.map(|payload| call(&waiting, payload, LIMIT));
        assert!(live.iter_mut().all(|call| poll_once(call).is_pending()));
        live
    });
    drop(go);
    assert_eq!(&first.recv_timeout(LIMIT).unwrap().expect("an echo")[..], b"first");
    for (call, payload) in live.into_iter().zip(LIVE) {
        assert_eq!(&on_reactor(&channel, call).expect("an echo")[..], payload);
    }
    assert_eq!(*done.lock().unwrap(), [&[&b"first"[..]], &LIVE[..]].concat());
}

/// Who has given up waits no more, and takes nobody's place: neither by number nor by bytes.
#[test]
fn calls_given_up_in_the_queue_make_room_at_once() {
    static LARGE: [u8; 100 << 10] = [7; 100 << 10];
    //                          room for  what is refused says
    for (payload, room, limit) in [(&b"small"[..], 8, "client_max_waiting"), (&LARGE, 3, "limit 262144")] {
        let Slow { url, go, reads, done } = slow_peer();
        let set =
            [("max_frame_size", "128KiB"), ("write_low", "64KiB"), ("write_high", "64KiB"), ("write_hard", "256KiB")];
        let builder = Channel::builder(url).set("client_max_inflight", "1").set("client_max_waiting", "8");
        let builder = set.iter().fold(builder, |builder, (name, value)| builder.set(name, value));
        let channel = builder.connections(1).pool(one_reactor()).build().unwrap();
        let first = call_apart(&channel, b"first", LIMIT);
        reads.recv_timeout(LIMIT).expect("it is on the wire");
        let reactor = channel.reactors().next().unwrap().clone();
        let waiting = channel.clone();
        let live = there(&reactor, move || {
            let mut calls = Vec::new();
            for round in 0..50 {
                calls.clear();
                for n in 0..room {
                    let mut next = call(&waiting, payload, LIMIT);
                    assert!(poll_once(&mut next).is_pending(), "{limit}: {n} calls wait in round {round}");
                    calls.push(next);
                }
                let Poll::Ready(Err(error)) = poll_once(&mut call(&waiting, payload, LIMIT)) else {
                    panic!("{limit}: one more than there is room for");
                };
                assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
                assert!(error.to_string().contains(limit), "{error}");
            }
            calls
        });
        drop(go);
        assert_eq!(&first.recv_timeout(LIMIT).unwrap().expect("an echo")[..], b"first");
        for call in live {
            assert_eq!(on_reactor(&channel, call).expect("an echo"), payload);
        }
        assert_eq!(done.lock().unwrap().len(), 1 + room);
    }
}

/// As at a server: a client's own output does not make it end the connection.
#[test]
fn the_largest_request_fits_into_an_output_just_below_write_high() {
    const MAX: usize = 12_000;
    static PAYLOAD: [u8; MAX + 1] = [7; MAX + 1];
    for high in [10_000_usize, 1] {
        let (tell, sizes) = mpsc::channel();
        let tell = Mutex::new(tell);
        let url = peer(move |_, mut socket| {
            while let Some(request) = read_raw(&mut socket) {
                let _ = tell.lock().unwrap().send(request.frame.len());
                let _ = socket.write_all(&raw_reply(request.seq, b""));
            }
        });
        let set = [("max_frame_size", MAX), ("write_low", 1), ("write_high", high), ("write_hard", 1)];
        let builder = Channel::builder(url).connections(1).pool(one_reactor());
        let channel = set.iter().fold(builder, |b, (name, value)| b.set(name, &value.to_string())).build().unwrap();
        // What a request has besides its payload, with its length field.
        on_reactor(&channel, call(&channel, &PAYLOAD[..5_000], LIMIT)).expect("a reply");
        let besides = sizes.recv_timeout(LIMIT).expect("it came") - 5_000;
        let largest = MAX + 4 - besides;
        let before = (high > 1).then(|| high - 1 - besides); // nothing, or a byte less than `write_high`
        let lens: Vec<_> = before.into_iter().chain([largest]).collect();
        let (reactor, callers, at_once) = (channel.reactors().next().unwrap().clone(), channel.clone(), lens.clone());
        let calls = there(&reactor, move || {
            let mut calls: Vec<_> = at_once.iter().map(|len| call(&callers, &PAYLOAD[..*len], LIMIT)).collect();
            assert!(calls.iter_mut().all(|call| poll_once(call).is_pending()));
            calls
        });
        for call in calls {
            on_reactor(&channel, call).expect("a reply");
        }
        for len in lens {
            assert_eq!(sizes.recv_timeout(LIMIT), Ok(len + besides), "write_high {high}");
        }
        let more = on_reactor(&channel, call(&channel, &PAYLOAD[..=largest], LIMIT)).unwrap_err();
        assert_eq!((more.code(), channel.stats().connects.get()), (Code::ResourceExhausted, 1), "{more}");
    }
}

/// A reply whose decoding makes a call, and waits for it.
#[derive(Debug, Default)]
struct Curious;

/// What [`Curious`] asks, and what it was told.
static ASKED: Mutex<Option<(EchoClient, Option<Result<Blob>>)>> = Mutex::new(None);

impl prost::Message for Curious {
    fn encode_raw(&self, _: &mut impl bytes::BufMut) {}

    fn merge_field(
        &mut self,
        tag: u32,
        kind: prost::encoding::WireType,
        buf: &mut impl bytes::Buf,
        cx: prost::encoding::DecodeContext,
    ) -> std::result::Result<(), prost::DecodeError> {
        if let Some((client, told)) = &mut *ASKED.lock().expect("nobody panics with it") {
            *told = Some(client.blob(Blob::default()).wait());
        }
        prost::encoding::skip_field(kind, tag, buf, cx)
    }

    fn encoded_len(&self) -> usize {
        0
    }

    fn clear(&mut self) {}
}

/// The reactor would wait for itself, for ever.
#[test]
fn a_message_that_waits_for_a_call_when_it_is_decoded_is_refused() {
    let server = Server::builder().reactors(1).add(EchoServer::new()).bind("tcp://127.0.0.1:0").unwrap();
    let channel = Channel::builder(server.url().to_string()).connections(1).pool(one_reactor()).build().unwrap();
    *ASKED.lock().unwrap() = Some((EchoClient(channel.clone()), None));
    let curious = channel.clone();
    on_reactor(&channel, async move {
        let blob = Blob { payload: Bytes::from_static(b"anything") };
        curious.unary::<_, Curious>(&ECHO_BLOB, blob).await
    })
    .expect("it was decoded");
    let (_, told) = ASKED.lock().unwrap().take().unwrap();
    let refused = told.expect("it has asked").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}
