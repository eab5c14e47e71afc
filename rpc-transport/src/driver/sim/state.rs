//! What a simulated network consists of, and how things happen in it.

mod passing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::faults::Faults;
use super::knobs::Knobs;
use super::observer::Observer;
use super::socket::{Link, ListenerSocket, Registered, SockId, Socket};
use super::trace::Trace;
use crate::clock;
use crate::driver::CloseHow;
use crate::url::Endpoint;

/// Something on its way.
#[derive(Debug)]
pub(super) enum Due {
    /// A connection attempt reaches its listener.
    Attempt(SockId, Endpoint),
    Established(SockId),
    Refused(SockId),
    Data(SockId, usize),
    Finish(SockId),
    Reset(SockId),
    /// There may be room for this one to write.
    Room(SockId),
    /// An event that is reported late.
    Report(Source),
    Wake(usize),
    /// Nothing: time stops here.
    Alarm,
}

/// What readiness is reported of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Socket(SockId),
    Listener(usize),
}

struct Timed(Duration, u64, Due);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// When a reactor is to be turned, if nothing wakes it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// It has not said yet.
    None,
    Until(Duration),
    ForEver,
    Gone,
}

/// When a reactor is turned again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// As soon as may be: it has something to do, or somebody wakes it, perhaps a little late.
    No,
    /// Then, unless something happens before.
    Until(Duration),
    /// When something happens.
    ForEver,
    /// Never: it has ended.
    Gone,
}

/// Closed tokens that a driver may still report.
const STALE_TOKENS: usize = 8;

const CONNECT_ERRORS: [i32; 4] = [libc::EMFILE, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::ENOBUFS];
const ACCEPT_ERRORS: [i32; 6] =
    [libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPROTO, libc::EPERM, libc::ECONNABORTED];
/// Of registering with a poller, in any of its forms.
pub(super) const REGISTER_ERRORS: [i32; 2] = [libc::ENOMEM, libc::ENOSPC];

pub(super) struct DriverState {
    sleep: Sleep,
    woken: bool,
    /// Wake-ups on their way.
    late_wakes: usize,
    pub(super) listed: Vec<Source>,
    pub(super) closed_tokens: Vec<usize>,
}

pub(super) struct State {
    base: Instant,
    pub(super) now: Duration,
    pub(super) rng: Rng,
    pub(super) knobs: Knobs,
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) observer: Option<Box<dyn Observer>>,
    due: BinaryHeap<Reverse<Timed>>,
    order: u64,
    pub(super) drivers: Vec<DriverState>,
    /// Those that are open, in the order they were made: a run may make any number of them.
    pub(super) sockets: BTreeMap<SockId, Socket>,
    made: usize,
    pub(super) listeners: Vec<Option<ListenerSocket>>,
    /// `accept` fails until then.
    pub(super) starved_until: Duration,
    next_port: u16,
}

impl State {
    pub(super) fn new(base: Instant, seed: u64, knobs: Knobs) -> State {
        State {
            base,
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            knobs,
            faults: Faults::default(),
            trace: Trace::new(seed),
            observer: None,
            due: BinaryHeap::new(),
            order: 0,
            drivers: Vec::new(),
            sockets: BTreeMap::new(),
            made: 0,
            listeners: Vec::new(),
            starved_until: Duration::ZERO,
            next_port: 40_000,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now
    }

    pub(super) fn now(&self) -> Instant {
        self.base + self.now
    }

    pub(super) fn note(&mut self, what: &str, a: u64, b: u64) {
        self.trace.add(self.now, what, a, b);
    }

    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.u32(0..1000) < per_mille
    }

    pub(super) fn latency(&mut self) -> Duration {
        let (low, high) = self.knobs.latency;
        low + Duration::from_nanos(self.rng.u64(0..=high.saturating_sub(low).as_nanos() as u64))
    }

    fn set_now(&mut self, now: Duration) {
        self.now = self.now.max(now);
        clock::set(Some(self.now()));
    }

    pub(super) fn schedule(&mut self, at: Duration, due: Due) {
        self.order += 1;
        self.due.push(Reverse(Timed(at, self.order, due)));
    }

    // Reactors.

    pub(super) fn add_driver(&mut self) -> usize {
        let listed = Vec::new();
        let (sleep, closed_tokens) = (Sleep::None, Vec::new());
        self.drivers.push(DriverState { sleep, woken: false, late_wakes: 0, listed, closed_tokens });
        self.drivers.len() - 1
    }

    /// The reactor to be turned next; `None`: let something happen first.
    pub(super) fn choose(&mut self) -> Option<usize> {
        let now = self.now;
        let mut ready = 0;
        let mut chosen = None;
        for (index, driver) in self.drivers.iter().enumerate() {
            let runs = match driver.sleep {
                Sleep::Gone => false,
                Sleep::None => true,
                Sleep::Until(at) => at <= now || driver.woken || !driver.listed.is_empty(),
                Sleep::ForEver => driver.woken || !driver.listed.is_empty(),
            };
            if runs {
                ready += 1;
                if self.rng.usize(0..ready) == 0 {
                    chosen = Some(index);
                }
            }
        }
        let due = self.due.peek().is_some_and(|Reverse(next)| next.0 <= now);
        if due && self.rng.bool() { None } else { chosen }
    }

    pub(super) fn awake(&mut self, driver: usize) {
        self.drivers[driver].woken = false;
        self.note("turn", driver as u64, 0);
        self.tell(|observer| observer.turn(driver));
    }

    /// A turn is over: it took a while, and the reactor says how long it sleeps; `None` if it has ended.
    pub(super) fn asleep(&mut self, driver: usize, sleeps: Option<Option<Duration>>) {
        let most = self.knobs.turn.as_nanos() as u64;
        let took = Duration::from_nanos(self.rng.u64(0..=most));
        self.drivers[driver].sleep = match sleeps {
            None => Sleep::Gone,
            Some(None) => Sleep::ForEver,
            Some(Some(time)) => Sleep::Until(self.now.saturating_add(time)),
        };
        self.set_now(self.now + took);
    }

    pub(super) fn rest(&self, driver: usize) -> Rest {
        let driver = &self.drivers[driver];
        match driver.sleep {
            Sleep::Gone => Rest::Gone,
            _ if driver.woken || driver.late_wakes > 0 => Rest::No,
            Sleep::None => Rest::No,
            Sleep::Until(at) => Rest::Until(at),
            Sleep::ForEver => Rest::ForEver,
        }
    }

    pub(super) fn alarm(&mut self, at: Duration) {
        self.schedule(at.max(self.now), Due::Alarm);
    }

    pub(super) fn wake(&mut self, driver: usize) {
        if self.chance(self.knobs.late_wake) {
            self.faults.late_wakes += 1;
            self.drivers[driver].late_wakes += 1;
            let at = self.now + self.latency() * 20;
            return self.schedule(at, Due::Wake(driver));
        }
        self.drivers[driver].woken = true;
    }

    fn happen(&mut self, at: Duration, order: u64, due: Due) {
        if let Due::Data(id, _) | Due::Finish(id) | Due::Reset(id) = &due {
            let until = self.sockets.get(id).map_or(Duration::ZERO, |socket| socket.stalled_until);
            // By when it was to happen, which may be a while ago: nothing overtakes what waits for the end of the stall.
            if until > at {
                return self.due.push(Reverse(Timed(until, order, due))); // in its old order
            }
        }
        match due {
            Due::Attempt(client, endpoint) => self.attempt(client, &endpoint),
            Due::Established(id) => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.link = Link::Open;
                    self.report(Source::Socket(id));
                }
            }
            Due::Refused(id) => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.link = Link::Failed(io::ErrorKind::ConnectionRefused);
                    self.report(Source::Socket(id));
                }
            }
            Due::Data(id, n) => {
                self.note("data", id.0 as u64, n as u64);
                self.tell(|observer| observer.arrived(id.0, n));
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.input.arrive(n);
                    self.report(Source::Socket(id));
                }
            }
            Due::Finish(id) => {
                self.note("fin", id.0 as u64, 0);
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.input.finish();
                    self.report(Source::Socket(id));
                }
            }
            Due::Reset(id) => {
                self.note("rst", id.0 as u64, 0);
                let loses = self.rng.bool();
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.input.reset = true;
                    if loses {
                        socket.input.lose();
                    }
                    self.report(Source::Socket(id));
                }
            }
            Due::Room(id) => {
                if self.room(id) > 0
                    && let Some(socket) = self.sockets.get_mut(&id)
                    && std::mem::take(&mut socket.wants_room)
                    && socket.watches_room
                {
                    self.report(Source::Socket(id));
                }
            }
            Due::Report(source) => self.report_late(source),
            Due::Wake(driver) => {
                self.drivers[driver].late_wakes -= 1;
                self.drivers[driver].woken = true;
            }
            Due::Alarm => {}
        }
    }

    // Connections.

    fn add_socket(&mut self, socket: Socket) -> SockId {
        let id = SockId(self.made);
        self.made += 1;
        self.sockets.insert(id, socket);
        id
    }

    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn listeners(&self) -> usize {
        self.listeners.iter().flatten().count()
    }

    pub(super) fn is_taken(&self, endpoint: &Endpoint) -> bool {
        self.listeners.iter().flatten().any(|l| l.endpoint == *endpoint)
    }

    pub(super) fn listen(
        &mut self,
        endpoint: &Endpoint,
        registered: Option<Registered>,
    ) -> io::Result<(usize, Endpoint)> {
        let mut endpoint = endpoint.clone();
        if let Endpoint::Tcp(address) = &mut endpoint
            && address.port() == 0
        {
            self.next_port += 1;
            address.set_port(self.next_port);
        }
        if self.is_taken(&endpoint) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let backlog = Default::default();
        self.listeners.push(Some(ListenerSocket { endpoint: endpoint.clone(), registered, listed: false, backlog }));
        Ok((self.listeners.len() - 1, endpoint))
    }

    pub(super) fn connect(&mut self, endpoint: &Endpoint, registered: Option<Registered>) -> io::Result<SockId> {
        let unix = matches!(endpoint, Endpoint::Unix(_));
        let id = self.add_socket(Socket { registered, ..Socket::new(unix, Link::Connecting, None) });
        self.note("connect", id.0 as u64, 0);
        if let Some(error) = self.refuses(self.knobs.no_connect, &CONNECT_ERRORS) {
            self.sockets.remove(&id);
            return Err(error);
        }
        if unix {
            // A Unix socket connects at once or not at all.
            if let Err(error) = self.pair(id, endpoint) {
                self.sockets.remove(&id);
                return Err(error);
            }
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.link = Link::Open;
            }
        } else if self.chance(self.knobs.lost_syn) {
            self.faults.lost_syns += 1;
        } else {
            let at = self.now + self.latency();
            self.schedule(at, Due::Attempt(id, endpoint.clone()));
        }
        Ok(id)
    }

    fn attempt(&mut self, client: SockId, endpoint: &Endpoint) {
        if !self.sockets.contains_key(&client) {
            return;
        }
        let at = self.now + self.latency();
        match self.pair(client, endpoint) {
            Ok(()) => {
                if let Some(socket) = self.sockets.get_mut(&client) {
                    socket.input.last = at; // what the other end writes comes after
                }
                self.schedule(at, Due::Established(client));
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => self.schedule(at, Due::Refused(client)),
            Err(_) => {} // a full backlog does not answer
        }
    }

    /// Puts the other end of a connection into its listener's backlog.
    fn pair(&mut self, client: SockId, endpoint: &Endpoint) -> io::Result<()> {
        let listener = self.listeners.iter().position(|l| l.as_ref().is_some_and(|l| l.endpoint == *endpoint));
        let Some(index) = listener else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let unix = matches!(endpoint, Endpoint::Unix(_));
        let waiting = self.listeners[index].as_ref().map_or(0, |l| l.backlog.len());
        if waiting >= self.knobs.backlog {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let name = Some(endpoint.clone());
        let server = self.add_socket(Socket { name, ..Socket::new(unix, Link::Open, Some(client)) });
        let from = match endpoint {
            Endpoint::Tcp(_) => {
                self.next_port = self.next_port.checked_add(1).unwrap_or(40_000);
                Endpoint::Tcp(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), self.next_port)))
            }
            Endpoint::Unix(path) => Endpoint::Unix(path.clone()),
        };
        if let Some(socket) = self.sockets.get_mut(&client) {
            socket.peer = Some(server);
            socket.name = (!unix).then(|| from.clone());
        }
        if let Some(listener) = &mut self.listeners[index] {
            listener.backlog.push_back((server, from));
        }
        self.tell_paired(client, server, endpoint);
        self.report(Source::Listener(index));
        Ok(())
    }

    pub(super) fn accept(&mut self, listener: usize) -> io::Result<(SockId, Endpoint)> {
        if self.now < self.starved_until {
            self.faults.starved_accepts += 1;
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        if let Some(error) = self.refuses(self.knobs.no_accept, &ACCEPT_ERRORS) {
            return Err(error);
        }
        let waiting = self.listeners[listener].as_mut().and_then(|l| l.backlog.pop_front());
        let Some((id, from)) = waiting else { return Err(io::ErrorKind::WouldBlock.into()) };
        if self.chance(self.knobs.aborted_accept) {
            self.faults.aborted_accepts += 1;
            self.close(id, CloseHow::Abort);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.note("accept", id.0 as u64, 0);
        Ok((id, from))
    }

    pub(super) fn connected(&mut self, id: SockId) -> io::Result<bool> {
        match self.sockets.get(&id).map(|socket| &socket.link) {
            Some(Link::Connecting) => Ok(false),
            Some(Link::Open) => Ok(true),
            Some(Link::Failed(kind)) => Err((*kind).into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Bytes that this end may write now.
    pub(super) fn room(&self, id: SockId) -> usize {
        match self.sockets.get(&id).map(|socket| socket.peer) {
            Some(Some(peer)) => match self.sockets.get(&peer) {
                Some(peer) => self.knobs.buffer.saturating_sub(peer.input.len()),
                None => self.knobs.buffer,
            },
            _ => self.knobs.buffer,
        }
    }

    pub(super) fn read(&mut self, id: SockId, max: usize, put: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let Some(socket) = self.sockets.get_mut(&id) else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut hash = 0u64;
        let n = socket.input.take(max, |piece| {
            hash = super::trace::fold(hash, piece);
            put(piece);
        });
        if n == 0 {
            return match (socket.input.reset, socket.input.finished) {
                (true, _) => Err(io::ErrorKind::ConnectionReset.into()),
                (false, true) => Ok(0),
                (false, false) => Err(io::ErrorKind::WouldBlock.into()),
            };
        }
        let peer = socket.peer;
        self.note("read", id.0 as u64 | (n as u64) << 32, hash);
        self.tell(|observer| observer.read(id.0, n));
        if let Some(peer) = peer
            && self.sockets.get(&peer).is_some_and(|socket| socket.wants_room)
            && self.room(peer) >= (self.knobs.buffer / 3).max(1)
        {
            let at = self.now + self.latency();
            self.schedule(at, Due::Room(peer));
        }
        Ok(n)
    }

    pub(super) fn write(&mut self, id: SockId, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let room = self.room(id);
        let Some(socket) = self.sockets.get_mut(&id) else { return Err(io::ErrorKind::NotConnected.into()) };
        if !matches!(socket.link, Link::Open) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if socket.input.reset || socket.has_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if total == 0 {
            // A Unix socket's end is known at once.
            let left = socket.unix && socket.peer.is_none();
            return if left { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(0) };
        }
        let Some(peer) = socket.peer else {
            // Nobody is there any more: the system takes it and hears a reset.
            let at = self.now + self.latency() * 2;
            self.schedule(at, Due::Reset(id));
            return Ok(total);
        };
        if socket.write_closed {
            return Ok(total); // cut on the way: it never arrives
        }
        if room == 0 {
            socket.wants_room = true;
            self.tell(|observer| observer.written(id.0, false));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.chance(self.knobs.empty_write) {
            self.faults.empty_writes += 1;
            return Ok(0);
        }
        let mut n = total.min(room);
        if n > 1 && self.chance(self.knobs.short_write) {
            self.faults.short_writes += 1;
            n = self.rng.usize(1..n);
            let at = self.now + self.latency();
            self.schedule(at, Due::Room(id));
        }
        if n < total
            && let Some(socket) = self.sockets.get_mut(&id)
        {
            socket.wants_room = true;
        }
        self.note("write", id.0 as u64, n as u64);
        let mut left = n;
        if let Some(peer) = self.sockets.get_mut(&peer) {
            for buf in bufs {
                let take = buf.len().min(left);
                peer.input.push(&buf[..take]);
                if let Some(observer) = &mut self.observer {
                    observer.wrote(id.0, &buf[..take]);
                }
                left -= take;
            }
        }
        self.tell(|observer| observer.written(id.0, n == total));
        let mut left = n;
        while left > 0 {
            let segment = left.min(self.knobs.segment.max(1));
            let at = self.arrival(peer);
            self.schedule(at, Due::Data(peer, segment));
            left -= segment;
        }
        Ok(n)
    }

    /// An error of the system, perhaps.
    pub(super) fn refuses(&mut self, per_mille: u32, errors: &[i32]) -> Option<io::Error> {
        if !self.chance(per_mille) {
            return None;
        }
        self.faults.refusals += 1;
        let error = errors[self.rng.usize(0..errors.len())];
        self.note("refused", error as u64, 0);
        Some(io::Error::from_raw_os_error(error))
    }

    /// When what is sent to this end now arrives: after all that was sent before.
    fn arrival(&mut self, to: SockId) -> Duration {
        let at = self.now + self.latency();
        match self.sockets.get_mut(&to) {
            Some(socket) => {
                socket.input.last = socket.input.last.max(at);
                socket.input.last
            }
            None => at,
        }
    }

    /// This end says that it writes no more; it may go on reading.
    pub(super) fn shut(&mut self, id: SockId) {
        self.tell(|observer| observer.finished(id.0));
        self.finish(id);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.has_finished = true;
        }
    }

    /// What this end writes from now on does not arrive, but an orderly end does.
    pub(super) fn finish(&mut self, id: SockId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if !std::mem::replace(&mut socket.write_closed, true)
            && let Some(peer) = socket.peer
        {
            let at = self.arrival(peer);
            self.schedule(at, Due::Finish(peer));
        }
    }

    pub(super) fn close(&mut self, id: SockId, how: CloseHow) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        self.note("close", id.0 as u64, u64::from(how == CloseHow::Abort));
        self.tell(|observer| observer.closed(id.0));
        if let Some(Registered { driver, token }) = socket.registered {
            let driver = &mut self.drivers[driver];
            driver.closed_tokens.insert(0, token);
            driver.closed_tokens.truncate(STALE_TOKENS);
            driver.listed.retain(|source| *source != Source::Socket(id));
        }
        let Some(peer) = socket.peer else { return };
        if let Some(peer) = self.sockets.get_mut(&peer) {
            peer.peer = None;
        }
        if how == CloseHow::Abort || socket.input.arrived() > 0 {
            let at = self.now + self.latency();
            if how == CloseHow::Abort
                && self.rng.bool()
                && let Some(peer) = self.sockets.get_mut(&peer)
            {
                peer.input.lose();
            }
            self.schedule(at, Due::Reset(peer));
            return;
        }
        if !socket.write_closed {
            let at = self.arrival(peer);
            self.schedule(at, Due::Finish(peer));
        }
        if socket.input.len() > 0 {
            // What was on its way here meets a closed socket.
            let at = self.now + self.latency() * 2;
            self.schedule(at, Due::Reset(peer));
        }
    }

    pub(super) fn close_listener(&mut self, index: usize) {
        let Some(listener) = self.listeners[index].take() else { return };
        if let Some(Registered { driver, .. }) = listener.registered {
            self.drivers[driver].listed.retain(|source| *source != Source::Listener(index));
        }
        for (id, _) in listener.backlog {
            self.close(id, CloseHow::Abort);
        }
    }

    pub(super) fn socket(&self, id: SockId) -> Option<&Socket> {
        self.sockets.get(&id)
    }
}
