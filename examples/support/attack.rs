//! An attack on a testee in a process of its own: a polite client beside it, and what holds afterwards whatever the attack is.
//!
//! ```text
//!  attack ──► testee ◄── polite client: a call each millisecond on a connection of its own, every one answered
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::idl::testee::{Blob, Empty, TesteeClient};
use crate::process::{Figures, Testee, eventually};
use crate::{make, raw, resident};

/// Within this time nothing of an attack may be left; also how late a busy machine may notice a closed connection. The aim is 3 s on a
/// machine that does nothing else; each row says how long it took.
pub const GONE: Duration = Duration::from_secs(15);

/// Polite calls before the attack begins.
const ALONE: usize = 100;

/// One row of the table of attacks, to be [run](Attack::run).
pub struct Attack<'a> {
    bin: &'a str,
    row: &'a str,
    url: &'a str,
    client: Box<dyn Fn(&Testee) -> TesteeClient + 'a>,
    args: Vec<&'a str>,
    growth: u64,
    pace: Duration,
}

/// The server under attack, as the attack sees it.
#[derive(Debug)]
pub struct Scene {
    /// The server.
    pub server: Testee,
    polite: TesteeClient,
    calls: AtomicU64,
}

impl std::fmt::Debug for Attack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attack {} with {:?}", self.row, self.args)
    }
}

impl<'a> Attack<'a> {
    /// An attack on `bin`, called `row`.
    pub fn new(bin: &'a str, row: &'a str) -> Attack<'a> {
        Attack {
            bin,
            row,
            url: "tcp://127.0.0.1:0",
            client: Box::new(Testee::client),
            args: Vec::new(),
            growth: 32 << 20,
            pace: Duration::from_millis(1),
        }
    }

    /// Where the server listens, and how the polite client is made. Default: at a TCP port, by [`Testee::client`].
    pub fn at(mut self, url: &'a str, client: impl Fn(&Testee) -> TesteeClient + 'a) -> Self {
        (self.url, self.client) = (url, Box::new(client));
        self
    }

    /// Limits of the server, as `name=value`.
    pub fn limits(mut self, limits: &[&'a str]) -> Self {
        self.args.extend(limits.iter().flat_map(|limit| ["--set", limit]));
        self
    }

    /// More arguments of the server.
    pub fn args(mut self, args: &[&'a str]) -> Self {
        self.args.extend(args);
        self
    }

    /// By how much the server's resident memory may grow at most, at any time. Default 32 MiB.
    pub fn growth(mut self, bytes: u64) -> Self {
        self.growth = bytes;
        self
    }

    /// How long the polite client waits between calls. Default 1 ms.
    pub fn pace(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// Starts the server, attacks it, and prints what `attack` says became of the attacker, of the polite client, of memory and of
    /// descriptors, as one line.
    ///
    /// # Panics
    /// When the polite client has a call without its reply, the server is dead, its memory grew too much, or something is left
    /// of the attack after [`GONE`]: descriptors, or running handlers.
    pub fn run(self, attack: impl FnOnce(&Scene) -> String) {
        let server = Testee::listen(self.bin, &[self.url], self.args);
        let (fds, rss) = (server.at_rest(), server.rss());
        let scene = Scene { polite: (self.client)(&server), server, calls: AtomicU64::new(0) };
        // Connected, before there is no way to connect any more.
        let alone: Vec<_> = (0..ALONE).map(|n| scene.call(n as u64).as_micros() as u64).collect();
        let over = AtomicBool::new(false);
        let (fate, micros) = thread::scope(|scope| {
            let polite = scope.spawn(|| {
                let mut micros = Vec::new();
                while micros.is_empty() || !over.load(Ordering::Acquire) {
                    micros.push(scene.call(micros.len() as u64).as_micros() as u64);
                    thread::sleep(self.pace); // leaves the processor to the attack; nothing depends on its length
                }
                micros
            });
            // So that the polite one stops even if the attack's own checks fail.
            let end = End(&over);
            let fate = attack(&scene);
            drop(end);
            (fate, polite.join().expect("every polite call succeeds"))
        });
        let Scene { mut server, polite, .. } = scene;
        drop(polite);
        assert!(server.is_alive(), "the server lives: {}", server.errors());
        let (after, peak) = (server.rss().saturating_sub(rss), server.peak_rss().saturating_sub(rss));
        let over = Instant::now();
        eventually(GONE, || server.fds() == fds.count());
        println!(
            "{:<4} attacker: {fate} | polite: {n} of {n} calls, p50 {} µs, p99 {} µs, longest {} ms (alone {} and {} µs) | \
             memory: {} KiB more at most, {} KiB afterwards | descriptors: {fds} before, {} after {} ms",
            self.row,
            percentile(&micros, 50),
            percentile(&micros, 99),
            micros.iter().max().map_or(0, |most| most / 1000),
            percentile(&alone, 50),
            percentile(&alone, 99),
            peak / 1024,
            after / 1024,
            server.fds(),
            over.elapsed().as_millis(),
            n = micros.len(),
        );
        server.returns_to(&fds, Duration::ZERO);
        let most = resident(self.growth);
        assert!(peak <= most, "{}: {peak} bytes more at most, {most} are allowed", self.row);
        let quiet = eventually(GONE, || server.stats_by(&(self.client)(&server)).get("in_flight") == 0);
        assert!(quiet, "nothing runs any more: {:?}", server.stats_by(&(self.client)(&server)));
    }
}

fn percentile(micros: &[u64], percent: usize) -> u64 {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() * percent / 100]
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Scene {
    /// One polite call, and the time it took.
    fn call(&self, number: u64) -> Duration {
        let (payload, start) = (make(number, 100), Instant::now());
        let reply = self.polite.echo(Blob { payload: payload.clone() }).wait();
        let took = start.elapsed();
        assert_eq!(reply.unwrap_or_else(|e| panic!("polite call {number} failed: {e}")).payload, payload);
        self.calls.fetch_add(1, Ordering::AcqRel);
        took
    }

    /// Polite calls so far.
    pub fn polite_calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// The server's counters, asked for on the polite client's connection.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn stats(&self) -> Figures {
        Figures::parse(&self.polite.stats(Empty {}).wait().expect("the testee reports its counters").json)
    }

    /// Connects, with a limit for how long a read may take.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn dial(&self) -> TcpStream {
        let socket = TcpStream::connect(self.server.addr()).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        socket
    }

    /// Sends bytes; the server must close without an answer, at once. Returns how long it took.
    ///
    /// # Panics
    /// When it answers, or does not close.
    pub fn refused(&self, bytes: &[u8]) -> Duration {
        let (mut socket, start) = (self.dial(), Instant::now());
        let (heard, _) = raw::say(&mut socket, bytes);
        let took = start.elapsed();
        assert_eq!(heard, b"", "an answer to {:02x?}…", &bytes[..bytes.len().min(20)]);
        assert!(took < GONE, "closed after {took:?}");
        took
    }

    /// Sends one request and reads its answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn ask(&self, socket: &mut TcpStream, frame: &[u8]) -> raw::Frame {
        socket.write_all(frame).expect("sent");
        raw::read_frame(socket).expect("a frame").expect("the connection stays")
    }

    /// Makes a call on a connection that must have stayed.
    ///
    /// # Panics
    /// When it has not.
    pub fn still_works(&self, socket: &mut TcpStream) {
        let reply = self.ask(socket, &raw::request(77, "Echo", &raw::blob(b"still here")));
        assert_eq!((reply.seq, reply.blob()), (77, Some(&b"still here"[..])));
    }

    /// Whether the server closes, orderly or not, without saying anything.
    pub fn closes(&self, socket: &mut TcpStream) -> bool {
        match socket.read(&mut [0; 64]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() != ErrorKind::WouldBlock && e.kind() != ErrorKind::TimedOut,
        }
    }
}

/// Closes with a reset.
///
/// # Panics
/// When the system does not let us.
pub fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("linger can be set");
}
