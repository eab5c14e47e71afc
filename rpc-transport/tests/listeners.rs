//! Accepting: limits, placement, errors of the system, and what is said about them.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rpc_transport::{ListenOptions, Placement};
use support::*;

/// More than one turn's share of accepts: the rest used to wait for the next connection.
#[test]
fn every_queued_connection_is_accepted() {
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let go = hold(&pool.handles()[0]);
    let sockets: Vec<_> = (0..300).map(|_| dial(&listener)).collect();
    drop(go);
    until("all are accepted", || listener.connections() == sockets.len());
}

/// The kernel resets what it holds when a listener closes: requests of clients that had connected were lost.
#[test]
fn who_had_connected_before_the_end_is_served() {
    let pool = pool(2);
    let listener = serve(&pool, |_| Script::new());
    let go = hold(&pool.handles()[0]);
    let mut sockets: Vec<_> = (0..100).map(|_| dial(&listener)).collect();
    sockets.iter_mut().for_each(|socket| socket.write_all(&wire(b"hi")).unwrap());
    listener.close();
    drop(go);
    for socket in &mut sockets {
        assert_eq!(read_frame(socket), b"hi");
    }
}

/// A peer that was told to go before the listener was closed connected anew, and was reset with the calls that it had sent.
#[test]
fn nobody_is_told_to_go_who_could_still_connect() {
    let pool = pool(2);
    let listener = serve(&pool, |_| Script::new());
    let mut sockets: Vec<_> = (0..4).map(|_| dial(&listener)).collect();
    until("they are placed", || pool.handles().iter().all(|reactor| reactor.stats().connections.get() == 2));
    let go = hold(&pool.handles()[0]); // which has the listener
    listener.shut_down();
    on(&pool.handles()[1], || ()); // what it was asked for by now is done
    for socket in &mut sockets {
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing is said yet");
        socket.set_nonblocking(false).unwrap();
    }
    drop(go);
    for socket in &mut sockets {
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        assert!(std::net::TcpStream::connect(socket.peer_addr().unwrap()).is_err(), "nobody listens");
    }
}

/// From within, on the reactor itself: nobody is waited for there, and each connection, the one that asked among them, is asked to finish.
#[test]
fn a_handler_may_end_its_server() {
    let pool = pool(2);
    let (tell, ends) = mpsc::channel();
    let listener = serve(&pool, move |_| {
        Script::new()
            .frame(|cx, frame| match frame.bytes() {
                b"shut down" => cx.listener().expect("it was accepted").shut_down(),
                other => reply(cx, other),
            })
            .end_to(tell.clone())
    });
    let mut sockets: Vec<_> = (0..4).map(|_| dial(&listener)).collect();
    for socket in &mut sockets {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    sockets[0].write_all(&wire(b"shut down")).unwrap();
    for socket in &mut sockets {
        assert_eq!(hear(&ends), "closed by this side: the server is shutting down");
        assert_eq!(socket.read(&mut [0]).expect("an end"), 0);
    }
    drop(sockets);
    until("nobody is left", || listener.connections() == 0 && !listener.is_taking_in());
}

/// Those that the listener's reactor handed to another after that one had ended all of its own stayed, without a listener and with nobody who
/// knew of them.
#[test]
fn who_had_connected_before_all_is_cut_is_cut() {
    let pool = pool(2);
    let mut patient = ListenOptions::default();
    patient.conn.first_frame_timeout = 10 * DEADLINE;
    let listener = listen(&pool, "tcp://127.0.0.1:0", patient, |_| Script::new());
    let go = hold(&pool.handles()[0]);
    let mut sockets: Vec<_> = (0..20).map(|_| dial(&listener)).collect();
    listener.close();
    listener.abort_connections("the test says so");
    on(&pool.handles()[1], || ());
    drop(go);
    for socket in &mut sockets {
        let read = socket.read(&mut [0]);
        assert!(matches!(&read, Ok(0)) || read.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }
    until("none is left", || listener.connections() == 0);
}

/// B27: the limit is reached, and passed, like anything else.
#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let pool = pool(2);
    let mut options = ListenOptions::default();
    options.listen.max_connections = 3;
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
    let mut inside: Vec<_> = (0..3).map(|_| dial(&listener)).collect();
    until("three are in", || listener.connections() == 3);
    for _ in 0..5 {
        assert_eq!(dial(&listener).read(&mut [0]).unwrap_or(0), 0, "closed");
    }
    let refused: u64 = pool.handles().iter().map(|r| r.stats().refused_connections.get()).sum();
    assert_eq!(refused, 5);
    let snapshot = pool.snapshot(&rpc_transport::SnapshotOptions::default());
    assert!(snapshot.to_string().contains("3 of 3 connections, 5 refused, 0 pauses"), "{snapshot}");
    for socket in &mut inside {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    inside.pop();
    until("one has left", || listener.connections() == 2);
    assert_eq!(call(&mut dial(&listener), b"hi"), b"hi");
}

#[test]
fn connections_of_one_address_have_a_limit_of_their_own() {
    let pool = pool(2);
    let mut options = ListenOptions::default();
    options.listen.max_connections_per_peer = 2;
    let listener = listen(&pool, "tcp://0.0.0.0:0", options, |_| Script::new());
    let rpc_transport::Url::Tcp { port, .. } = *listener.url() else { panic!("TCP") };
    let from = |address: &str| from_address(address, port);
    let mut inside = [from("127.0.0.1"), from("127.0.0.1")];
    until("both are in", || listener.connections() == 2);
    assert_eq!(from("127.0.0.1").read(&mut [0]).unwrap_or(0), 0, "closed");
    for socket in &mut inside {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    let mut other = from("127.0.0.9");
    assert_eq!(call(&mut other, b"hi"), b"hi");
    drop(inside);
    until("they have left", || listener.connections() == 1);
    assert_eq!(call(&mut from("127.0.0.1"), b"hi"), b"hi");
}

/// A connection whose own end has that address.
fn from_address(address: &str, port: u16) -> std::net::TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let own = std::net::SocketAddr::new(address.parse().expect("an address"), 0);
    socket.bind(&own.into()).expect("an address of the loopback");
    socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("it listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    socket.into()
}

/// Ten come at once, and then one every 10 ms: forty take 300 ms, and all of them are served.
#[test]
fn connections_are_accepted_at_a_rate() {
    let pool = pool(1);
    let mut options = ListenOptions::default();
    options.listen.accept_rate = 100;
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
    let begun = Instant::now();
    let mut sockets: Vec<_> = (0..40).map(|_| dial(&listener)).collect();
    for socket in &mut sockets {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(290), "{took:?}");
    // Who has connected by the end is not left behind for the sake of the rate.
    let go = hold(&pool.handles()[0]);
    let mut late: Vec<_> = (0..40).map(|_| dial(&listener)).collect();
    listener.close();
    drop(go);
    for socket in &mut late {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
}

/// Each reactor has a socket, and keeps what it accepts; the end of the listener is the end of all of them.
#[test]
fn every_reactor_listens_by_itself() {
    let pool = pool(2);
    let options = ListenOptions { placement: Placement::ReusePort, ..ListenOptions::default() };
    let listener = listen(&pool, "tcp://127.0.0.1:0", options.clone(), |_| Script::new());
    let mut sockets: Vec<_> = (0..64).map(|_| dial(&listener)).collect();
    for socket in &mut sockets {
        assert_eq!(call(socket, b"hi"), b"hi");
    }
    for reactor in pool.handles() {
        let stats = reactor.stats();
        assert_eq!(stats.accepted.get(), stats.connections.get(), "what it accepts is its own");
        assert!(stats.accepted.get() > 0, "64 connections by the kernel's hash: none has none");
    }
    listener.shut_down();
    for socket in &mut sockets {
        assert_eq!(socket.read(&mut [0]).expect("the end"), 0);
        assert!(std::net::TcpStream::connect(socket.peer_addr().unwrap()).is_err(), "nobody listens");
    }
    until("nobody is left", || listener.connections() == 0);
    let refused = pool.listen(&unix_url("shards").1.parse().unwrap(), options, |_| (framing(), Script::new()));
    assert!(refused.unwrap_err().to_string().contains("choose another placement"));
}

/// The kernel queues what it is told to, within its own limit, and the listener says so.
#[test]
fn the_backlog_is_what_the_kernel_gives() {
    let most: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let pool = pool(1);
    for (wanted, given) in [(16, 16), (i32::MAX, most)] {
        let mut options = ListenOptions::default();
        options.socket.backlog = wanted;
        let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
        assert_eq!(listener.backlog(), given);
        // What `ss` shows as Send-Q of a listening socket.
        let rpc_transport::Url::Tcp { port, .. } = *listener.url() else { panic!("TCP") };
        let shown = std::process::Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output();
        if let Ok(shown) = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) {
            assert_eq!(shown.split_whitespace().nth(2), Some(given.to_string().as_str()), "{shown}");
        }
    }
}

#[test]
fn an_address_has_its_reactor_and_chance_has_no_favourite() {
    let pool = pool(3);
    let counts = || [0, 1, 2].map(|i| pool.handles()[i].stats().connections.get());
    let placed = |placement| {
        let options = ListenOptions { placement, ..ListenOptions::default() };
        let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
        let sockets: Vec<_> = (0..60).map(|_| dial(&listener)).collect();
        until("60 are in", || counts().iter().sum::<u64>() == 60);
        let placed = counts();
        drop(sockets);
        until("all have left", || counts().iter().sum::<u64>() == 0);
        listener.close();
        placed
    };
    let mut hashed = placed(Placement::SourceHash);
    hashed.sort_unstable();
    assert_eq!(hashed, [0, 0, 60], "they come from one address");
    let random = placed(Placement::Random);
    assert!(random.iter().all(|there| (4..48).contains(there)), "{random:?}");
}

#[test]
fn connections_are_placed_as_asked() {
    let pool = pool(3);
    let counts = || [0, 1, 2].map(|i| pool.handles()[i].stats().connections.get());
    for placement in [Placement::RoundRobin, Placement::LeastConnections] {
        let options = ListenOptions { placement, ..ListenOptions::default() };
        let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
        // All in one turn: what is on its way to a reactor counts as well.
        let (go, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let held = std::sync::Arc::new(gate);
        for reactor in pool.handles() {
            let held = held.clone();
            reactor.run(move || _ = held.lock().unwrap().recv_timeout(DEADLINE));
        }
        let sockets: Vec<_> = (0..30).map(|_| dial(&listener)).collect();
        drop(go);
        until("30 are in", || counts().iter().sum::<u64>() == 30);
        assert_eq!(counts(), [10, 10, 10], "{placement:?}");
        drop(sockets);
        until("all have left", || counts().iter().sum::<u64>() == 0);
        listener.close();
    }
}

#[test]
fn errors_say_where_why_and_what_to_do() {
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let listen = |url: &str| {
        let url = url.parse().map_err(|e: rpc_transport::UrlError| e.to_string())?;
        let result = pool.listen(&url, ListenOptions::default(), |_| (framing(), Script::new()));
        result.map_err(|e| e.to_string())
    };
    let url = listener.url().to_string();
    assert_eq!(
        listen(&url).unwrap_err(),
        format!(
            "cannot listen at {url}: Address already in use (os error 98); another process listens there: stop it, or choose \
             another port (0: any free one)"
        )
    );
    let error = listen("tcp://no.such.host.invalid:1").unwrap_err();
    assert!(error.contains("tcp://no.such.host.invalid:1") && error.contains("cannot be looked up"), "{error}");
    let error = listen("tcp://192.0.2.1:0").unwrap_err();
    assert!(error.ends_with("; this machine has no such address"), "{error}");

    // A socket file in use is left alone; one that a dead process left is replaced; another file is not.
    let (path, url) = unix_url("stale");
    let first = listen(&url).unwrap();
    assert!(listen(&url).unwrap_err().contains("Address already in use"));
    assert_eq!(call(&mut dial_unix(&path), b"hi"), b"hi");
    first.close();
    until("its file is removed", || !path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = listen(&url).unwrap();
    assert_eq!(call(&mut dial_unix(&path), b"hi"), b"hi");
    second.close();
    until("its file is removed", || !path.exists());
    std::fs::write(&path, b"precious").unwrap();
    assert!(listen(&url).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
}

/// A port that is free, for who must name it before it is bound.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn several_addresses_at_once() {
    for placement in [Placement::RoundRobin, Placement::ReusePort] {
        let pool = pool(2);
        let (path, unix) = unix_url("several");
        let mut urls = vec!["tcp://127.0.0.1:0".parse().unwrap(), "tcp://127.0.0.2:0".parse().unwrap()];
        if placement == Placement::RoundRobin {
            urls.push(unix.parse().unwrap());
        }
        let options = ListenOptions { placement, ..ListenOptions::default() };
        let listeners = pool.listen_all(&urls, options, |_| (framing(), Script::new())).unwrap();
        assert_eq!(listeners.len(), urls.len());
        let mut inside: Vec<_> = listeners[..2].iter().map(dial).collect();
        inside.iter_mut().for_each(|socket| assert_eq!(call(socket, b"hi"), b"hi"));
        if placement == Placement::RoundRobin {
            assert_eq!(call(&mut dial_unix(&path), b"hi"), b"hi");
        }
    }
}

/// What had been bound before the one that failed is free again when the error is returned.
#[test]
fn of_several_addresses_all_are_bound_or_none() {
    let pool = pool(2);
    let taken = serve(&pool, |_| Script::new());
    let bad = [taken.url().to_string(), "tcp://192.0.2.1:0".to_owned(), "unix:/no/such/dir/a.sock".to_owned()];
    for placement in [Placement::RoundRobin, Placement::ReusePort] {
        for bad in &bad {
            let (port, (path, unix)) = (free_port(), unix_url("none"));
            let mut urls = vec![format!("tcp://127.0.0.1:{port}"), bad.clone()];
            if placement == Placement::RoundRobin {
                urls.insert(1, unix);
            }
            let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
            let options = ListenOptions { placement, ..ListenOptions::default() };
            let error = pool.listen_all(&urls, options, |_| (framing(), Script::new())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot listen at {bad}: ")), "{error}");
            std::net::TcpListener::bind(("127.0.0.1", port)).expect("it is free");
            assert!(!path.exists());
        }
    }
    assert_eq!(call(&mut dial(&taken), b"hi"), b"hi", "another's listener goes on");
}

#[test]
fn a_closed_listener_keeps_its_connections_and_its_books() {
    let pool = pool(2);
    let listener = serve(&pool, |_| Script::new());
    let mut socket = dial(&listener);
    assert_eq!(call(&mut socket, b"hi"), b"hi");
    listener.close();
    listener.close();
    pool.handles().iter().for_each(|reactor| on(reactor, || ()));
    assert_eq!(call(&mut socket, b"still"), b"still");
    listener.shut_down_connections();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    until("nobody is left", || listener.connections() == 0);
    drop(listener);
}

/// T13, B09: no descriptors: a pause, not a spin, and not a word per connection that waits.
#[test]
fn t13_accepting_pauses_without_descriptors_and_goes_on() {
    if !in_a_process_of_its_own("t13_accepting_pauses_without_descriptors_and_goes_on", &["prlimit", "--nofile=64"]) {
        return;
    }
    let pool = pool(1);
    let stats = pool.handles()[0].stats();
    let mut options = ListenOptions::default();
    options.listen.accept_backoff_max = Duration::from_millis(200);
    let listener = listen(&pool, "tcp://127.0.0.1:0", options, |_| Script::new());
    let mut polite = dial(&listener);
    assert_eq!(call(&mut polite, b"hi"), b"hi");
    // Both ends are in this process: the connecting sockets use up the descriptors first.
    let mut crowd = Vec::new();
    let rpc_transport::Url::Tcp { host, port } = listener.url() else { panic!() };
    while let Ok(socket) = std::net::TcpStream::connect((host.as_str(), *port)) {
        crowd.push(socket);
    }
    until("accepting failed", || stats.accept_errors.get() > 0);
    let snapshot = pool.snapshot(&rpc_transport::SnapshotOptions::default());
    assert!(snapshot.listeners[0].pauses > 0 && snapshot.to_string().contains("Too many open files"), "{snapshot}");
    let (errors, start, cpu) = (stats.accept_errors.get(), Instant::now(), cpu_time());
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(call(&mut polite, b"hi"), b"hi");
        // A connection more or less wakes the listener; it must not try because of that.
        crowd.pop();
        if let Ok(socket) = std::net::TcpStream::connect((host.as_str(), *port)) {
            crowd.push(socket);
        }
        std::thread::sleep(Duration::from_millis(20)); // the rate of the crowd
    }
    let tries = stats.accept_errors.get() - errors;
    assert!(tries <= 30, "{tries} tries in a second");
    assert!(cpu_time() - cpu < Duration::from_millis(200), "busy while paused");
    drop(crowd);
    until("it accepts again", || {
        let Ok(mut socket) = std::net::TcpStream::connect((host.as_str(), *port)) else { return false };
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.write_all(&wire(b"back")).unwrap();
        let mut reply = [0; 8];
        socket.read_exact(&mut reply).is_ok() && reply[4..] == *b"back"
    });
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
