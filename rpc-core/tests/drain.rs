//! I23 at the end of a server: every request that has come is answered or refused by name, wherever it waits at that moment. Peers are
//! written by hand, so that what they have sent is known.

mod support;

use std::future::poll_fn;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::protocol::ttheader::ControlFrame::{GoAway, Ping, Pong};
use rpc_core::protocol::ttheader::write_frame_head;
use rpc_core::protocol::{Exception, MessageType};
use rpc_core::{Code, Context, Drained, ServerHandle};
use support::{
    AnyServer, Blob, GOODBYE, LIMIT, Raw, announcing_request, bind, code_of, control, dial, eventually, negotiated,
    raw_request, read_raw,
};

/// As long as that without a call is a pause.
const QUIET: Duration = Duration::from_millis(50);

fn shut_down(server: &ServerHandle) -> JoinHandle<Drained> {
    let server = server.clone();
    std::thread::spawn(move || server.shutdown())
}

/// Everything until the end of the stream: who was answered, in order, and who was refused unexecuted. Pings are answered.
fn read_all(socket: &mut TcpStream) -> (Vec<i32>, Vec<i32>) {
    let (mut answered, mut refused) = (Vec::new(), Vec::new());
    while let Some(raw) = read_raw(socket) {
        match raw.kind {
            _ if raw.frame == GOODBYE => {}
            Some(MessageType::Reply) => answered.push(raw.seq),
            Some(_) => {
                check_refused(&raw);
                refused.push(raw.seq);
            }
            None => {
                if let Some(Ping(number)) = raw.control() {
                    socket.write_all(&control(Pong(number))).expect("it reads");
                }
            }
        }
    }
    (answered, refused)
}

/// It says that the server shuts down; peers of our own hear in the header that nothing was begun.
fn check_refused(raw: &Raw) {
    let exception = Exception::decode(&raw.body[..]).expect("an exception");
    assert!(exception.message.contains("shutting down"), "{}: {}", raw.seq, exception.message);
    if let Some(code) = code_of(raw) {
        assert_eq!((code, raw.info().not_executed), (Code::Unavailable, true), "{}", raw.seq);
    }
}

/// Nothing was cut, and what the server counts is what its peer saw.
fn check_end(server: &ServerHandle, ending: JoinHandle<Drained>, seen: usize) {
    let drained = ending.join().expect("no panic");
    assert_eq!((drained.cut_calls, drained.cut_connections), (0, 0));
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.replied), (seen as u64, seen as u64));
}

/// "first" is answered at once, anything else takes so long.
fn slow(time: Duration) -> AnyServer {
    AnyServer::new(move |cx: Context, req: Blob| async move {
        if req.payload != "first" {
            rpc_core::sleep(time).await; // the handler is slow: that is its purpose
        }
        (cx, Ok(req))
    })
}

/// The pong stands behind requests for which there is no room: the time for stragglers ends before they are read.
#[test]
fn requests_without_room_are_refused_at_the_end() {
    let server = bind(slow(Duration::from_millis(300)), &[("max_inflight_per_conn", "1")]);
    let mut socket = negotiated(&server);
    for seq in 2..12 {
        socket.write_all(&announcing_request(seq, b"later")).expect("it reads");
    }
    assert!(eventually(|| server.stats().in_flight == 1));
    let ending = shut_down(&server);
    let (answered, refused) = read_all(&mut socket);
    let mut both = [&answered[..], &refused].concat();
    both.sort();
    assert_eq!(both, (2..12).collect::<Vec<_>>(), "{answered:?} answered, {refused:?} refused");
    assert!(!refused.is_empty(), "ten calls, one by one, take three seconds");
    check_end(&server, ending, 11);
}

/// B18: nothing runs, and requests are unread all the same: their peer does not read the replies to those before.
#[test]
fn requests_behind_unread_replies_are_refused_at_the_end() {
    const CALLS: i32 = 2_000;
    let reply = Bytes::from(vec![7; 16 << 10]);
    let server = bind(
        AnyServer::new(move |cx: Context, _| {
            let payload = reply.clone();
            async move { (cx, Ok(Blob { payload })) }
        }),
        &[],
    );
    // Two that have nothing to come: before the one that has, and after it.
    let witness = || {
        let mut socket = dial(&server);
        socket.write_all(&raw_request(1, b"")).expect("it reads");
        read_raw(&mut socket).expect("a reply");
        socket
    };
    let first = witness();
    let mut socket = dial(&server);
    let asks: Vec<u8> = (1..=CALLS).flat_map(|seq| raw_request(seq, b"")).collect();
    socket.write_all(&asks).expect("there is room for so much");
    assert!(eventually(|| server.stats().accepted > 2));
    let last = witness();
    let ending = shut_down(&server);
    // Until the time for stragglers is over, which is when those are closed whose time began in the same turn.
    for mut witness in [first, last] {
        assert_eq!(read_all(&mut witness), (vec![], vec![]));
    }
    let (answered, refused) = read_all(&mut socket);
    let mut both = [&answered[..], &refused].concat();
    both.sort();
    assert_eq!(both.len(), CALLS as usize, "{} answered, {} refused", answered.len(), refused.len());
    assert!(both.into_iter().eq(1..=CALLS) && !refused.is_empty());
    check_end(&server, ending, CALLS as usize + 2);
}

/// B18: one at a time, in order: each is handed up when the one before has its reply, and the end of one is no end of them.
#[test]
fn pipelined_requests_are_refused_at_the_end() {
    let server = bind(slow(Duration::from_millis(300)), &[]);
    let mut socket = dial(&server);
    for seq in 1..=3 {
        let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(b"later") });
        let mut ask = Vec::new();
        write_frame_head(&mut ask, 0, seq, [b"", b""], MessageType::Call, b"Blob", body.len()).expect("short");
        ask.extend(body);
        socket.write_all(&ask).expect("it reads");
    }
    assert!(eventually(|| server.stats().in_flight == 1));
    let ending = shut_down(&server);
    let (answered, refused) = read_all(&mut socket);
    assert_eq!([answered, refused].concat(), [1, 2, 3], "each, and in order");
    check_end(&server, ending, 3);
}

/// Calls of which the last has always begun, and which end when the next begins.
#[derive(Default)]
struct Chain {
    begun: u64,
    over: bool,
    waits: Option<Waker>,
}

/// A peer that multiplexes and knows no control frames, such as every Kitex client, is told to go when nothing runs. With calls that
/// overlap there is no such moment, until new ones are refused for half of the grace.
#[test]
fn calls_that_overlap_for_ever_do_not_hold_up_the_goodbye() {
    let chain = Arc::new(Mutex::new(Chain::default()));
    let links = Arc::clone(&chain);
    let server = bind(
        AnyServer::new(move |cx: Context, req: Blob| {
            let links = Arc::clone(&links);
            async move {
                let own = {
                    let mut chain = links.lock().unwrap();
                    chain.begun += 1;
                    chain.waits.take().into_iter().for_each(Waker::wake);
                    chain.begun
                };
                poll_fn(|task| {
                    let mut chain = links.lock().unwrap();
                    if chain.over || chain.begun > own {
                        return Poll::Ready(());
                    }
                    chain.waits = Some(task.waker().clone());
                    Poll::Pending
                })
                .await;
                (cx, Ok(req))
            }
        }),
        &[("shutdown_grace", "6s")],
    );
    let mut socket = dial(&server);
    socket.write_all(&raw_request(1, b"")).expect("it reads");
    assert!(eventually(|| server.stats().in_flight == 1));
    let ending = shut_down(&server);
    let mut last = 1;
    loop {
        socket.write_all(&raw_request(last + 1, b"")).expect("it reads");
        let reply = read_raw(&mut socket).expect("a reply");
        if reply.kind == Some(MessageType::Exception) {
            assert_eq!(reply.seq, last + 1);
            check_refused(&reply);
            break;
        }
        assert_eq!(reply.seq, last, "it ends when the next begins");
        last += 1;
        std::thread::sleep(Duration::from_millis(1)); // some thousand calls are enough
    }
    {
        let mut chain = chain.lock().unwrap();
        chain.over = true;
        chain.waits.take().expect("the last one waits").wake();
    }
    assert_eq!(read_raw(&mut socket).expect("the reply to what ran").seq, last);
    assert_eq!(read_raw(&mut socket).expect("a goodbye").frame, GOODBYE);
    let (answered, refused) = read_all(&mut socket);
    assert_eq!((answered.len(), refused.len()), (0, 0), "then the end");
    check_end(&server, ending, last as usize + 1);
}

/// A peer that multiplexes, knows no control frames and makes one call after the other. Kitex's clients lose calls that meet a goodbye or
/// the end: neither comes before it pauses, and what is not served by then is refused by name.
#[test]
fn a_peer_that_makes_calls_without_a_pause_loses_none() {
    /// Calls in a row, and the longest time between two of them.
    struct Caller {
        socket: TcpStream,
        calls: i32,
        last: Instant,
        pause: Duration,
    }
    impl Caller {
        /// Nothing if something else comes than the reply to it.
        fn call(&mut self) -> Option<Raw> {
            self.calls += 1;
            self.socket.write_all(&raw_request(self.calls, b"first")).ok()?;
            let now = Instant::now();
            self.pause = self.pause.max(now - std::mem::replace(&mut self.last, now));
            read_raw(&mut self.socket).filter(|reply| reply.seq == self.calls)
        }

        /// Whether for some time all went as it is due.
        fn calls_on(&mut self, due: impl Fn(&Raw) -> bool) -> bool {
            let begun = Instant::now();
            while begun.elapsed() < 4 * QUIET {
                if !self.call().is_some_and(|reply| due(&reply)) {
                    return false;
                }
            }
            true
        }
    }
    let served = |reply: &Raw| reply.kind == Some(MessageType::Reply);
    let refused = |reply: &Raw| {
        check_refused(reply);
        true
    };
    // On a machine that did not let it run for as long as a pause takes it has made one: then it is asked again.
    for _ in 0..20 {
        let server = bind(slow(Duration::ZERO), &[("shutdown_grace", "60s")]);
        let mut caller = Caller { socket: dial(&server), calls: 0, last: Instant::now(), pause: Duration::ZERO };
        caller.call().expect("a reply");
        let ending = shut_down(&server);
        let mut lost = !caller.calls_on(served);
        if !lost {
            assert_eq!(read_raw(&mut caller.socket).expect("a goodbye, to one that pauses").frame, GOODBYE);
            caller.last = Instant::now(); // it was to pause here
            while !lost {
                match caller.call() {
                    Some(reply) if served(&reply) => {}
                    Some(_) => break,
                    None => lost = true,
                }
            }
            lost |= !caller.calls_on(refused);
        }
        if lost && caller.pause > QUIET / 2 {
            continue;
        }
        assert!(!lost, "call {} is lost, and the longest pause was {:?}", caller.calls, caller.pause);
        assert_eq!(read_all(&mut caller.socket), (vec![], vec![]), "the end, to one that pauses");
        return check_end(&server, ending, caller.calls as usize);
    }
    panic!("the machine has no 25 ms in a row for this test");
}

/// A large request that comes in parts is no pause, though 50 ms and more lie between them: a goodbye would cost its client the call, and the end
/// would cut it.
#[test]
fn a_request_that_comes_slowly_is_served() {
    let server = bind(slow(Duration::ZERO), &[]);
    let mut socket = dial(&server);
    socket.write_all(&raw_request(1, b"first")).expect("it reads");
    read_raw(&mut socket).expect("a reply");
    let request = raw_request(2, &[7; 400]);
    let mut parts = request.chunks(100);
    socket.write_all(parts.next().expect("a part")).expect("it reads");
    let ending = shut_down(&server);
    for part in parts {
        std::thread::sleep(3 * QUIET); // the peer is slow: that is the case
        socket.write_all(part).expect("it reads");
    }
    let reply = read_raw(&mut socket).expect("a reply");
    assert_eq!((reply.seq, reply.kind), (2, Some(MessageType::Reply)), "before the goodbye");
    assert_eq!(read_raw(&mut socket).expect("a goodbye").frame, GOODBYE);
    assert_eq!(read_all(&mut socket), (vec![], vec![]));
    check_end(&server, ending, 2);
}

/// A connection that is taken in while the server stops has shown nothing of what it knows. As soon as it has, its peer is told: it would
/// go on sending, and what it sent would cross the end.
#[test]
fn who_is_taken_in_at_the_end_is_told_as_it_can_be() {
    let (tell, hear) = mpsc::channel();
    let server = bind(
        AnyServer::new(move |cx: Context, req: Blob| {
            if req.payload == "hold" {
                tell.send(()).expect("somebody waits");
                std::thread::sleep(Duration::from_millis(500)); // the reactor, and so the listener
            }
            async move { (cx, Ok(req)) }
        }),
        &[],
    );
    let mut holds = dial(&server);
    holds.write_all(&raw_request(1, b"hold")).expect("it reads");
    hear.recv_timeout(LIMIT).expect("it is held");
    let mut late = dial(&server);
    late.write_all(&announcing_request(1, b"first")).expect("there is room for so much");
    let ending = shut_down(&server);
    let reply = read_raw(&mut late).expect("a reply");
    assert_eq!((reply.seq, reply.info().capabilities), (1, Some(1)), "it confirms");
    let told = read_raw(&mut late).expect("a goaway");
    assert_eq!(told.control(), Some(GoAway { last: 0, reason: b"shutting_down" }), "before the line");
    let Some(Ping(number)) = read_raw(&mut late).expect("a ping").control() else { panic!("a ping") };
    late.write_all(&[announcing_request(2, b"crossing"), control(Pong(number))].concat()).expect("it reads");
    let (answered, refused) = read_all(&mut late);
    assert_eq!((answered, refused), (vec![2], vec![]));
    drop(holds);
    check_end(&server, ending, 3);
}
