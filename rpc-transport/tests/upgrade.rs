//! Listening sockets that change hands: within this process, so that each step stands still. What happens between processes is in the tests
//! of the examples. Feature `upgrade`, on Linux.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use rpc_transport::upgrade::{ListeningSocket, Upgrade, UpgradeCause, Waiting};
use rpc_transport::{ListenOptions, ListenerHandle, Placement, ReactorPool, SnapshotOptions};
use support::*;

/// Listens on sockets that another listener has, too.
fn serve_on(pool: &ReactorPool, sockets: Vec<ListeningSocket>, placement: Placement) -> ListenerHandle {
    let options = ListenOptions { placement, ..ListenOptions::default() };
    pool.listen_on(sockets, options, |_| (framing(), Script::new())).unwrap()
}

/// One that closes takes in its queue; one that leaves does not, because the next one does.
#[test]
fn who_waits_when_a_listener_leaves_is_served_by_the_next() {
    let (before, after) = (pool(1), pool(2));
    let listener = serve(&before, |_| Script::new());
    let mut known = dial(&listener);
    assert_eq!(call(&mut known, b"known"), b"known");
    let shared = listener.share().unwrap();

    let go = hold(&before.handles()[0]);
    let mut waiting: Vec<_> = (0..20).map(|_| dial(&listener)).collect();
    waiting.iter_mut().for_each(|socket| socket.write_all(&wire(b"hi")).unwrap());
    listener.leave();
    drop(go);
    // What has been queued may be accepted in the turn that the reactor was held in; who comes from here on is not.
    until("it has left", || !listener.is_taking_in());
    assert_eq!(known.read(&mut [0]).unwrap(), 0, "its own connection was asked to finish");
    waiting.extend((0..20).map(|_| {
        let mut socket = dial(&listener);
        socket.write_all(&wire(b"hi")).unwrap();
        socket
    }));

    let next = serve_on(&after, shared, Placement::RoundRobin);
    assert_eq!(next.url(), listener.url());
    for socket in &mut waiting[20..] {
        assert_eq!(read_frame(socket), b"hi");
    }
    next.close();
    until("it is closed", || !next.is_taking_in());
    let late = std::net::TcpStream::connect(known.peer_addr().unwrap());
    assert_eq!(late.unwrap_err().kind(), ErrorKind::ConnectionRefused, "nobody listens any more");
}

/// Both at once: each connection has one of them.
#[test]
fn two_listeners_share_a_queue() {
    let (one, other) = (pool(1), pool(1));
    let first = serve(&one, |_| Script::new());
    let second = serve_on(&other, first.share().unwrap(), Placement::RoundRobin);
    let mut sockets: Vec<_> = (0..50).map(|_| dial(&first)).collect();
    for socket in &mut sockets {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    assert_eq!(first.connections() + second.connections(), 50);
}

#[test]
fn a_unix_socket_keeps_its_file_until_the_last_one_closes() {
    let (path, url) = unix_url("handed-over");
    let (before, after) = (pool(1), pool(1));
    let listener = listen(&before, &url, ListenOptions::default(), |_| Script::new());
    let next = serve_on(&after, listener.share().unwrap(), Placement::RoundRobin);
    listener.leave();
    until("it has left", || !listener.is_taking_in());
    assert_eq!(call(&mut dial_unix(&path), b"hi"), b"hi");
    next.close();
    until("its file is gone", || !path.exists());
}

/// systemd has it, too, and goes on with it: the file and who waits are not this process's to remove.
#[test]
fn what_others_keep_is_left_to_them() {
    let (path, url) = unix_url("kept");
    let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let pool = pool(1);
    let socket = ListeningSocket::shared(theirs.try_clone().unwrap().into()).unwrap();
    assert_eq!(socket.url().to_string(), url);
    let listener = serve_on(&pool, vec![socket], Placement::RoundRobin);
    assert_eq!(call(&mut dial_unix(&path), b"hi"), b"hi");
    let shared = listener.share().unwrap();
    listener.close();
    until("it is closed", || !listener.is_taking_in());
    assert!(path.exists());
    // Nor is it that of who has it from this process.
    let next = serve_on(&pool, shared, Placement::RoundRobin);
    next.close();
    until("it is closed", || !next.is_taking_in());
    assert!(path.exists());
    let _waiting = dial_unix(&path);
    theirs.set_nonblocking(true).unwrap();
    assert!(theirs.accept().is_ok(), "who connects now waits for them");
    fs::remove_file(path).unwrap();
}

/// Each row: sockets, reactors, and whether each reactor keeps what it accepts.
#[test]
#[rustfmt::skip]
fn every_socket_is_listened_on_whatever_reactors_there_are() {
    let check = |sockets: usize, reactors: usize| {
        let (before, after) = (pool(sockets), pool(reactors));
        let options = ListenOptions { placement: Placement::ReusePort, ..ListenOptions::default() };
        let listener = listen(&before, "tcp://127.0.0.1:0", options, |_| Script::new());
        let shared = listener.share().unwrap();
        assert_eq!(shared.len(), sockets);
        let next = serve_on(&after, shared, Placement::ReusePort);
        listener.leave();
        until("it has left", || !listener.is_taking_in());
        // The kernel spreads them over all sockets: one that nobody listens on would keep its share waiting.
        let mut peers: Vec<_> = (0..64).map(|_| dial(&next)).collect();
        for peer in &mut peers {
            assert_eq!(call(peer, b"hi"), b"hi", "{sockets} sockets, {reactors} reactors");
        }
        let idle = after.handles().iter().filter(|reactor| reactor.stats().connections.get() == 0).count();
        assert_eq!(idle, 0, "{sockets} sockets, {reactors} reactors");
    };
    check(1, 1);
    check(3, 3);
    check(3, 1);
    check(2, 3);
    check(1, 2);
}

/// It was bound by somebody who had another opinion of how long its queue may be.
#[test]
fn the_queue_of_a_socket_that_was_given_is_as_long_as_this_side_wants_it() {
    let theirs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = pool(1);
    let mut options = ListenOptions::default();
    options.socket.backlog = 7;
    let sockets = vec![ListeningSocket::new(theirs.into()).unwrap()];
    let listener = pool.listen_on(sockets, options, |_| (framing(), Script::new())).unwrap();
    assert_eq!(listener.backlog(), 7);
    let snapshot = pool.snapshot(&SnapshotOptions::default());
    let queues = snapshot.listeners[0].queues.as_deref().expect("the kernel tells");
    assert_eq!(queues[0].backlog, 7);
}

#[test]
fn listening_on_nothing_is_an_error() {
    let error = pool(1).listen_on(Vec::new(), ListenOptions::default(), |_| (framing(), Script::new())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// One at a time, and each can be cancelled.
#[test]
fn a_second_hand_over_is_refused_while_one_is_under_way() {
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let how = Upgrade::new().program("/bin/sleep").args(["1000"]).timeout(10 * DEADLINE);
    let (tell, hear_canceller) = mpsc::channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| how.hand_over([("a", &listener)], |canceller| tell.send(canceller).unwrap()));
        let canceller = hear(&hear_canceller);
        let second = how.hand_over([("a", &listener)], |_| panic!("it is refused before")).unwrap_err();
        assert!(matches!(second.cause, UpgradeCause::UnderWay), "{second}");
        assert_eq!((second.waiting, second.pid), (Waiting::Start, None));
        drop(canceller);
        let error = first.join().unwrap().unwrap_err();
        assert!(matches!(error.cause, UpgradeCause::Cancelled), "{error}");
    });
    let error = how.hand_over([("a", &listener)], drop).unwrap_err();
    assert!(matches!(error.cause, UpgradeCause::Cancelled) && error.pid.is_none(), "nothing is started: {error}");
    let short = how.timeout(Duration::from_millis(10));
    let mut keep = None;
    let error = short.hand_over([("a", &listener)], |canceller| keep = Some(canceller)).unwrap_err();
    assert!(matches!(error.cause, UpgradeCause::TimedOut(_)), "{error}");
    assert_eq!(call(&mut dial(&listener), b"hi"), b"hi", "it serves as before");
}
