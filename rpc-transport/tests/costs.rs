//! What the transport costs, by counts that repeat exactly: allocations, system calls, bytes moved, bytes held.

#[cfg(feature = "tls")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rpc_transport::{
    Connector, Cx, DatagramCx, DatagramHandler, Frame, Handler, ListenOptions, LocalTask, UdpOptions, local,
};
use support::*;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST_HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        let held = HELD.fetch_add(layout.size(), SeqCst) + layout.size();
        MOST_HELD.fetch_max(held, SeqCst);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts are the whole process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Sends a frame as soon as the last one is back, and wakes a local task that writes each second one.
struct Pinger {
    payload: Vec<u8>,
    rounds: usize,
    left: Arc<AtomicUsize>,
    task_waker: Option<Waker>,
    reached: mpsc::SyncSender<(usize, Counts)>,
    stats: Vec<rpc_transport::ReactorHandle>,
}

type Counts = [usize; 8];

impl Pinger {
    fn counts(&self) -> Counts {
        let sum = |f: fn(&rpc_transport::ReactorStats) -> u64| self.stats.iter().map(|r| f(r.stats()) as usize).sum();
        [
            ALLOCATIONS.load(SeqCst),
            sum(|s| s.polls.get()),
            sum(|s| s.reads.get()),
            sum(|s| s.writes.get()),
            sum(|s| s.empty_reads.get()),
            sum(|s| s.wakes.get()),
            sum(|s| s.task_polls.get()),
            sum(|s| s.iovecs.get()),
        ]
    }

    fn ping(&self, cx: &mut Cx<'_>) {
        framing().write_head(self.payload.len(), cx.output()).unwrap();
        bytes::BufMut::put_slice(cx.output(), &self.payload);
    }
}

struct Ticks(Arc<AtomicUsize>, mpsc::SyncSender<Waker>);

impl LocalTask for Ticks {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.fetch_add(1, SeqCst) == 0 {
            self.1.send(cx.waker().clone()).unwrap();
        }
        Poll::Pending
    }
}

impl Handler for Pinger {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.ping(cx);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        assert_eq!(frame.bytes().len(), self.payload.len());
        self.rounds += 1;
        if let Some(waker) = &self.task_waker {
            waker.wake_by_ref();
        }
        if self.rounds == 3000 || self.rounds == 4000 {
            let counts = self.counts();
            self.reached.send((self.rounds, counts)).unwrap();
        }
        if self.rounds < 5000 {
            let timer = cx.arm(cx.now() + DEADLINE, 0); // as a call would
            cx.disarm(timer);
            self.ping(cx);
        } else {
            self.left.store(0, SeqCst);
        }
    }
}

/// Two pools, one call in flight: nothing is allocated, and a call is two waits, two reads and two writes.
#[test]
fn a_call_allocates_nothing_and_makes_six_system_calls() {
    let _alone = alone();
    for size in [32, 1024] {
        let (server, client) = (pool(1), pool(1));
        let listener = serve(&server, |_| Script::new());
        let (tell, told) = mpsc::sync_channel(16);
        let (wakers, waker) = mpsc::sync_channel(1);
        let (polls, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        client.handles()[0].spawn_task(Box::new(Ticks(polls, wakers)));
        let pinger = Pinger {
            payload: vec![7; size],
            rounds: 0,
            left: left.clone(),
            task_waker: Some(hear(&waker)),
            reached: tell,
            stats: vec![server.handles()[0].clone(), client.handles()[0].clone()],
        };
        let endpoint = listener.url().resolve().unwrap().remove(0);
        on(&client.handles()[0], move || Connector::default().connect(&endpoint, framing(), pinger).unwrap());
        let ((_, before), (_, after)) = (hear(&told), hear(&told));
        let [allocations, polls, reads, writes, empty, wakes, task_polls, iovecs] =
            std::array::from_fn(|i| after[i] - before[i]);
        println!(
            "{size} B × 1000 calls: {allocations} allocations, {polls} waits, {reads} reads ({empty} empty), {writes} writes"
        );
        assert_eq!(allocations, 0);
        assert_eq!((empty, wakes), (0, 0));
        // The server may stand in the middle of a call when the client looks.
        for (what, count, expected) in [
            ("waits", polls, 2000),
            ("reads", reads, 2000),
            ("writes", writes, 2000),
            ("iovecs", iovecs, 2000),
            ("task polls", task_polls, 1000),
        ] {
            assert!(count.abs_diff(expected) <= 2, "{count} {what}");
        }
        until("the last round", || left.load(SeqCst) == 0);
    }
}

#[test]
fn an_idle_connection_holds_less_than_a_kilobyte() {
    let _alone = alone();
    const CONNECTIONS: usize = 2000;
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    let exchange = |n: usize| -> Vec<_> {
        let mut sockets: Vec<_> = (0..n).map(|_| dial(&listener)).collect();
        sockets.iter_mut().for_each(|socket| assert_eq!(call(socket, b"hi"), b"hi"));
        sockets
    };
    drop(exchange(200)); // pools and lists are warm
    until("all have left", || listener.connections() == 0);
    let before = HELD.load(SeqCst);
    let sockets = exchange(CONNECTIONS);
    let held = HELD.load(SeqCst) - before;
    let each = held as f64 / CONNECTIONS as f64;
    println!("{each:.0} bytes of user memory per idle connection (the test's handler: {})", size_of::<Script>());
    assert!(each <= 1024.0, "{each} bytes");
    drop(sockets);
}

/// Frames that are told with their memory.
struct Keeps(mpsc::Sender<Bytes>);

impl Handler for Keeps {
    fn on_frame(&mut self, _: &mut Cx<'_>, frame: Frame<'_>) {
        self.0.send(frame.to_bytes()).unwrap();
    }
}

#[test]
fn a_large_frame_stays_where_it_was_read() {
    let _alone = alone();
    let pool = pool(1);
    let moved = || pool.handles()[0].stats().moved_bytes.get();
    for size in [100_000, 1 << 20, 5 << 20] {
        let (tell, frames) = mpsc::channel();
        let tell = Mutex::new(tell);
        let make = move |_: &rpc_transport::Accepted<'_>| (framing(), Keeps(tell.lock().unwrap().clone()));
        let url = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = pool.listen(&url, ListenOptions::default(), make).unwrap();
        let mut socket = dial(&listener);
        let payload: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
        for nth in 0..5 {
            let before = moved();
            socket.write_all(&wire(&payload)).unwrap();
            let frame = hear(&frames);
            assert!(frame == payload);
            let most = if nth == 0 { 16 << 10 } else { 1 << 10 };
            assert!(moved() - before <= most, "frame {nth} of {size}: {} bytes moved", moved() - before);
        }
    }
}

/// rustls's own state is most of it: keys of both directions, and what can still be asked of the handshake. No buffer is kept.
#[cfg(feature = "tls")]
#[test]
fn an_idle_connection_under_tls_holds_a_few_kilobytes() {
    use rpc_transport::rustls::{StreamOwned, version};
    let _alone = alone();
    const CONNECTIONS: usize = 500;
    let authority = certificates::Authority::new("tests");
    let tls = rpc_transport::TlsServer::builder(authority.issue("localhost").identity()).build().unwrap();
    let pool = pool(1);
    let options = ListenOptions { tls: Some(tls), ..ListenOptions::default() };
    let listener = listen(&pool, "tls://127.0.0.1:0", options, |_| Script::new());
    let exchange = |n: usize, large: usize| -> Vec<_> {
        let peers = (0..n).map(|_| {
            let mut peer = StreamOwned::new(authority.foreign(&[&version::TLS13]), dial(&listener));
            assert_eq!(call(&mut peer, &vec![7; large]).len(), large);
            peer.sock // what the other end holds is not meant
        });
        peers.collect()
    };
    drop(exchange(100, 100));
    until("all have left", || listener.connections() == 0);
    for large in [2, 20_000] {
        let before = HELD.load(SeqCst);
        let sockets = exchange(CONNECTIONS, large);
        let each = (HELD.load(SeqCst) - before) as f64 / CONNECTIONS as f64;
        println!("{each:.0} bytes of user memory per idle connection under TLS, after an echo of {large} bytes");
        assert!(each <= 6.0 * 1024.0, "{each} bytes");
        drop(sockets);
        until("all have left", || listener.connections() == 0);
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// T1: over the limit: closed at once, and no memory. T2: within it: memory comes with the bytes.
#[test]
fn t1_t2_announced_frames_cost_no_memory() {
    if !in_a_process_of_its_own("t1_t2_announced_frames_cost_no_memory", &[]) {
        return;
    }
    let pool = pool(1);
    let listener = serve(&pool, |_| Script::new());
    assert_eq!(call(&mut dial(&listener), b"warm"), b"warm");
    let before = HELD.load(SeqCst);
    MOST_HELD.store(before, SeqCst);
    for n in 0..1000_u32 {
        let mut socket = dial(&listener);
        let len = [u32::MAX, i32::MAX as u32, (16 << 20) + 1][n as usize % 3];
        socket.write_all(&len.to_be_bytes()).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0, "closed");
    }
    let grown = MOST_HELD.load(SeqCst) - before; // not what is resident: memory that is taken and not touched counts, too
    println!("T1: {} KiB for 1000 connections over the limit", grown / 1024);
    assert!(grown < 1 << 20, "{grown} bytes");

    let before = resident();
    let sockets: Vec<_> = (0..1000)
        .map(|_| {
            let mut socket = dial(&listener);
            socket.write_all(&[&(16_u32 << 20).to_be_bytes()[..], &[1]].concat()).unwrap();
            socket
        })
        .collect();
    let bytes = || pool.handles()[0].stats().bytes_in.get();
    let warm = 8 + 1000 * 4;
    until("all have been read", || bytes() == warm + 5 * 1000);
    let grown = resident().saturating_sub(before);
    println!("T2: {} KiB for 1000 connections that announced 16 MiB and sent one byte", grown / 1024);
    // A sanitizer keeps notes beside each allocation, on pages of their own.
    let each = if std::env::var_os("RPC_TEST_SANITIZER").is_some() { 32 << 10 } else { 8 << 10 };
    assert!(grown < 1000 * each, "{grown} bytes");
    drop(sockets);
    until("all have left", || listener.connections() == 0);
    on(&pool.handles()[0], || assert!(local::current().is_some()));
}

#[test]
fn datagrams_allocate_nothing_in_steady_state() {
    struct Echo;
    impl DatagramHandler for Echo {
        fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], from: SocketAddr) {
            cx.send_to(datagram, from).unwrap();
        }
    }
    let _alone = alone();
    let pool = pool(1);
    let server = pool.bind_udp(([127, 0, 0, 1], 0).into(), UdpOptions::default(), |_| Echo).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut room = [0; 100];
    let mut exchange = || {
        let before = ALLOCATIONS.load(SeqCst);
        for _ in 0..1000 {
            client.send(&[7; 100]).unwrap();
            assert_eq!(client.recv(&mut room).unwrap(), 100);
        }
        ALLOCATIONS.load(SeqCst) - before
    };
    exchange();
    assert_eq!(exchange(), 0);
}
