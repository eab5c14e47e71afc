//! What a client does when its peer is slow, gone, back again or hostile, and where calls may be made from.

use std::future::{Future, IntoFuture};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rpc_core::{Cause, Channel, ChannelBuilder, Code, Error, Refusal, Sent};
use testee::idl::testee::{Blob, Empty, Hop, Millis, TesteeClient};
use testee::{Testee, eventually, make, raw};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const LIMIT: Duration = Duration::from_secs(10);

fn millis(ms: u32) -> Millis {
    Millis { ms, kind: String::new() }
}

fn server() -> Testee {
    Testee::start(BIN, [] as [&str; 0])
}

/// A channel with one connection, and its client.
fn one(builder: ChannelBuilder) -> (Channel, TesteeClient) {
    let channel = builder.connections(1).build().expect("a channel");
    (channel.clone(), TesteeClient::new(channel))
}

fn echo(client: &TesteeClient, number: u64) -> rpc_core::Result<()> {
    let payload = make(number, 40);
    let reply = client.echo(Blob { payload: payload.clone() }).wait()?;
    assert_eq!(reply.payload, payload);
    Ok(())
}

/// The smallest executor: one future, woken by unparking its thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut cx) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls all of them on every wake, until each has ended.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs = Vec::new();
    std::future::poll_fn(|cx| {
        pending.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if pending.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs
}

/// A peer written by hand: `serve` gets each connection, in turn.
fn peer(serve: impl Fn(usize, TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || listener.incoming().flatten().enumerate().for_each(|(n, socket)| serve(n, socket)));
    url
}

#[test]
fn building_a_channel_does_not_connect() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let url = peer(move |_, _| {
        count.fetch_add(1, Ordering::AcqRel);
    });
    let (channel, client) = one(Channel::builder(&url));
    let call = client.echo(Blob::default()); // nothing happens until it is awaited
    assert_eq!((channel.stats().connects.get(), accepted.load(Ordering::Acquire)), (0, 0));
    drop(call);
    let _ = client.echo(Blob::default()).wait();
    assert_eq!((channel.stats().connects.get(), accepted.load(Ordering::Acquire)), (1, 1));
}

#[test]
fn nobody_there_is_unavailable_and_not_sent() {
    let url = format!("tcp://{}", TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound"));
    let (channel, client) = one(Channel::builder(&url));
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        let error = echo(&client, 1).expect_err("nobody listens");
        assert_eq!((error.code(), error.sent(), error.is_retryable()), (Code::Unavailable, Sent::No, true));
        let text = error.to_string();
        assert!(
            text.contains("refused")
                && text.contains("Testee/Echo")
                && text.contains(&url)
                && text.contains("not sent"),
            "{text}"
        );
        calls += 1;
    }
    let connects = channel.stats().connects.get();
    println!("{calls} calls to nobody in a second made {connects} attempts to connect");
    // 20 ms, doubling, each between half of that and all of it.
    assert!((3..=12).contains(&connects), "{connects} attempts in a second");
}

#[test]
fn a_restarted_server_is_found_again() {
    let mut first = server();
    let url = first.url().to_owned();
    let (channel, client) = one(Channel::builder(&url));
    echo(&client, 1).expect("the first server answers");
    first.terminate();
    first.wait(LIMIT);
    assert_eq!(echo(&client, 2).expect_err("nobody listens").sent(), Sent::No);
    let _second = Testee::listen(BIN, &[&url], [] as [&str; 0]);
    assert!(eventually(LIMIT, || echo(&client, 3).is_ok()), "found again");
    assert!(channel.stats().connects.get() >= 2);
}

#[test]
fn late_replies_are_counted_and_hurt_nobody() {
    let server = server();
    let (channel, client) = one(Channel::builder(server.url()));
    for n in 0..20 {
        // The server is told of the deadline and answers with its error at the same moment: either side may be first.
        let error = client.sleep(millis(500)).timeout(Duration::from_millis(10)).wait().expect_err("too short");
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        echo(&client, n).expect("the connection is fine");
    }
    assert_eq!((channel.stats().connects.get(), channel.stats().glitches.get()), (1, 0));

    // A server that is not told answers late for certain.
    let url = peer(|_, mut socket| {
        while let Ok(Some(request)) = raw::read_frame(&mut socket) {
            if request.method == "Sleep" {
                thread::sleep(Duration::from_millis(100)); // the lateness that is tested
            }
            let body = if request.method == "Sleep" { Vec::new() } else { request.body };
            let _ = socket.write_all(&raw::reply(request.seq, &request.method, &body));
        }
    });
    let (channel, client) = one(Channel::builder(url));
    for n in 1..=3 {
        // On a busy machine the time may be over before the request has left: such a call has no late reply.
        let late = || loop {
            let call = client.sleep(millis(0)).timeout(Duration::from_millis(10));
            let error = call.wait().expect_err("too late");
            assert_eq!(error.code(), Code::DeadlineExceeded);
            if error.sent() == Sent::Maybe {
                return error;
            }
        };
        let error = late();
        assert!(error.to_string().contains("no reply within 10 ms"), "{error}");
        echo(&client, n).expect("its own reply, after the late one");
        assert_eq!(channel.stats().late_replies.get(), n);
    }
    assert_eq!((channel.stats().connects.get(), channel.stats().glitches.get()), (1, 0));
}

/// I4: the slot of a dropped call stays occupied until its late reply has come.
#[test]
fn a_dropped_call_keeps_its_slot_until_the_late_reply() {
    let (tell, told) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let url = peer(move |_, mut socket| {
        let mut held = None;
        while let Ok(Some(request)) = raw::read_frame(&mut socket) {
            let _ = tell.send(request.method.clone());
            match held.take() {
                None if request.method == "Sleep" => held = Some(request),
                sleep => {
                    let _ = gone.recv();
                    for request in sleep.into_iter().chain([request]) {
                        let body = if request.method == "Sleep" { Vec::new() } else { request.body };
                        let _ = socket.write_all(&raw::reply(request.seq, &request.method, &body));
                    }
                }
            }
        }
    });
    // Two calls on the wire at most; with more than a quarter abandoned the connection is replaced: so use eight.
    let (channel, client) = one(Channel::builder(url).set("client_max_inflight", "8"));
    let waker = Waker::noop();
    {
        let mut call = pin!(client.sleep(millis(0)).into_future());
        assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        assert_eq!(told.recv_timeout(LIMIT).as_deref(), Ok("Sleep"));
    } // dropped: nobody waits any more
    assert_eq!(channel.stats().late_replies.get(), 0);
    thread::scope(|scope| {
        let call = scope.spawn(|| echo(&client, 1));
        assert_eq!(told.recv_timeout(LIMIT).as_deref(), Ok("Echo"));
        go.send(()).expect("the peer waits");
        call.join().expect("no panic").expect("its own reply, though the late one came first");
    });
    assert_eq!(
        (channel.stats().late_replies.get(), channel.stats().glitches.get(), channel.stats().connects.get()),
        (1, 0, 1)
    );
}

#[test]
fn calls_at_a_time_and_waiting_calls_are_bounded() {
    let server = server();
    let (_, client) =
        one(Channel::builder(server.url()).set("client_max_inflight", "4").set("client_max_waiting", "8"));
    let calls = (0..20).map(|_| client.sleep(millis(200)).into_future());
    let peak = AtomicUsize::new(0);
    let outcomes = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            eventually(Duration::from_millis(500), || {
                most = most.max(server.stats().get("in_flight"));
                false
            });
            peak.store(most as usize, Ordering::Release);
        });
        let outcomes = block_on(all(calls));
        watch.join().expect("no panic");
        outcomes
    });
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (12, 8), "4 on the wire, 8 wait, the rest are refused");
    for error in bad.into_iter().filter_map(Result::err) {
        assert_eq!((error.code(), error.sent(), error.is_retryable()), (Code::ResourceExhausted, Sent::No, true));
        assert!(
            matches!(error.cause(), Cause::Refused(Refusal::TooManyInFlight { name: "client_max_waiting", limit: 8 })),
            "{error}"
        );
    }
    assert!(peak.load(Ordering::Acquire) <= 4);
}

/// Output that nobody reads is bounded: at `write_hard` calls are refused, unsent.
#[test]
fn a_peer_that_does_not_read_makes_calls_fail_early() {
    let (keep, _kept) = mpsc::channel();
    let url = peer(move |_, socket| drop(keep.send(socket))); // open, and never read
    let limits =
        [("max_frame_size", "256KiB"), ("write_low", "64KiB"), ("write_high", "256KiB"), ("write_hard", "512KiB")];
    let builder = limits.iter().fold(Channel::builder(url), |builder, (name, value)| builder.set(name, value));
    let (_, client) = one(builder.timeout(Duration::from_millis(800)));
    let payload = make(1, 100_000);
    let calls = (0..400).map(|_| client.echo(Blob { payload: payload.clone() }).into_future());
    let outcomes = block_on(all(calls));
    let mut counts = std::collections::BTreeMap::new();
    for outcome in &outcomes {
        let error = outcome.as_ref().expect_err("nobody answers");
        assert!(matches!(error.code(), Code::ResourceExhausted | Code::DeadlineExceeded), "{error}");
        *counts.entry((error.code().name(), error.sent().to_string())).or_insert(0) += 1;
    }
    println!("400 calls of 100 KB to a peer that does not read: {counts:?}");
}

#[test]
fn a_message_over_the_limit_says_so() {
    let server = server();
    let (channel, client) = one(Channel::builder(server.url()).set("max_frame_size", "64KiB"));
    let error = client.echo(Blob { payload: make(1, 70_000) }).wait().expect_err("too large");
    assert_eq!((error.code(), error.sent()), (Code::ResourceExhausted, Sent::No));
    let text = error.to_string();
    assert!(text.contains("max_frame_size") && text.contains("65536") && text.contains("raise it"), "{text}");

    // The other way round it is the server that cannot send its reply, and the connection stays.
    let small = Testee::start(BIN, ["--set", "max_frame_size=64KiB"]);
    let (other, client) = one(Channel::builder(small.url()));
    let error = client.give(testee::idl::testee::Size { bytes: 70_000 }).wait().expect_err("too large");
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("max_frame_size"), "{error}");
    echo(&client, 1).expect("the connection stays");
    assert_eq!((channel.stats().glitches.get(), other.stats().connects.get()), (0, 1));
}

#[test]
fn waiting_on_a_reactor_thread_is_an_error_at_once() {
    let server = server();
    let (channel, client) = one(Channel::builder(server.url()));
    let (tell, told) = mpsc::channel();
    let reactor = channel.reactors().next().expect("one").clone();
    reactor.run(move || {
        let start = Instant::now();
        let error = client.sleep(millis(1000)).wait().expect_err("it would wait for itself");
        let _ = tell.send((error, start.elapsed()));
    });
    let (error, took) = told.recv_timeout(LIMIT).expect("it does not hang");
    assert!(matches!(error.cause(), Cause::Refused(Refusal::WaitOnReactor)), "{error}");
    assert!(took < Duration::from_millis(500) && error.sent() == Sent::No, "{error} after {took:?}");
}

#[test]
fn calls_can_be_awaited_on_any_executor() {
    let server = server();
    let (_, client) = one(Channel::builder(server.url()));
    block_on(async {
        client.sleep(millis(1)).await.expect("one");
        let calls = (0..200).map(|n: u64| {
            let client = &client;
            async move {
                client.sleep(millis((n % 7) as u32)).await?;
                let payload = make(n, 300);
                let reply = client.echo(Blob { payload: payload.clone() }).await?;
                assert_eq!(reply.payload, payload);
                Ok::<_, Error>(())
            }
        });
        assert!(all(calls).await.iter().all(Result::is_ok), "two hundred at once, on one thread");
    });
    // On the reactor itself, as a task, and many joined in one task.
    let (tell, told) = mpsc::channel();
    let reactor = Channel::builder(server.url()).build().expect("a channel");
    let task_client = TesteeClient::new(reactor.clone());
    reactor.reactors().next().expect("one").spawn(async move {
        let calls = (0..100).map(|n| task_client.sleep(millis(n % 5)).into_future());
        let _ = tell.send(all(calls).await.iter().filter(|outcome| outcome.is_ok()).count());
    });
    assert_eq!(told.recv_timeout(LIMIT), Ok(100));
}

#[test]
fn a_client_is_cloned_across_threads_and_connections() {
    let server = server();
    for connections in [1, 3, 8] {
        let channel = Channel::builder(server.url()).connections(connections).build().expect("a channel");
        let client = TesteeClient::new(channel.clone());
        thread::scope(|scope| {
            for lane in 0..8 {
                let client = client.clone();
                scope.spawn(move || (0..200).for_each(|n| echo(&client, lane * 1000 + n).expect("an echo")));
            }
        });
        assert_eq!(channel.stats().connects.get(), connections as u64);
    }
}

/// One call at a time on a connection, to a peer that answers in order and would be confused by more.
#[test]
fn ping_pong_has_one_call_at_a_time() {
    let url = peer(|_, socket| {
        thread::spawn(move || {
            let mut socket = socket;
            while let Ok(Some(request)) = raw::read_frame(&mut socket) {
                assert_eq!(request.flags & raw::OUT_OF_ORDER, 0, "the flag of a multiplexing client");
                // Whatever came meanwhile was sent before the reply.
                socket.set_nonblocking(true).expect("non-blocking");
                assert!(socket.read(&mut [0; 1]).is_err(), "a second request before the reply");
                socket.set_nonblocking(false).expect("blocking");
                let _ = socket.write_all(&raw::reply(request.seq, &request.method, &request.body));
            }
        });
    });
    let channel = Channel::builder(url).ping_pong().connections(3).build().expect("a channel");
    let client = TesteeClient::new(channel.clone());
    thread::scope(|scope| {
        for lane in 0..6 {
            let client = client.clone();
            scope.spawn(move || (0..100).for_each(|n| echo(&client, lane * 1000 + n).expect("an echo")));
        }
    });
    assert!((1..=3).contains(&channel.stats().connects.get()), "{}", channel.stats().connects.get());
}

/// B35: any `Duration` is a timeout, with a middleware and without.
#[test]
fn odd_timeouts_of_a_caller() {
    fn check<M: rpc_core::Middleware>(channel: Channel<M>) {
        let client = TesteeClient::new(channel);
        let call = |timeout| client.echo(Blob::default()).timeout(timeout).wait();
        let error = call(Duration::ZERO).expect_err("no time at all");
        assert_eq!((error.code(), error.sent()), (Code::DeadlineExceeded, Sent::No), "{error}");
        for timeout in [
            Duration::MAX,
            Duration::from_secs(u64::MAX),
            Duration::from_secs(1 << 32),
            Duration::from_secs(86_400 * 25),
        ] {
            call(timeout).unwrap_or_else(|error| panic!("{timeout:?}: {error}"));
        }
        if let Err(error) = call(Duration::from_nanos(1)) {
            assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        }
    }
    let server = server();
    check(Channel::builder(server.url()).connections(1).build().expect("a channel"));
    check(Channel::builder(server.url()).connections(1).layer(rpc_core::Logging).build().expect("a channel"));
}

/// An idle connection is closed by the client first, and made again when it is needed.
#[test]
fn an_idle_connection_is_closed_and_made_again() {
    let server = server();
    let (channel, client) = one(Channel::builder(server.url()).set("idle_timeout", "100ms"));
    let fds = server.at_rest();
    for round in 1..=3 {
        echo(&client, round).expect("an echo");
        assert_eq!(channel.stats().connects.get(), round);
        server.returns_to(&fds, LIMIT); // closed when it was idle
    }
}

/// T10: what a hostile server says reaches no wrong call; never-issued ids spend glitches.
#[test]
fn t10_a_hostile_server_wakes_no_wrong_call() {
    let url = peer(|_, socket| {
        thread::spawn(move || {
            let mut socket = socket;
            let mut seen = 0;
            while let Ok(Some(request)) = raw::read_frame(&mut socket) {
                let good = raw::reply(request.seq, &request.method, &request.body);
                let evil = raw::blob(b"evil");
                let before = match seen % 6 {
                    0 => raw::reply(request.seq ^ 1 << 20, &request.method, &evil), // never issued: another version
                    1 => raw::reply(i32::MAX, &request.method, &evil),
                    2 => raw::reply(0, &request.method, &evil), // id 0
                    3 => raw::request(request.seq, &request.method, &evil), // a request where a reply is due
                    _ => Vec::new(),
                };
                let after = if seen % 6 == 4 { raw::reply(request.seq, &request.method, &evil) } else { Vec::new() }; // twice
                seen += 1;
                if socket.write_all(&[before, good, after].concat()).is_err() {
                    return;
                }
            }
        });
    });
    let (channel, client) = one(Channel::builder(&url));
    for n in 0..60 {
        echo(&client, n).expect("its own reply");
    }
    let glitches = channel.stats().glitches.get();
    println!("T10: 60 calls, {glitches} glitches, {} connections", channel.stats().connects.get());
    assert!((49..=50).contains(&glitches), "{glitches}"); // the last one may still be on its way
    assert_eq!(channel.stats().connects.get(), 1);
}

/// T37: each way in which a server can be useless ends calls precisely, and the client does not storm it.
#[test]
fn t37_useless_servers() {
    type Serve = fn(TcpStream);
    #[rustfmt::skip]
    let table: [(&str, Serve, &[Code]); 7] = [
        ("closes at once",        |_| {},                                                                       &[Code::Unavailable]),
        ("junk",                  |mut s| { let _ = s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"); hold(s) }, &[Code::Unavailable]),
        ("length over the limit", |mut s| { let _ = s.write_all(&[0x7f; 64]); hold(s) },                        &[Code::Unavailable]),
        ("header size 0",         |mut s| { let _ = s.write_all(&bad_header()); hold(s) },                      &[Code::Unavailable]),
        ("never answers",         hold,                                                                         &[Code::DeadlineExceeded]),
        ("wrong method",          |s| answer(s, |r| raw::reply(r.seq, "Other", &r.body)),                       &[Code::Unavailable]),
        ("body is no message",    |s| answer(s, |r| raw::reply(r.seq, &r.method, &[0xff; 11])),                 &[Code::Internal]),
    ];
    for (name, serve, codes) in table {
        let url = peer(move |_, socket| drop(thread::spawn(move || serve(socket))));
        let (channel, client) = one(Channel::builder(&url).timeout(Duration::from_millis(100)));
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(400) {
            let error = echo(&client, 1).expect_err(name);
            assert!(codes.contains(&error.code()), "{name}: {error}");
            assert_eq!(error.to_string().lines().count(), 1);
            calls += 1;
        }
        let connects = channel.stats().connects.get();
        println!("T37 {name}: {calls} calls, {connects} connections in 400 ms");
        assert!(connects <= 10, "{name}: {connects} connections in 400 ms");
    }
}

/// T37: a server that says goodbye at once, on every connection, is not stormed.
#[test]
fn t37_a_goodbye_loop_is_no_storm() {
    let url = peer(|_, mut socket| {
        let info = raw::strings(&[("crrst", "1")]);
        let _ =
            socket.write_all(&raw::ttheader(0, 0, &info, b"\x80\x01\x00\x02\x00\x00\x00\x04none\x00\x00\x00\x00\x00"));
    });
    let (channel, client) = one(Channel::builder(&url));
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(500) {
        let error = echo(&client, 1).expect_err("it never answers");
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        calls += 1;
    }
    let connects = channel.stats().connects.get();
    println!("T37 goodbye loop: {calls} calls, {connects} connections in 500 ms");
    assert!(connects <= 12, "{connects} connections in 500 ms");
}

fn hold(mut socket: TcpStream) {
    let _ = socket.read_to_end(&mut Vec::new());
}

fn answer(mut socket: TcpStream, reply: fn(raw::Frame) -> Vec<u8>) {
    while let Ok(Some(request)) = raw::read_frame(&mut socket) {
        let _ = socket.write_all(&reply(request));
    }
}

fn bad_header() -> Vec<u8> {
    let mut frame = raw::reply(1, "Echo", b"");
    frame[12..14].copy_from_slice(&[0, 0]);
    frame
}

/// A chain of servers: each hop has what is left of the deadline.
#[test]
fn a_relay_passes_the_deadline_on() {
    let servers: Vec<_> = (0..3).map(|_| server()).collect();
    let urls: Vec<_> = servers.iter().map(|server| server.url().to_owned()).collect();
    let client = servers[0].client();
    let hop = |ms| Hop { url: urls[1].clone(), ms, via: vec![urls[2].clone(), urls[0].clone()] };
    client.relay(hop(10)).wait().expect("three hops and a sleep");
    let start = Instant::now();
    let error = client.relay(hop(60_000)).timeout(Duration::from_millis(200)).wait().expect_err("too long");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    // No hop goes on without its caller.
    for server in &servers {
        assert!(eventually(LIMIT, || server.stats().get("in_flight") == 0), "{:?}", server.stats());
    }
    client.stats(Empty {}).wait().expect("all is well");
}
