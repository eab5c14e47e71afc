//! Calls on the worker pool that are answered before their handlers return: cancelled, or too late. On real sockets, with a client
//! written by hand.

mod support;

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, mpsc};

use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::ControlFrame::{Cancel, Ping, Pong};
use rpc_core::{Code, Context};
use support::{
    AnyServer, Blob, LIMIT, announcing_request, bind, code_of, control, dial, eventually, negotiated, ordered_request,
    read_raw, with_timeout,
};

/// Blocking handlers: `first` is answered at once, anything else when the gate is opened. What runs behind it is told.
fn gated() -> (AnyServer, Gate, mpsc::Receiver<Context>) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (tell, seen) = mpsc::channel();
    let inner = Arc::clone(&gate);
    let tell = Mutex::new(tell);
    let mut service = AnyServer::new(move |cx: Context, req: Blob| {
        if req.payload != "first" {
            tell.lock().expect("no panic").send(cx.clone()).expect("the test listens");
            let (open, changed) = &*inner;
            let _open = changed.wait_while(open.lock().expect("no panic"), |open| !*open).expect("no panic");
        }
        async move { (cx, Ok(req)) }
    });
    service.blocking.all();
    (service, Gate(gate), seen)
}

/// Opens when it is dropped, too: a test that fails does not wait for its handlers.
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        let (open, changed) = &*self.0;
        *open.lock().expect("no panic") = true;
        changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// T15: a handler that cannot be dropped goes on, sees that it is cancelled, and counts until it returns. Its caller has its answer.
#[test]
fn t15_a_cancelled_blocking_handler_counts_until_it_returns() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[]);
    let mut socket = negotiated(&server);
    socket.write_all(&announcing_request(2, b"blocks")).expect("it reads");
    let context = seen.recv_timeout(LIMIT).expect("the handler runs");
    assert!(!context.is_cancelled());
    socket.write_all(&control(Cancel(2))).expect("it reads");
    let reply = read_raw(&mut socket).expect("a reply");
    assert_eq!((reply.seq, code_of(&reply)), (2, Some(Code::Cancelled)));
    assert!(context.is_cancelled());
    assert_eq!(server.stats().in_flight, 1, "it still runs");
    gate.open();
    assert!(eventually(|| server.stats().in_flight == 0));
    socket.write_all(&announcing_request(3, b"first")).expect("it reads");
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 3, "the handler's own reply went nowhere");
}

/// A worker's call that is cut short confirms with its own reply, or not at all: a oneway has none.
#[test]
fn a_oneway_that_is_cut_short_confirms_nothing() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[]);
    let mut socket = dial(&server);
    socket.write_all(&with_timeout(1, MessageType::Oneway, 1, b"3000")).expect("it reads");
    let context = seen.recv_timeout(LIMIT).expect("the handler runs");
    assert!(eventually(|| context.is_cancelled()), "its deadline passes");
    gate.open();
    for (seq, confirms) in [(2, Some(1)), (3, None)] {
        socket.write_all(&announcing_request(seq, b"first")).expect("it reads");
        let reply = read_raw(&mut socket).expect("a reply");
        assert_eq!((reply.seq, reply.info().capabilities), (seq, confirms));
    }
}

/// B29: the reply to a worker's call that is cut short says what is so when it is written, not when the call began.
#[test]
fn a_worker_s_call_cut_short_in_a_shutdown_says_that_its_connection_ends() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[]);
    let (mut socket, mut idle) = (dial(&server), dial(&server));
    socket.write_all(&with_timeout(0, MessageType::Call, 1, b"3000")).expect("it reads");
    seen.recv_timeout(LIMIT).expect("the handler runs");
    let stopping = server.clone();
    let stopped = std::thread::spawn(move || stopping.shutdown());
    assert!(read_raw(&mut idle).is_none(), "the shutdown has come to the reactor");
    let reply = read_raw(&mut socket).expect("a reply");
    assert_eq!((code_of(&reply), reply.info().closing), (Some(Code::DeadlineExceeded), true));
    gate.open();
    stopped.join().expect("no panic");
}

/// An id is free when its reply has come, though a worker still runs its first use: a cancellation is of the second.
#[test]
fn a_cancellation_finds_the_call_that_waits_under_a_reused_id() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[]);
    let mut socket = negotiated(&server);
    for _ in 0..3 {
        socket.write_all(&announcing_request(2, b"blocks")).expect("it reads");
        seen.recv_timeout(LIMIT).expect("the handler runs");
        socket.write_all(&control(Cancel(2))).expect("it reads");
        let reply = read_raw(&mut socket).expect("a reply");
        assert_eq!((reply.seq, code_of(&reply)), (2, Some(Code::Cancelled)));
    }
    assert_eq!(server.stats().in_flight, 3, "all of them still count");
    gate.open();
    assert!(eventually(|| server.stats().in_flight == 0));
}

/// I9: answered calls whose handlers run on fill a connection, but do not close its ears: it is read, and takes no more calls.
#[test]
fn a_connection_full_of_answered_calls_refuses_and_hears() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[("max_inflight_per_conn", "2")]);
    let mut socket = negotiated(&server);
    socket.write_all(&announcing_request(2, b"blocks")).expect("it reads");
    seen.recv_timeout(LIMIT).expect("the handler runs");
    let frames =
        [announcing_request(3, b"blocks"), control(Cancel(2)), announcing_request(4, b"first"), control(Ping(1))];
    socket.write_all(&frames.concat()).expect("it reads");
    let cancelled = read_raw(&mut socket).expect("a reply");
    assert_eq!((cancelled.seq, code_of(&cancelled)), (2, Some(Code::Cancelled)));
    let refused = read_raw(&mut socket).expect("a reply");
    assert_eq!((refused.seq, code_of(&refused)), (4, Some(Code::ResourceExhausted)));
    assert!(refused.info().not_executed);
    assert_eq!(read_raw(&mut socket).expect("a pong").control(), Some(Pong(1)));
    assert_eq!(server.stats().in_flight, 2);
    gate.open();
    assert_eq!(read_raw(&mut socket).expect("a reply").seq, 3);
    assert!(eventually(|| server.stats().in_flight == 0));
    socket.write_all(&announcing_request(5, b"first")).expect("it reads");
    let served = read_raw(&mut socket).expect("a reply");
    assert_eq!((served.seq, served.kind), (5, Some(MessageType::Reply)), "there is room again");
}

/// Where order counts the next request is read when the one before it is answered, not when its worker returns.
#[test]
fn a_worker_s_call_cut_short_does_not_hold_up_the_next() {
    let (service, gate, seen) = gated();
    let server = bind(service, &[]);
    let mut socket = dial(&server);
    socket.write_all(&with_timeout(0, MessageType::Call, 1, b"3000")).expect("it reads");
    seen.recv_timeout(LIMIT).expect("the handler runs");
    socket.write_all(&ordered_request(2, b"first")).expect("it reads");
    let late = read_raw(&mut socket).expect("a reply");
    assert_eq!((late.seq, code_of(&late)), (1, Some(Code::DeadlineExceeded)));
    let next = read_raw(&mut socket).expect("a reply, though the first handler still runs");
    assert_eq!((next.seq, next.kind, server.stats().in_flight), (2, Some(MessageType::Reply), 1));
    gate.open();
    assert!(eventually(|| server.stats().in_flight == 0));
}
