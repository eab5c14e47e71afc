//! Memory: 500 clients, each just under every limit, against a server that may use 64 MiB (T28, I10).

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testee::idl::testee::Blob;
use testee::{MemoryCap, Testee, eventually, make, raw, resident, sanitized};

const BIN: &str = env!("CARGO_BIN_EXE_testee");
const CAP: u64 = 64 << 20;
const CLIENTS: usize = 500;

/// The server answers 167 peers with what they ask for before it is the polite one's turn, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls that the polite client must have made during the attack.
const SERVED: u64 = 20;

/// The test values of every limit that holds memory.
const LIMITS: [&str; 9] = [
    "max_frame_size=1MiB",
    "max_header_size=4KiB",
    "max_inflight_per_conn=2",
    "max_inflight=512",
    "write_high=256KiB",
    "write_low=64KiB",
    "write_hard=2MiB",
    "max_buffered_bytes=32MiB",
    "frame_progress=10s",
];

/// One greedy client: what it sends, over and over, without ever reading.
struct Greedy {
    socket: TcpStream,
    stream: Arc<Vec<u8>>,
    sent: usize,
    /// What it sends has an end: the rest of its frame never comes.
    once: bool,
    open: bool,
}

impl Greedy {
    /// The streams that greedy clients send; the first one but once.
    fn streams() -> [Arc<Vec<u8>>; 3] {
        // A frame of the largest size, but for its last byte.
        let mut frame = raw::request(1, "Echo", &raw::blob(&make(1, (1 << 20) - 64)));
        frame.pop();
        // Requests whose replies are as large, none of them read.
        let large = raw::blob(&make(1, 100 << 10));
        let echoes = (1..20).flat_map(|seq| raw::request(seq, "Echo", &large)).collect();
        // Handlers that hold their requests: with those of the others, just under `max_inflight`.
        let mut body = raw::number(3_000);
        body.extend([0x12, 0x80, 0x08]); // `kind`, 1 KiB of it, which Sleep does not look at
        body.extend([b'x'; 1024]);
        let sleeps = (1..=2).flat_map(|seq| raw::request(seq, "Sleep", &body)).collect();
        [frame, echoes, sleeps].map(Arc::new)
    }

    fn new(server: &Testee, streams: &[Arc<Vec<u8>>; 3], n: usize) -> Greedy {
        let kind = n % 3;
        let (stream, once) = (Arc::clone(&streams[kind]), kind == 0);
        let socket = TcpStream::connect(server.addr()).expect("it listens");
        socket.set_nonblocking(true).expect("non-blocking");
        Greedy { socket, stream, sent: 0, once, open: true }
    }

    /// Sends what the kernel takes. What comes back is looked at only to see the end.
    fn push(&mut self) {
        while self.open && !(self.once && self.sent == self.stream.len()) {
            let at = self.sent % self.stream.len();
            match self.socket.write(&self.stream[at..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.open = false,
            }
        }
        if self.once && self.open {
            self.open = match self.socket.read(&mut [0; 1]) {
                Ok(n) => n > 0,
                Err(e) => e.kind() == ErrorKind::WouldBlock,
            };
        }
    }
}

/// I10: what may be resident with a budget of 32 MiB. A quarter more for frames that are announced, output that is about to be written and what
/// the allocator keeps; an eighth on each of two threads for spare blocks, which live as long as the thread; and 2 KiB a connection.
fn most_resident(connections: usize) -> u64 {
    (40 << 20) + 2 * (4 << 20) + 2048 * connections as u64
}

/// A server with these limits that is killed at [`CAP`], where such a cap can be had.
fn capped(limits: &[&str]) -> Testee {
    let cap = match MemoryCap::new(CAP) {
        Ok(_) if sanitized() => None, // the sanitizer alone takes more
        Ok(cap) => Some(cap),
        Err(e) => {
            println!("T28: no memory cap is to be had here ({e}); the resident memory is looked at instead");
            None
        }
    };
    under(cap, limits)
}

fn under(cap: Option<MemoryCap>, limits: &[&str]) -> Testee {
    Testee::under(cap, BIN, &["tcp://127.0.0.1:0"], limits.iter().flat_map(|limit| ["--set", limit]))
}

#[test]
fn t28_five_hundred_greedy_clients_within_64_mib() {
    let mut server = capped(&LIMITS);
    let (fds, before) = (server.at_rest(), server.own_memory());
    let (over, served, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let client = server.client();
    let streams = Greedy::streams();
    let begun = Instant::now();
    let (most, rss, shed) = thread::scope(|scope| {
        let polite = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                let payload = make(served.load(Ordering::Relaxed), 1000);
                match client.echo(Blob { payload: payload.clone() }).timeout(PATIENCE).wait() {
                    Ok(reply) => {
                        assert_eq!(reply.payload, payload);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    // At 95 % of the memory, and at `max_inflight`, work is refused, and anybody may try again.
                    Err(error) if error.is_retryable() => _ = refused.fetch_add(1, Ordering::Relaxed),
                    Err(error) => panic!("the polite client must live: {error}"),
                }
                thread::sleep(Duration::from_millis(2)); // it is not the load
            }
        });
        let mut greedy: Vec<_> = (0..CLIENTS).map(|n| Greedy::new(&server, &streams, n)).collect();
        let (mut most, mut rss) = (0, 0);
        // For six seconds, and until the polite one has been served often enough, however slow the machine is.
        let enough = || served.load(Ordering::Relaxed) >= SERVED || begun.elapsed() > 3 * PATIENCE;
        while begun.elapsed() < Duration::from_secs(6) || !enough() {
            greedy.iter_mut().for_each(Greedy::push);
            rss = rss.max(server.own_memory());
            let report = client.stats(testee::idl::testee::Empty {}).timeout(PATIENCE).wait();
            if let Ok(report) = report {
                most = most.max(testee::Figures::parse(&report.json).get("buffered_bytes"));
            }
        }
        over.store(true, Ordering::Release);
        let shed = greedy.iter().filter(|greedy| !greedy.open).count();
        polite.join().expect("the polite client lives");
        (most, rss, shed)
    });
    assert!(server.is_alive(), "not killed: {}", server.errors());
    drop(client);
    let calls = served.into_inner();
    let peak = server.cap().map_or(0, MemoryCap::peak);
    println!(
        "T28: {CLIENTS} greedy clients, {shed} of them shed; polite: {calls} calls, {} refused in time and repeated; \
         buffered at most {} KiB of 32 MiB; own resident memory at most {} KiB ({} before), peak in the group {} KiB of 64 MiB",
        refused.into_inner(),
        most / 1024,
        rss / 1024,
        before / 1024,
        peak / 1024
    );
    assert!(calls >= SERVED, "{calls} polite calls");
    assert!(most <= 32 << 20, "max_buffered_bytes holds: {most}");
    let bound = before + resident(most_resident(CLIENTS));
    assert!(rss <= bound, "{rss} bytes resident, bound {bound}");
    assert_eq!(server.cap().map_or(0, MemoryCap::kills), 0, "never killed for memory");
    let limit = Duration::from_secs(15);
    server.returns_to(&fds, limit);
    assert!(eventually(limit, || server.stats().get("in_flight") == 0), "{:?}", server.stats());
    assert!(eventually(limit, || server.stats().get("buffered_bytes") == 0), "{:?}", server.stats());
}

/// What large frames that have come left behind must not stay resident under frames that are announced and never come: such memory is
/// counted nowhere, and each round would add as much as the budget holds.
///
/// Once with the allocator as users have it, which is what gives such memory out again. Under a cap each large piece is a mapping of its own,
/// so that the second time shows what a server has that is killed beyond 64 MiB, and less of this.
#[test]
fn t28_freed_memory_does_not_pile_up_under_announced_frames() {
    let limits = ["max_frame_size=1MiB", "max_buffered_bytes=32MiB", "frame_progress=60s", "first_frame_timeout=60s"];
    pile_up(&under(None, &limits));
    let server = capped(&limits);
    pile_up(&server);
    assert_eq!(server.cap().map_or(0, MemoryCap::kills), 0, "never killed for memory");
}

fn pile_up(server: &Testee) {
    const ROUNDS: usize = 8;
    const SENDERS: usize = 12;
    const STALLERS: usize = 12;
    let before = server.own_memory();
    let mut frame = raw::request(1, "Echo", &raw::blob(&make(1, (1 << 20) - 64)));
    frame.pop();
    let send = |part: &[u8]| {
        let mut socket = TcpStream::connect(server.addr()).expect("it listens");
        socket.write_all(part).expect("it reads");
        socket
    };
    let limit = Duration::from_secs(15);
    let buffered = || server.stats().get("buffered_bytes");
    let mut stalled = Vec::new();
    let mut rss = 0;
    for round in 1..=ROUNDS {
        let come: Vec<_> = (0..SENDERS).map(|_| send(&frame)).collect();
        assert!(eventually(limit, || buffered() >= (SENDERS as u64 - 1) << 20), "round {round}: {:?}", server.stats());
        drop(come);
        assert!(eventually(limit, || buffered() < 20 << 20), "round {round}: {:?}", server.stats());
        stalled.extend((0..STALLERS).map(|_| send(&frame[..20 << 10])));
        let arrived = (round * STALLERS * (20 << 10)) as u64;
        assert!(eventually(limit, || buffered() >= arrived), "round {round}: {:?}", server.stats());
        rss = rss.max(server.own_memory());
    }
    println!(
        "T28: {} frames of 1 MiB that never come, after {} that came: own resident memory at most {} KiB ({} before){}",
        ROUNDS * STALLERS,
        ROUNDS * SENDERS,
        rss / 1024,
        before / 1024,
        server.cap().map_or(String::new(), |cap| format!(", peak in the group {} KiB of 64 MiB", cap.peak() / 1024))
    );
    let bound = before + resident(most_resident(ROUNDS * STALLERS + SENDERS));
    assert!(rss <= bound, "{rss} bytes resident, bound {bound}");
}
