//! Peers that are gone without a word: what finds them, and when.
//!
//! ```text
//!  this process's network          a thread's network
//!  10.9.0.1 ──── near ════ far ──── 10.9.0.2     until the far end loses its address: then all that comes there is dropped
//! ```
#![cfg(target_os = "linux")]

mod support;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rpc_transport::{Connector, Keepalive, ListenOptions, SocketOptions};
use support::*;

const S: Duration = Duration::from_secs(1);

/// T5: a peer that vanishes is found within the time that the options say, on either side, whether it was silent or owed an
/// acknowledgement.
#[test]
fn t5_a_peer_that_vanishes_is_found_in_time() {
    let alone = ["unshare", "--map-root-user", "--net"];
    let can = Command::new(alone[0]).args(&alone[1..]).args(["ip", "link"]).stdout(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return println!("not tried: no network namespaces for this user, or no `ip`");
    }
    if !in_a_process_of_its_own("t5_a_peer_that_vanishes_is_found_in_time", &alone) {
        return;
    }
    let far = far_end();
    let pool = pool(1);
    let probes = Some(Keepalive { idle: S, interval: S, count: 2 });
    //                                    keepalive  user_timeout  it writes
    let rows = [
        ("probes and user_timeout", probes, Some(3 * S), false),
        ("probes alone", probes, None, false),
        ("an unanswered write", None, Some(3 * S), true),
        ("a write, with probes, too", probes, Some(3 * S), true),
        ("nothing", None, None, false),
    ];
    let (tell, ends) = mpsc::channel();
    let ending = |name: String| {
        let tell = tell.clone();
        Script::new().close(move |_, reason| tell.send((name.clone(), reason.to_string())).unwrap_or(()))
    };
    let mut peers = Vec::new();
    let mut writers = Vec::new();
    for (name, keepalive, user_timeout, writes) in rows {
        let socket = SocketOptions { keepalive, user_timeout, ..SocketOptions::default() };
        // Accepted.
        let options = ListenOptions { socket: socket.clone(), ..ListenOptions::default() };
        let (made, make) = mpsc::channel();
        let handler = std::sync::Mutex::new(Some(ending(format!("server: {name}"))));
        let listener = listen(&pool, "tcp://10.9.0.1:0", options, move |_| {
            let made = made.clone();
            let handler = handler.lock().unwrap().take().expect("one connection");
            handler.open(move |cx| made.send(cx.conn_ref()).unwrap_or(()))
        });
        let rpc_transport::Url::Tcp { port, .. } = *listener.url() else { panic!("TCP") };
        let mut peer = far_does(&far, move || TcpStream::connect(("10.9.0.1", port)).unwrap());
        assert_eq!(call(&mut peer, b"hi"), b"hi");
        let accepted = hear(&make).id();
        peers.push(peer);
        // Connected.
        let listening = far_does(&far, || TcpListener::bind("10.9.0.2:0").unwrap());
        let url = format!("tcp://{}", listening.local_addr().unwrap()).parse().unwrap();
        let connector = Connector { socket, ..Connector::default() };
        let connected = connect(&pool.handles()[0], &url, connector, ending(format!("client: {name}")));
        peers.push(listening.accept().unwrap().0);
        writers.extend([accepted, connected].into_iter().filter(|_| writes));
    }
    far_does(&far, || run("ip addr flush dev far"));
    let gone = Instant::now();
    let reactor = pool.handles()[0].clone();
    on(&reactor.clone(), move || {
        for id in writers {
            rpc_transport::local::visit(&reactor, id, |_: &mut Script, cx| reply(cx, b"anybody there?")).unwrap();
        }
    });
    for _ in 0..2 * (rows.len() - 1) {
        let (name, reason) = hear(&ends); // long before the kernel's own two hours, or quarter of an hour
        println!("{name}: after {:?}: {reason}", gone.elapsed());
        assert_eq!(reason, "the connection failed: Connection timed out (os error 110)", "{name}");
        assert!(!name.ends_with(": nothing"), "{name} is not looked for");
    }
    assert!(gone.elapsed() >= 2 * S, "they had their time");
    assert_eq!(pool.handles()[0].stats().connections.get(), 2, "those that nobody looks for are believed to be there");
    peers.iter().for_each(|peer| _ = peer.shutdown(Shutdown::Both)); // they were open until here
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network of its own, joined to this one by a pair of interfaces. It does what it is sent.
fn far_end() -> Sender<Job> {
    let (send, jobs) = mpsc::channel::<Job>();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
        tell.send(nix::unistd::gettid()).unwrap();
        jobs.into_iter().for_each(|job| job());
    });
    let far = hear(&told);
    // Each knows the other's address: nobody asks for it, so nobody is told that there is no answer.
    let near = "02:00:00:00:00:01";
    let there = "02:00:00:00:00:02";
    run(&format!("ip link add near address {near} type veth peer name far address {there} netns {far}"));
    run("ip addr add 10.9.0.1/24 dev near");
    run("ip link set near up");
    run(&format!("ip neigh replace 10.9.0.2 lladdr {there} dev near nud permanent"));
    far_does(&send, move || {
        run("ip addr add 10.9.0.2/24 dev far");
        run("ip link set far up");
        run(&format!("ip neigh replace 10.9.0.1 lladdr {near} dev far nud permanent"));
    });
    send
}

fn far_does<T: Send + 'static>(far: &Sender<Job>, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear_it) = mpsc::channel();
    far.send(Box::new(move || tell.send(f()).unwrap_or(()))).unwrap();
    hear(&hear_it)
}

/// Runs a command in the network of this thread.
fn run(command: &str) {
    let words: Vec<_> = command.split_whitespace().collect();
    assert!(Command::new(words[0]).args(&words[1..]).status().expect(command).success(), "{command}");
}
