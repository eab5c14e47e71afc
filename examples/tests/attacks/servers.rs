//! Servers that attack their client (T10, T37). The client is the testee's own: it relays calls to them, and serves the polite client
//! with the same reactors meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rpc_core::{Code, Error};
use testee::idl::testee::{Hop, TesteeClient};
use testee::{Scene, raw};

use crate::attack;

/// A server that does its worst on each connection. Ends with everything it has open when it is dropped.
struct Hostile {
    url: String,
    accepted: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

type Serve = fn(TcpStream);

impl Hostile {
    fn start(serve: Serve) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let (accepted, over, sockets) = <(Arc<AtomicUsize>, Arc<AtomicBool>, Arc<Mutex<Vec<TcpStream>>>)>::default();
        let (count, ended, opened) = (Arc::clone(&accepted), Arc::clone(&over), Arc::clone(&sockets));
        let thread = thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                count.fetch_add(1, Ordering::AcqRel);
                opened.lock().expect("no panic").push(socket.try_clone().expect("a second handle"));
                thread::spawn(move || {
                    let end = socket.try_clone().expect("a second handle");
                    serve(socket);
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Hostile { url, accepted, over, sockets, thread: Some(thread) }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.url.trim_start_matches("tcp://")); // so that it looks
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for socket in self.sockets.lock().expect("no panic").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// One call that the testee relays.
fn relay(client: &TesteeClient, url: &str, timeout: Duration) -> Result<(), Error> {
    client.relay(Hop { url: url.to_owned(), ms: 0, via: Vec::new() }).timeout(timeout).wait().map(|_| ())
}

fn exception(id: i32, text: &str) -> Vec<u8> {
    let body = [&[0x08, 6, 0x12, text.len() as u8][..], text.as_bytes()].concat();
    raw::ttheader(0, id, b"", &raw::framed(raw::EXCEPTION, "Sleep", id, &body))
}

/// Around each good reply another lie, all of them errors: a call that hears of one has been woken wrongly.
fn lie(mut socket: TcpStream) {
    let mut seen = 0;
    while let Ok(Some(request)) = raw::read_frame(&mut socket) {
        let good = raw::reply(request.seq, &request.method, b"");
        let before = match seen % 6 {
            0 => exception(request.seq ^ 1 << 20, "evil"), // never issued: another version
            1 => exception(i32::MAX, "evil"),
            2 => exception(0, "evil"),
            3 => raw::request(request.seq, &request.method, b""), // a request where a reply is due
            _ => Vec::new(),
        };
        let after = if seen % 6 == 4 { exception(request.seq, "evil") } else { Vec::new() }; // twice
        seen += 1;
        if socket.write_all(&[before, good, after].concat()).is_err() {
            return;
        }
    }
}

#[test]
fn t10_a_lying_server_wakes_no_wrong_call() {
    attack("T10").run(|scene| {
        let hostile = Hostile::start(lie);
        let calls = 120;
        // Four at a time, so that there are calls to be woken wrongly.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let client = scene.server.client();
                    for _ in 0..calls / 4 {
                        relay(&client, &hostile.url, Duration::from_secs(10)).expect("its own reply");
                    }
                });
            }
        });
        format!(
            "{calls} relayed calls among replies to ids that no call has, or had: each had its own, on {} connections",
            hostile.accepted()
        )
    });
}

fn hold(mut socket: TcpStream) {
    let _ = socket.read_to_end(&mut Vec::new());
}

/// Says it, and holds the connection.
fn say(mut socket: TcpStream, bytes: &[u8]) {
    let _ = socket.write_all(bytes);
    hold(socket);
}

/// Answers each request.
fn answer(mut socket: TcpStream, reply: fn(raw::Frame) -> Vec<u8>) {
    while let Ok(Some(request)) = raw::read_frame(&mut socket) {
        let _ = socket.write_all(&reply(request));
    }
}

/// What no call asked for, a million times or until nobody listens.
fn shout(mut socket: TcpStream) {
    let bytes: Vec<u8> = (1..=1_000).flat_map(|id| raw::reply(id << 17 | 0x1_0000, "Sleep", b"")).collect();
    for _ in 0..1_000 {
        if socket.write_all(&bytes).is_err() {
            return;
        }
    }
    hold(socket);
}

fn bomb(request: raw::Frame) -> Vec<u8> {
    let info = raw::strings(&(0..10_000).map(|n| (n.to_string(), "")).collect::<Vec<_>>());
    raw::ttheader(0, request.seq, &info, &raw::framed(raw::REPLY, &request.method, request.seq, b""))
}

fn goodbye(mut socket: TcpStream) {
    let info = raw::strings(&[("crrst", "1")]);
    let _ = socket.write_all(&raw::ttheader(0, 0, &info, b"\x80\x01\x00\x02\x00\x00\x00\x04none\x00\x00\x00\x00\x00"));
}

fn header_of_no_size(socket: TcpStream) {
    let mut frame = raw::reply(1, "Sleep", b"");
    frame[12..14].copy_from_slice(&[0, 0]);
    say(socket, &frame);
}

fn announce_16_mib(socket: TcpStream) {
    let mut frame = raw::reply(1, "Sleep", b"");
    frame[..4].copy_from_slice(&(16_u32 << 20).to_be_bytes());
    say(socket, &frame);
}

/// Calls to it for a while; how many, and how many connections that took.
fn punish(scene: &Scene, serve: Serve, due: Result<(), Code>) -> (usize, usize) {
    let hostile = Hostile::start(serve);
    let (client, start, mut calls) = (scene.server.client(), Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(400) {
        let outcome = relay(&client, &hostile.url, Duration::from_millis(100)).map_err(|error| error.code());
        // A call to a server that answers may meet the connection's end; one to a server that does not may run out of time first.
        let late = due.is_err() && outcome == Err(Code::DeadlineExceeded);
        assert!(outcome == due || late, "{outcome:?}, due {due:?}");
        calls += 1;
    }
    (calls, hostile.accepted())
}

#[test]
fn t37_useless_servers() {
    #[rustfmt::skip]
    let table: [(&str, Serve, Result<(), Code>); 11] = [
        ("closes at once",      |_| {},                                                     Err(Code::Unavailable)),
        ("speaks HTTP",         |s| say(s, b"HTTP/1.1 400 Bad Request\r\n\r\n"),            Err(Code::Unavailable)),
        ("length bomb",         |s| say(s, &[0x7f; 64]),                                    Err(Code::Unavailable)),
        ("16 MiB announced",    announce_16_mib,                                            Err(Code::DeadlineExceeded)),
        ("header of no size",   header_of_no_size,                                          Err(Code::Unavailable)),
        ("header bomb",         |s| answer(s, bomb),                                        Err(Code::ResourceExhausted)),
        ("never answers",       hold,                                                       Err(Code::DeadlineExceeded)),
        ("wrong method",        |s| answer(s, |r| raw::reply(r.seq, "Other", &r.body)),     Err(Code::Unavailable)),
        ("no message",          |s| answer(s, |r| raw::reply(r.seq, &r.method, &[0xff; 11])), Err(Code::Internal)),
        ("10^6 unasked",        shout,                                                      Err(Code::Unavailable)),
        ("goodbye at once",     goodbye,                                                    Err(Code::Unavailable)),
    ];
    attack("T37").run(|scene| {
        let mut said = Vec::new();
        for (what, serve, due) in table {
            let (calls, connections) = punish(scene, serve, due);
            assert!(connections <= 12, "{what}: {connections} connections in 400 ms");
            said.push(format!("{what} {calls} calls {connections} connections"));
        }
        format!("in 400 ms each: {}", said.join(", "))
    });
}
