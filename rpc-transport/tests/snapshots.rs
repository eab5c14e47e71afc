//! What an operator sees: connections, reactors that are held, queues of listeners, stalls and who they are.

mod support;

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rpc_transport::diagnose::{ConnSnapshot, ConnState, During, Inside, Queue, Silence, Snapshot};
use rpc_transport::{Cx, Frame, Handler, ListenOptions, Load, ReactorPool, SnapshotOptions};
use support::*;

const MS: Duration = Duration::from_millis(1);

fn options(connections: usize) -> SnapshotOptions {
    SnapshotOptions { timeout: DEADLINE, connections }
}

fn inside(snapshot: &Snapshot, reactor: usize) -> &Inside {
    snapshot.reactors[reactor].inside.as_ref().expect("it answers")
}

/// The connection of the only reactor that a peer has at its other end, once it has been taken in.
#[track_caller]
fn with_peer(pool: &ReactorPool, peer: &std::net::TcpStream) -> ConnSnapshot {
    let name = format!("tcp://{}", peer.local_addr().unwrap());
    let mut found = None;
    until("it is taken in", || {
        let snapshot = pool.snapshot(&options(usize::MAX));
        found = inside(&snapshot, 0).connections.iter().find(|conn| *conn.peer == *name).cloned();
        found.is_some()
    });
    found.unwrap()
}

/// Echoes, says what it has to do, and stops for good at a frame `stop`.
#[derive(Default)]
struct Busy(u64);

impl Handler for Busy {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        self.0 += 1;
        match frame.bytes() {
            b"stop" => cx.pause(),
            b"flood" => reply(cx, &vec![7; 8 << 20]),
            _ => reply(cx, frame.bytes()),
        }
    }

    fn load(&self) -> Load {
        Load { in_flight: Some(3), queued: Some(4), frames_in: Some(self.0), frames_out: None }
    }
}

#[test]
fn a_connection_is_shown_with_what_it_does_and_what_holds_it_up() {
    let pool = pool(1);
    let url = "tcp://127.0.0.1:0".parse().unwrap();
    let listener = pool.listen(&url, ListenOptions::default(), |_| (framing(), Busy::default())).unwrap();
    let mut peer = dial(&listener);
    assert_eq!(call(&mut peer, b"hello"), b"hello");
    let conn = with_peer(&pool, &peer);
    assert_eq!(conn.local.as_ref(), Some(listener.url()));
    assert_eq!((conn.state.clone(), conn.accepted, conn.bytes_out), (ConnState::Open, true, 9));
    assert_eq!(conn.load, Load { in_flight: Some(3), queued: Some(4), frames_in: Some(1), frames_out: None });
    assert_eq!((conn.input, conn.output, conn.held.any(), conn.seen), (0, 0, false, None));
    if cfg!(target_os = "linux") {
        let tcp = conn.tcp.expect("the kernel knows it");
        assert_eq!((tcp.bytes_received, tcp.retransmits, tcp.receive_queue), (9, 0, 0));
        assert!(tcp.rtt > Duration::ZERO);
    }
    let shown = conn.to_string();
    assert!(shown.contains("from tcp://127.0.0.1:") && shown.contains("in flight 3, queued 4, frames in 1"), "{shown}");

    peer.write_all(b"\0\0\0\x09abc").unwrap();
    until("it is within a frame", || with_peer(&pool, &peer).within_frame.is_some());
    assert_eq!(with_peer(&pool, &peer).input, 7);
    peer.write_all(b"defghi").unwrap();
    assert_eq!(read_frame(&mut peer), b"abcdefghi");

    peer.write_all(&[wire(b"stop"), wire(b"more")].concat()).unwrap();
    until("its handler holds it up", || with_peer(&pool, &peer).held.by_handler);
    let conn = with_peer(&pool, &peer);
    assert_eq!((conn.input, conn.held.by_output, conn.held.by_memory), (8, false, false));
    assert!(conn.to_string().contains("not read because of its handler"), "{conn}");

    let mut greedy = dial(&listener);
    greedy.write_all(&[wire(b"flood"), wire(b"more")].concat()).unwrap();
    until("its output holds it up", || with_peer(&pool, &greedy).held.by_output);
    let conn = with_peer(&pool, &greedy);
    assert!(conn.output > 0 && conn.stalled.is_some(), "{conn}");
    assert!(conn.tcp.is_none_or(|tcp| tcp.send_queue > 0), "{conn}");

    // Of many, those that are held up come first.
    let mut others: Vec<_> = (0..8).map(|_| dial(&listener)).collect();
    others.iter_mut().for_each(|other| assert_eq!(call(other, b"hi"), b"hi"));
    let snapshot = pool.snapshot(&options(2));
    let shown = inside(&snapshot, 0);
    assert_eq!((shown.all_connections, shown.connections.len()), (10, 2));
    assert!(shown.connections[0].held.by_output && shown.connections[1].held.by_handler, "{snapshot}");
    assert!(snapshot.to_string().contains("and 8 more"), "{snapshot}");
}

#[test]
fn a_side_that_has_ended_is_shown() {
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let listener = serve(&pool, move |_| {
        let tell = tell.clone();
        Script::new().frame(|cx, _| cx.finish()).eof(move |_| tell.send(()).is_ok())
    });
    let (finishes, mut hears) = (dial(&listener), dial(&listener));
    finishes.shutdown(std::net::Shutdown::Write).unwrap();
    hear(&told);
    hears.write_all(&wire(b"enough")).unwrap();
    assert_eq!(hears.read(&mut [0]).unwrap(), 0);
    for (peer, own, peers, text) in [
        (&finishes, false, true, "open, the peer's side has ended, "),
        (&hears, true, false, "open, this side has ended, "),
    ] {
        let conn = with_peer(&pool, peer);
        assert_eq!((conn.finished, conn.peer_finished), (own, peers));
        assert!(conn.to_string().contains(text), "{conn}");
    }
}

/// Who asks is not held with the reactor, and hears of the queue that grows meanwhile.
#[test]
fn a_reactor_that_is_held_does_not_hold_who_asks() {
    let pool = pool(2);
    let mut small = ListenOptions::default();
    small.socket.backlog = 16;
    let listener = listen(&pool, "tcp://127.0.0.1:0", small, |_| Script::new());
    let go = hold(&pool.handles()[0]); // which has the listener
    let waiting: Vec<_> = (0..3).map(|_| dial(&listener)).collect();
    let begun = Instant::now();
    let snapshot = pool.snapshot(&SnapshotOptions { timeout: 100 * MS, ..SnapshotOptions::default() });
    assert!(begun.elapsed() < DEADLINE / 2, "it returned in time");
    let Err(Silence::Held { waited, same_turn, by }) = &snapshot.reactors[0].inside else { panic!("{snapshot}") };
    assert!(*waited >= 100 * MS && *same_turn && by.is_none(), "{snapshot}");
    assert_eq!(inside(&snapshot, 1).all_connections, 0);
    let shown = snapshot.to_string();
    assert!(shown.contains("did not answer for 1") && shown.contains("in one turn all the time"), "{shown}");
    if cfg!(target_os = "linux") {
        let [there] = &snapshot.listeners[..] else { panic!("{shown}") };
        let [Queue { waiting: 3, backlog: 16, .. }] = there.queues.as_deref().unwrap_or_default() else {
            panic!("{shown}")
        };
        assert!(shown.contains("; 3 of 16 wait"), "{shown}");
        assert!(snapshot.overflows.is_some());
    }
    drop(go);
    until("they are taken in", || listener.connections() == waiting.len());
    let snapshot = pool.snapshot(&options(9));
    assert_eq!(inside(&snapshot, 0).all_connections + inside(&snapshot, 1).all_connections, 3);
    listener.close();
    assert!(pool.snapshot(&options(9)).listeners.is_empty(), "it listens no more");
}

/// A handler may ask, for a page of its own server: its reactor answers at once, and does not wait for itself.
#[test]
fn a_handler_can_ask_for_its_own_reactor() {
    let pool = std::sync::Arc::new(pool(1));
    let asks = std::sync::Arc::downgrade(&pool);
    let listener = serve(&pool, move |_| {
        let asks = asks.clone();
        Script::new().frame(move |cx, _| {
            let snapshot = asks.upgrade().expect("it lives").snapshot(&options(9));
            let (all, shown) = (inside(&snapshot, 0).all_connections, inside(&snapshot, 0).connections.len());
            reply(cx, format!("{all} {shown}").as_bytes());
        })
    });
    let other = dial(&listener);
    until("it is in", || listener.connections() == 1);
    assert_eq!(call(&mut dial(&listener), b"how are you?"), b"2 1", "all but the one that asks");
    drop(other);
}

/// Works for so long, as a handler should not.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn who_observes_sees_time_latency_and_who_stalls() {
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let listener = serve(&pool, |_| {
        Script::new().frame(|cx, frame| {
            if frame.bytes() == b"slow" {
                spin(300 * MS);
            }
            reply(cx, frame.bytes());
        })
    });
    let (mut quick, mut slow) = (dial(&listener), dial(&listener));
    assert_eq!(call(&mut quick, b"before"), b"before");
    assert_eq!(call(&mut slow, b"before"), b"before");
    let seen = || inside(&pool.snapshot(&options(9)), 0).seen.clone();
    assert!(seen().is_none(), "nobody observes");

    let observation = pool.observe();
    on(&reactor, || ());
    for _ in 0..20 {
        assert_eq!(call(&mut quick, b"hi"), b"hi");
    }
    let conn = with_peer(&pool, &quick).seen.expect("it is observed");
    assert_eq!((conn.frames, conn.bytes_in, conn.bytes_out), (20, 120, 120));
    let calm = seen().expect("it is observed");
    assert!(calm.latency.total() >= 20 && calm.turns >= 20 && calm.events >= 20, "{calm}");
    assert!(calm.busy.is_some_and(|busy| busy < 1.0), "{calm}");

    // A handler.
    assert_eq!(call(&mut slow, b"slow"), b"slow");
    let conn = with_peer(&pool, &slow);
    let stall = seen().and_then(|seen| seen.longest_stall).expect("there was one");
    assert_eq!((stall.during, stall.frames, stall.task_polls), (During::Connection(conn.id), 1, 0));
    assert!(stall.lasted >= 300 * MS && conn.seen.is_some_and(|seen| seen.busy >= 300 * MS), "{stall}, {conn}");
    let few = pool.snapshot(&options(1));
    assert!(inside(&few, 0).connections.iter().any(|shown| shown.id == conn.id), "who stalled is shown: {few}");
    assert!(with_peer(&pool, &quick).seen.is_some_and(|seen| seen.busy < 300 * MS), "it is not blamed");
    assert!(stall.to_string().ends_with(&format!("connection {}, 1 frames", conn.id)), "{stall}");
    assert!(seen().is_some_and(|seen| seen.turn.longest() >= 300 * MS && seen.latency.longest() < stall.lasted));

    // A task.
    let (tell, told) = mpsc::channel();
    reactor.spawn(async move {
        spin(600 * MS);
        tell.send(()).unwrap();
    });
    hear(&told);
    let stall = seen().and_then(|seen| seen.longest_stall).expect("a longer one");
    assert!(stall.lasted >= 600 * MS && stall.task_polls >= 1, "{stall}");
    assert!(stall.to_string().contains("or one of "), "{stall}");

    // A closure.
    on(&reactor, || spin(1200 * MS));
    let stall = seen().and_then(|seen| seen.longest_stall).expect("a longer one");
    assert!(stall.lasted >= 1200 * MS && stall.during == During::Commands, "{stall}");

    // Two observe: the first to go takes nothing from the other; then nothing is left.
    let second = pool.observe();
    drop(observation);
    assert!(seen().is_some_and(|seen| seen.longest_stall.is_some_and(|stall| stall.lasted >= 1200 * MS)));
    drop(second);
    assert!(seen().is_none());
    assert_eq!(call(&mut quick, b"after"), b"after");
}

/// What comes and goes while somebody observes is told apart, though it has the same socket and place.
#[test]
fn connections_that_follow_one_another_are_not_mixed_up() {
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let _observation = pool.observe();
    let mut last = None;
    for n in 1..=5 {
        let mut peer = dial(&listener);
        for _ in 0..n {
            assert_eq!(call(&mut peer, b"hi"), b"hi");
        }
        let conn = with_peer(&pool, &peer);
        assert_eq!(conn.seen.map(|seen| (seen.frames, seen.bytes_in)), Some((n, 6 * n)));
        assert_ne!(last.replace(conn.id), Some(conn.id));
        drop(peer);
        until("it has left", || listener.connections() == 0);
    }
}

/// A reactor that blocking callers turn has nobody's time in between.
#[test]
fn while_nobody_turns_a_reactor_nobody_holds_it() {
    let pool = leadable();
    let reactor = &pool.handles()[0];
    let _observation = pool.observe();
    for _ in 0..3 {
        reactor.block_on(async {});
        spin(300 * MS);
    }
    let seen = inside(&pool.snapshot(&options(9)), 0).seen.clone().expect("it is observed");
    assert!(seen.longest_stall.is_none_or(|stall| stall.lasted < 300 * MS), "{seen}");
    assert!(seen.busy.is_some_and(|busy| busy < 0.5), "{seen}");
}

/// A runtime sleeps elsewhere: what it does besides is not the reactor's time.
#[cfg(feature = "tokio")]
#[test]
fn a_reactor_on_tokio_is_observed_as_far_as_it_goes() {
    let runtime = std::sync::Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let turns = std::sync::Arc::clone(&runtime);
    std::thread::spawn(move || turns.block_on(std::future::pending::<()>())); // as long as the process lives
    let pool = ReactorPool::on_tokio(runtime.handle(), 1).unwrap();
    let listener = serve(&pool, |_| Script::new());
    let _observation = pool.observe();
    let mut peer = dial(&listener);
    assert_eq!(call(&mut peer, b"hi"), b"hi");
    spin(300 * MS);
    assert_eq!(call(&mut peer, b"hi"), b"hi");
    let snapshot = pool.snapshot(&options(9));
    let seen = inside(&snapshot, 0).seen.clone().expect("it is observed");
    assert!(seen.busy.is_none() && seen.latency.total() >= 2, "{seen}");
    assert!(seen.longest_stall.is_some_and(|stall| stall.lasted < 300 * MS), "{seen}");
    assert_eq!(inside(&snapshot, 0).connections[0].seen.map(|seen| seen.frames), Some(2));
}
