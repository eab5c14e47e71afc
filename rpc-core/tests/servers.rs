//! What a server says of calls that fail, what it carries from one call to the next, and how it ends.

mod support;

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::protocol::ttheader::ControlFrame;
use rpc_core::protocol::{Exception, MessageType};
use rpc_core::transport::{Lane, PoolOptions, ReactorPool, SnapshotOptions};
use rpc_core::{Channel, Code, Context, Error, Sent, Server, ServerBuilder, ServerHandle};
use support::{
    AnyServer, Blob, EchoClient, GOODBYE, Nested, call_apart, eventually, ordered_request, raw_request, read_raw,
};

const LIMIT: Duration = Duration::from_secs(10);

fn connect(server: &ServerHandle) -> Channel {
    Channel::builder(server.url().to_string()).connections(1).build().expect("a channel")
}

fn dial(server: &ServerHandle) -> TcpStream {
    let url = server.url().to_string();
    let socket = TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).expect("it listens");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

fn bind(service: AnyServer) -> ServerHandle {
    Server::builder().reactors(1).add(service).bind("tcp://127.0.0.1:0").expect("bound")
}

/// I6: a handler ran, whatever its error says of a call of its own, and whatever becomes of its reply.
#[test]
fn a_handler_that_ran_is_never_called_unexecuted() {
    for blocking in [false, true] {
        let mut service = AnyServer::new(|cx: Context, req: Blob| async move {
            match &req.payload[..] {
                b"downstream" => (cx, Err(Error::closed("nobody there").with_sent(Sent::No))),
                b"reserved" => {
                    cx.set_backward("isn", "not ours to set");
                    (cx, Ok(req))
                }
                _ => {
                    cx.set_backward("key", vec![7; 70_000]);
                    (cx, Ok(req))
                }
            }
        });
        if blocking {
            service.blocking.all();
        }
        let server = bind(service);
        let client = EchoClient(connect(&server));
        for payload in ["downstream", "reserved", "too long"] {
            let error = client.blob(Blob { payload: payload.into() }).wait().expect_err(payload);
            assert_eq!(error.sent(), Sent::Maybe, "{payload}: {error}");
            assert!(!error.is_retryable(), "{payload}: {error}");
        }
    }
}

/// Connections share what they have in common, such as the last header: never who is at the other end.
#[test]
fn each_connection_has_its_own_peer() {
    let server = bind(AnyServer::new(|cx: Context, _| async move {
        let peer = cx.peer().map_or_else(String::new, ToString::to_string);
        (cx, Ok(Blob { payload: peer.into() }))
    }));
    let clients = [0, 1].map(|_| EchoClient(connect(&server)));
    let peers = [0, 1, 0, 1].map(|i| clients[i].blob(Blob::default()).wait().expect("a reply").payload);
    assert_ne!(peers[0], peers[1], "two sockets");
    assert_eq!(peers[..2], peers[2..]);
}

/// T40: what a clone of a context says after its call has ended goes to nobody else's call.
#[test]
fn nothing_is_carried_from_one_call_to_the_next() {
    let kept = Arc::new(Mutex::new(None::<Context>));
    let keep = Arc::clone(&kept);
    let server = bind(AnyServer::new(move |cx: Context, req: Blob| {
        assert!(cx.backward().is_empty() && !cx.is_cancelled());
        assert_eq!(cx.transient().get("secret").is_some(), req.payload == "keep");
        if req.payload == "keep" {
            cx.set_backward("mine", "yes");
            *keep.lock().unwrap() = Some(cx.clone());
        }
        async move { (cx, Ok(req)) }
    }));
    let client = EchoClient(connect(&server));
    let call = |payload: &'static str| client.blob(Blob { payload: payload.into() });
    let first = call("keep").metadata("secret", "1").response().wait().expect("a reply");
    assert_eq!(first.metadata.text("mine"), Some("yes"));
    kept.lock().unwrap().take().expect("kept").set_backward("late", "secret");
    let second = call("other").response().wait().expect("a reply");
    assert!(second.metadata.is_empty(), "{:?}", second.metadata);
}

/// Calls over `max_inflight` do not begin.
#[test]
fn what_is_over_the_limit_is_not_executed() {
    let begun = Arc::new(AtomicUsize::new(0));
    let (count, (tell, began)) = (Arc::clone(&begun), mpsc::channel());
    let service = AnyServer::new(move |cx: Context, req: Blob| {
        count.fetch_add(1, Ordering::Relaxed);
        let _ = tell.send(());
        async move {
            if req.payload == "stay" {
                pending::<()>().await;
            }
            (cx, Ok(req))
        }
    });
    let server = Server::builder().reactors(1).set("max_inflight", "1").add(service).bind("tcp://127.0.0.1:0").unwrap();
    let channel = connect(&server);
    let _stays = call_apart(&channel, b"stay", LIMIT);
    began.recv_timeout(LIMIT).expect("it runs");
    let error = EchoClient(channel).blob(Blob::default()).wait().expect_err("over the limit");
    assert_eq!(
        (error.code(), error.sent(), error.is_retryable()),
        (Code::ResourceExhausted, Sent::No, true),
        "{error}"
    );
    assert_eq!(begun.load(Ordering::Relaxed), 1);
}

/// B19, T18: of many calls on a connection, those whose handlers panic fail, at once or later, and all others are answered.
#[test]
fn b19_a_panic_costs_one_call() {
    let server = bind(AnyServer::new(|cx: Context, req: Blob| async move {
        let mut yielded = req.payload != "panics later" && req.payload != "later";
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        assert!(!req.payload.starts_with(b"panics"), "as it was asked for");
        (cx, Ok(req))
    }));
    let mut socket = dial(&server);
    let kinds: [&[u8]; 4] = [b"now", b"panics", b"later", b"panics later"];
    let requests: Vec<u8> = (1..=400).flat_map(|seq| raw_request(seq, kinds[seq as usize % 4])).collect();
    socket.write_all(&requests).unwrap();
    let mut outcomes = [0; 4];
    for n in 0..400 {
        let reply = read_raw(&mut socket).unwrap_or_else(|| panic!("the connection ended after {n} replies"));
        let kind = reply.seq as usize % 4;
        assert_eq!(reply.kind, Some([MessageType::Reply, MessageType::Exception][kind % 2]));
        outcomes[kind] += 1;
    }
    assert_eq!(outcomes, [100; 4]);
}

/// T18: a reply whose encoding panics ends its own connection at worst, and never the methods of the others.
#[test]
fn a_panic_in_encoding_leaves_the_server_whole() {
    for blocking in [false, true] {
        let mut service = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
        if blocking {
            service.blocking.all();
        }
        let server = bind(service);
        let (victim, other) = (EchoClient(connect(&server)), EchoClient(connect(&server)));
        other.blob(Blob::default()).wait().expect("an echo");
        let error = victim.nested(Nested::default()).wait().expect_err("it panics");
        let expected = if blocking { Code::Internal } else { Code::Unavailable };
        assert_eq!(error.code(), expected, "{error}");
        other.blob(Blob::default()).wait().expect("an echo, still");
        EchoClient(connect(&server)).blob(Blob::default()).wait().expect("an echo, on a new connection");
        assert_eq!(server.stats().in_flight, 0);
    }
}

/// Handlers wait for the gate with their payload's name to open; there is none for `echo`.
#[derive(Clone, Default)]
struct Gates(Arc<Mutex<HashMap<Bytes, Gate>>>);

/// Whether it is open, and who waits at it.
type Gate = (bool, Option<Waker>);

impl Gates {
    async fn pass(&self, name: &Bytes) {
        poll_fn(|task| {
            let mut gates = self.0.lock().expect("no panic");
            let (open, waker) = gates.entry(name.clone()).or_default();
            *waker = Some(task.waker().clone());
            if *open || name == "echo" { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn open(&self, name: &'static str) {
        let mut gates = self.0.lock().expect("no panic");
        let (open, waker) = gates.entry(Bytes::from_static(name.as_bytes())).or_default();
        *open = true;
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }

    fn server(&self) -> ServerHandle {
        let gates = self.clone();
        bind(AnyServer::new(move |cx: Context, req: Blob| {
            let gates = gates.clone();
            async move {
                gates.pass(&req.payload).await;
                (cx, Ok(req))
            }
        }))
    }
}

/// W5.4: the end of a call whose order does not count lets nothing overtake one whose does.
#[test]
fn replies_in_order_stay_in_order_beside_others() {
    let gates = Gates::default();
    let server = gates.server();
    let (mut socket, mut other) = (dial(&server), dial(&server));
    let requests = [raw_request(1, b"any order"), ordered_request(2, b"in order"), ordered_request(3, b"echo")];
    socket.write_all(&requests.concat()).unwrap();
    assert!(eventually(|| server.stats().in_flight == 2), "both wait at their gates");
    gates.open("any order");
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 1);
    for seq in 1..10 {
        // The same reactor has had turns enough to read on.
        other.write_all(&raw_request(seq, b"echo")).unwrap();
        read_raw(&mut other).expect("an echo");
    }
    gates.open("in order");
    let replies = [(); 2].map(|()| read_raw(&mut socket).expect("a reply").seq);
    assert_eq!(replies, [2, 3]);
}

/// T22: what came before the peer's end is begun, and answered if it can be at once. A handler that waits is dropped: the end may be the
/// peer's only way to say that nobody waits any more.
#[test]
fn a_peer_that_closes_its_side_gets_what_is_ready() {
    let gates = Gates::default();
    let server = gates.server();
    let mut socket = dial(&server);
    socket.write_all(&[raw_request(1, b"waits"), raw_request(2, b"echo")].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 2);
    assert!(read_raw(&mut socket).is_none(), "and no other");
    assert!(
        eventually(|| server.stats().connections == 0 && server.stats().in_flight == 0),
        "the one that waits is dropped"
    );
    assert_eq!(server.stats().accepted, 2);
}

/// A peer that goes on after the goodbye is refused in the end, unexecuted, so that what runs can end and the server with it.
/// B18, I23: who had connected and asked before the end began is answered, also where no reactor had seen the connection yet.
#[test]
fn b18_who_has_connected_is_served_before_the_end() {
    for round in 0..20 {
        let service = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
        let server = Server::builder().reactors(2).add(service).bind("tcp://127.0.0.1:0").expect("bound");
        let mut sockets = [dial(&server), dial(&server), dial(&server)];
        for socket in &mut sockets {
            socket.write_all(&raw_request(7, b"hello")).unwrap();
        }
        let drained = server.shutdown();
        drop(server);
        for socket in &mut sockets {
            let mut seen = std::iter::from_fn(|| read_raw(socket));
            assert!(seen.any(|reply| reply.seq == 7), "round {round}: no reply; {drained:?}");
        }
        assert_eq!((drained.cut_calls, drained.cut_connections), (0, 0), "round {round}");
    }
}

#[test]
fn requests_that_keep_coming_do_not_hold_up_the_end() {
    let waiting = Arc::new(Mutex::new((false, None::<Waker>)));
    let gate = Arc::clone(&waiting);
    let server = bind(AnyServer::new(move |cx: Context, req: Blob| {
        let gate = Arc::clone(&gate);
        async move {
            if req.payload == "stay" {
                poll_fn(|task| {
                    let mut gate = gate.lock().unwrap();
                    gate.1 = Some(task.waker().clone());
                    if gate.0 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
            (cx, Ok(req))
        }
    }));
    let mut socket = dial(&server);
    socket.write_all(&raw_request(1, b"hello")).unwrap();
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 1);
    let ending = {
        let server = server.clone();
        std::thread::spawn(move || server.shutdown())
    };
    assert_eq!(read_raw(&mut socket).expect("the goodbye").frame, GOODBYE);
    socket.write_all(&raw_request(2, b"stay")).unwrap();
    let (start, mut seq) = (Instant::now(), 3);
    let refused = loop {
        assert!(start.elapsed() < LIMIT, "it takes new calls for ever");
        socket.write_all(&raw_request(seq, b"more")).unwrap();
        let reply = read_raw(&mut socket).expect("a reply");
        assert_eq!(reply.seq, seq);
        seq += 1;
        if reply.kind == Some(MessageType::Exception) {
            break reply;
        }
    };
    let exception = Exception::decode(&refused.body[..]).expect("an exception");
    assert!(exception.message.contains("shutting down"), "{}", exception.message);
    {
        let mut gate = waiting.lock().unwrap();
        gate.0 = true;
        gate.1.take().expect("it waits").wake();
    }
    assert_eq!(read_raw(&mut socket).expect("the reply to what ran").seq, 2);
    assert!(read_raw(&mut socket).is_none(), "then the end");
    let drained = ending.join().expect("no panic");
    assert_eq!((drained.cut_calls, drained.cut_connections), (0, 0));
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.in_flight), (stats.replied, 0));
}

/// The grace ends while a connection waits for its peer to close: it had said everything, and nothing of that is taken back.
#[test]
fn a_connection_that_lingers_is_not_cut_by_the_end_of_the_grace() {
    let mut limits = rpc_core::Limits::server();
    limits.shutdown_grace = Duration::from_millis(1_900); // a second of it is for the goodbye
    let service = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
    let server = Server::builder().reactors(1).limits(limits).add(service).bind("tcp://127.0.0.1:0").unwrap();
    let mut socket = dial(&server);
    socket.write_all(&raw_request(7, b"hello")).unwrap();
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 7);
    let ending = {
        let server = server.clone();
        std::thread::spawn(move || server.shutdown())
    };
    assert_eq!(read_raw(&mut socket).expect("the goodbye").frame, GOODBYE);
    assert!(read_raw(&mut socket).is_none(), "then the end");
    // The peer does not close, nor stop to write.
    let writer = std::thread::spawn(move || while socket.write_all(&raw_request(8, &[0; 100_000])).is_ok() {});
    let drained = ending.join().expect("no panic");
    assert_eq!((drained.cut_calls, drained.cut_connections), (0, 0), "{drained:?}");
    assert_eq!(server.reactors().handles()[0].stats().connections.get(), 0, "nothing is left");
    writer.join().unwrap();
}

/// B35: a limit may be as long as its type allows.
#[test]
fn no_grace_is_too_long() {
    let service = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
    let mut limits = rpc_core::Limits::server();
    limits.shutdown_grace = Duration::MAX;
    limits.idle_timeout = Duration::MAX;
    limits.frame_progress = Duration::MAX;
    let server = Server::builder().reactors(1).limits(limits).add(service).bind("tcp://127.0.0.1:0").unwrap();
    EchoClient(connect(&server)).blob(Blob::default()).wait().expect("an echo");
    let (first, second) = (server.clone(), server.clone());
    let both = [first, second].map(|server| std::thread::spawn(move || server.shutdown()));
    for ending in both {
        assert_eq!(ending.join().expect("no panic").cut_connections, 0);
    }
    assert_eq!(server.shutdown().cut_calls, 0, "once more: nothing left to do");
}

/// A text over the frame limit would end the connection at the caller's side, with every other call on it.
/// Blocking callers may not turn a server's reactors, and reactors are a server's own or a pool's.
#[test]
fn a_pool_that_a_server_cannot_use_is_refused() {
    let pool = |callers_may_lead| {
        let options = PoolOptions { reactors: 1, callers_may_lead, ..PoolOptions::default() };
        Arc::new(ReactorPool::start(options).expect("a reactor"))
    };
    let refused = |builder: ServerBuilder| {
        let echo = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
        builder.add(echo).bind("tcp://127.0.0.1:0").expect_err("refused").to_string()
    };
    let led = refused(Server::builder().pool(pool(true)));
    assert!(led.contains("callers_may_lead"), "{led}");
    let both = refused(Server::builder().reactors(2).pool(pool(false)));
    assert!(both.contains("leave one of"), "{both}");
}

/// Who asks a server that hangs hears which method it is.
#[test]
fn a_held_reactor_is_shown_with_the_method_that_holds_it() {
    let (tell, told) = mpsc::channel();
    let (release, gate) = mpsc::channel::<()>();
    let (tell, gate) = (Mutex::new(tell), Mutex::new(gate));
    let holds = Arc::new(move || {
        let _ = tell.lock().unwrap().send(());
        let _ = gate.lock().unwrap().recv_timeout(LIMIT);
    });
    let server = bind(AnyServer::new(move |cx: Context, req: Blob| {
        let holds = Arc::clone(&holds);
        async move {
            holds();
            (cx, Ok(req))
        }
    }));
    let channel = connect(&server);
    let call = std::thread::spawn(move || EchoClient(channel).blob(Blob::default()).timeout(LIMIT).wait());
    told.recv_timeout(LIMIT).expect("it runs");
    let options = SnapshotOptions { timeout: Duration::from_millis(50), ..SnapshotOptions::default() };
    let snapshot = server.monitor().snapshot(&options).expect("the server lives").to_string();
    assert!(snapshot.contains("in one turn all the time: held by ") && snapshot.contains("/Blob"), "{snapshot}");
    release.send(()).expect("it waits");
    call.join().unwrap().expect("a reply");
    let options = SnapshotOptions { timeout: LIMIT, ..SnapshotOptions::default() };
    let snapshot = server.monitor().snapshot(&options).expect("the server lives");
    let inside = snapshot.reactors[0].inside.as_ref().expect("it goes on");
    let load = inside.connections[0].load;
    assert_eq!((load.in_flight, load.frames_in), (Some(0), Some(1)), "{snapshot}");
    let monitor = server.monitor();
    drop(server);
    assert!(monitor.snapshot(&options).is_none());
}

/// On a pool that goes on, an address that was bound before another failed would be served for ever, by nobody's handle.
#[test]
fn a_server_that_cannot_have_all_addresses_has_none() {
    let options = PoolOptions { reactors: 1, ..PoolOptions::default() };
    let pool = Arc::new(ReactorPool::start(options).expect("a reactor"));
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("another");
    let echo = AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) });
    let urls = [free, taken.local_addr().expect("bound")].map(|address| format!("tcp://{address}"));
    Server::builder().pool(pool).add(echo).bind_all(urls).expect_err("one is taken");
    TcpListener::bind(free).expect("nobody listens there any more");
}

#[test]
fn a_long_error_is_shortened() {
    let service =
        AnyServer::new(
            |cx: Context, _: Blob| async move { (cx, Err(Error::new(Code::NotFound, "é".repeat(100_000)))) },
        );
    let server = Server::builder().reactors(1).set("max_frame_size", "64KiB").add(service);
    let server = server.bind("tcp://127.0.0.1:0").unwrap();
    let channel = Channel::builder(server.url().to_string()).set("max_frame_size", "64KiB").connections(1);
    let channel = channel.build().unwrap();
    let error = EchoClient(channel.clone()).blob(Blob::default()).wait().expect_err("not found");
    assert_eq!((error.code(), channel.stats().connects.get()), (Code::NotFound, 1));
    assert!(error.to_string().len() > 30_000);
}

#[test]
fn a_malformed_header_is_no_accepted_call() {
    let server = bind(AnyServer::new(|cx: Context, req: Blob| async move { (cx, Ok(req)) }));
    let mut socket = dial(&server);
    // The info section names a block that does not exist: fatal, and nothing was accepted.
    let mut frame = raw_request(1, b"");
    frame[16] = 0x7f;
    socket.write_all(&frame).unwrap();
    assert!(read_raw(&mut socket).is_none());
    assert_eq!((server.stats().accepted, server.stats().replied), (0, 0));
}

/// `write_hard` leaves room for what a server may have in its output whatever its peer does: a byte less than `write_high`, and then the
/// largest frame with its length field, and words beside calls.
#[test]
fn the_largest_reply_fits_into_an_output_just_below_write_high() {
    const MAX: usize = 12_000;
    for high in [10_000_usize, 1] {
        let service = AnyServer::new(|cx: Context, req: Blob| async move {
            let len = std::str::from_utf8(&req.payload).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            // Both replies are written in a later part of the turn, without a look at the socket in between.
            let mut waited = false;
            let once = |cx: &mut std::task::Context<'_>| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
            };
            poll_fn(once).await;
            (cx, Ok(Blob { payload: Bytes::from(vec![7; len]) }))
        });
        let (max, high_text) = (MAX.to_string(), high.to_string());
        let set = [("max_frame_size", &max[..]), ("write_low", "1"), ("write_high", &high_text), ("write_hard", "1")];
        let server = support::bind(service, &set);
        let mut socket = support::negotiated(&server);
        let ask = |seq, len: usize| support::raw_request(seq, len.to_string().as_bytes());
        // What a reply has besides its payload, with its length field.
        socket.write_all(&ask(2, 5_000)).expect("it reads");
        let besides = read_raw(&mut socket).expect("a reply").frame.len() - 5_000;
        let largest = MAX + 4 - besides;
        let before = (high > 1).then(|| high - 1 - besides); // nothing, or a byte less than `write_high`
        let pings = support::control(ControlFrame::Ping(1));
        let asked: Vec<_> = before.into_iter().chain([largest]).collect();
        let requests = (3..).zip(&asked).flat_map(|(seq, len)| ask(seq, *len));
        socket.write_all(&pings.into_iter().chain(requests).collect::<Vec<_>>()).expect("it reads");
        let mut sizes = Vec::new();
        while sizes.len() < asked.len() {
            let frame = read_raw(&mut socket).expect("the connection stays");
            sizes.extend(frame.kind.map(|_| frame.frame.len())); // not the pong's
        }
        assert_eq!(sizes, asked.iter().map(|len| len + besides).collect::<Vec<_>>(), "write_high {high}");
        assert_eq!(sizes.last(), Some(&(4 + MAX)));
        socket.write_all(&ask(5, largest + 1)).expect("it reads");
        let more = read_raw(&mut socket).expect("the connection stays");
        assert_eq!(more.kind, Some(MessageType::Exception), "a byte more than a frame may have");
    }
}

/// Calls of methods that block wait for a thread, so many and no more.
#[test]
fn a_call_that_finds_the_workers_queue_full_is_refused_unexecuted() {
    let (begun, begins) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let held = Mutex::new((begun, released));
    let mut service = AnyServer::new(move |cx: Context, req: Blob| {
        let held = held.lock().unwrap();
        let _ = held.0.send(req.payload.clone()); // the second one's comes after the test
        let _ = held.1.recv_timeout(LIMIT);
        async move { (cx, Ok(req)) }
    });
    service.blocking.all();
    let mut limits = rpc_core::Limits::server();
    limits.worker_queue = 1;
    let server = Server::builder().reactors(1).workers(1).limits(limits).add(service).bind("tcp://127.0.0.1:0");
    let server = server.expect("bound");
    let (monitor, channel) = (server.monitor(), connect(&server));
    let _runs = call_apart(&channel, b"it runs", LIMIT);
    assert_eq!(begins.recv_timeout(LIMIT).unwrap(), "it runs");
    let _waits = call_apart(&channel, b"it waits", LIMIT);
    let stats = || monitor.workers(Lane::Fast).expect("a method blocks");
    assert!(eventually(|| (stats().running, stats().waiting) == (1, 1)), "{:?}", stats());
    let error = EchoClient(channel.clone()).blob(Blob { payload: "too many".into() }).wait().unwrap_err();
    assert_eq!((error.code(), error.sent()), (Code::ResourceExhausted, Sent::No), "{error}");
    assert!(error.to_string().contains("worker_queue is 1"), "{error}");
    assert_eq!(stats().refused, 1);
    drop(release);
}
