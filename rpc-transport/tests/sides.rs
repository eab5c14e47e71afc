//! The two sides of a connection, each of which may end alone; what is written from elsewhere, and who hears of it; its addresses.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rpc_transport::{
    CloseReason, ConnLimits, ConnRef, Connector, ListenOptions, ListenerHandle, NotWritten, ReactorPool,
};
use support::*;

/// A server whose handlers echo, tell what happens to them, and go on when their peer has closed its side.
struct Echo {
    pool: ReactorPool,
    listener: ListenerHandle,
    conns: Receiver<ConnRef>,
    told: Receiver<String>,
}

fn echo(conn: ConnLimits) -> Echo {
    echo_at("tcp://127.0.0.1:0", conn)
}

fn echo_at(url: &str, conn: ConnLimits) -> Echo {
    let ((tell_conn, conns), (tell, told)) = (channel(), channel());
    let pool = pool(1);
    let options = ListenOptions { conn, ..ListenOptions::default() };
    let listener = listen(&pool, url, options, move |_| {
        let (tell_conn, eof, end) = (tell_conn.clone(), tell.clone(), tell.clone());
        Script::new()
            .open(move |cx| tell_conn.send(cx.conn_ref()).unwrap_or(()))
            .frame(|cx, frame| match frame.bytes() {
                b"finish" => cx.finish(),
                b"pause" => cx.pause(),
                other => reply(cx, other),
            })
            .eof(move |_| eof.send("eof".to_owned()).is_ok())
            .close(move |_, reason| end.send(reason.to_string()).unwrap_or(()))
    });
    Echo { pool, listener, conns, told }
}

fn ends(socket: &mut TcpStream) {
    assert_eq!(socket.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn a_peer_that_has_closed_its_side_still_hears() {
    let echo = echo(ConnLimits::default());
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    socket.write_all(&[wire(b"a"), wire(b"b")].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&echo.told), "eof");
    assert_eq!((read_frame(&mut socket), read_frame(&mut socket)), (b"a".to_vec(), b"b".to_vec()));
    for text in ["later", "and later"] {
        assert_eq!(hear(&write(&conn, text.as_bytes())), Ok(()));
        assert_eq!(read_frame(&mut socket), text.as_bytes());
    }
    conn.run(|cx| cx.finish());
    ends(&mut socket);
    assert_eq!(hear(&echo.told), "the peer closed the connection", "both sides have");
    assert!(echo.told.try_recv().is_err(), "each once");
}

#[test]
fn a_side_that_is_finished_goes_on_reading() {
    let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    // The end comes after what was written before it: more than the system takes while nobody reads.
    let large = vec![b'x'; 64 << 20];
    write(&conn, &large);
    conn.run(|cx| cx.finish());
    assert!(read_frame(&mut socket) == large);
    ends(&mut socket);
    let frames = echo.pool.handles()[0].stats().frames.get();
    // It is heard, though nothing can be answered any more.
    socket.write_all(&wire(b"finish").repeat(3)).unwrap();
    until("three more frames are heard", || echo.pool.handles()[0].stats().frames.get() == frames + 3);
    assert!(echo.told.try_recv().is_err(), "it is open");
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!((hear(&echo.told), hear(&echo.told)), ("eof".to_owned(), "the peer closed the connection".to_owned()));
}

/// Whether the output before the end has been written or not.
#[test]
fn writing_after_the_end_of_this_side_ends_the_connection() {
    for unread in [0, 64 << 20] {
        let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
        let mut socket = dial(&echo.listener);
        let conn = hear(&echo.conns);
        let before = write(&conn, &vec![b'x'; unread]);
        conn.run(|cx| {
            cx.finish();
            assert!(cx.is_finished());
        });
        if unread == 0 {
            assert_eq!((hear(&before), read_frame(&mut socket).len()), (Ok(()), 0));
            ends(&mut socket);
        }
        // Who writes from elsewhere cannot know: that is told, and nothing else happens.
        assert_eq!(hear(&write(&conn, b"late")), Err(NotWritten));
        assert!(echo.told.try_recv().is_err(), "it is open");
        conn.run(|cx| reply(cx, b"late, too"));
        let end = hear(&echo.told);
        assert!(end.starts_with("the connection failed: ") && end.to_lowercase().contains("broken pipe"), "{end}");
    }
}

/// The end of the peer's side comes behind what it has said, and waits with that.
#[test]
fn a_connection_that_is_paused_does_not_hear_of_the_end_of_a_side() {
    let echo = echo(ConnLimits::default());
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    socket.write_all(&[wire(b"pause"), wire(b"more")].concat()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    until("it is paused", || {
        let (tell, told) = channel();
        conn.run(move |cx| tell.send(cx.is_read()).unwrap_or(()));
        !hear(&told)
    });
    assert!(echo.told.try_recv().is_err(), "it waits");
    assert_eq!(hear(&write(&conn, b"written meanwhile")), Ok(()));
    conn.run(|cx| cx.resume());
    assert_eq!(hear(&echo.told), "eof");
    assert_eq!(read_frame(&mut socket), b"written meanwhile");
    assert_eq!(read_frame(&mut socket), b"more");
    conn.run(|cx| cx.finish());
    ends(&mut socket);
    assert_eq!(hear(&echo.told), "the peer closed the connection");
}

/// A Unix socket's peer that closes its side is not one that is gone: the system knows them apart.
#[test]
fn a_unix_peer_that_has_closed_its_side_still_hears_until_it_is_gone() {
    let (path, url) = unix_url("one-side");
    let echo = echo_at(&url, ConnLimits::default());
    let mut socket = dial_unix(&path);
    let conn = hear(&echo.conns);
    socket.write_all(&wire(b"a")).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!((hear(&echo.told), read_frame(&mut socket)), ("eof".to_owned(), b"a".to_vec()));
    assert_eq!(hear(&write(&conn, b"later")), Ok(()));
    assert_eq!(read_frame(&mut socket), b"later");
    drop(socket);
    assert!(hear(&echo.told).starts_with("the connection failed: "));
    // Both at once, before anybody looks.
    let gate = hold(conn.reactor());
    drop(dial_unix(&path));
    drop(gate);
    assert_eq!(hear(&echo.told), "eof");
    assert!(hear(&echo.told).starts_with("the connection failed: "));
}

/// What others do with a connection comes in their order, and to nobody when it has ended.
#[test]
fn a_connection_can_be_ended_from_elsewhere() {
    let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    write(&conn, b"last words");
    conn.run(|cx| cx.close(CloseReason::Local("enough")));
    assert_eq!(read_frame(&mut socket), b"last words");
    ends(&mut socket);
    assert_eq!(hear(&echo.told), "closed by this side: enough");
    let (tell, told) = channel();
    conn.run(move |_| tell.send(()).unwrap());
    assert_eq!(told.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected), "it was dropped");

    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    let waits = write(&conn, &vec![b'x'; 64 << 20]);
    conn.run(|cx| cx.finish());
    conn.run(|cx| cx.abort(CloseReason::Local("at once")));
    assert_eq!(hear(&waits), Err(NotWritten));
    assert_eq!(hear(&echo.told), "closed by this side: at once");
    assert!(socket.read_to_end(&mut Vec::new()).is_err(), "a reset is no end of a side");

    let _socket = dial(&echo.listener);
    hear(&echo.conns).run(|_| panic!("as it was asked to"));
    assert_eq!(hear(&echo.told), "closed by this side: its handler panicked");
}

/// A shutdown asks it to finish as any other, whichever side has ended.
#[test]
fn a_shutdown_ends_connections_of_which_a_side_has() {
    let echo = echo(ConnLimits::default());
    let (mut parted, mut unheard) = (dial(&echo.listener), dial(&echo.listener));
    parted.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&echo.told), "eof");
    unheard.write_all(&wire(b"finish")).unwrap();
    ends(&mut unheard);
    echo.listener.shut_down();
    ends(&mut parted);
    for _ in 0..2 {
        assert_eq!(hear(&echo.told), "closed by this side: the server is shutting down");
    }
    drop(unheard);
    until("nobody is left", || echo.listener.connections() == 0);
}

/// How the peer ends, what is heard then.
#[test]
#[rustfmt::skip]
fn not_every_end_is_that_of_a_side() {
    check(|socket| socket.write_all(b"\0\0\0\x05he").and(socket.shutdown(Shutdown::Write)),
          &["the peer closed the connection inside a frame, 6 bytes into it"]);
    check(reset,
          &["the connection failed: "]);
    // One that is gone, and does not say so.
    check(|socket| socket.shutdown(Shutdown::Write),
          &["eof", "the connection reached its limit idle_timeout"]);
}

/// Closes it by a reset.
fn reset(socket: &mut TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0")?;
    *socket = TcpStream::connect(elsewhere.local_addr()?)?; // the one before is dropped
    Ok(())
}

/// Reading does not tell of a reset that comes after the end of a side: the event does.
#[test]
fn a_reset_after_the_end_of_a_side_is_heard() {
    let echo = echo(ConnLimits::default());
    let mut socket = dial(&echo.listener);
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&echo.told), "eof");
    reset(&mut socket).unwrap();
    assert!(hear(&echo.told).starts_with("the connection failed: "));
}

fn check(end: impl FnOnce(&mut TcpStream) -> std::io::Result<()>, expected: &[&str]) {
    let echo = echo(ConnLimits { idle_timeout: Duration::from_millis(200), ..ConnLimits::default() });
    let mut socket = dial(&echo.listener);
    hear(&echo.conns);
    end(&mut socket).unwrap();
    for expected in expected {
        let told = hear(&echo.told);
        assert!(told.starts_with(expected), "{told}, expected: {expected}");
    }
}

#[test]
fn a_handler_may_end_the_connection_at_the_end_of_the_peers_side() {
    let pool = pool(1);
    let (tell, told) = channel();
    let listener = serve(&pool, move |_| {
        let mut first = true;
        Script::new()
            .eof(|cx| {
                if cx.written() == 0 {
                    panic!("as it was asked to");
                }
                cx.close(CloseReason::Local("that is all"));
                true
            })
            .frame(move |cx, frame| {
                if std::mem::take(&mut first) {
                    reply(cx, frame.bytes())
                }
            })
            .end_to(tell.clone())
    });
    let mut socket = dial(&listener);
    call(&mut socket, b"a");
    socket.shutdown(Shutdown::Write).unwrap();
    ends(&mut socket);
    assert_eq!(hear(&told), "closed by this side: that is all");
    dial(&listener).shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear(&told), "closed by this side: its handler panicked");
}

/// The kernel takes a few megabytes that nobody reads; the rest is not written before the peer reads on.
#[test]
fn who_writes_from_elsewhere_hears_when_it_is_written() {
    let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    let order = Arc::new(Mutex::new(Vec::new()));
    let large = Bytes::from(wire(&vec![b'x'; 64 << 20]));
    let (tell, told) = channel();
    for (n, data) in [Bytes::from(wire(b"first")), large, Bytes::from(wire(b"last"))].into_iter().enumerate() {
        let (order, tell) = (Arc::clone(&order), tell.clone());
        conn.write(data, move |result| {
            order.lock().unwrap().push((n, result));
            tell.send(()).unwrap_or(());
        });
    }
    hear(&told);
    // The reactor has nothing to do any more: what is to come of this has come.
    on(conn.reactor(), || ());
    assert_eq!(*order.lock().unwrap(), [(0, Ok(()))], "nobody reads");
    assert_eq!(read_frame(&mut socket), b"first");
    assert_eq!(read_frame(&mut socket).len(), 64 << 20);
    assert_eq!(read_frame(&mut socket), b"last");
    hear(&told);
    hear(&told);
    assert_eq!(*order.lock().unwrap(), [(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
}

#[test]
fn who_writes_to_a_connection_that_ends_hears_that() {
    let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    let (waits, behind) = (write(&conn, &vec![b'x'; 64 << 20]), write(&conn, b"behind it"));
    socket.read_exact(&mut [0; 100]).unwrap();
    drop(socket); // with unread input: a reset
    assert_eq!((hear(&waits), hear(&behind)), (Err(NotWritten), Err(NotWritten)));
    assert!(hear(&echo.told).starts_with("the connection failed: "));
    assert_eq!(hear(&write(&conn, b"nobody")), Err(NotWritten));

    let socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    drop(echo.pool);
    assert_eq!(hear(&write(&conn, b"nobody")), Err(NotWritten));
    drop(socket);
}

/// Nothing to be written counts for no `write_hard`, but who is to hear of it has to be remembered.
#[test]
fn completions_that_wait_have_a_limit() {
    let echo = echo(ConnLimits { write_hard: 256 << 20, ..ConnLimits::default() });
    let _peer = dial(&echo.listener); // which reads nothing
    let conn = hear(&echo.conns);
    let stuck = write(&conn, &vec![b'x'; 64 << 20]);
    let (tell, told) = channel();
    for _ in 0..70_000 {
        let tell = tell.clone();
        conn.write(Bytes::new(), move |result| tell.send(result).unwrap_or(()));
    }
    assert_eq!(hear(&stuck), Err(NotWritten));
    (0..70_000).for_each(|_| assert_eq!(hear(&told), Err(NotWritten)));
    assert_eq!(hear(&echo.told), "the connection reached its limit write_hard");
}

/// A completion that panics is alone with it; one that writes again is heard, too.
#[test]
fn completions_may_do_as_they_like() {
    let echo = echo(ConnLimits::default());
    let mut socket = dial(&echo.listener);
    let conn = hear(&echo.conns);
    conn.write(wire(b"one").into(), |_| panic!("as it was asked to"));
    let (again, (tell, told)) = (conn.clone(), channel());
    conn.write(wire(b"two").into(), move |_| {
        again.write(wire(b"three").into(), move |result| tell.send(result).unwrap_or(()));
    });
    for expected in ["one", "two", "three"] {
        assert_eq!(read_frame(&mut socket), expected.as_bytes());
    }
    assert_eq!(hear(&told), Ok(()));
    drop(socket);
    assert_eq!(hear(&echo.told), "eof");
}

#[test]
fn each_side_knows_its_address() {
    let pool = pool(1);
    let (tell, told) = channel();
    let (path, unix) = unix_url("sides");
    for url in ["tcp://127.0.0.1:0", "tcp://[::1]:0", &unix] {
        let accepted = tell.clone();
        let listener = listen(&pool, url, ListenOptions::default(), move |_| {
            let accepted = accepted.clone();
            Script::new().open(move |cx| {
                let local = cx.local().map(|url| url.to_string()).map_err(|e| e.kind());
                accepted.send(("accepted", local, cx.peer().to_string())).unwrap_or(());
            })
        });
        let connected = tell.clone();
        let handler = Script::new().open(move |cx| {
            let local = cx.local().map(|url| url.to_string()).map_err(|e| e.kind());
            connected.send(("connected", local, cx.peer().to_string())).unwrap_or(());
        });
        connect(&pool.handles()[0], listener.url(), Connector::default(), handler);
        let mut both = [hear(&told), hear(&told)];
        both.sort();
        let [(_, server, client_seen), (_, client, server_seen)] = both;
        assert_eq!(server.as_ref(), Ok(&listener.url().to_string()));
        assert_eq!(server, Ok(server_seen));
        match url == unix {
            true => assert_eq!(client, Err(std::io::ErrorKind::AddrNotAvailable)),
            false => assert_eq!(client, Ok(client_seen)),
        }
        listener.close();
    }
    until("the file is gone", || !path.exists());
}
