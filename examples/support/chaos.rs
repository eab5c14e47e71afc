//! A network that misbehaves on purpose: a proxy between a client and a server that acts at byte offsets.
//!
//! ```text
//!  client ──► way 0: copies, and at drawn offsets does its worst ──► server
//!  client ◄── way 1: the same, with offsets of its own          ◄── server
//! ```
//!
//! What it does, and after how many bytes, follows from the seed, the connection's number and the direction alone. How the two
//! ends take turns is up to the machine, so a seed repeats the faults and not the schedule.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::payload::mix;

/// How long a read or write may take before its thread looks whether the connection has been broken meanwhile.
const STEP: Duration = Duration::from_millis(20);

/// Bytes that a split or slow piece of the stream is long, at most.
const PIECE: u64 = 2048;

/// What the proxy can do to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Closes both sides, orderly as far as the kernel lets it.
    Cut,
    /// Resets both sides. A Unix socket has no reset: it is closed.
    Reset,
    /// Passes nothing in this direction for a while.
    Stall,
    /// Passes the next bytes one by one.
    Split,
    /// Gathers what comes for a while, and passes it at once.
    Coalesce,
    /// Ends this direction with a FIN; the other one goes on.
    HalfClose,
    /// Passes the next bytes in small pieces with pauses.
    Slow,
}

impl Fault {
    /// All of them, in the order of [`Counts`].
    pub const ALL: [Fault; 7] =
        [Fault::Cut, Fault::Reset, Fault::Stall, Fault::Split, Fault::Coalesce, Fault::HalfClose, Fault::Slow];

    /// Those that end a connection or hold it up, which a call has to survive. They are drawn twice as often as the others.
    pub const HARD: [Fault; 3] = [Fault::Cut, Fault::Reset, Fault::Stall];

    fn draw(dice: &mut Dice) -> Fault {
        let drawn = dice.below((Fault::ALL.len() + Fault::HARD.len()) as u64) as usize;
        *Fault::ALL.iter().chain(&Fault::HARD).nth(drawn).expect("below the end")
    }
}

/// How many faults of each kind have acted, in the order of [`Fault::ALL`].
pub type Counts = [u64; Fault::ALL.len()];

/// What a proxy is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides every fault and its place.
    pub seed: u64,
    /// Bytes between two faults of a direction, on average.
    pub every: u64,
    /// The longest stall. One in eight stalls is of this length, the others are a twentieth of it.
    pub stall: Duration,
}

/// A running proxy. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    /// Where to remove the socket's file, if it has one.
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    over: AtomicBool,
    calm: AtomicBool,
    connections: AtomicU64,
    faults: [AtomicU64; Fault::ALL.len()],
    server: SockAddr,
    socket: Socket,
}

impl Proxy {
    /// A proxy before `server` (`tcp://HOST:PORT` or `unix:PATH`), at an address of the same kind.
    ///
    /// # Panics
    /// When the URL is neither, or the system refuses a socket.
    pub fn start(server: &str, plan: Plan) -> Proxy {
        let (server, own, path) = match (server.strip_prefix("tcp://"), server.strip_prefix("unix:")) {
            (Some(addr), _) => {
                let addr: std::net::SocketAddr = addr.parse().expect("an IP address and a port");
                let own = SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
                (SockAddr::from(addr), own, None)
            }
            (None, Some(path)) => {
                let own = crate::scratch("proxy");
                let addr = SockAddr::unix(&own).expect("a short path");
                (SockAddr::unix(path).expect("a short path"), addr, Some(own))
            }
            (None, None) => panic!("neither tcp:// nor unix: {server}"),
        };
        let socket = Socket::new(own.domain(), Type::STREAM, None).expect("a socket");
        socket.bind(&own).expect("a free address");
        socket.listen(1024).expect("it listens");
        let url = match &path {
            Some(path) => format!("unix:{}", path.display()),
            None => format!("tcp://{}", socket.local_addr().expect("bound").as_socket().expect("TCP")),
        };
        let shared = Arc::new(Shared {
            plan,
            over: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            faults: Default::default(),
            server,
            socket,
        });
        let listener = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept()
        });
        Proxy { url, path, shared, listener: Some(listener) }
    }

    /// Where clients connect.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it only copies.
    pub fn calm(&self) {
        self.shared.calm.store(true, Ordering::Release);
    }

    /// Faults that have acted until now, by kind: drawn where a connection had ended already is not one, nor is a stall that such an end
    /// broke off.
    pub fn faults(&self) -> Counts {
        std::array::from_fn(|kind| self.shared.faults[kind].load(Ordering::Relaxed))
    }

    /// Connections taken until now.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        let _ = self.shared.socket.shutdown(Shutdown::Both); // wakes a blocked accept
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>) {
        while !self.over.load(Ordering::Acquire) {
            let Ok((client, _)) = self.socket.accept() else { continue };
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            // A server that is not there: the client sees its connection end.
            let Ok(server) = self.dial() else { continue };
            let link = Arc::new(Link { ends: [client, server], broken: AtomicBool::new(false) });
            for to_client in [false, true] {
                let (shared, link) = (Arc::clone(&self), Arc::clone(&link));
                thread::spawn(move || {
                    let mut way = Way { dice: Dice::new(shared.plan.seed, number, to_client), to_client, shared, link };
                    if way.copy().is_err() {
                        way.link.break_off(false);
                    }
                });
            }
        }
    }

    fn dial(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.server.domain(), Type::STREAM, None)?;
        socket.connect(&self.server)?;
        Ok(socket)
    }
}

/// One connection through the proxy. The sockets are closed when both ways have left.
struct Link {
    /// Client, server.
    ends: [Socket; 2],
    broken: AtomicBool,
}

impl Link {
    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Ends both directions; false if that has been done before. The way that is blocked looks at the flag within [`STEP`].
    fn break_off(&self, reset: bool) -> bool {
        if self.broken.swap(true, Ordering::AcqRel) {
            return false; // nor does a FIN follow a reset
        }
        for end in &self.ends {
            // Zero seconds of lingering turn the close into a reset.
            let _ = if reset { end.set_linger(Some(Duration::ZERO)) } else { end.shutdown(Shutdown::Write) };
        }
        true
    }
}

/// One direction of a connection.
struct Way {
    dice: Dice,
    to_client: bool,
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Way {
    fn copy(&mut self) -> io::Result<()> {
        for end in &self.link.ends {
            end.set_read_timeout(Some(STEP))?;
            end.set_write_timeout(Some(STEP))?;
            if end.domain()? == Domain::IPV4 {
                end.set_tcp_nodelay(true)?;
            }
        }
        let mut bytes = vec![0; 64 << 10];
        let mut left = self.dice.gap(self.shared.plan.every);
        loop {
            let n = self.read(&mut bytes)?;
            if n == 0 {
                return self.sink().shutdown(Shutdown::Write);
            }
            let mut from = 0;
            while from < n {
                let calm = self.shared.calm.load(Ordering::Acquire);
                let piece = if calm { n - from } else { (n - from).min(usize::try_from(left).unwrap_or(usize::MAX)) };
                self.write(&bytes[from..from + piece])?;
                (from, left) = (from + piece, left.saturating_sub(piece as u64));
                if left == 0 && !calm {
                    left = self.dice.gap(self.shared.plan.every);
                    if !self.act(&bytes[from..n], &mut from)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does one fault; `rest` has been read and not passed on, `from` moves by what this passes of it. False if the way ends here.
    fn act(&mut self, rest: &[u8], from: &mut usize) -> io::Result<bool> {
        let fault = Fault::draw(&mut self.dice);
        let near = &rest[..rest.len().min(self.dice.below(PIECE) as usize)];
        match fault {
            Fault::Cut | Fault::Reset => {
                if self.link.break_off(fault == Fault::Reset) {
                    self.count(fault);
                }
                return Ok(false);
            }
            Fault::HalfClose => {
                self.sink().shutdown(Shutdown::Write)?;
                self.count(fault);
                // The rest of this direction goes nowhere, as behind a peer that has stopped listening.
                let mut nowhere = [0; 4096];
                while self.read(&mut nowhere)? > 0 {}
                return Ok(false);
            }
            Fault::Stall => {
                let whole = self.shared.plan.stall;
                let long = self.dice.below(8) == 0;
                self.pause(if long { whole } else { whole / 20 })?;
            }
            Fault::Split => {
                near.chunks(1).try_for_each(|byte| self.write(byte))?;
                *from += near.len();
            }
            Fault::Coalesce => {
                let mut all = rest.to_vec();
                self.pause(Duration::from_millis(10))?;
                let mut more = vec![0; 64 << 10];
                let n = self.read_now(&mut more)?;
                all.extend(&more[..n]);
                self.write(&all)?;
                *from += rest.len();
            }
            Fault::Slow => {
                for piece in near.chunks(64) {
                    self.write(piece)?;
                    self.pause(Duration::from_millis(2))?;
                }
                *from += near.len();
            }
        }
        self.count(fault);
        Ok(true)
    }

    fn count(&self, fault: Fault) {
        self.shared.faults[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn source(&self) -> &Socket {
        &self.link.ends[usize::from(self.to_client)]
    }

    fn sink(&self) -> &Socket {
        &self.link.ends[usize::from(!self.to_client)]
    }

    /// Blocks for bytes; 0 at the end of the direction.
    fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            self.check()?;
            match self.source().read(bytes) {
                Err(e) if passes(&e) => {}
                other => return other,
            }
        }
    }

    /// What is there already; nothing is no end.
    fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.source().read(bytes) {
            Err(e) if passes(&e) => Ok(0),
            other => other,
        }
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.check()?;
            match self.sink().send(bytes) {
                Err(e) if passes(&e) => {}
                other => bytes = &bytes[other?..],
            }
        }
        Ok(())
    }

    fn pause(&self, span: Duration) -> io::Result<()> {
        let until = std::time::Instant::now() + span;
        loop {
            self.check()?;
            match until.checked_duration_since(std::time::Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(STEP)), // of the stall that is asked for
                _ => return Ok(()),
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.link.is_broken() || self.shared.over.load(Ordering::Acquire) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

/// Whether an error only says that nothing happened within a step.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Numbers that follow from a seed, by splitmix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of one direction of one connection.
    fn new(seed: u64, connection: u64, to_client: bool) -> Dice {
        Dice(mix(seed) ^ mix(connection << 1 | u64::from(to_client)))
    }

    /// Numbers from a seed alone.
    pub fn seeded(seed: u64) -> Dice {
        Dice(mix(seed))
    }

    /// The next number, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % end.max(1)
    }

    /// A distance with this average; short ones are frequent, so that faults come close together, too.
    fn gap(&mut self, average: u64) -> u64 {
        let unit = (self.below(1 << 53) + 1) as f64 / (1_u64 << 53) as f64;
        (-unit.ln() * average as f64) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_faults() {
        let draw = |seed, connection, to_client| {
            let mut dice = Dice::new(seed, connection, to_client);
            (0..50).map(|_| (dice.gap(1000), Fault::draw(&mut dice) as usize)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 2, true), draw(1, 2, true));
        assert_ne!(draw(1, 2, true), draw(1, 2, false));
        assert_ne!(draw(1, 2, true), draw(1, 3, true));
        assert_ne!(draw(1, 2, true), draw(2, 2, true));
        let mut dice = Dice::seeded(1);
        let mut drawn = [0; Fault::ALL.len()];
        (0..10_000).for_each(|_| drawn[Fault::draw(&mut dice) as usize] += 1);
        for (fault, n) in Fault::ALL.iter().zip(drawn) {
            let due = if Fault::HARD.contains(fault) { 1_800..2_200 } else { 850..1_150 };
            assert!(due.contains(&n), "{fault:?}: {n} of 10,000");
        }
        let sum: u64 = (0..10_000).map(|_| dice.gap(1000)).sum();
        assert!((9_000_000..11_000_000).contains(&sum), "on average 1,000: {sum} in 10,000");
    }
}
