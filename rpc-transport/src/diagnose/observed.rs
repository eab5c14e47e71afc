//! A driver in front of the driver, while somebody observes: it looks at the clock around every call.
//!
//! ```text
//!  Reactor ── wait, read, write, … ──►  Observed  ──►  Driver        while observed
//!  Reactor ── wait, read, write, … ─────────────────►  Driver        else: nothing of this is there, not even a question
//! ```
//!
//! All that a reactor does lies between two calls of its driver. What follows a `read` is the handler of that connection; what follows a
//! `wait` is what other threads asked for. So the time between two calls is somebody's, and nobody has to say so himself.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::buffer::Block;
use crate::conn::{ConnId, Token};
use crate::driver::{CloseHow, Driver, Event, Key, RawSocket, Wake};
use crate::histogram::Histogram;
use crate::reactor::ReactorHandle;
use crate::reactor::core::{Core, with};
use crate::socket::SocketOptions;
use crate::udp::UdpOptions;
use crate::url::Endpoint;

/// Whose the time since the last call of the driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// What a connection's input or the room for its output made run: its handler.
    Connection(ConnId),
    /// Datagrams had come: their handler.
    Datagrams,
    /// A listener accepted: the maker of the connection's handler, and that handler's beginning.
    Accepting,
    /// What other threads had asked for: messages to handlers, closures. Or timers, or the future of a caller who leads.
    Commands,
}

/// The longest time for which a reactor came to nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Longest {
    pub(crate) lasted: Duration,
    pub(crate) until: Instant,
    pub(crate) during: During,
    /// Polls of tasks in that time, which may be whose it was.
    pub(crate) task_polls: u64,
    pub(crate) frames: u64,
}

/// What was seen of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnSeen {
    /// Whole frames handed to its handler.
    pub frames: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// What its handler took, with the tasks and timers that ran beside it.
    pub busy: Duration,
}

/// What was seen of a reactor.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) since: Instant,
    /// Turns (while it observes: the counter when that began), and events that they began with.
    pub(crate) turns: u64,
    pub(crate) events: u64,
    /// Time in which it waited for events, or nobody turned it.
    pub(crate) asleep: Duration,
    /// From an event's report to the read of its connection.
    pub(crate) latency: Histogram,
    /// How long its turns took, without the waiting.
    pub(crate) turn: Histogram,
    pub(crate) longest: Option<Longest>,
}

pub(crate) struct Observed {
    /// `None` only while it is being put before the other, or taken away.
    inner: Option<Box<dyn Driver>>,
    /// Who observes.
    watchers: usize,
    reactor: ReactorHandle,
    /// Who turned it last.
    thread: ThreadId,
    /// Its host sleeps outside of the driver.
    hosted_outside: bool,
    seen: Seen,
    /// The last look at the clock, and whose the time since then is.
    at: Cell<Instant>,
    during: During,
    asleep_outside: Cell<Duration>,
    /// A wait is over, and the turn's own look at the clock is still to come.
    waited: Cell<bool>,
    turn_began: Cell<Instant>,
    /// The reactor's counters at the last look.
    frames: u64,
    task_polls: u64,
    /// By key.
    names: Vec<Option<ConnId>>,
    /// By slot of a connection's id.
    conns: Vec<Row>,
}

#[derive(Clone, Copy)]
struct Row {
    id: ConnId,
    reported: Option<Instant>,
    seen: ConnSeen,
}

impl Observed {
    /// Stands in front of nothing yet.
    fn new(reactor: ReactorHandle, now: Instant) -> Observed {
        let hosted_outside = reactor.is_hosted_outside();
        let (frames, task_polls) = (reactor.stats().frames.get(), reactor.stats().task_polls.get());
        let (latency, turn) = (Histogram::default(), Histogram::default());
        let seen = Seen {
            since: now,
            turns: reactor.stats().polls.get(),
            events: 0,
            asleep: Duration::ZERO,
            latency,
            turn,
            longest: None,
        };
        Observed {
            inner: None,
            watchers: 1,
            reactor,
            thread: thread::current().id(),
            hosted_outside,
            seen,
            at: Cell::new(now),
            during: During::Commands,
            asleep_outside: Cell::new(Duration::ZERO),
            waited: Cell::new(false),
            turn_began: Cell::new(now),
            frames,
            task_polls,
            names: Vec::new(),
            conns: Vec::new(),
        }
    }

    /// Stands in front of a driver, whose sockets are these connections'.
    fn put_before(&mut self, inner: Box<dyn Driver>, sockets: Vec<(Key, ConnId)>) {
        self.inner = Some(inner);
        sockets.into_iter().for_each(|(key, id)| self.name(key, Some(id)));
    }

    /// What has been seen so far, and when that is.
    pub(crate) fn seen(&mut self) -> (Instant, Seen) {
        let now = self.settle();
        let mut seen = self.seen.clone();
        seen.asleep += self.asleep_outside.get();
        seen.turns = self.reactor.stats().polls.get().wrapping_sub(seen.turns);
        (now, seen)
    }

    pub(crate) fn seen_of(&self, id: ConnId) -> ConnSeen {
        self.conns.get(slot(id)).filter(|row| row.id == id).map_or_else(ConnSeen::default, |row| row.seen)
    }

    pub(crate) fn is_hosted_outside(&self) -> bool {
        self.hosted_outside
    }

    fn inner(&self) -> &dyn Driver {
        &**self.inner.as_ref().expect("put before a driver")
    }

    fn inner_mut(&mut self) -> &mut dyn Driver {
        &mut **self.inner.as_mut().expect("put before a driver")
    }

    fn name(&mut self, key: Key, id: Option<ConnId>) {
        let key = key.0 as usize;
        if self.names.len() <= key {
            self.names.resize(key + 1, None);
        }
        self.names[key] = id;
    }

    fn row(&mut self, id: ConnId) -> &mut Row {
        let (slot, fresh) = (slot(id), Row { id, reported: None, seen: ConnSeen::default() });
        if self.conns.len() <= slot {
            self.conns.resize(slot + 1, fresh);
        }
        let row = &mut self.conns[slot];
        if row.id != id {
            *row = fresh;
        }
        row
    }

    /// The time since the last call is whose it was; returns the time.
    fn settle(&mut self) -> Instant {
        let now = self.inner().now();
        let here = thread::current().id();
        if std::mem::replace(&mut self.thread, here) != here {
            self.nobodys_until(now); // who turned it has left it
        }
        let lasted = now.saturating_duration_since(self.at.replace(now));
        let stats = self.reactor.stats();
        let (frames, task_polls) = (stats.frames.get(), stats.task_polls.get());
        let more_frames = frames.wrapping_sub(std::mem::replace(&mut self.frames, frames));
        let more_polls = task_polls.wrapping_sub(std::mem::replace(&mut self.task_polls, task_polls));
        let during = self.during;
        if let During::Connection(id) = during {
            let seen = &mut self.row(id).seen;
            seen.busy += lasted;
            seen.frames += more_frames;
        }
        if self.seen.longest.is_none_or(|longest| lasted > longest.lasted) {
            let longest = Longest { lasted, until: now, during, task_polls: more_polls, frames: more_frames };
            self.seen.longest = Some(longest);
        }
        now
    }

    /// Nobody turned the reactor since the last call.
    fn nobodys_until(&self, now: Instant) {
        let before = self.at.replace(now);
        self.asleep_outside.set(self.asleep_outside.get() + now.saturating_duration_since(before));
        self.turn_began.set(now);
    }

    /// A call of the inner driver, whose own time is nobody's; what follows it is `during`'s. Returns when it began, too.
    fn call<R>(&mut self, during: Option<During>, f: impl FnOnce(&mut dyn Driver) -> R) -> (Instant, R) {
        let began = self.settle();
        let result = f(self.inner_mut());
        self.at.set(self.inner().now());
        self.during = during.unwrap_or(self.during);
        (began, result)
    }

    fn conn_at(&self, key: Key) -> Option<ConnId> {
        self.names.get(key.0 as usize).copied().flatten()
    }
}

/// Stands before the reactor's driver from now on, if nobody does yet.
pub(crate) fn begin() {
    with(|core| {
        if let Some(observed) = of(core) {
            observed.watchers += 1;
            return;
        }
        let mut sockets = Vec::with_capacity(core.conns.len());
        for id in core.conns.ids() {
            sockets.extend(core.conns.get(id).and_then(|entry| entry.key()).map(|key| (key, id)));
        }
        let observed = Observed::new(core.handle.clone(), core.driver.now());
        let inner = std::mem::replace(&mut core.driver, Box::new(observed));
        if let Some(observed) = of(core) {
            observed.put_before(inner, sockets);
        }
    });
}

/// Steps aside when the last one who observed has gone.
pub(crate) fn end() {
    with(|core| {
        let Some(observed) = of(core) else { return };
        observed.watchers -= 1;
        if observed.watchers == 0
            && let Some(inner) = observed.inner.take()
        {
            core.driver = inner;
        }
    });
}

/// Who stands before the reactor's driver.
pub(crate) fn of(core: &mut Core) -> Option<&mut Observed> {
    core.driver.in_front()?.downcast_mut()
}

fn slot(id: ConnId) -> usize {
    id.to_bits() as u32 as usize
}

impl Driver for Observed {
    fn now(&self) -> Instant {
        let now = self.inner().now();
        if !self.waited.replace(false) {
            self.nobodys_until(now); // a turn, or a lead, begins without a wait
        }
        now
    }

    fn random(&mut self) -> u64 {
        self.inner_mut().random()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner().waker()
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.hosted_outside {
            self.nobodys_until(self.inner().now());
        }
        let slept = self.settle();
        if !self.hosted_outside {
            self.seen.turn.record(slept.saturating_duration_since(self.turn_began.get()));
        }
        let result = self.inner_mut().wait(timeout, events);
        let now = self.inner().now();
        self.seen.asleep += now.saturating_duration_since(slept);
        self.seen.events += events.len() as u64;
        for event in events.iter() {
            if let (Token::Conn(id), true) = (Token::unpack(event.token), event.readable) {
                self.row(id).reported.get_or_insert(now);
            }
        }
        self.at.set(now);
        self.turn_began.set(now);
        self.waited.set(true);
        self.during = During::Commands;
        result
    }

    fn listen(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<(Key, Endpoint)> {
        self.inner_mut().listen(endpoint, options, token)
    }

    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn listen_on(&mut self, socket: socket2::Socket, endpoint: &Endpoint, token: usize) -> io::Result<Key> {
        self.inner_mut().listen_on(socket, endpoint, token)
    }

    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn share(&self, listener: Key) -> io::Result<socket2::Socket> {
        self.inner().share(listener)
    }

    fn bind_udp(&mut self, addr: SocketAddr, options: &UdpOptions, token: usize) -> io::Result<(Key, SocketAddr)> {
        self.inner_mut().bind_udp(addr, options, token)
    }

    fn recv_from(&mut self, key: Key, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.call(Some(During::Datagrams), |driver| driver.recv_from(key, room)).1
    }

    fn send_to(&mut self, key: Key, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.call(Some(During::Datagrams), |driver| driver.send_to(key, datagram, to)).1
    }

    fn accept(&mut self, listener: Key) -> io::Result<(RawSocket, Endpoint)> {
        self.call(Some(During::Accepting), |driver| driver.accept(listener)).1
    }

    fn adopt(&mut self, raw: RawSocket, options: &SocketOptions, token: usize) -> io::Result<Key> {
        let key = self.call(Some(During::Accepting), |driver| driver.adopt(raw, options, token)).1?;
        self.name(key, conn_of(token));
        Ok(key)
    }

    fn connect(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<Key> {
        let key = self.call(None, |driver| driver.connect(endpoint, options, token)).1?;
        self.name(key, conn_of(token));
        Ok(key)
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        let during = self.conn_at(key).map(During::Connection);
        self.call(during, |driver| driver.connected(key)).1
    }

    fn read(&mut self, key: Key, block: &mut Block, max: usize) -> io::Result<usize> {
        let conn = self.conn_at(key);
        let (began, read) = self.call(conn.map(During::Connection), |driver| driver.read(key, block, max));
        if let Some(id) = conn {
            let row = self.row(id);
            row.seen.bytes_in += *read.as_ref().unwrap_or(&0) as u64;
            if let Some(reported) = row.reported.take() {
                self.seen.latency.record(began.saturating_duration_since(reported));
            }
        }
        read
    }

    fn write(&mut self, key: Key, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let conn = self.conn_at(key);
        let (_, written) = self.call(conn.map(During::Connection), |driver| driver.write(key, bufs));
        if let Some(id) = conn {
            self.row(id).seen.bytes_out += *written.as_ref().unwrap_or(&0) as u64;
        }
        written
    }

    fn watch_writable(&mut self, key: Key, on: bool, token: usize) -> io::Result<()> {
        self.inner_mut().watch_writable(key, on, token)
    }

    fn finish(&mut self, key: Key) -> io::Result<()> {
        self.inner_mut().finish(key)
    }

    fn close(&mut self, key: Key, how: CloseHow) {
        self.call(None, |driver| driver.close(key, how));
        self.name(key, None);
    }

    fn local(&self, key: Key) -> Option<Endpoint> {
        self.inner().local(key)
    }

    fn in_front(&mut self) -> Option<&mut dyn Any> {
        Some(self)
    }
}

fn conn_of(token: usize) -> Option<ConnId> {
    match Token::unpack(token) {
        Token::Conn(id) => Some(id),
        Token::Listener(_) | Token::Task(_) => None,
    }
}
