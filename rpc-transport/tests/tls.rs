//! Connections under TLS on real sockets: handshakes in any pieces, every kind of failure and of end, and what many handshakes cost others.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/forger.rs"]
mod forger;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use certificates::Authority;
use forger::Forger;
use rpc_transport::rustls::{ClientConnection, Stream, StreamOwned, version};
use rpc_transport::{
    CloseReason, ConnLimits, Connector, Cx, ListenLimits, ListenOptions, ListenerHandle, Message, ReactorPool,
    TlsClient, TlsErrorKind, TlsServer,
};
use support::*;

const SOON: Duration = Duration::from_millis(200);

fn server(authority: &Authority) -> TlsServer {
    TlsServer::builder(authority.issue("localhost").identity()).build().unwrap()
}

fn client(authority: &Authority) -> TlsClient {
    TlsClient::builder(authority.roots()).server_name("localhost").build().unwrap()
}

fn secure(tls: TlsServer) -> ListenOptions {
    ListenOptions { tls: Some(tls), ..ListenOptions::default() }
}

fn connector(tls: TlsClient) -> Connector {
    Connector { tls: Some(tls), ..Connector::default() }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

struct Text(Bytes);

impl Message for Text {
    fn undelivered(self: Arc<Self>) {}
}

fn dial_secure(authority: &Authority, listener: &ListenerHandle) -> StreamOwned<ClientConnection, TcpStream> {
    StreamOwned::new(authority.foreign(&[&version::TLS13]), dial(listener))
}

/// Both ends are ours, in one process.
#[test]
fn echo_of_any_size_over_every_kind_of_socket() {
    let authority = Authority::new("tests");
    let pool = pool(2);
    for url in ["tls://127.0.0.1:0", "tls://[::1]:0"] {
        let listener = listen(&pool, url, secure(server(&authority)), |_| Script::new());
        let (tell, frames) = mpsc::channel();
        let script =
            Script::new().frame(move |_, frame| tell.send(frame.to_bytes()).unwrap()).message(|cx, message| {
                reply(cx, &message.downcast::<Text>().unwrap().0);
            });
        let reactor = &pool.handles()[1];
        let id = connect(reactor, listener.url(), connector(client(&authority)), script);
        for size in [0, 1, 100, 8191, 8192, 16 * 1024, 16_380, 65_531, 65_536, 70_000, 1 << 20, 5 << 20, 3, 5 << 20] {
            let sent = pattern(size);
            reactor.send(id, Arc::new(Text(sent.clone().into())));
            assert!(hear(&frames) == sent, "{url}, {size} bytes");
        }
        listener.close();
    }
}

#[test]
fn both_versions_are_spoken() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let listener = listen(&pool, "tls://127.0.0.1:0", secure(server(&authority)), move |_| {
        let tell = tell.clone();
        Script::new().open(move |cx| {
            let peer = cx.tls().unwrap();
            tell.send((peer.version(), peer.server_name().map(str::to_owned), peer.certificates().len())).unwrap();
        })
    });
    for (version, name) in [(&version::TLS12, "TLSv1_2"), (&version::TLS13, "TLSv1_3")] {
        let mut peer = StreamOwned::new(authority.foreign(&[version]), dial(&listener));
        assert_eq!(call(&mut peer, b"hello"), b"hello");
        assert_eq!(hear(&told), (name, Some("localhost".to_owned()), 0));
    }
}

/// A peer whose bytes come as the test wants: what rustls makes of `say`, and of the handshake before it, goes out through `send`, until
/// that says that it is enough. Whether all of it went out.
fn converse(
    peer: &mut ClientConnection,
    socket: &mut TcpStream,
    say: &[u8],
    mut send: impl FnMut(&mut TcpStream, &[u8]) -> bool,
) -> bool {
    loop {
        let said = !peer.is_handshaking();
        if said {
            peer.writer().write_all(say).unwrap();
        }
        while peer.wants_write() {
            let mut out = Vec::new();
            peer.write_tls(&mut out).unwrap();
            if !send(socket, &out) {
                return false;
            }
        }
        if said {
            return true;
        }
        if peer.is_handshaking() {
            assert_ne!(peer.read_tls(socket).unwrap(), 0, "the server has gone");
            peer.process_new_packets().unwrap();
        }
    }
}

/// All of it, as it is.
fn whole(socket: &mut TcpStream, bytes: &[u8]) -> bool {
    socket.write_all(bytes).is_ok()
}

fn told_server(
    pool: &ReactorPool,
    authority: &Authority,
    options: ListenOptions,
) -> (ListenerHandle, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let options = ListenOptions { tls: Some(server(authority)), ..options };
    let listener = listen(pool, "tls://127.0.0.1:0", options, move |_| Script::new().told_to(tell.clone()));
    (listener, told)
}

#[test]
fn a_conversation_may_come_byte_by_byte() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    for versions in [&version::TLS12, &version::TLS13] {
        let (mut peer, mut socket) = (authority.foreign(&[versions]), dial(&listener));
        converse(&mut peer, &mut socket, &[wire(b"one"), wire(b"two")].concat(), |socket, bytes| {
            bytes.iter().all(|byte| whole(socket, &[*byte]))
        });
        assert_eq!([hear(&told), hear(&told)], ["one", "two"]);
        drop(socket);
        hear(&told);
    }
}

/// Whatever a peer has said when it leaves, the connection ends, and the end is told as what it is.
#[test]
fn a_conversation_may_be_cut_at_every_byte() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    // The length is nearly the same each time; at the end of what there is nothing is cut.
    let mut ends = Vec::new();
    for cut in 0.. {
        let (mut peer, mut socket) = (authority.foreign(&[&version::TLS13]), dial(&listener));
        let mut left = cut;
        let whole = converse(&mut peer, &mut socket, &wire(b"one"), |socket, bytes| {
            let n = left.min(bytes.len());
            socket.write_all(&bytes[..n]).unwrap();
            left -= n;
            n == bytes.len()
        });
        socket.shutdown(Shutdown::Write).unwrap();
        let mut heard = hear(&told);
        if heard == "one" {
            heard = hear(&told);
        }
        let end = match heard {
            text if text.contains("within the TLS handshake") => "in the handshake",
            text if text.contains("without a close_notify") => "without close_notify",
            other => panic!("cut at {cut}: {other}"),
        };
        if ends.last() != Some(&end) {
            ends.push(end);
        }
        if whole {
            break;
        }
    }
    assert_eq!(ends, ["in the handshake", "without close_notify"]);
}

#[test]
fn an_orderly_end_is_told_from_a_cut() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    let mut peer = dial_secure(&authority, &listener);
    peer.write_all(&wire(b"one")).unwrap();
    assert_eq!(hear(&told), "one");
    peer.conn.send_close_notify();
    peer.flush().unwrap();
    assert_eq!(hear(&told), "closed: the peer closed the connection");
    // And this side says the same: rustls would report a cut as an error.
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);

    let mut peer = dial_secure(&authority, &listener);
    peer.write_all(&[&wire(b"one")[..], &wire(b"two")[..5]].concat()).unwrap();
    assert_eq!(hear(&told), "one");
    peer.sock.shutdown(Shutdown::Write).unwrap(); // not closed: a ticket may be unread, and the kernel would reset
    assert_eq!(hear(&told), "closed: the peer closed the connection inside a frame, 5 bytes into it");
}

/// Found by fuzzing: a message of the handshake that never ends, then a record that is none. The session has failed, and to ask rustls for
/// its last word, or to encrypt what the handler says, was a panic of the reactor.
#[test]
fn what_breaks_within_a_message_ends_its_connection_alone() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    let mut beside = dial_secure(&authority, &listener);
    beside.write_all(&wire(b"before")).unwrap();
    assert_eq!(hear(&told), "before");
    // With nothing else in the same read, and with a request, which is answered.
    for (request, answers) in [(&b""[..], &[][..]), (&wire(b"one"), &["one"])] {
        let (mut peer, mut socket) = (authority.foreign(&[&version::TLS13]), dial(&listener));
        converse(&mut peer, &mut socket, &wire(b"first"), whole);
        assert_eq!(hear(&told), "first");
        let mut forger = Forger::of(peer.into()).unwrap();
        let begun = [&[24, 0, 60, 0][..], &[0; 10_000]].concat();
        let mut records = if request.is_empty() { Vec::new() } else { forger.record(23, request) };
        records.extend(forger.record(22, &begun));
        records.extend([23, 3, 3, 0, 20]);
        records.extend([7; 20]);
        socket.write_all(&records).unwrap();
        for answer in answers {
            assert_eq!(&hear(&told), answer);
        }
        let end = hear(&told);
        assert!(end.contains("the peer broke the TLS protocol"), "{end}");
    }
    beside.write_all(&wire(b"after")).unwrap();
    assert_eq!(hear(&told), "after");
}

/// What either side hears when a handshake fails, with plain text on one side or the wrong certificates on both.
#[test]
#[rustfmt::skip]
fn a_failure_names_the_cause() {
    let (authority, other) = (Authority::new("tests"), Authority::new("others"));
    let pool = pool(1);
    let serve = |identity| TlsServer::builder(identity);
    let trust = |roots: &Authority| TlsClient::builder(roots.roots()).server_name("localhost");
    let good = || serve(authority.issue("localhost").identity());
    let of_years = |from, to| serve(authority.issue_for_years("localhost", from, to).identity());
    let mutual = || good().client_roots(authority.roots());
    let shown = |by: &Authority| trust(&authority).identity(by.issue("someone").identity());
    let wrong_name = || serve(authority.issue("elsewhere").identity());
    use TlsErrorKind::*;
    let check = |tls: Option<rpc_transport::TlsServerBuilder>, connects: Option<rpc_transport::TlsClientBuilder>,
                 at_server: Option<TlsErrorKind>, at_client: Option<TlsErrorKind>, words: &str| {
        let (tell_server, server_told) = mpsc::channel();
        let (tell_client, client_told) = mpsc::channel();
        let told = |tell: mpsc::Sender<_>| move |_: &mut Cx<'_>, reason: &CloseReason| {
            _ = tell.send((reason.tls().map(|e| e.kind()), reason.to_string()));
        };
        let url = if tls.is_some() { "tls://127.0.0.1:0" } else { "tcp://127.0.0.1:0" };
        let options = ListenOptions { tls: tls.map(|tls| tls.build().unwrap()), ..ListenOptions::default() };
        let listener = listen(&pool, url, options, move |_| Script::new().close(told(tell_server.clone())));
        let script = Script::new().open(|cx| reply(cx, b"hello")).close(told(tell_client));
        let connector = Connector { tls: connects.map(|tls| tls.build().unwrap()), ..Connector::default() };
        connect(&pool.handles()[0], listener.url(), connector, script);
        let (client, server) = (hear(&client_told), hear(&server_told));
        assert_eq!((server.0, client.0), (at_server, at_client), "server: {}; client: {}", server.1, client.1);
        assert!(client.1.contains(words) || server.1.contains(words), "server: {}; client: {}", server.1, client.1);
        listener.close();
    };
    //    the server                         the client                       at the server           at the client            says
    check(Some(good()),                      Some(trust(&other)),             Some(Rejected),         Some(UnknownIssuer),     "add its CA to the trusted roots");
    check(Some(wrong_name()),                Some(trust(&authority)),         Some(Rejected),         Some(WrongName),         "set the server name");
    check(Some(of_years(2000, 2001)),        Some(trust(&authority)),         Some(Rejected),         Some(Expired),           "renew it");
    check(Some(of_years(3000, 3001)),        Some(trust(&authority)),         Some(Rejected),         Some(NotYetValid),       "clocks");
    check(Some(mutual()),                    Some(trust(&authority)),         Some(NoCertificate),    Some(Rejected),          "give the client an identity");
    check(Some(mutual()),                    Some(shown(&other)),             Some(UnknownIssuer),    Some(Rejected),          "that the peer's roots have issued");
    check(Some(good().alpn(["a"])),          Some(trust(&authority).alpn(["b"])), Some(Incompatible), Some(Incompatible),      "in common");
    check(Some(good()),                      None,                            Some(PlainText),        None,                    "use tcp:// with it");
    check(None,                              Some(trust(&authority)),         None,                   Some(ClosedInHandshake), "tcp:// is for");
}

/// A mistake in a URL neither serves nor sends in plain text what was meant for TLS.
#[test]
#[rustfmt::skip]
fn plain_text_by_mistake_is_refused() {
    let authority = Authority::new("tests");
    let (pool, tls) = (pool(1), server(&authority));
    let listens = |url: &str, tls| {
        let options = ListenOptions { tls, ..ListenOptions::default() };
        pool.listen(&url.parse().unwrap(), options, |_| (framing(), Script::new())).map(|_| ()).map_err(|e| e.to_string())
    };
    let connects = |url: &str, tls| {
        Connector { tls, ..Connector::default() }.endpoints(&url.parse().unwrap()).map(|_| ()).map_err(|e| e.to_string())
    };
    let said = |result: Result<(), String>, words: &str| assert!(result.as_ref().is_err_and(|e| e.contains(words)), "{result:?}");
    assert_eq!(listens("tls://127.0.0.1:0", Some(tls.clone())), Ok(()));
    said(listens("tcp://127.0.0.1:0", Some(tls.clone())), "use tls://");
    said(listens("tls://127.0.0.1:0", None),              "set `tls`");
    assert_eq!(connects("tls://127.0.0.1:1", Some(client(&authority))), Ok(()));
    said(connects("tcp://127.0.0.1:1", Some(client(&authority))),       "use tls://");
    said(connects("tls://127.0.0.1:1", None),                           "set `tls` of the connector");
    // Of several addresses each has what it needs, unless none needs any.
    let all = |urls: [&str; 2]| {
        let options = ListenOptions { tls: Some(tls.clone()), ..ListenOptions::default() };
        pool.listen_all(&urls.map(|url| url.parse().unwrap()), options, |_| (framing(), Script::new())).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(all(["tls://127.0.0.1:0", "tcp://127.0.0.1:0"]), Ok(()));
    said(all(["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]), "use tls://");
}

#[test]
fn a_server_of_plain_text_is_told_as_such() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", plain.local_addr().unwrap()).parse().unwrap();
    let (tell, told) = mpsc::channel();
    connect(&pool.handles()[0], &url, connector(client(&authority)), Script::new().end_to(tell));
    let (mut socket, _) = plain.accept().unwrap();
    socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    let end = hear(&told);
    assert!(end.starts_with("cannot connect: the peer's first bytes are no TLS"), "{end}");
}

#[test]
fn both_sides_see_whom_they_talk_to() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (tell, told) = mpsc::channel();
    let at_server = tell.clone();
    let someone = authority.issue("someone");
    let tls = TlsServer::builder(authority.issue("localhost").identity());
    let tls = tls.client_roots(authority.roots()).alpn(["kitex", "other"]).build().unwrap();
    let listener = listen(&pool, "tls://127.0.0.1:0", secure(tls), move |_| {
        let tell = at_server.clone();
        Script::new().open(move |cx| tell.send(("server", Arc::clone(cx.tls().unwrap()))).unwrap())
    });
    let tls = TlsClient::builder(authority.roots()).identity(someone.identity()).alpn(["other"]);
    let tls = tls.server_name("localhost").build().unwrap();
    // The second resumes the first one's session: the certificates are the same.
    for resumed in [false, true] {
        let (tell, (answer, answered)) = (tell.clone(), mpsc::channel());
        let script = Script::new()
            .open(move |cx| {
                tell.send(("client", Arc::clone(cx.tls().unwrap()))).unwrap();
                reply(cx, b"hello");
            })
            .frame(move |_, _| answer.send(()).unwrap());
        connect(&pool.handles()[0], listener.url(), connector(tls.clone()), script);
        let mut both = [hear(&told), hear(&told)];
        both.sort_by_key(|(side, _)| *side);
        let [(_, client), (_, server)] = both;
        assert_eq!((client.alpn(), server.alpn()), (Some(&b"other"[..]), Some(&b"other"[..])));
        assert_eq!((client.server_name(), server.server_name()), (None, Some("localhost")));
        let subject = server.certificates()[0].windows(7).any(|bytes| bytes == b"someone");
        assert_eq!((subject, client.certificates().len()), (true, 1));
        assert_eq!((client.is_resumed(), server.is_resumed()), (resumed, resumed));
        hear(&answered); // what is read last are the tickets, if not before
    }
}

/// From a reload on new connections see the new certificate; the old ones go on.
#[test]
fn a_reload_under_load_ends_no_connection() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let pool = pool(2);
    let tls = server(&old);
    let listener = listen(&pool, "tls://127.0.0.1:0", secure(tls.clone()), |_| Script::new());
    let mut first = dial_secure(&old, &listener);
    assert_eq!(call(&mut first, b"before"), b"before");
    std::thread::scope(|scope| {
        // Each connection is made by one certificate or the other, whatever happens meanwhile.
        let (reloaded, told) = mpsc::channel();
        let (listener, old, new) = (&listener, &old, &new);
        let load = scope.spawn(move || {
            let mut by_new = 0;
            while by_new < 5 {
                let authority = if told.try_recv().is_ok() || by_new > 0 { new } else { old };
                let mut peer = dial_secure(authority, listener);
                match peer.write_all(&wire(b"x")).and_then(|()| peer.read_exact(&mut [0; 5])) {
                    Ok(()) => by_new += usize::from(std::ptr::eq(authority, new)),
                    // The reload came between the choice and the handshake.
                    Err(e) => assert!(std::ptr::eq(authority, old), "{e}"),
                }
            }
        });
        tls.reload(&server(new));
        reloaded.send(()).unwrap();
        load.join().unwrap();
    });
    assert_eq!(call(&mut first, b"after"), b"after");
    let refused = dial_secure(&old, &listener).write_all(b"x").unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
}

/// A peer that does not read: what waits is bounded, and counted, and all of it arrives when it does read.
#[test]
fn output_that_is_not_taken_waits() {
    const FRAMES: usize = 64;
    let authority = Authority::new("tests");
    let pool = pool(1);
    let options = secure(server(&authority));
    let memory = Arc::clone(&options.memory);
    let listener = listen(&pool, "tls://127.0.0.1:0", options, |_| Script::new());
    let mut peer = dial_secure(&authority, &listener);
    assert_eq!(call(&mut peer, b"hello"), b"hello");
    let frame = pattern(256 << 10);
    let socket = peer.sock.try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    // Writes until the server does not read any more; what it has read it holds as output.
    let (mut written, sent) = (0, wire(&frame).repeat(FRAMES));
    let stuck = |peer: &mut StreamOwned<ClientConnection, TcpStream>, written: &mut usize| {
        while *written < sent.len() {
            match peer.write(&sent[*written..sent.len().min(*written + 4096)]) {
                Ok(n) => *written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("{e}"),
            }
        }
    };
    let before = std::cell::Cell::new(usize::MAX);
    until("the server is full", || {
        stuck(&mut peer, &mut written);
        before.replace(written) == written && memory.used() >= 1 << 20
    });
    assert!(memory.used() < 4 << 20, "write_high is 1 MiB, and {} bytes are held", memory.used());
    assert!(written < sent.len());
    // Reading and writing in turns: everything comes back.
    let mut back = Vec::new();
    let mut some = vec![0; 64 << 10];
    until("everything has come back", || {
        stuck(&mut peer, &mut written);
        loop {
            match peer.read(&mut some) {
                Ok(n) => back.extend_from_slice(&some[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        back.len() == sent.len()
    });
    assert!(back == sent);
    until("nothing is held", || memory.used() == 0);
}

fn short(limits: ListenLimits) -> ListenOptions {
    let conn = ConnLimits { handshake_timeout: SOON, frame_progress: SOON, ..ConnLimits::default() };
    ListenOptions { conn, listen: limits, ..ListenOptions::default() }
}

#[test]
fn who_does_not_go_on_is_closed() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, short(ListenLimits::default()));
    // Nothing at all, and the start of a record.
    for bytes in [&b""[..], &[22, 3, 1]] {
        let mut socket = dial(&listener);
        socket.write_all(bytes).unwrap();
        assert_eq!(hear(&told), "closed: the connection reached its limit handshake_timeout");
        assert_eq!(socket.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    // The start of a record later on, which a frame's limit would not see.
    let (mut peer, mut socket) = (authority.foreign(&[&version::TLS13]), dial(&listener));
    converse(&mut peer, &mut socket, &wire(b"one"), whole);
    assert_eq!(hear(&told), "one");
    socket.write_all(&[23, 3, 3, 1]).unwrap();
    assert_eq!(hear(&told), "closed: the connection reached its limit frame_progress");
}

/// More connections than may be in a handshake, of whom most never go on: who does is served all the same, and so are those that are in.
#[test]
fn half_open_handshakes_make_room() {
    const MOST: usize = 50;
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(
        &pool,
        &authority,
        ListenOptions {
            listen: ListenLimits { max_handshakes: MOST, ..ListenLimits::default() },
            ..ListenOptions::default()
        },
    );
    let mut live = dial_secure(&authority, &listener);
    live.write_all(&wire(b"in")).unwrap();
    assert_eq!(hear(&told), "in");
    let half_open: Vec<TcpStream> = (0..4 * MOST).map(|_| dial(&listener)).collect();
    for _ in 0..3 * MOST {
        assert_eq!(hear(&told), "closed: the connection reached its limit max_handshakes");
    }
    assert_eq!(listener.connections(), MOST + 1);
    live.write_all(&wire(b"still in")).unwrap();
    assert_eq!(hear(&told), "still in");
    let mut another = dial_secure(&authority, &listener);
    another.write_all(&wire(b"me too")).unwrap();
    let heard = [hear(&told), hear(&told)];
    assert!(heard.contains(&"me too".to_owned()), "{heard:?}");
    drop(half_open);
}

/// A shutdown finds handshakes at each of their steps: whoever goes on is served to its end, as one that was open. Who does not is closed after a
/// second, long before its `handshake_timeout`.
#[test]
fn a_shutdown_lets_handshakes_end() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    let mut silent = dial(&listener);
    // One has said nothing yet, the other a part of its ClientHello.
    let mut clients = [0, 20].map(|said| {
        let (mut peer, mut socket) = (authority.foreign(&[&version::TLS13]), dial(&listener));
        let mut hello = Vec::new();
        peer.write_tls(&mut hello).unwrap();
        socket.write_all(&hello[..said]).unwrap();
        (peer, socket, hello.split_off(said))
    });
    until("all are in", || listener.connections() == 3);
    listener.shut_down();
    until("it is closed", || !listener.is_taking_in());
    for (peer, socket, rest) in &mut clients {
        socket.write_all(rest).unwrap();
        while peer.is_handshaking() {
            peer.complete_io(socket).unwrap();
        }
        // The handler hears of the shutdown then; it has no more to do, and closes in good order.
        let mut rest = Vec::new();
        let end = Stream::new(peer, socket).read_to_end(&mut rest);
        assert!(end.is_ok() && rest.is_empty(), "{end:?}");
        assert!(hear(&told).starts_with("closed: closed by this side"));
    }
    assert_eq!(hear(&told), "closed: the connection reached its limit handshake_timeout");
    assert_eq!(silent.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Records that mean nothing are worth nothing for ever.
#[test]
fn a_flood_of_key_updates_ends_the_connection() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    let mut peer = dial_secure(&authority, &listener);
    peer.write_all(&wire(b"one")).unwrap();
    assert_eq!(hear(&told), "one");
    for _ in 0..100 {
        peer.conn.refresh_traffic_keys().unwrap();
    }
    _ = peer.flush(); // the server may be gone before all of it is written
    let end = hear(&told);
    assert!(end.contains("TooManyKeyUpdateRequests"), "{end}");
}

/// A record that was changed on its way.
#[test]
fn bytes_that_were_changed_end_the_connection() {
    let authority = Authority::new("tests");
    let pool = pool(1);
    let (listener, told) = told_server(&pool, &authority, ListenOptions::default());
    let (mut peer, mut socket) = (authority.foreign(&[&version::TLS13]), dial(&listener));
    converse(&mut peer, &mut socket, &wire(b"one"), whole);
    assert_eq!(hear(&told), "one");
    peer.writer().write_all(&wire(b"two")).unwrap();
    let mut out = Vec::new();
    peer.write_tls(&mut out).unwrap();
    *out.last_mut().unwrap() ^= 1;
    socket.write_all(&out).unwrap();
    let end = hear(&told);
    assert!(end.starts_with("closed: the connection failed: the peer broke the TLS protocol"), "{end}");
    // The peer hears why.
    let alert = loop {
        assert_ne!(peer.read_tls(&mut socket).unwrap(), 0);
        if let Err(e) = peer.process_new_packets() {
            break e.to_string();
        }
    };
    assert!(alert.contains("BadRecordMac"), "{alert}");
}

/// It was served without a word, though who configured it wanted it encrypted.
#[cfg(all(feature = "upgrade", target_os = "linux"))]
#[test]
fn a_unix_socket_that_was_given_is_not_served_in_plain_text() {
    use rpc_transport::upgrade::ListeningSocket;

    let path = std::env::temp_dir().join(format!("given-{}.sock", std::process::id()));
    let given = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let authority = Authority::new("tests");
    let sockets = vec![ListeningSocket::new(given.into()).unwrap()];
    let listened = pool(1).listen_on(sockets, secure(server(&authority)), |_| (framing(), Script::new()));
    let error = listened.map(drop).unwrap_err();
    assert!(
        error.kind() == ErrorKind::InvalidInput && error.to_string().contains("a Unix socket is served without TLS"),
        "{error}"
    );
}
