//! Listening: accepts connections and hands each to a reactor.
//!
//! The loop survives every errno. What is wrong with one connection (it was reset while queued) is counted and passed
//! over; what is wrong with this process (no descriptors, no memory) pauses the listener by a timer, 10 ms at first.

mod admission;
#[cfg(all(feature = "upgrade", target_os = "linux"))]
mod given;
mod opening;
mod rate;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::admission::Admission;
use self::admission::Books;
use self::rate::Rate;
use crate::config::{ConnLimits, ListenLimits, Placement};
use crate::conn::{self, Pipeline, Setup};
use crate::diagnose::ListenerSnapshot;
use crate::driver::{CloseHow, Key, RawSocket};
use crate::error::CloseReason;
use crate::log_limit::LogLimit;
use crate::reactor::core::{Core, TimerKey, with};
use crate::reactor::{ReactorHandle, guarded};
use crate::socket::SocketOptions;
use crate::stats::MemoryBudget;
use crate::timer::TimerId;
#[cfg(feature = "tls")]
use crate::tls::{Session, TlsServer};
use crate::url::{Endpoint, Url};

/// Connections accepted before the reactor's connections get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Most connections that can wait to be accepted: what the kernel's limit for it can be.
const MAX_BACKLOG: usize = 65_536;

/// First pause after an accept error of the process.
const FIRST_BACKOFF: Duration = Duration::from_millis(10);

/// How to listen.
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    /// Limits of each connection.
    pub conn: ConnLimits,
    /// Limits of the listener.
    pub listen: ListenLimits,
    /// Options of the sockets.
    pub socket: SocketOptions,
    /// Which reactor gets a connection.
    pub placement: Placement,
    /// The buffered bytes that all connections share.
    pub memory: Arc<MemoryBudget>,
    /// For a `tls://` address, which needs it; another does not take it, so that nobody serves in plain text by a mistake in a URL. A handler hears of its connection, by
    /// [`Handler::on_open`](crate::Handler::on_open), when the handshake is over.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsServer>,
}

/// What is known of a connection that has just been accepted.
#[derive(Debug)]
pub struct Accepted<'a> {
    /// The peer; for a Unix socket the listener's path.
    pub peer: &'a Url,
    /// The same as text, which the connection keeps: see [`Cx::peer`](crate::Cx::peer).
    pub peer_text: &'a Arc<str>,
    /// The reactor it will belong to.
    pub reactor: &'a ReactorHandle,
}

type Factory = Box<dyn Fn(&Accepted<'_>) -> Box<dyn Pipeline> + Send + Sync>;

/// What a listener and its connections share.
pub(crate) struct ListenerShared {
    url: Url,
    factory: Factory,
    conn_limits: Arc<ConnLimits>,
    limits: ListenLimits,
    socket: SocketOptions,
    placement: Placement,
    memory: Arc<MemoryBudget>,
    #[cfg(feature = "tls")]
    tls: Option<TlsServer>,
    reactors: Vec<ReactorHandle>,
    next: AtomicUsize,
    /// Of its own: what addresses, and numbers for what is to be random, are mixed with.
    seed: u64,
    books: Books,
    /// Pauses for an error of the process, and the last of those errors.
    pauses: Mutex<(u64, Option<String>)>,
    /// Accepted, and not with their reactor yet; and a close that has been asked for and is not over.
    arriving: AtomicUsize,
    closed: AtomicBool,
    /// Its sockets: each on a reactor, at a place there.
    sockets: Mutex<Vec<(ReactorHandle, usize)>>,
    /// Its connections were ended after it had been closed: who is still on the way to a reactor is not taken in any more.
    over: AtomicBool,
}

impl ListenerShared {
    #[cold]
    fn count_pause(&self, error: &io::Error) {
        let mut pauses = self.pauses.lock();
        *pauses = (pauses.0 + 1, Some(error.to_string()));
    }

    /// What there is to say of it, but for the kernel's queue; nothing of one that is closed.
    pub(crate) fn report(&self) -> Option<ListenerSnapshot> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        let (pauses, last_pause) = self.pauses.lock().clone();
        Some(ListenerSnapshot {
            url: self.url.clone(),
            connections: self.books.connections(),
            max_connections: self.limits.max_connections,
            refused: self.books.refused(),
            pauses,
            last_pause,
            queues: None,
        })
    }

    /// An address of this listener or of a peer, as what is spoken there.
    fn url_of(&self, url: Url) -> Url {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return url.secured();
        }
        url
    }

    /// The place, among the reactors, of the one that gets a connection which `here` has accepted.
    fn place(&self, here: &ReactorHandle, from: Option<IpAddr>) -> usize {
        let reactors = self.reactors.len();
        let next = || self.next.fetch_add(1, Ordering::Relaxed);
        match self.placement {
            Placement::RoundRobin => next() % reactors,
            Placement::LeastConnections => self.books.least(),
            Placement::SourceHash => from.map_or_else(next, |from| self.mixed(bits_of(from))) % reactors,
            Placement::Random => self.mixed(next() as u128) % reactors,
            Placement::ReusePort | Placement::IncomingCpu => here.index() % reactors,
        }
    }
}

/// One connection on its way to its reactor, or the taking in of the last ones.
struct Arriving(Arc<ListenerShared>);

impl Arriving {
    fn new(listener: &Arc<ListenerShared>) -> Self {
        listener.arriving.fetch_add(1, Ordering::AcqRel);
        Arriving(Arc::clone(listener))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ListenerShared {
    /// A number that nobody without the seed can foresee. Source of the steps: splitmix64, by S. Vigna.
    fn mixed(&self, bits: u128) -> usize {
        let step = |n: u64| {
            let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            n ^ (n >> 31)
        };
        step(step(self.seed ^ bits as u64) ^ (bits >> 64) as u64) as usize
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Who else has a listener's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenure {
    /// Nobody: when it closes, what waits in the kernel's queue is taken in, and a Unix socket's file is removed.
    Sole,
    /// Somebody who goes on with both.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    Shared,
    /// The process before, which alone accepts there until it says that it stops.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    Held,
}

impl Tenure {
    /// It must not accept yet.
    fn is_held(self) -> bool {
        match self {
            #[cfg(all(feature = "upgrade", target_os = "linux"))]
            Tenure::Held => true,
            _ => false,
        }
    }
}

/// A listener's place on its reactor.
pub(crate) struct Listener {
    key: Key,
    shared: Arc<ListenerShared>,
    tenure: Tenure,
    ready: bool,
    /// After an error of the process: a timer runs, and until then new connections are no reason to try. Or it is held.
    paused: bool,
    timer: Option<TimerId>,
    backoff: Duration,
    rate: Rate,
}

impl Listener {
    #[cfg(feature = "testing")]
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    #[cfg(feature = "testing")]
    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// Connections may wait.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready && !self.paused
    }
}

/// A listener, from any thread. Dropping it does not stop it; [`ListenerHandle::close`] does.
#[derive(Clone)]
pub struct ListenerHandle {
    shared: Arc<ListenerShared>,
}

impl ListenerHandle {
    /// The address it is bound to: with the real port if port 0 was asked for.
    pub fn url(&self) -> &Url {
        &self.shared.url
    }

    /// Its open connections.
    pub fn connections(&self) -> usize {
        self.shared.books.connections()
    }

    /// Connections that the kernel queues for each of its sockets: [`SocketOptions::backlog`], or the kernel's own limit where that is lower.
    pub fn backlog(&self) -> u32 {
        opening::effective_backlog(&self.shared.socket)
    }

    /// Stops accepting, and removes a Unix socket's file. Connections stay, and those that the kernel had established by then are
    /// still taken in; but not those beyond `max_connections`, nor any more once accepting fails for want of a descriptor or of memory
    /// (`EMFILE`, `ENFILE`): the kernel resets what it still holds then.
    pub fn close(&self) {
        self.close_and_then(|_| ());
    }

    /// [`ListenerHandle::close`], and once nobody can connect any more [`ListenerHandle::shut_down_connections`]: a peer that was told to go
    /// before that might connect here anew, and be reset with what it had sent. It does not wait.
    ///
    /// A handler may call it, for the [listener](crate::Cx::listener) of its connection.
    pub fn shut_down(&self) {
        self.close_and_then(ask_to_finish);
    }

    fn close_and_then(&self, then: impl FnOnce(&Arc<ListenerShared>) + Send + 'static) {
        self.end(close, then);
    }

    fn end(&self, close: fn(usize), then: impl FnOnce(&Arc<ListenerShared>) + Send + 'static) {
        let (opened, sockets) = {
            let sockets = self.shared.sockets.lock(); // none is added once it is closed
            (!self.shared.closed.swap(true, Ordering::AcqRel), sockets.clone())
        };
        let open = Arc::new((AtomicUsize::new(sockets.len()), Mutex::new(Some(then))));
        for (reactor, index) in sockets {
            let (shared, under_way) = (Arc::clone(&self.shared), Arriving::new(&self.shared));
            let open = Arc::clone(&open);
            reactor.run(move || {
                if opened {
                    close(index);
                }
                if open.0.fetch_sub(1, Ordering::AcqRel) == 1
                    && let Some(then) = open.1.lock().take()
                {
                    then(&shared); // its last socket is closed
                }
                drop(under_way);
            });
        }
    }

    /// Whether who has connected by now may still be without a handler. After [`ListenerHandle::close`] it becomes false soon,
    /// and stays so.
    pub fn is_taking_in(&self) -> bool {
        self.shared.arriving.load(Ordering::Acquire) > 0
    }

    /// Asks every connection to finish and close: [`Handler::on_shutdown`](crate::Handler::on_shutdown).
    pub fn shut_down_connections(&self) {
        ask_to_finish(&self.shared);
    }

    /// Ends every connection at once; after [`ListenerHandle::close`] also those that are still being taken in.
    pub fn abort_connections(&self, why: &'static str) {
        // Seen where they arrive, or else they have arrived by the time what follows runs there.
        self.shared.over.fetch_or(self.shared.closed.load(Ordering::Acquire), Ordering::AcqRel);
        each_connection(&self.shared, move |id| conn::kill(id, CloseReason::Local(why)));
    }
}

fn ask_to_finish(shared: &Arc<ListenerShared>) {
    each_connection(shared, |id| {
        conn::visit(id, |pipeline, cx| match cx.is_open() {
            true => pipeline.on_shutdown(cx),
            false => cx.finish_when_open(),
        });
    });
}

fn each_connection(shared: &Arc<ListenerShared>, f: impl Fn(crate::ConnId) + Send + Clone + 'static) {
    for reactor in &shared.reactors {
        let (shared, f) = (Arc::clone(shared), f.clone());
        reactor.run(move || {
            for id in with(|core| core.conns.ids()) {
                if with(|core| core.conns.get(id).is_some_and(|entry| entry.is_of(&shared))) {
                    f(id);
                }
            }
        });
    }
}

impl fmt::Debug for ListenerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener at {}", self.shared.url)
    }
}

/// A connection waits.
pub(crate) fn note(core: &mut Core, index: usize) {
    if let Some(Some(listener)) = core.listeners.get_mut(index) {
        listener.ready = true;
    }
}

/// A pause is over.
pub(crate) fn resume(core: &mut Core, index: usize) {
    if let Some(Some(listener)) = core.listeners.get_mut(index) {
        listener.paused = listener.tenure.is_held();
        listener.ready = true;
        if let Some(timer) = listener.timer.take() {
            core.timers.cancel(timer); // unless it is what has come: the next pause has its own
        }
    }
}

/// Stops listening. Who had connected by then is taken in first: the kernel would reset the connections it still holds, and the
/// requests that may have been sent on them would be lost without a word. Where another process listens, too, they stay in the queue.
pub(crate) fn close(index: usize) {
    if with(|core| {
        core.listeners.get(index).and_then(Option::as_ref).is_some_and(|listener| listener.tenure != Tenure::Sole)
    }) {
        return forget(index, CloseHow::Leave);
    }
    with(|core| {
        resume(core, index);
        if let Some(Some(listener)) = core.listeners.get_mut(index) {
            listener.rate = Rate::new(u32::MAX);
        }
    });
    for _ in 0..MAX_BACKLOG {
        match with(|core| accept_one(core, index)) {
            Accept::Got(raw, peer, shared) => hand_over(raw, peer, shared),
            Accept::Lost => {}
            Accept::Nothing => break,
        }
    }
    forget(index, CloseHow::Graceful);
}

fn forget(index: usize, how: CloseHow) {
    with(|core| {
        if let Some(listener) = core.listeners.get_mut(index).and_then(Option::take) {
            if let Some(timer) = listener.timer {
                core.timers.cancel(timer); // it would end the pause of the next one at this place
            }
            core.driver.close(listener.key, how);
        }
    });
}

/// Accepts on every listener that is ready, at most a turn's share; the rest waits for the next turn.
pub(crate) fn accept_all() {
    for index in 0..with(|core| core.listeners.len()) {
        for _ in 0..ACCEPTS_PER_TURN {
            match with(|core| accept_one(core, index)) {
                Accept::Got(raw, peer, shared) => hand_over(raw, peer, shared),
                Accept::Lost => {}
                Accept::Nothing => break,
            }
        }
    }
}

enum Accept {
    Got(RawSocket, Endpoint, Arc<ListenerShared>),
    /// One that died in the queue.
    Lost,
    Nothing,
}

fn accept_one(core: &mut Core, index: usize) -> Accept {
    let Some(Some(listener)) = core.listeners.get_mut(index) else { return Accept::Nothing };
    if !listener.is_ready() {
        return Accept::Nothing;
    }
    if let Some(at) = listener.rate.wait(core.now) {
        listener.paused = true;
        listener.timer = Some(core.timers.insert(at, TimerKey::Accept(index)));
        return Accept::Nothing;
    }
    match core.driver.accept(listener.key) {
        Ok((raw, peer)) => {
            listener.rate.count(core.now);
            Accept::Got(raw, peer, Arc::clone(&listener.shared))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            listener.ready = false;
            // Everybody is in. One who got in between two failures does not make an end of the shortage.
            listener.backoff = FIRST_BACKOFF;
            Accept::Nothing
        }
        Err(e) => {
            core.handle.stats().accept_errors.add(1);
            if concerns_one_connection(&e) {
                return Accept::Lost;
            }
            listener.paused = true;
            let pause = listener.backoff;
            listener.backoff =
                pause.saturating_mul(2).min(listener.shared.limits.accept_backoff_max.max(FIRST_BACKOFF));
            listener.timer = Some(core.timers.insert(core.now + pause, TimerKey::Accept(index)));
            listener.shared.count_pause(&e);
            static PAUSES: LogLimit = LogLimit::new();
            if let Some(skipped) = PAUSES.pass(core.now) {
                tracing::warn!(url = %listener.shared.url, error = %e, ?pause, skipped, "cannot accept; pausing");
            }
            Accept::Nothing
        }
    }
}

/// Errors of a connection that died in the queue: the next one may be well.
fn concerns_one_connection(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || e.raw_os_error() == Some(libc::EPROTO)
}

fn hand_over(raw: RawSocket, peer: Endpoint, shared: Arc<ListenerShared>) {
    let here = with(|core| core.handle.clone());
    here.stats().accepted.add(1);
    let from = match &peer {
        Endpoint::Tcp(addr) => Some(addr.ip()),
        Endpoint::Unix(_) => None,
    };
    let Some(admission) = Admission::new(shared, from, |shared| shared.place(&here, from)) else {
        here.stats().refused_connections.add(1);
        return; // dropping the socket closes it
    };
    let target = admission.listener.reactors[admission.place()].clone();
    if target.is(&here) {
        guarded("the maker of a connection's handler", || adopt(raw, peer, admission, target));
    } else {
        let (reactor, arriving) = (target.clone(), Arriving::new(&admission.listener));
        // If that reactor has stopped the closure is dropped, and with it the socket and the admission.
        target.run(move || {
            adopt(raw, peer, admission, reactor);
            drop(arriving);
        });
    }
}

fn adopt(raw: RawSocket, peer: Endpoint, admission: Admission, reactor: ReactorHandle) {
    let shared = Arc::clone(&admission.listener);
    if with(|core| core.stopping) || shared.over.load(Ordering::Acquire) {
        return;
    }
    let peer = shared.url_of(Url::from(&peer));
    let peer_text = Arc::from(peer.to_string());
    let pipeline = (shared.factory)(&Accepted { peer: &peer, peer_text: &peer_text, reactor: &reactor });
    let setup = Setup {
        peer: peer_text,
        limits: Arc::clone(&shared.conn_limits),
        memory: Arc::clone(&shared.memory),
        admission: Some(admission),
        reactor,
        #[cfg(feature = "tls")]
        tls: shared.tls.clone().map(|server| Box::new(Session::server(server))),
    };
    conn::open(setup, pipeline, |driver, token| driver.adopt(raw, &shared.socket, token));
}
