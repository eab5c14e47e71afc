//! What peers say beside calls, on real sockets: negotiation, keepalive, cancellation, goaway. On one end of each
//! connection a peer is written by hand.

mod support;

use std::future::pending;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::ControlFrame::{Cancel, GoAway, Ping, Pong};
use rpc_core::protocol::ttheader::write_frame_head;
use rpc_core::{Channel, ChannelBuilder, Code, Context, Sent};
use support::{
    AnyServer, Blob, EchoClient, GOODBYE, LIMIT, Raw, announcing_request, bind, call_apart, code_of, confirming_reply,
    control, dial, eventually, negotiated, on_reactor, peer, raw_reply, raw_request, read_raw, with_timeout,
};

/// `first` is answered at once; anything else waits for ever.
fn never() -> AnyServer {
    AnyServer::new(|cx: Context, req: Blob| async move {
        if req.payload != "first" {
            pending::<()>().await;
        }
        (cx, Ok(req))
    })
}

fn client(url: &str, set: &[(&str, &str)]) -> Channel {
    let builder: ChannelBuilder = Channel::builder(url).connections(1);
    set.iter().fold(builder, |builder, (name, value)| builder.set(name, value)).build().expect("a channel")
}

fn ends(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).is_ok() || rest.is_empty()
}

/// Kitex's clients announce nothing: they see replies as ever, and a control frame of theirs is none.
#[test]
fn nobody_hears_of_control_frames_unasked() {
    let server = bind(never(), &[]);
    let mut socket = dial(&server);
    socket.write_all(&raw_request(1, b"first")).expect("it reads");
    let reply = read_raw(&mut socket).expect("a reply");
    assert_eq!(reply.info().capabilities, None);
    socket.write_all(&control(Ping(1))).expect("it reads");
    assert!(read_raw(&mut socket).is_none(), "it breaks the protocol there");
}

/// Many calls are under way when the first reply goes out; each later one is plain.
#[test]
fn one_reply_confirms_whichever_is_first() {
    let server = bind(never(), &[]);
    let mut socket = dial(&server);
    for (seq, payload) in [(1, &b"waits"[..]), (2, b"waits"), (3, b"first"), (4, b"first")] {
        socket.write_all(&announcing_request(seq, payload)).expect("it reads");
    }
    let replies = [(); 2].map(|()| read_raw(&mut socket).expect("a reply"));
    assert_eq!(replies.each_ref().map(|reply| (reply.seq, reply.info().capabilities)), [(3, Some(1)), (4, None)]);
    // It has been said: now they may be sent.
    socket.write_all(&control(Ping(7))).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a pong").control(), Some(Pong(7)));
}

/// The confirmation comes with whatever reply is first: an exception of a worker, a refusal, a business status.
#[test]
fn any_kind_of_reply_confirms() {
    for blocking in [false, true] {
        let mut service = AnyServer::new(|cx: Context, req: Blob| async move {
            match &req.payload[..] {
                b"business" => (cx, Err(rpc_core::Error::business(7, "no"))),
                b"error" => (cx, Err(rpc_core::Error::new(Code::Aborted, "no"))),
                b"backward" => {
                    cx.set_backward("key", "value");
                    (cx, Ok(req))
                }
                _ => (cx, Ok(req)),
            }
        });
        if blocking {
            service.blocking.all();
        }
        let server = bind(service, &[]);
        for payload in [&b"business"[..], b"error", b"backward", b"plain"] {
            let mut socket = dial(&server);
            socket.write_all(&announcing_request(5, payload)).expect("it reads");
            assert_eq!(read_raw(&mut socket).expect("a reply").info().capabilities, Some(1));
            socket.write_all(&control(Ping(1))).expect("it reads");
            assert_eq!(read_raw(&mut socket).expect("a pong").control(), Some(Pong(1)));
        }
    }
}

/// A request that is refused for its header confirms what the one before it announced.
#[test]
fn a_refused_header_confirms_an_earlier_announcement() {
    let server = bind(never(), &[("max_header_size", "64")]);
    let mut socket = dial(&server);
    socket.write_all(&announcing_request(1, b"waits")).expect("it reads");
    let mut long = Vec::new();
    write_frame_head(&mut long, 1, 2, [&[0; 100][..], b""], MessageType::Call, b"Blob", 0).expect("short");
    socket.write_all(&long).expect("it reads");
    let reply = read_raw(&mut socket).expect("a refusal");
    assert_eq!((reply.seq, reply.kind, reply.info().capabilities), (2, Some(MessageType::Exception), Some(1)));
    socket.write_all(&control(Ping(1))).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a pong").control(), Some(Pong(1)));
}

/// Pings of one segment are answered together; more than the strikes in less than the least interval end the connection, and say why.
#[test]
fn t12_pings_are_answered_once_a_batch_and_too_many_end_the_connection() {
    let server = bind(never(), &[("keepalive_min_interval", "10s")]);
    let mut socket = negotiated(&server);
    let burst = [1, 2, 3].map(|number| control(Ping(number))).concat();
    socket.write_all(&burst).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a pong").control(), Some(Pong(3)), "one for all three");
    socket.write_all(&control(Ping(4))).expect("it reads");
    let last = read_raw(&mut socket).expect("a goaway");
    assert_eq!(last.control(), Some(GoAway { last: 0, reason: b"too_many_pings" }), "nothing is promised");
    assert!(read_raw(&mut socket).is_none(), "it is closed");
}

/// A cancelled handler is dropped, its call is answered with an exception, once, and nothing else is.
#[test]
fn a_cancelled_call_is_dropped_and_answered_once() {
    struct OnDrop(Option<Arc<AtomicUsize>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            if let Some(dropped) = &self.0 {
                dropped.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&dropped);
    let server = bind(
        AnyServer::new(move |cx: Context, req: Blob| {
            let mut guard = OnDrop(Some(Arc::clone(&counter)));
            async move {
                if req.payload != "first" {
                    pending::<()>().await;
                }
                drop(guard.0.take()); // it came to its end
                (cx, Ok(req))
            }
        }),
        &[],
    );
    let mut socket = negotiated(&server);
    let frames = [
        announcing_request(2, b"waits"),
        announcing_request(3, b"waits"),
        control(Cancel(2)),
        control(Cancel(2)),  // again: it is unknown now
        control(Cancel(99)), // never was
        control(Cancel(1)),  // answered long ago
        announcing_request(4, b"first"),
    ];
    socket.write_all(&frames.concat()).expect("it reads");
    let cancelled = read_raw(&mut socket).expect("a reply");
    assert_eq!((cancelled.seq, code_of(&cancelled)), (2, Some(Code::Cancelled)));
    assert!(!cancelled.info().not_executed, "it had begun");
    let next = read_raw(&mut socket).expect("a reply");
    assert_eq!((next.seq, next.kind), (4, Some(MessageType::Reply)), "nothing between");
    assert_eq!(dropped.load(Ordering::SeqCst), 1, "the other still waits");
    assert_eq!(server.stats().in_flight, 1);
    drop(socket);
    assert!(eventually(|| dropped.load(Ordering::SeqCst) == 2), "the end of the connection cancels it");
}

/// T15, T16: whoever has more than half of its calls cut short is told to leave; what runs ends in peace, what comes is not begun.
#[test]
fn t15_t16_calls_that_are_cut_short_spend_a_budget() {
    for by_deadline in [false, true] {
        let server = bind(never(), &[("cancel_budget", "20")]);
        let mut socket = negotiated(&server);
        socket.write_all(&announcing_request(9000, b"waits")).expect("it reads");
        let mut seq = 1;
        let reason = loop {
            seq += 1;
            assert!(seq < 200, "the budget is spent sooner");
            let request = if by_deadline {
                with_timeout(1, MessageType::Call, seq, b"5")
            } else {
                announcing_request(seq, b"waits")
            };
            let cancel = if by_deadline { Vec::new() } else { control(Cancel(seq)) };
            socket.write_all(&[request, cancel].concat()).expect("it reads");
            let reply = read_raw(&mut socket).expect("a reply");
            match reply.control() {
                Some(GoAway { last: 0, reason }) => break reason.to_vec(),
                Some(other) => panic!("{other:?}"),
                None => assert_eq!(reply.seq, seq),
            }
        };
        assert_eq!(reason, b"cancel_budget");
        // All of 20 calls are needed, the two that were not cut short weigh little, and one more was sent before the goaway was read.
        assert!((19..=22).contains(&seq), "{seq}");
        let Some(Ping(number)) = read_raw(&mut socket).expect("a ping").control() else { panic!("a ping") };
        assert_eq!(read_raw(&mut socket).expect("a reply").seq, seq, "what was on its way is served");
        socket.write_all(&control(Pong(number))).expect("it reads");
        let decided = read_raw(&mut socket).expect("a goaway");
        assert_eq!(decided.control(), Some(GoAway { last: seq, reason: b"cancel_budget" }));
        socket.write_all(&announcing_request(777, b"first")).expect("it reads");
        let refused = read_raw(&mut socket).expect("a reply");
        assert_eq!((refused.seq, refused.info().not_executed), (777, true));
        // The one that ran all the while has its end, and then the connection.
        socket.write_all(&control(Cancel(9000))).expect("it reads");
        assert_eq!(read_raw(&mut socket).expect("a reply").seq, 9000);
        assert!(read_raw(&mut socket).is_none());
    }
}

/// Frames that lie about what they are end the connection; so do more cancellations than there were requests, in the end.
#[test]
fn malformed_control_frames_end_the_connection() {
    let server = bind(never(), &[]);
    let well_formed = control(Ping(1));
    let at = |needle: &[u8]| well_formed.windows(needle.len()).position(|w| w == needle).expect("it is there");
    let with = |at: usize, byte: u8| {
        let mut bytes = well_formed.clone();
        bytes[at] = byte;
        bytes
    };
    let cases = [
        ("an unknown kind", with(at(b"ping"), b'P')),
        ("no number", with(at(b"1\0\0"), b'x')),
        ("another key for the number", with(at(b"\x79\x1b"), 0)),
        ("a length past the end", with(at(b"\x04ping"), 200)),
        ("the id 0 cancelled", control(Cancel(0))),
    ];
    for (what, bytes) in cases {
        let mut socket = negotiated(&server);
        socket.write_all(&bytes).expect("it reads");
        assert!(read_raw(&mut socket).is_none(), "{what}");
    }
    let mut socket = negotiated(&server);
    socket.write_all(&control(Cancel(5)).repeat(300)).expect("it reads");
    assert!(ends(&mut socket), "one request, three hundred cancellations");
    assert!(eventually(|| server.stats().connections == 0));
}

/// At the limit of running handlers a connection is read on until a request comes that has no room: so cancellations are heard.
#[test]
fn a_full_connection_hears_cancellations() {
    let server = bind(never(), &[("max_inflight_per_conn", "2")]);
    let mut socket = negotiated(&server);
    for seq in [2, 3] {
        socket.write_all(&announcing_request(seq, b"waits")).expect("it reads");
    }
    assert!(eventually(|| server.stats().in_flight == 2));
    socket
        .write_all(&[control(Ping(1)), control(Cancel(3)), announcing_request(4, b"first")].concat())
        .expect("it reads");
    let heard = [(); 3].map(|()| read_raw(&mut socket).expect("a frame"));
    let mut seqs = heard.each_ref().map(|raw| raw.seq);
    seqs.sort();
    assert_eq!(seqs, [0, 3, 4]);
    // A request with no room waits, and what is behind it, too.
    for seq in [5, 6] {
        socket.write_all(&announcing_request(seq, b"waits")).expect("it reads");
    }
    socket.write_all(&announcing_request(7, b"first")).expect("it reads");
    assert!(eventually(|| server.stats().in_flight == 2));
    assert_eq!(server.stats().accepted, 5, "the sixth has no room yet, and the seventh stands behind it");
}

/// Pings are no calls: a client that only pings is idle, whatever it sends.
#[test]
fn pings_do_not_keep_an_idle_connection() {
    let server = bind(never(), &[("idle_timeout", "400ms"), ("keepalive_min_interval", "1ms")]);
    let mut socket = negotiated(&server);
    let mut pings = 0;
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LIMIT, "{pings} pings kept it open");
        pings += 1;
        if socket.write_all(&control(Ping(pings))).is_err() {
            break;
        }
        match read_raw(&mut socket) {
            Some(raw) => assert_eq!(raw.control(), Some(Pong(pings))),
            None => break,
        }
        std::thread::sleep(Duration::from_millis(5)); // the least interval of pings, and more
    }
    assert!(pings > 3, "it was in use: {pings}");
}

/// The server looks at a silent client while its calls run, and ends them when there is no answer.
#[test]
fn t5_a_server_gives_up_a_vanished_client() {
    let server = bind(
        never(),
        &[("keepalive_min_interval", "10ms"), ("keepalive_interval", "100ms"), ("keepalive_timeout", "3s")],
    );
    let mut socket = negotiated(&server);
    socket.write_all(&announcing_request(2, b"waits")).expect("it reads");
    for _ in 0..3 {
        let raw = read_raw(&mut socket).expect("a ping");
        let Some(Ping(number)) = raw.control() else { panic!("{:?}", raw.frame) };
        assert_eq!(server.stats().in_flight, 1);
        socket.write_all(&control(Pong(number))).expect("it reads");
    }
    // Silent from now on.
    assert!(eventually(|| server.stats().in_flight == 0 && server.stats().connections == 0));
}

/// I19: nobody looks at a connection without calls.
#[test]
fn idle_connections_are_not_looked_at() {
    let server = bind(
        never(),
        &[("keepalive_min_interval", "10ms"), ("keepalive_interval", "50ms"), ("keepalive_timeout", "50ms")],
    );
    let mut socket = negotiated(&server);
    socket.write_all(&[announcing_request(2, b"waits"), control(Cancel(2))].concat()).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 2);
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let silence = socket.read(&mut [0; 1]).expect_err("silence for ten intervals");
    assert!(matches!(silence.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{silence}");
    let polls = || server.reactors().handles()[0].stats().polls.get();
    let before = polls();
    std::thread::sleep(Duration::from_millis(500)); // what is measured is that nothing happens in a time
    assert!(polls() - before <= 2, "{} wake-ups", polls() - before);
}

/// B29, I23, I24: a server that shuts down says so at once, serves what was on its way, and refuses what comes after that.
#[test]
fn a_shutdown_says_goaway_and_serves_what_was_on_its_way() {
    let server = bind(
        AnyServer::new(|cx: Context, req: Blob| async move {
            if req.payload == "later" {
                rpc_core::sleep(Duration::from_millis(300)).await; // still runs when the goodbye is said
            }
            (cx, Ok(req))
        }),
        &[],
    );
    let mut socket = negotiated(&server);
    socket.write_all(&announcing_request(2, b"later")).expect("it reads");
    assert!(eventually(|| server.stats().in_flight == 1));
    let stopping = server.clone();
    let stopped = std::thread::spawn(move || stopping.shutdown());
    let told = read_raw(&mut socket).expect("a goaway");
    assert_eq!(told.control(), Some(GoAway { last: 0, reason: b"shutting_down" }), "while a call runs");
    let Some(Ping(number)) = read_raw(&mut socket).expect("a ping").control() else { panic!("a ping") };
    // This was on its way when the goaway came.
    socket.write_all(&announcing_request(3, b"crossing")).expect("it reads");
    let crossing = read_raw(&mut socket).expect("a reply");
    assert_eq!((crossing.seq, crossing.kind), (3, Some(MessageType::Reply)));
    socket.write_all(&[control(Pong(number)), announcing_request(4, b"too late")].concat()).expect("it reads");
    let decided = read_raw(&mut socket).expect("a goaway");
    assert_eq!(decided.control(), Some(GoAway { last: 3, reason: b"shutting_down" }));
    let late = read_raw(&mut socket).expect("a reply");
    assert_eq!((late.seq, late.info().not_executed, code_of(&late)), (4, true, Some(Code::Unavailable)));
    let running = read_raw(&mut socket).expect("a reply");
    assert_eq!((running.seq, running.kind), (2, Some(MessageType::Reply)), "what ran has its end");
    assert!(read_raw(&mut socket).is_none());
    let drained = stopped.join().expect("no panic");
    assert_eq!((drained.cut_calls, drained.cut_connections), (0, 0));
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.replied), (4, 4));
}

/// B29: Kitex's multiplexing clients are told as ever: when nothing runs, by their own goodbye.
#[test]
fn a_shutdown_says_kitex_s_goodbye_to_everybody_else() {
    let server = bind(never(), &[]);
    let mut socket = dial(&server);
    socket.write_all(&raw_request(1, b"first")).expect("it reads");
    read_raw(&mut socket).expect("a reply");
    let stopping = server.clone();
    let stopped = std::thread::spawn(move || stopping.shutdown());
    assert_eq!(read_raw(&mut socket).expect("a goodbye").frame, GOODBYE);
    assert!(read_raw(&mut socket).is_none());
    stopped.join().expect("no panic");
}

/// What a hand-written server does with each frame of its connections, after it has confirmed with its first reply.
fn by_hand(serve: impl Fn(usize, &mut TcpStream, Raw) -> bool + Send + Sync + 'static) -> String {
    peer(move |n, mut socket| {
        let mut confirmed = false;
        while let Some(frame) = read_raw(&mut socket) {
            if !std::mem::replace(&mut confirmed, true) {
                socket.write_all(&confirming_reply(frame.seq, &frame.body)).expect("it reads");
            } else if !serve(n, &mut socket, frame) {
                return;
            }
        }
    })
}

fn call(channel: &Channel, payload: &'static [u8]) -> rpc_core::Result<Bytes> {
    call_apart(channel, payload, LIMIT).recv_timeout(2 * LIMIT).expect("an outcome")
}

/// A call that is dropped, or times out, is told to the server; its id is free when the answer has come, and only then.
#[test]
fn a_dropped_call_is_told_and_its_id_is_free_after_the_answer() {
    let (tell, hear) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = by_hand(move |_, socket, frame| {
        let cancelled = match frame.control() {
            Some(Cancel(seq)) => Some(seq),
            Some(other) => panic!("{other:?}"),
            None => None,
        };
        tell.lock().expect("no panic").send((frame.seq, cancelled)).expect("the test listens");
        if frame.kind.is_some() && support::blob(&frame.body) == b"answer" {
            socket.write_all(&raw_reply(frame.seq, &frame.body)).expect("it reads");
        }
        if let Some(seq) = cancelled {
            socket.write_all(&raw_reply(seq, b"")).expect("it reads");
        }
        true
    });
    let channel = client(&url, &[("client_max_inflight", "8")]);
    call(&channel, b"hello").expect("a reply");
    let hears = || hear.recv_timeout(LIMIT).expect("the server hears");

    // By its deadline.
    let short = call_apart(&channel, b"slow", Duration::from_millis(50));
    let (slow, _) = hears();
    assert_eq!(short.recv_timeout(LIMIT).expect("an outcome").expect_err("late").code(), Code::DeadlineExceeded);
    assert_eq!(hears(), (0, Some(slow)));

    // Dropped on its reactor, and from elsewhere.
    let dropping = channel.clone();
    on_reactor(&channel, async move {
        let echo = EchoClient(dropping);
        let mut call = Box::pin(echo.blob(Blob { payload: Bytes::from_static(b"slow") }).into_future());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    });
    let (second, _) = hears();
    assert_eq!(hears(), (0, Some(second)));
    assert_ne!(slow, second);
    assert!(eventually(|| channel.stats().late_replies.get() == 2), "both have been answered");

    // Ids go round: all of the eight places can be had again.
    for _ in 0..8 {
        call(&channel, b"answer").expect("a reply");
        hears();
    }
    assert_eq!(channel.stats().connects.get(), 1, "one connection all the while");
}

/// I23: what comes after the line is not begun. A request hears so; a oneway message, to which nothing can be said, is dropped.
#[test]
fn what_comes_after_the_line_is_not_begun() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&begun);
    let service = AnyServer::new(move |cx: Context, req: Blob| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if req.payload == "waits" {
                pending::<()>().await;
            }
            (cx, Ok(req))
        }
    });
    let server = bind(service, &[]);
    let mut socket = negotiated(&server);
    socket.write_all(&announcing_request(9000, b"waits")).expect("it reads");
    assert!(eventually(|| server.stats().in_flight == 1), "it runs, so that the connection stays");
    server.begin_shutdown();
    let reason = b"shutting_down";
    assert_eq!(read_raw(&mut socket).expect("a goaway").control(), Some(GoAway { last: 0, reason }));
    let Some(Ping(number)) = read_raw(&mut socket).expect("a ping").control() else { panic!("a ping") };
    socket.write_all(&control(Pong(number))).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a goaway").control(), Some(GoAway { last: 9000, reason }));
    let before = begun.load(Ordering::SeqCst);
    let oneway = with_timeout(1, MessageType::Oneway, 776, b"5000");
    socket.write_all(&[oneway, announcing_request(777, b"late")].concat()).expect("it reads");
    let refused = read_raw(&mut socket).expect("a reply");
    assert_eq!((refused.seq, refused.info().not_executed), (777, true));
    assert_eq!(begun.load(Ordering::SeqCst), before);
    socket.write_all(&control(Cancel(9000))).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 9000);
    assert!(read_raw(&mut socket).is_none(), "nothing runs, and it closes");
}

/// Without the word of the server nothing is sent that a Kitex server would choke on.
#[test]
fn a_dropped_call_is_not_told_to_who_does_not_know() {
    let (tell, hear) = mpsc::channel();
    let tell = Mutex::new(tell);
    let url = peer(move |_, mut socket| {
        while let Some(frame) = read_raw(&mut socket) {
            tell.lock().expect("no panic").send(frame.seq).expect("the test listens");
            if support::blob(&frame.body) == b"answer" {
                socket.write_all(&raw_reply(frame.seq, &frame.body)).expect("it reads");
            }
        }
    });
    let channel = client(&url, &[]);
    for payload in [&b"answer"[..], b"slow", b"answer"] {
        let _ = call_apart(&channel, payload, Duration::from_millis(200)).recv_timeout(LIMIT).expect("an outcome");
        assert_ne!(hear.recv_timeout(LIMIT).expect("a request"), 0, "no control frame");
    }
    assert!(hear.try_recv().is_err());
}

/// T5: a server that vanishes. All calls end when that is known, long before their deadlines, and say so.
#[test]
fn t5_a_client_gives_up_a_vanished_server() {
    let pings = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pings);
    let url = by_hand(move |_, socket, frame| {
        match frame.control() {
            Some(Ping(number)) if counter.fetch_add(1, Ordering::SeqCst) < 2 => {
                socket.write_all(&control(Pong(number))).expect("it reads");
            }
            Some(Ping(_)) | None => {} // it is gone
            Some(other) => panic!("{other:?}"),
        }
        true
    });
    let set = [("keepalive_min_interval", "10ms"), ("keepalive_interval", "100ms"), ("keepalive_timeout", "300ms")];
    let channel = client(&url, &set);
    call(&channel, b"hello").expect("a reply");
    let start = Instant::now();
    let calls = [(); 5].map(|()| call_apart(&channel, b"slow", Duration::from_secs(600)));
    for call in calls {
        let error = call.recv_timeout(2 * LIMIT).expect("an outcome").expect_err("the server is gone");
        assert_eq!((error.code(), error.sent()), (Code::Unavailable, Sent::Maybe));
        assert!(error.to_string().contains("keepalive_timeout"), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!(pings.load(Ordering::SeqCst), 3, "two were answered, one was not");
    call(&channel, b"hello").expect("another connection");
}

/// Bytes are life: a reply that takes longer than interval and timeout together, and a pong behind it.
#[test]
fn a_slow_reply_is_no_silence() {
    let url = by_hand(|_, socket, frame| {
        match frame.control() {
            None => {
                let reply = raw_reply(frame.seq, &frame.body);
                for piece in reply.chunks(4) {
                    socket.write_all(piece).expect("it reads");
                    std::thread::sleep(Duration::from_millis(60)); // slower than the timeout in all, faster at each step
                }
            }
            Some(Ping(number)) => socket.write_all(&control(Pong(number))).expect("it reads"),
            Some(other) => panic!("{other:?}"),
        }
        true
    });
    let set = [("keepalive_min_interval", "10ms"), ("keepalive_interval", "50ms"), ("keepalive_timeout", "500ms")];
    let channel = client(&url, &set);
    call(&channel, b"hello").expect("a reply");
    assert_eq!(call(&channel, b"slowly, in many pieces, each of them a sign of life").expect("a reply").len(), 51);
    assert_eq!(channel.stats().connects.get(), 1);
}

/// I24: after goaway no call is opened there; those under way end, new ones go elsewhere, and no caller sees any of it.
#[test]
fn a_client_moves_on_after_goaway() {
    let slow = Arc::new(Mutex::new(None));
    let held = Arc::clone(&slow);
    let url = by_hand(move |n, socket, frame| {
        match frame.control() {
            Some(Pong(5)) => {
                // What the client wrote before it saw the ping is here; now the slow call gets its reply.
                let reply: Vec<u8> = held.lock().expect("no panic").take().expect("it came before");
                socket.write_all(&reply).expect("it reads");
            }
            Some(other) => panic!("{other:?}"),
            None if support::blob(&frame.body) == b"slow" => {
                *held.lock().expect("no panic") = Some(raw_reply(frame.seq, &frame.body));
                let goaway = [control(GoAway { last: 0, reason: b"test" }), control(Ping(5))].concat();
                socket.write_all(&goaway).expect("it reads");
            }
            None => {
                assert!(n > 0, "the first connection has said goaway");
                socket.write_all(&raw_reply(frame.seq, &frame.body)).expect("it reads");
            }
        }
        true
    });
    let channel = client(&url, &[]);
    call(&channel, b"hello").expect("a reply");
    assert_eq!(call(&channel, b"slow").expect("it ends where it began"), "slow");
    for _ in 0..10 {
        call(&channel, b"next").expect("no caller sees a goaway");
    }
    assert_eq!(channel.stats().connects.get(), 2);
    assert_eq!(channel.stats().glitches.get(), 0);
}

/// A server that pings without end, and one that says what only clients say.
#[test]
fn hostile_servers_are_left() {
    let url = by_hand(|n, socket, frame| {
        if n > 0 {
            socket.write_all(&raw_reply(frame.seq, &frame.body)).expect("it reads");
            return true;
        }
        let _ = socket.write_all(&control(Ping(1)).repeat(10));
        let told = std::iter::from_fn(|| read_raw(socket)).last().expect("a goaway");
        assert_eq!(told.control(), Some(GoAway { last: 0, reason: b"too_many_pings" }));
        let _ = socket.shutdown(Shutdown::Both);
        false
    });
    let channel = client(&url, &[]);
    call(&channel, b"hello").expect("a reply");
    let error = call(&channel, b"flood").expect_err("the connection is closed");
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.to_string().contains("keepalive_min_interval"), "{error}");
    call(&channel, b"hello").expect("another connection");

    let url = by_hand(|_, socket, frame| {
        socket.write_all(&[control(Cancel(1)), control(Pong(9)), raw_reply(frame.seq, &frame.body)].concat()).is_ok()
    });
    let channel = client(&url, &[]);
    call(&channel, b"hello").expect("a reply");
    call(&channel, b"hello").expect("content errors are borne");
    assert_eq!(channel.stats().glitches.get(), 2);
}
