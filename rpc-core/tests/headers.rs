//! What large headers leave behind when their calls are over: no limit counts them, so nothing. Counts are the process's: one test, alone.

#[path = "support/held.rs"]
mod held;
mod support;

use std::future::poll_fn;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use held::HELD;
use parking_lot::Mutex;
use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::{request_metadata, write_frame_head};
use rpc_core::{Context, Metadata, ServerHandle};
use support::{AnyServer, Blob, bind, dial, eventually, read_raw};

const CONNECTIONS: usize = 256;

/// What a header may leave with a connection without calls, in bytes.
const EACH: usize = 2 << 10;

/// Calls at once.
const BURST: i32 = 1024;

/// What a burst may leave, in bytes: tables of the reactor, boxes of futures.
const LEFT: usize = 2 << 20;

/// A request that has `pairs` persistent pairs with values of that length, like no other's.
fn request(seq: i32, payload: &'static [u8], pairs: usize, value: usize) -> Vec<u8> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let pair = |n: usize| (format!("K{n}"), format!("{next:0value$}"));
    let persistent: Metadata = (0..pairs).map(pair).collect();
    let info = request_metadata(&persistent, &Metadata::new()).expect("short enough");
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(payload) });
    let mut out = Vec::new();
    write_frame_head(&mut out, 1, seq, [&info, b""], MessageType::Call, b"Blob", body.len()).expect("short enough");
    out.extend(body);
    out
}

fn call(socket: &mut TcpStream, request: &[u8]) {
    socket.write_all(request).expect("it reads");
    assert_eq!(read_raw(socket).expect("a reply").kind, Some(MessageType::Reply));
}

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Whether it comes to that in time, and how much it was last.
fn comes_to(before: usize, bound: usize) -> Result<usize, usize> {
    let more = || held().saturating_sub(before);
    if eventually(|| more() < bound) { Ok(more()) } else { Err(more()) }
}

/// A handler that waits until it may go, if it is asked to.
#[derive(Default)]
struct Gate {
    open: AtomicBool,
    waiting: Mutex<Vec<std::task::Waker>>,
}

impl Gate {
    fn server(self: &Arc<Gate>) -> ServerHandle {
        let gate = Arc::clone(self);
        let service = AnyServer::new(move |cx: Context, req: Blob| {
            let gate = Arc::clone(&gate);
            async move {
                if req.payload == "waits" {
                    poll_fn(|task| {
                        gate.waiting.lock().push(task.waker().clone());
                        if gate.open.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
                    })
                    .await;
                }
                assert!(cx.persistent().iter().all(|(key, _)| key.starts_with(b"K")));
                (cx, Ok(req))
            }
        });
        bind(service, &[("max_buffered_bytes", "4MiB")]) // an eighth of it in spare blocks
    }

    /// The calls that wait, once all of them do.
    fn all_wait(&self) -> Vec<std::task::Waker> {
        assert!(eventually(|| self.waiting.lock().len() == BURST as usize), "{} wait", self.waiting.lock().len());
        std::mem::take(&mut *self.waiting.lock())
    }
}

#[test]
fn large_headers_leave_nothing_behind() {
    let gate = Arc::<Gate>::default();
    let server = gate.server();
    let burst = |pairs, value, answered: bool| {
        gate.open.store(false, Ordering::SeqCst);
        let mut socket = dial(&server);
        for seq in 1..=BURST {
            socket.write_all(&request(seq, b"waits", pairs, value)).expect("it reads");
        }
        let waiting = gate.all_wait();
        if answered {
            gate.open.store(true, Ordering::SeqCst);
            waiting.into_iter().for_each(std::task::Waker::wake);
            (0..BURST).for_each(|_| assert!(read_raw(&mut socket).is_some()));
        }
        drop(socket);
        assert!(eventually(|| server.stats().in_flight == 0));
        gate.waiting.lock().clear();
    };

    // Tables grow once.
    burst(1, 10, true);
    let mut sockets: Vec<_> = (0..CONNECTIONS).map(|_| dial(&server)).collect();
    sockets.iter_mut().for_each(|socket| call(socket, &request(1, b"small", 0, 0)));
    call(&mut dial(&server), &request(1, b"large", 127, 490));

    //                     pairs  bytes of each value
    for (pairs, value) in [(127, 490), (1, 60_000), (127, 10), (24, 10), (12, 30), (8, 30), (3, 20)] {
        let before = held();
        for socket in &mut sockets {
            // Alone, and in a batch with another one.
            call(socket, &request(2, b"first", pairs, value));
            socket.write_all(&request(3, b"second", pairs, value)).expect("it reads");
            call(socket, &request(4, b"third", pairs, value));
            read_raw(socket).expect("a reply");
        }
        let left = comes_to(before, CONNECTIONS * EACH);
        println!("{pairs} pairs of {value} bytes: {left:?} bytes left with {CONNECTIONS} connections");
        assert!(left.is_ok(), "{pairs} pairs of {value} bytes: {left:?} left with {CONNECTIONS} connections");
    }
    for answered in [true, false] {
        let before = held();
        burst(127, 490, answered);
        let left = comes_to(before, LEFT);
        println!("{BURST} calls at once, answered: {answered}: {left:?} bytes left");
        assert!(left.is_ok(), "{BURST} calls at once, answered: {answered}: {left:?} bytes left");
    }
}
