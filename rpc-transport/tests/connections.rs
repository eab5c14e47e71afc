//! The life of a connection on real sockets: bytes in any pieces, every kind of end, back-pressure, time limits.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_transport::{CloseReason, ConnLimits, Connector, Cx, ListenOptions, Message, local};
use socket2::SockRef;
use support::*;

const MS: Duration = Duration::from_millis(1);

fn limits(change: impl FnOnce(&mut ConnLimits)) -> ListenOptions {
    let mut options = ListenOptions::default();
    change(&mut options.conn);
    options
}

/// The next connection's reset instead of an orderly end.
fn reset(socket: std::net::TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn echo_of_any_size_over_every_kind_of_socket() {
    let pool = pool(2);
    let (path, unix) = unix_url("echo");
    for url in ["tcp://127.0.0.1:0", "tcp://[::1]:0", &unix] {
        let listener = listen(&pool, url, ListenOptions::default(), |_| Script::new());
        // Another reactor of the same pool is the client: both ends are ours.
        let (tell, frames) = mpsc::channel();
        let script =
            Script::new().frame(move |_, frame| tell.send(frame.to_bytes()).unwrap()).message(|cx, message| {
                reply(cx, &message.downcast::<Text>().unwrap().0);
            });
        let reactor = &pool.handles()[1];
        let id = connect(reactor, listener.url(), Connector::default(), script);
        for size in [0, 1, 100, 8191, 8192, 16 * 1024, 65_531, 65_532, 65_536, 70_000, 1 << 20, 5 << 20, 3, 5 << 20] {
            let sent = pattern(size);
            reactor.send(id, Arc::new(Text(sent.clone().into())));
            assert!(hear(&frames) == sent, "{url}, {size} bytes");
        }
        listener.close();
    }
    until("the socket's file is removed", || !path.exists());
}

struct Text(Bytes);

impl Message for Text {
    fn undelivered(self: Arc<Self>) {}
}

/// T23: the frames do not depend on how the bytes arrive.
#[test]
fn frames_are_the_same_in_every_split() {
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let listener = serve(&pool, move |_| Script::new().told_to(tell.clone()));
    let conversation = [wire(b"one"), wire(b""), wire(b"three")].concat();
    let expect = |how: &str| {
        let heard = [0; 4].map(|_| hear(&told));
        assert_eq!(heard, ["one", "", "three", "closed: the peer closed the connection"], "{how}");
    };
    for cut in 0..=conversation.len() {
        let mut socket = dial(&listener);
        socket.write_all(&conversation[..cut]).unwrap();
        until("the first part was read", || cut == 0 || queued(&socket) == 0);
        socket.write_all(&conversation[cut..]).unwrap();
        drop(socket);
        expect(&format!("cut at {cut}"));
    }
    let mut socket = dial(&listener);
    for byte in &conversation {
        socket.write_all(&[*byte]).unwrap();
    }
    drop(socket);
    expect("byte by byte");
}

/// Bytes that the peer's kernel has not acknowledged.
fn queued(socket: &std::net::TcpStream) -> i32 {
    use std::os::fd::AsRawFd;
    let mut left = 0;
    // SAFETY: SIOCOUTQ writes one int.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut left) }, 0);
    left
}

/// B04, T22: a FIN behind data, in one segment, at every offset.
#[test]
fn b04_frames_before_the_end_are_handled_before_it() {
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let listener = serve(&pool, move |_| Script::new().told_to(tell.clone()));
    let conversation = [wire(b"one"), wire(b"two"), wire(b"three")].concat();
    for cut in 0..=conversation.len() {
        let mut socket = dial(&listener);
        let whole = [7, 14, 23].iter().filter(|end| **end <= cut).count();
        let arrived = cut - [0, 7, 14, 23][whole];
        // The reactor is held until both are there, so that one event reports them.
        let go = hold(&pool.handles()[0]);
        socket.write_all(&conversation[..cut]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        until("all of it has arrived", || queued(&socket) == 0);
        drop(go);
        for frame in ["one", "two", "three"].iter().take(whole) {
            assert_eq!(hear(&told), *frame);
        }
        let end = match arrived {
            0 => "closed: the peer closed the connection".to_owned(),
            n => format!("closed: the peer closed the connection inside a frame, {n} bytes into it"),
        };
        assert_eq!(hear(&told), end, "cut at {cut}");
        let mut rest = Vec::new();
        assert_eq!(socket.read_to_end(&mut rest).unwrap(), 0);
    }
}

#[test]
fn replies_to_a_peer_that_has_closed_its_side_are_still_written() {
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let mut socket = dial(&listener);
    let payload = pattern(3 << 20); // more than the kernel's buffers take
    let writer = {
        let (mut socket, payload) = (socket.try_clone().unwrap(), payload.clone());
        std::thread::spawn(move || {
            socket.write_all(&wire(&payload)).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        })
    };
    writer.join().unwrap();
    assert!(read_frame(&mut socket) == payload);
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
}

/// B02, B08, B14, B15, I22: each kind of death is told once, and nothing comes after it.
#[test]
fn every_kind_of_end_is_told_once() {
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    type Peer = fn(std::net::TcpStream);
    type Own = fn(&mut Cx<'_>);
    let cases: &[(&str, Peer, Own)] = &[
        ("the peer closed the connection", |_| (), |_| ()),
        ("the connection failed: Connection reset", reset, |_| ()),
        (
            "the connection failed: Connection reset",
            |mut socket| {
                socket.write_all(&wire(b"half")[..6]).unwrap();
                reset(socket);
            },
            |_| (),
        ),
        ("the peer's bytes are not frames: frame of 4294967295 bytes", |mut s| s.write_all(&[255; 4]).unwrap(), |_| ()),
        ("closed by this side: enough", keep, |cx| cx.close(CloseReason::Local("enough"))),
        ("closed by this side: at once", keep, |cx| {
            reply(cx, b"never seen");
            cx.abort(CloseReason::Local("at once"));
        }),
        ("closed by this side: first", keep, |cx| {
            cx.close(CloseReason::Local("first"));
            cx.close(CloseReason::Local("second"));
        }),
        ("closed by this side: its handler panicked", keep, |_| panic!("on purpose")),
    ];
    for (expected, peer, own) in cases {
        let (tell, ends) = mpsc::channel();
        let own = *own;
        let listener = serve(&pool, move |_| Script::new().open(own).end_to(tell.clone()));
        let socket = dial(&listener);
        peer(socket);
        let end = hear(&ends);
        assert!(end.starts_with(expected), "{end}, not {expected}");
        until("books are balanced", || listener.connections() == 0 && reactor.stats().connections.get() == 0);
        listener.close();
        on(&reactor, || ());
        drop(listener);
        assert_eq!(ends.try_iter().count(), 0, "told twice: {expected}");
    }
}

fn keep(socket: std::net::TcpStream) {
    // Stays open until this side has ended it.
    let _ = (&socket).read_to_end(&mut Vec::new());
}

#[test]
fn connecting_fails_once_and_says_why() {
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (tell, ends) = mpsc::channel();
    connect(
        reactor,
        &format!("tcp://{free}").parse().unwrap(),
        Connector::default(),
        Script::new().end_to(tell.clone()),
    );
    assert_eq!(hear(&ends), "cannot connect: Connection refused (os error 111)");
    // A listener whose queue is full answers nothing.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _queued = std::net::TcpStream::connect(addr).unwrap();
    let limits = Arc::new(ConnLimits { connect_timeout: 50 * MS, ..ConnLimits::default() });
    let connector = Connector { limits, ..Connector::default() };
    connect(reactor, &format!("tcp://{addr}").parse().unwrap(), connector, Script::new().end_to(tell.clone()));
    assert_eq!(hear(&ends), "cannot connect within 50ms (connect_timeout)");
    on(reactor, || ());
    assert_eq!(ends.try_iter().count(), 0);
    assert_eq!(reactor.stats().connections.get(), 0);
}

/// B16: silence is not an answer.
#[test]
fn b16_messages_to_a_dead_connection_come_back() {
    struct Note(mpsc::Sender<()>);
    impl Message for Note {
        fn undelivered(self: Arc<Self>) {
            self.0.send(()).unwrap();
        }
    }
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let listener = serve(&pool, |_| Script::new());
    let (tell, ends) = mpsc::channel();
    let id = connect(&reactor, listener.url(), Connector::default(), Script::new().end_to(tell));
    local::visit::<Script, ()>(&reactor, id, |_, _| ()); // off the reactor: nothing
    let here = reactor.clone();
    on(&reactor, move || local::visit::<Script, _>(&here, id, |_, cx| cx.close(CloseReason::Local("over"))));
    hear(&ends);
    let (back, backs) = mpsc::channel();
    reactor.send(id, Arc::new(Note(back.clone())));
    hear(&backs);
    drop(pool);
    reactor.send(id, Arc::new(Note(back)));
    hear(&backs);
}

// --- back-pressure ---

/// Frames that were cut but not handed up, and bytes in the kernel, both go on after a pause, whoever ends it.
#[test]
fn a_paused_connection_gets_going_again() {
    struct Resume;
    impl Message for Resume {
        fn undelivered(self: Arc<Self>) {}
    }
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let (tell, told) = mpsc::channel();
    let (tell_id, ids) = mpsc::channel();
    let listener = serve(&pool, move |_| {
        let (tell, tell_id) = (tell.clone(), tell_id.clone());
        let end = tell.clone();
        Script::new()
            .open(move |cx| tell_id.send(cx.id()).unwrap())
            .frame(move |cx, frame| {
                tell.send(String::from_utf8_lossy(frame.bytes()).into_owned()).unwrap();
                cx.pause();
                if frame.bytes() == b"deadline" {
                    cx.arm(cx.now() + MS, 7);
                }
            })
            .message(|cx, _| cx.resume())
            .deadline(|cx, key| {
                assert_eq!(key, 7);
                cx.resume();
            })
            .close(move |_, reason| end.send(format!("closed: {reason}")).unwrap())
    });
    let mut socket = dial(&listener);
    let id = hear(&ids);
    socket.write_all(&[wire(b"a"), wire(b"deadline"), wire(b"c"), wire(b"d")].concat()).unwrap();
    assert_eq!(hear(&told), "a");
    socket.write_all(&[wire(b"e"), wire(b"f"), vec![255; 4]].concat()).unwrap(); // in the kernel, and then no frame
    socket.shutdown(Shutdown::Write).unwrap();
    on(&reactor, || ());
    assert!(told.try_recv().is_err(), "handed up in spite of the pause");
    reactor.send(id, Arc::new(Resume));
    assert_eq!(hear(&told), "deadline");
    assert_eq!(hear(&told), "c", "resumed by its own timer");
    let here = reactor.clone();
    on(&reactor, move || local::visit::<Script, _>(&here, id, |_, cx| cx.resume()).unwrap());
    assert_eq!(hear(&told), "d");
    for next in ["e", "f"] {
        reactor.send(id, Arc::new(Resume));
        assert_eq!(hear(&told), next);
    }
    reactor.send(id, Arc::new(Resume));
    assert!(hear(&told).starts_with("closed: the peer's bytes are not frames"), "the error comes behind the frames");
}

/// Bytes that are no frame, behind frames of the same read that were held back.
#[test]
fn an_error_behind_held_frames_is_not_forgotten() {
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let listener = serve(&pool, move |_| {
        let tell = tell.clone();
        let end = tell.clone();
        Script::new()
            .frame(move |cx, _| {
                tell.send("frame".to_owned()).unwrap();
                cx.pause();
                cx.arm(cx.now(), 0);
            })
            .deadline(|cx, _| cx.resume())
            .close(move |_, reason| end.send(reason.to_string()).unwrap())
    });
    let mut socket = dial(&listener);
    socket.write_all(&[wire(b"a"), wire(b"b"), vec![255; 4]].concat()).unwrap();
    assert_eq!((hear(&told), hear(&told)), ("frame".to_owned(), "frame".to_owned()));
    assert!(hear(&told).starts_with("the peer's bytes are not frames"));
}

/// T11, B31: replies that nobody reads are bounded, stop the reading, and end the connection.
#[test]
fn t11_a_peer_that_never_reads_is_stopped_and_closed() {
    const REPLY: usize = 100_000;
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let most = Arc::new(AtomicUsize::new(0));
    let options = limits(|conn| {
        (conn.write_high, conn.write_low, conn.write_hard) = (256 << 10, 64 << 10, 2 << 20);
        conn.write_stall_timeout = 300 * MS;
    });
    let memory = options.memory.clone();
    let seen = most.clone();
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| {
        let seen = seen.clone();
        Script::new()
            .frame(move |cx, _| {
                cx.output().write_bytes(vec![0; REPLY].into());
                seen.fetch_max(cx.output_len(), Ordering::SeqCst);
            })
            .end_to(tell.clone())
    });
    let mut socket = dial(&listener);
    let requests = wire(b"x").repeat(1000);
    while socket.write_all(&requests).is_ok() {} // until the reset
    assert_eq!(hear(&ends), "the connection reached its limit write_stall_timeout");
    let most = most.load(Ordering::SeqCst);
    assert!((256 << 10..(256 << 10) + REPLY + 1).contains(&most), "{most} bytes queued");
    until("nothing is accounted any more", || memory.used() == 0);
    // One reply over write_hard, without a chance to stop before.
    let (tell, ends) = mpsc::channel();
    let listener = support::listen(&pool, "tcp://127.0.0.1:0", limits(|conn| conn.write_hard = 1 << 20), move |_| {
        Script::new().open(|cx| cx.output().write_bytes(vec![0; 64 << 20].into())).end_to(tell.clone())
    });
    let _socket = dial(&listener);
    assert_eq!(hear(&ends), "the connection reached its limit write_hard");
}

/// I20: a reader that resumes gets everything.
#[test]
fn a_slow_reader_gets_everything() {
    const FRAMES: usize = 2000;
    let pool = pool(1);
    let options = limits(|conn| (conn.write_high, conn.write_low) = (64 << 10, 16 << 10));
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
    let mut socket = dial(&listener);
    let mut writer = socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for n in 0..FRAMES {
            writer.write_all(&wire(&[n as u8; 8000])).unwrap();
        }
    });
    for n in 0..FRAMES {
        assert!(read_frame(&mut socket).iter().all(|byte| *byte == n as u8), "frame {n}");
    }
    writing.join().unwrap();
}

/// Large partial frames that together exceed the process's budget: the largest go, the others stay.
#[test]
fn memory_is_shed_from_the_largest() {
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let options = ListenOptions { memory: Arc::new(rpc_transport::MemoryBudget::new(4 << 20)), ..Default::default() };
    let memory = options.memory.clone();
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| Script::new().end_to(tell.clone()));
    let mut polite = dial(&listener);
    assert_eq!(call(&mut polite, b"hi"), b"hi");
    let hogs: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = dial(&listener);
            std::thread::spawn(move || {
                let _ = socket.write_all(&(15_u32 << 20).to_be_bytes());
                let _ = socket.write_all(&vec![0; 3 << 20]); // until it is stopped, or closed
                socket
            })
        })
        .collect();
    until("memory is tight", || memory.used() >= 3 << 20 || listener.connections() < 9);
    for n in 0..50_u8 {
        assert_eq!(call(&mut polite, &[n; 1000]), [n; 1000]);
    }
    assert!(memory.used() <= (4 << 20) + (256 << 10), "{} bytes", memory.used());
    drop(hogs);
    // One that has only now been accepted is not yet among those that are ended: so more than once.
    let mut ended = 0;
    until("each has ended", || {
        listener.abort_connections("the test is over");
        ended += ends.try_iter().count();
        ended >= 9
    });
    until("nothing is accounted any more", || memory.used() == 0);
}

/// Its unfinished frame is what memory is short of, though not so much that anybody is closed: it must not wait for others for ever.
#[test]
fn an_unfinished_frame_that_holds_the_memory_has_its_time_limit() {
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let memory = Arc::new(rpc_transport::MemoryBudget::new(4 << 20));
    let limits = limits(|conn| conn.frame_progress = Duration::from_millis(200));
    let options = ListenOptions { memory: memory.clone(), ..limits };
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| Script::new().end_to(tell.clone()));
    let mut hog = dial(&listener);
    hog.write_all(&(15_u32 << 20).to_be_bytes()).unwrap();
    let _ = hog.write_all(&vec![0; (3 << 20) + (256 << 10)]); // 81 % of the budget
    assert_eq!(hear(&ends), "the connection reached its limit max_buffered_bytes");
    until("nothing is accounted any more", || memory.used() == 0);
}

/// T41: by order of service, not by time.
#[test]
fn a_flood_leaves_the_others_their_turn() {
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let flood = Arc::new(AtomicUsize::new(0));
    let (tell, served) = mpsc::channel();
    let counted = flood.clone();
    let listener = serve(&pool, move |_| {
        let (flood, tell) = (counted.clone(), tell.clone());
        Script::new().frame(move |_, frame| match frame.bytes() {
            b"polite" => tell.send(flood.load(Ordering::SeqCst)).unwrap(),
            _ => _ = flood.fetch_add(1, Ordering::SeqCst),
        })
    });
    let mut loud = dial(&listener);
    let mut polite = [0; 3].map(|_| dial(&listener));
    until("all are accepted", || listener.connections() == 4);
    let go = hold(&reactor);
    loud.write_all(&wire(&[0; 200]).repeat(300)).unwrap(); // many turns' worth, and in few reads
    for socket in &mut polite {
        socket.write_all(&wire(b"polite").repeat(3)).unwrap();
    }
    until("all of it is in the kernel", || queued(&loud) == 0 && polite.iter().all(|s| queued(s) == 0));
    drop(go);
    for _ in 0..9 {
        let before = hear(&served);
        assert!(before <= 128, "{before} frames of the flood came first: two turns of 64 are fair");
    }
    until("the flood is served as well", || flood.load(Ordering::SeqCst) == 300);
}

/// T41: beside a connection that is quiet just now a flood is read by the turn, since what that one says is heard between turns.
#[test]
fn a_flood_is_read_in_one_go_only_where_there_is_nobody_else() {
    const FLOOD: usize = 300;
    let turns_beside = |quiet: usize| {
        let pool = pool(1);
        let reactor = pool.handles()[0].clone();
        let (tell, turns) = mpsc::channel();
        let options = limits(|conn| conn.turn_bytes = 4 << 10);
        let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| {
            let tell = tell.clone();
            Script::new().frame(move |_, _| tell.send(local::current().unwrap().turn()).unwrap())
        });
        let mut loud = dial(&listener);
        let _quiet: Vec<_> = (0..quiet).map(|_| dial(&listener)).collect();
        until("all are accepted", || listener.connections() == 1 + quiet);
        let go = hold(&reactor);
        loud.write_all(&wire(&[0; 200]).repeat(FLOOD)).unwrap();
        until("all of it is in the kernel", || queued(&loud) == 0);
        drop(go);
        let mut turns: Vec<_> = (0..FLOOD).map(|_| hear(&turns)).collect();
        turns.dedup();
        turns.len()
    };
    assert_eq!(turns_beside(0), 1);
    assert!(turns_beside(1) >= FLOOD * 204 / (4 << 10), "at most turn_bytes in a turn");
}

// --- time ---

#[test]
fn time_limits_end_connections_with_their_name() {
    let pool = pool(1);
    type Case = (&'static str, &'static [u8], fn(&mut ConnLimits));
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("first_frame_timeout", b"",                |c| c.first_frame_timeout = 40 * MS),
        ("first_frame_timeout", b"\0\0\0\x09abc",   |c| c.first_frame_timeout = 40 * MS),
        ("frame_progress",      b"\0",              |c| c.frame_progress = 40 * MS),
        ("frame_progress",      b"\0\0\0\x09abc",   |c| c.frame_progress = 40 * MS),
        ("frame_progress",      b"\0\0\0\0\0\0\0\x09abc", |c| c.frame_progress = 40 * MS),
        ("idle_timeout",        b"\0\0\0\0",        |c| c.idle_timeout = 40 * MS),
        // B35: what never ends is no overflow.
        ("idle_timeout",        b"\0\0\0\0",        |c| {
            (c.frame_progress, c.first_frame_timeout, c.write_stall_timeout) = (Duration::MAX, Duration::MAX, Duration::MAX);
            c.idle_timeout = 40 * MS;
        }),
        ("first_frame_timeout", b"",                |c| { c.first_frame_timeout = 40 * MS; c.idle_timeout = Duration::MAX }),
    ];
    for (name, sent, change) in cases {
        let (tell, ends) = mpsc::channel();
        let listener = listen(&pool, "tcp://127.0.0.1:0", limits(*change), move |_| Script::new().end_to(tell.clone()));
        let mut socket = dial(&listener);
        socket.write_all(sent).unwrap();
        assert_eq!(hear(&ends), format!("the connection reached its limit {name}"), "{sent:?}");
        assert!(socket.read_to_end(&mut Vec::new()).is_ok_and(|n| n <= 4), "closed in order");
    }
}

/// T4: more than a byte now and then is asked for, long before `frame_progress`.
#[test]
fn t4_a_slow_loris_is_closed() {
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let listener = serve(&pool, move |_| Script::new().end_to(tell.clone()));
    let mut socket = dial(&listener);
    let start = Instant::now();
    socket.write_all(&100_000_u32.to_be_bytes()).unwrap();
    let end = loop {
        let _ = socket.write_all(&[0; 10]);
        if let Ok(end) = ends.recv_timeout(250 * MS) {
            break end;
        }
        assert!(start.elapsed() < DEADLINE);
    };
    assert_eq!(end, "the connection reached its limit frame_progress");
    assert!(start.elapsed() >= 5000 * MS);
}

/// Time in which this side does not read is no fault of the peer.
#[test]
fn a_pause_does_not_count_against_the_peer() {
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let options = limits(|conn| conn.frame_progress = 200 * MS);
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| {
        Script::new().told_to(tell.clone()).open(|_| ()).deadline(|cx, _| cx.resume()).frame({
            let tell = tell.clone();
            move |cx, frame| {
                tell.send(String::from_utf8_lossy(frame.bytes()).into_owned()).unwrap();
                if frame.bytes() == b"pause" {
                    cx.pause();
                    cx.arm(cx.now() + 500 * MS, 0);
                }
            }
        })
    });
    let mut socket = dial(&listener);
    socket.write_all(&[wire(b"pause"), wire(b"late")[..5].to_vec()].concat()).unwrap();
    assert_eq!(hear(&told), "pause");
    socket.write_all(&wire(b"late")[5..]).unwrap(); // in time, but nobody reads it
    assert_eq!(hear(&told), "late");
}

/// A system that closes a socket with unread input resets it, and what was written last may be lost to the peer. It was so for some
/// reasons to close, and for all when the listener's connections were ended.
#[test]
fn last_words_are_not_lost_to_input_that_nobody_read() {
    let reasons: [(fn() -> CloseReason, bool); 3] = [
        (|| CloseReason::Local("it has said all it had to say"), false),
        (|| CloseReason::Limit("cancel_budget"), false),
        (|| CloseReason::Local("it has said all it had to say"), true),
    ];
    for (reason, hurried) in reasons {
        let pool = pool(1);
        let (tell, ends) = mpsc::channel();
        let listener = serve(&pool, move |_| {
            let closing = Script::new().frame(move |cx, _| {
                reply(cx, &pattern(100_000));
                cx.close(reason());
            });
            closing.end_to(tell.clone())
        });
        let mut socket = dial(&listener);
        // The reactor is held until all has arrived: two frames, of which it will read one.
        let go = hold(&pool.handles()[0]);
        socket.write_all(&[wire(b"a"), wire(&pattern(40_000))].concat()).unwrap();
        until("all of it has arrived", || queued(&socket) == 0);
        drop(go);
        assert_eq!(hear(&ends), reason().to_string());
        if hurried {
            listener.abort_connections("no more time");
            until("it is gone", || listener.connections() == 0);
        }
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).expect("an orderly end, not a reset");
        assert!(heard == wire(&pattern(100_000)), "{} bytes", heard.len());
        drop(socket);
        until("it is gone", || listener.connections() == 0);
        assert!(ends.try_recv().is_err(), "it was told once");
    }
}

/// A closing connection whose output is stuck: its time limits were in the past, and its timer expired for ever within one turn.
#[test]
fn a_closing_connection_with_stuck_output_does_not_hold_the_reactor() {
    let pool = pool(1);
    let (tell, ends) = mpsc::channel();
    let options = limits(|conn| {
        (conn.idle_timeout, conn.frame_progress, conn.first_frame_timeout) = (30 * MS, 30 * MS, 30 * MS);
        conn.write_stall_timeout = 400 * MS;
        conn.write_hard = 256 << 20;
    });
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, move |_| {
        Script::new().open(|cx| cx.output().write_bytes(vec![0; 64 << 20].into())).end_to(tell.clone())
    });
    let mut socket = dial(&listener);
    socket.write_all(b"\0\0").unwrap(); // the start of a frame
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&ends), "the connection reached its limit write_stall_timeout");
    on(&pool.handles()[0], || ());
}

#[test]
fn deadlines_of_a_handler_come_in_order_and_go_with_it() {
    let pool = leadable();
    let reactor = pool.handles()[0].clone();
    let server = support::pool(1);
    let listener = serve(&server, |_| Script::new());
    let (tell, told) = mpsc::channel();
    let script = Script::new()
        .open(|cx| {
            let now = cx.now();
            for (ms, key) in [(30, 3), (10, 1), (20, 2)] {
                cx.arm(now + ms * MS, key);
            }
            let disarmed = cx.arm(now + 15 * MS, 99);
            cx.disarm(disarmed);
            cx.disarm(disarmed);
            cx.arm(now, 0);
        })
        .deadline(move |_, key| tell.send(key).unwrap());
    connect(&reactor, listener.url(), Connector::default(), script);
    assert_eq!([0; 4].map(|_| hear(&told)), [0, 1, 2, 3]);
    // Many connections that die with timers of an hour: none of them may count as work, or the reactor can never be led.
    let fired = Arc::new(AtomicBool::new(false));
    for _ in 0..200 {
        let fired = fired.clone();
        let (tell, ends) = mpsc::channel();
        let script = Script::new()
            .open(|cx| {
                for n in 0..5 {
                    cx.arm(cx.now() + Duration::from_secs(3600 + n), n);
                }
                cx.close(CloseReason::Local("over"));
            })
            .deadline(move |_, _| fired.store(true, Ordering::SeqCst))
            .end_to(tell);
        connect(&reactor, listener.url(), Connector::default(), script);
        hear(&ends);
    }
    until("a caller may lead: the dead connections' timers are no work", || {
        reactor.run(|| ()); // a turn, between which and the next the thread may stand back
        reactor.block_on(async {
            rpc_transport::sleep(MS).await; // so that it is not over before it could lead
            local::current().is_some()
        })
    });
    assert!(!fired.load(Ordering::SeqCst));
}

/// A timer armed for now by the timer that comes now must not hold the turn for ever.
#[test]
fn a_timer_that_arms_itself_for_now_leaves_the_others_their_turn() {
    let pool = pool(1);
    let listener =
        serve(&pool, |_| Script::new().open(|cx| _ = cx.arm(cx.now(), 0)).deadline(|cx, _| _ = cx.arm(cx.now(), 0)));
    let _busy = dial(&listener);
    let mut socket = dial(&listener);
    assert_eq!(call(&mut socket, b"still there"), b"still there");
}
