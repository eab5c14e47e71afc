//! Oneway messages whose sender leaves at once, as is usual: what was accepted is handled to its end. On real sockets, with a client written
//! by hand.

mod support;

use std::future::poll_fn;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use rpc_core::protocol::MessageType;
use rpc_core::transport::sleep;
use rpc_core::{Context, Server, ServerHandle};
use support::{AnyServer, Blob, LIMIT, bind, dial, eventually, oneway, raw_request, read_raw, with_timeout};

/// What becomes of handlers: each says `NAME begins`, and then `NAME ends` when the gate is open, or `NAME is dropped`.
struct Watched {
    server: ServerHandle,
    told: mpsc::Receiver<String>,
    gate: Gate,
}

type Gate = Arc<Mutex<(bool, Vec<Waker>)>>;

struct Told(mpsc::Sender<String>, String, &'static str);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(format!("{} {}", self.1, self.2));
    }
}

impl Watched {
    fn new(limits: &[(&str, &str)]) -> Watched {
        let (tell, told) = mpsc::channel();
        let (tell, gate) = (Mutex::new(tell), Gate::default());
        let inner = Arc::clone(&gate);
        let service = AnyServer::new(move |cx: Context, req: Blob| {
            let (tell, gate) = (tell.lock().expect("no panic").clone(), Arc::clone(&inner));
            async move {
                let name = String::from_utf8_lossy(&req.payload).into_owned();
                if name != "echo" {
                    tell.send(format!("{name} begins")).expect("the test listens");
                    let mut end = Told(tell, name, "is dropped");
                    poll_fn(|task| {
                        let (open, waiting) = &mut *gate.lock().expect("no panic");
                        waiting.push(task.waker().clone());
                        if *open { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                    end.2 = "ends";
                }
                (cx, Ok(req))
            }
        });
        Watched { server: bind(service, limits), told, gate }
    }

    fn open(&self) {
        let (open, waiting) = &mut *self.gate.lock().expect("no panic");
        *open = true;
        waiting.drain(..).for_each(Waker::wake);
    }

    #[track_caller]
    fn hear(&self, expected: &str) {
        assert_eq!(self.told.recv_timeout(LIMIT).as_deref(), Ok(expected));
    }

    /// Nothing is left, and nothing else was heard.
    #[track_caller]
    fn check_over(&self) {
        let over = || self.server.stats().connections == 0 && self.server.stats().in_flight == 0;
        assert!(eventually(over), "{:?}", self.server.stats());
        assert_eq!(self.told.try_iter().collect::<Vec<_>>(), [""; 0]);
        assert_eq!(self.server.stats().accepted, self.server.stats().replied, "a oneway counts when its handler ends");
    }
}

/// The usual pattern: send and close.
#[test]
fn a_oneway_is_handled_though_its_sender_closes_at_once() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let service = AnyServer::new(move |cx: Context, req: Blob| {
        let tell = tell.lock().expect("no panic").clone();
        async move {
            sleep(Duration::from_millis(50)).await; // it outlasts its connection
            tell.send(req.payload.clone()).expect("the test listens");
            (cx, Ok(req))
        }
    });
    let server = bind(service, &[]);
    for _ in 0..3 {
        dial(&server).write_all(&oneway(1, b"note")).expect("it reads");
    }
    for _ in 0..3 {
        assert_eq!(told.recv_timeout(LIMIT).as_deref(), Ok(&b"note"[..]));
    }
    assert!(eventually(|| server.stats().connections == 0 && server.stats().in_flight == 0));
}

/// Whatever the end looks like, oneway handlers go on; calls beside them end, since nobody waits for those any more.
#[test]
fn oneway_handlers_outlast_their_connection_and_calls_do_not() {
    type Leave = fn(TcpStream);
    let ways: [(&str, Leave); 4] = [
        ("half-closes", |mut socket| {
            socket.shutdown(Shutdown::Write).expect("open");
            assert!(read_raw(&mut socket).is_none(), "the server has closed, too");
        }),
        ("closes", drop),
        ("closes inside a frame", |mut socket| socket.write_all(&oneway(9, b"cut")[..20]).expect("it reads")),
        ("resets", |mut socket| {
            // What has arrived and is not read makes closing a reset.
            socket.write_all(&raw_request(3, b"echo")).expect("it reads");
            socket.peek(&mut [0]).expect("a reply");
        }),
    ];
    for (way, leave) in ways {
        let watched = Watched::new(&[]);
        let mut socket = dial(&watched.server);
        socket.write_all(&[oneway(1, b"oneway"), raw_request(2, b"call")].concat()).expect("it reads");
        watched.hear("oneway begins");
        watched.hear("call begins");
        leave(socket);
        watched.hear("call is dropped");
        assert!(eventually(|| watched.server.stats().in_flight == 1), "{way}");
        watched.open();
        watched.hear("oneway ends");
        let over = || watched.server.stats().connections == 0 && watched.server.stats().in_flight == 0;
        assert!(eventually(over), "{way}: {:?}", watched.server.stats());
    }
}

/// Their sockets are closed: they take nobody's place.
#[test]
fn handlers_that_outlast_their_connection_do_not_count_as_connections() {
    let watched = Watched::new(&[("max_connections", "2")]);
    for _ in 0..3 {
        let mut socket = dial(&watched.server);
        socket.write_all(&oneway(1, b"oneway")).expect("it reads");
        watched.hear("oneway begins");
        // At most one of those before has not been seen to leave when the next comes.
    }
    let mut socket = dial(&watched.server);
    socket.write_all(&raw_request(1, b"echo")).expect("it reads");
    assert!(read_raw(&mut socket).is_some(), "there is room");
    assert_eq!(watched.server.stats().in_flight, 3);
    drop(socket);
    watched.open();
    (0..3).for_each(|_| watched.hear("oneway ends"));
    watched.check_over();
}

/// Handlers on the worker pool begin and end as well.
#[test]
fn oneways_on_the_worker_pool_are_handled_though_their_sender_has_left() {
    let (tell, told) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let inner = Mutex::new((tell, gate));
    let mut service = AnyServer::new(move |cx: Context, req: Blob| {
        let (tell, gate) = &*inner.lock().expect("no panic");
        gate.recv_timeout(LIMIT).expect("the test lets it go");
        tell.send(cx.is_cancelled()).expect("the test listens");
        async move { (cx, Ok(req)) }
    });
    service.blocking.all();
    let server = Server::builder().reactors(1).workers(1).add(service).bind("tcp://127.0.0.1:0").expect("bound");
    let mut socket = dial(&server);
    socket.write_all(&[oneway(1, b"first"), oneway(2, b"queued")].concat()).expect("it reads");
    assert!(eventually(|| server.stats().in_flight == 2));
    drop(socket);
    for _ in 0..2 {
        go.send(()).expect("a handler waits");
        assert_eq!(told.recv_timeout(LIMIT), Ok(false), "nobody has cancelled it");
    }
    assert!(eventually(|| server.stats().connections == 0 && server.stats().in_flight == 0));
    assert_eq!(server.stats().replied, 2);
}

/// Its deadline is the sender's own word, and ends it also when nobody is there.
#[test]
fn the_deadline_of_a_oneway_counts_after_its_sender_has_left() {
    let watched = Watched::new(&[]);
    dial(&watched.server).write_all(&with_timeout(1, MessageType::Oneway, 1, b"100")).expect("it reads");
    watched.hear("waits begins");
    watched.hear("waits is dropped");
    watched.check_over();
}

/// I9: limits count what runs, whether its sender is there or not.
#[test]
fn oneways_whose_sender_has_left_count_towards_the_limits() {
    let watched = Watched::new(&[("max_inflight", "1")]);
    dial(&watched.server).write_all(&oneway(1, b"oneway")).expect("it reads");
    watched.hear("oneway begins");
    let mut other = dial(&watched.server);
    other.write_all(&raw_request(1, b"call")).expect("it reads");
    let refused = read_raw(&mut other).expect("an answer");
    assert_eq!(refused.kind, Some(MessageType::Exception));
    drop(other);
    watched.open();
    watched.hear("oneway ends");
    watched.check_over();
}

/// I23: a shutdown waits for them, too.
#[test]
fn a_shutdown_waits_for_oneways_whose_sender_has_left() {
    let watched = Watched::new(&[]);
    dial(&watched.server).write_all(&oneway(1, b"oneway")).expect("it reads");
    watched.hear("oneway begins");
    let server = watched.server.clone();
    let shutdown = thread::spawn(move || server.shutdown());
    let url = watched.server.url().to_string();
    let refused = || TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).is_err();
    assert!(eventually(refused), "it shuts down");
    assert!(!shutdown.is_finished() && watched.told.try_recv().is_err());
    watched.open();
    watched.hear("oneway ends");
    let drained = shutdown.join().expect("no panic");
    assert_eq!((drained.cut_connections, drained.cut_calls), (0, 0));
    watched.check_over();
}

/// And cuts them when its time is over.
#[test]
fn the_end_of_the_grace_cuts_oneways() {
    let watched = Watched::new(&[("shutdown_grace", "50ms")]);
    dial(&watched.server).write_all(&oneway(1, b"oneway")).expect("it reads");
    watched.hear("oneway begins");
    let drained = watched.server.shutdown();
    assert_eq!((drained.cut_connections, drained.cut_calls), (1, 1));
    watched.hear("oneway is dropped");
    assert!(eventually(|| watched.server.stats().connections == 0 && watched.server.stats().in_flight == 0));
}
