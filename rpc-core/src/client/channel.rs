//! A peer and the connections to it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use rpc_transport::{ConnId, Connector, Endpoint, Message, ReactorHandle, ReactorPool, Url, caught, local};

use super::builder::{ChannelBuilder, Config};
use super::call::Call;
use super::handler::ClientHandler;
use super::refusals::timeout_ms;
use crate::codegen::MethodDescriptor;
use crate::error::{Error, Peer, Phase, Refusal, Result, Sent};
use crate::middleware::Middleware;
use crate::mux::{Body, Found, Mail, Outbox, ReplyCell, Rules, SeqId, Spec, Ticket};
use crate::protocol::KitexFraming;
use crate::protocol::ttheader::{RequestHead, RequestHeadSpec};

/// First pause after a failed connect; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often a call that met a dying connection moves on to another, unsent, before it fails.
const MOVES: usize = 4;

/// After as much time it may move once more.
const MOVE_AGAIN: Duration = Duration::from_millis(100);

/// A peer to call, and the connections to it. Cheap to clone, usable from any thread. Connections are made when a call needs them,
/// carry many calls at a time, and are replaced when they end.
///
/// `M` is the middleware stack, fixed by the builder.
pub struct Channel<M = ()> {
    owner: Arc<Owner>,
    pub(crate) layers: Arc<M>,
}

/// All clones of a channel; its connections, which hold the inside too, end when the last clone is dropped.
struct Owner(Arc<ChannelInner>);

impl Drop for Owner {
    fn drop(&mut self) {
        for slot in &self.0.slots {
            if let Some(id) = slot.conn() {
                let reactor = slot.reactor.clone();
                slot.reactor.run(move || {
                    local::visit::<ClientHandler, _>(&reactor, id, ClientHandler::retire_now);
                });
            }
        }
    }
}

impl<M> Clone for Channel<M> {
    fn clone(&self) -> Self {
        Channel { owner: Arc::clone(&self.owner), layers: Arc::clone(&self.layers) }
    }
}

impl<M> fmt::Debug for Channel<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "channel to {}", self.inner().peer)
    }
}

/// Channels of [`Channel::connect`], by URL: clients of one process to one peer share connections.
static SHARED: LazyLock<DashMap<Url, Weak<Owner>>> = LazyLock::new(DashMap::new);

impl Channel {
    /// A channel to `url` with every default, and without connecting yet. Channels to the same URL made like this share their
    /// connections; [`Channel::builder`] makes one of its own.
    ///
    /// # Errors
    /// A malformed URL, or a host name without an address.
    pub fn connect(url: impl AsRef<str>) -> Result<Channel> {
        let parsed: Url = url.as_ref().parse().map_err(config_error)?;
        if let Some(owner) = SHARED.get(&parsed).and_then(|weak| weak.upgrade()) {
            return Ok(Channel { owner, layers: Arc::new(()) });
        }
        let channel = Channel::builder(url).build()?;
        SHARED.retain(|_, weak| weak.strong_count() > 0);
        // Another thread may have been here meanwhile: the first one's is everybody's.
        let mut shared = SHARED.entry(parsed).or_insert_with(|| Arc::downgrade(&channel.owner));
        if let Some(owner) = shared.upgrade() {
            drop(shared);
            return Ok(Channel { owner, layers: Arc::new(()) });
        }
        *shared = Arc::downgrade(&channel.owner);
        drop(shared);
        Ok(channel)
    }

    /// A channel with settings of its own.
    pub fn builder(url: impl AsRef<str>) -> ChannelBuilder {
        ChannelBuilder::new(url.as_ref())
    }
}

impl<M: Middleware> Channel<M> {
    /// A call to one method; for generated code. Nothing happens until it is awaited or waited for.
    pub fn unary<Req, Resp>(&self, method: &'static MethodDescriptor, req: Req) -> Call<'_, M, Req, Resp> {
        Call::new(self, method, req)
    }
}

impl<M> Channel<M> {
    pub(crate) fn new(inner: ChannelInner, layers: M) -> Self {
        Channel { owner: Arc::new(Owner(Arc::new(inner))), layers: Arc::new(layers) }
    }

    pub(crate) fn inner(&self) -> &Arc<ChannelInner> {
        &self.owner.0
    }

    /// The peer's URL.
    pub fn peer(&self) -> &Peer {
        &self.inner().peer
    }

    /// Its counters.
    pub fn stats(&self) -> &ChannelStats {
        &self.inner().stats
    }

    /// The reactors on which its connections live, one for each connection.
    ///
    /// ```
    /// # use std::collections::HashSet;
    /// # use rpc_core::{Channel, transport::ReactorPool};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let reactors = |channel: &Channel| channel.reactors().map(|reactor| reactor.index()).collect::<HashSet<_>>().len();
    /// // In a process without a server:
    /// let multiplexed = Channel::builder("tcp://127.0.0.1:7000").build()?;
    /// assert_eq!(reactors(&multiplexed), 1);
    /// let pooled = Channel::builder("tcp://127.0.0.1:7000").ping_pong().build()?;
    /// assert_eq!(reactors(&pooled), ReactorPool::global()?.handles().len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn reactors(&self) -> impl Iterator<Item = &ReactorHandle> {
        self.inner().slots.iter().map(|slot| &slot.reactor)
    }
}

/// What a channel has counted.
#[derive(Debug, Default)]
pub struct ChannelStats {
    /// Connections that were started.
    pub connects: Count,
    /// Replies whose call had timed out or was cancelled.
    pub late_replies: Count,
    /// Content errors of the peer.
    pub glitches: Count,
}

/// A counter of rare things.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct ChannelInner {
    pub(crate) peer: Peer,
    pub(crate) config: Config,
    pub(crate) slots: Vec<Slot>,
    pub(crate) stats: ChannelStats,
    endpoints: Vec<Endpoint>,
    connector: Connector,
    /// Those of the limits that every connection's keepalive looks at.
    pub(super) keepalive: Arc<Rules>,
    next: AtomicUsize,
    heads: Mutex<Vec<Option<Arc<RequestHead>>>>,
    /// Keeps the reactors alive, if they are not the process's.
    _pool: Option<Arc<ReactorPool>>,
}

/// A place for one connection, on one reactor.
pub(crate) struct Slot {
    pub(crate) reactor: ReactorHandle,
    /// The connection, as a number, or [`NO_CONN`]. Changed by the reactor's thread only.
    conn: AtomicU64,
    state: Mutex<SlotState>,
    /// Calls of callers elsewhere, on their way to the connection.
    pub(crate) outbox: Arc<Outbox>,
    /// Calls that have not ended; counted without multiplexing only.
    load: AtomicUsize,
    /// What came of local calls whose connection ended before they asked.
    orphans: Mutex<HashMap<(ConnId, SeqId), Found>>,
}

const NO_CONN: u64 = u64::MAX;

#[derive(Default)]
struct SlotState {
    /// Failures in a row.
    failures: u32,
    /// Failures ever: each is another endpoint's turn.
    turn: usize,
    retry_at: Option<Instant>,
    /// Why the last connection failed.
    why: Option<String>,
}

impl ChannelInner {
    pub(crate) fn new(
        url: &Url,
        endpoints: Vec<Endpoint>,
        config: Config,
        reactors: Vec<ReactorHandle>,
        pool: Option<Arc<ReactorPool>>,
    ) -> Self {
        let limits = &config.limits;
        #[allow(
            clippy::needless_update,
            reason = "the transport has a field more if another crate wants its feature `tls`"
        )]
        let connector = Connector {
            limits: Arc::new(limits.conn()),
            memory: Arc::new(rpc_transport::MemoryBudget::new(limits.max_buffered_bytes)),
            socket: config.socket.clone(),
            #[cfg(feature = "tls")]
            tls: config.tls.clone(),
            ..Connector::default()
        };
        let keepalive = Arc::new(Rules::of(limits));
        let slots = (0..config.connections).map(|index| Slot {
            reactor: reactors[index % reactors.len()].clone(),
            conn: AtomicU64::new(NO_CONN),
            state: Mutex::default(),
            outbox: Arc::default(),
            load: AtomicUsize::new(0),
            orphans: Mutex::default(),
        });
        ChannelInner {
            peer: Peer::from(url.to_string()),
            slots: slots.collect(),
            stats: ChannelStats::default(),
            endpoints,
            connector,
            keepalive,
            next: AtomicUsize::new(0),
            heads: Mutex::default(),
            _pool: pool,
            config,
        }
    }

    /// The slot for the next call: on this thread's reactor if one is, else each in turn; without multiplexing an idle one.
    #[inline]
    pub(crate) fn pick(&self) -> usize {
        if self.slots.len() == 1 { 0 } else { self.pick_of_many() }
    }

    fn pick_of_many(&self) -> usize {
        let here = |slot: &Slot| slot.reactor.is_current();
        if !self.config.multiplexed {
            return self.least_loaded(here).or_else(|| self.least_loaded(|_| true)).unwrap_or(0);
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut order = (start..self.slots.len()).chain(0..start);
        order.find(|i| here(&self.slots[*i])).unwrap_or(start)
    }

    /// The slot with the fewest calls, the first of equals: so the connections in use stay few.
    fn least_loaded(&self, admit: impl Fn(&Slot) -> bool) -> Option<usize> {
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| admit(slot));
        slots.min_by_key(|(_, slot)| slot.load.load(Ordering::Relaxed)).map(|(index, _)| index)
    }

    /// A call takes this slot: asked without multiplexing only. Counted by the caller, before a connection knows of it: callers choose
    /// faster than reactors accept.
    pub(crate) fn enter(&self, slot: usize) {
        self.slots[slot].load.fetch_add(1, Ordering::Relaxed);
    }

    /// That call has ended, or goes elsewhere.
    pub(crate) fn leave(&self, slot: usize) {
        self.slots[slot].load.fetch_sub(1, Ordering::Relaxed);
    }

    /// How often a call that no connection took may have been tried again by then: a few times at once, and now and then for as long as it
    /// has time. What ended those connections may be other calls, which gave up while this one waited behind them.
    pub(crate) fn moves_in(&self, time: Duration) -> usize {
        MOVES + self.endpoints.len() + (time.as_millis() / MOVE_AGAIN.as_millis()) as usize
    }

    /// The slot's connection, made now if there is none. Only on the slot's reactor.
    pub(crate) fn ensure(self: &Arc<Self>, index: usize) -> Result<ConnId> {
        let slot = &self.slots[index];
        if let Some(id) = slot.conn() {
            return Ok(id);
        }
        let turn = {
            let state = slot.state.lock();
            let now = local::now();
            if let Some(at) = state.retry_at.filter(|at| *at > now) {
                return Err(backoff(&state, at - now));
            }
            state.turn
        };
        self.stats.connects.add(1);
        let endpoint = &self.endpoints[turn % self.endpoints.len()];
        let framing = KitexFraming::new(self.config.limits.max_frame_size);
        let handler = ClientHandler::new(Arc::clone(self), index);
        let Some(id) = self.connector.connect(endpoint, framing, handler) else {
            return Err(Error::closed("the connection's reactor is not turned by this thread"));
        };
        slot.conn.store(id.to_bits(), Ordering::Release); // if it fails at once, it says so later
        Ok(id)
    }

    /// A connection has ended. `failed_at` is given if it never worked. Then the next endpoint has its turn, after a pause if all have
    /// had theirs; returns whether it is now.
    pub(crate) fn closed(&self, index: usize, id: ConnId, failed_at: Option<Instant>, why: &str) -> bool {
        let slot = &self.slots[index];
        slot.forget(id);
        let Some(now) = failed_at else { return true };
        self.note_failure(&mut slot.state.lock(), now, why)
    }

    /// A connection says goodbye before it has answered anything. Once that may be chance; a peer that goes on like this is backed off
    /// from, though the connection stays for the calls it has.
    pub(crate) fn turned_away(&self, index: usize, now: Instant, why: &str) {
        let mut state = self.slots[index].state.lock();
        let first = state.failures == 0;
        self.note_failure(&mut state, now, why);
        if first {
            state.retry_at = None;
        }
    }

    fn note_failure(&self, state: &mut SlotState, now: Instant, why: &str) -> bool {
        state.turn = state.turn.wrapping_add(1);
        state.failures = state.failures.saturating_add(1);
        state.why = Some(why.to_owned());
        let endpoints = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        if !state.failures.is_multiple_of(endpoints) {
            return true;
        }
        let rounds = state.failures / endpoints - 1;
        let pause = BACKOFF_MIN.saturating_mul(1 << rounds.min(10)).min(BACKOFF_MAX);
        state.retry_at = Some(now + jitter(pause));
        false
    }

    /// Posts a call to the slot's connection, from any thread.
    pub(crate) fn post<B: Body>(self: &Arc<Self>, index: usize, cell: &Arc<ReplyCell>, spec: Spec, body: B) -> Ticket {
        let slot = &self.slots[index];
        let (ticket, tell) = slot.outbox.post(Arc::clone(cell), spec, body);
        if tell {
            let outbox = Arc::clone(&slot.outbox);
            match slot.conn() {
                Some(id) => slot.reactor.send(id, outbox),
                None => {
                    // Until a connection is there calls take the long way, which makes one.
                    let unopened = Unopened(Some(outbox));
                    let channel = Arc::clone(self);
                    slot.reactor.run(move || channel.deliver(index, unopened));
                }
            }
        }
        ticket
    }

    fn deliver(self: Arc<Self>, index: usize, mut unopened: Unopened) {
        let mut mail = Mail::default();
        if let Some(outbox) = unopened.0.take() {
            outbox.take(&mut mail);
        }
        while !mail.is_empty() {
            let ensured = self.ensure(index);
            let mut posted = mail.next();
            if let Ok(id) = ensured {
                local::visit::<ClientHandler, _>(&self.slots[index].reactor, id, |handler, cx| {
                    if let Some(posted) = posted.take() {
                        handler.arrived(cx, posted);
                    }
                });
            }
            let waker = posted.and_then(|posted| match ensured {
                Ok(_) => posted.give_back(),
                Err(error) => posted.cell.complete(Found::Done(Err(error))),
            });
            if let Some(waker) = waker {
                caught(|| waker.wake()); // others wait behind it
            }
        }
    }

    pub(crate) fn head(&self, method: &'static MethodDescriptor) -> Result<Arc<RequestHead>> {
        let id = method.id();
        let mut heads = self.heads.lock();
        if let Some(Some(head)) = heads.get(id) {
            return Ok(Arc::clone(head));
        }
        let config = &self.config;
        let millis = |d: Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
        let head = RequestHead::new(&RequestHeadSpec {
            service: method.service(),
            method: method.name(),
            from_service: Some(&*config.from_service).filter(|name| !name.is_empty()),
            to_service: config.to_service.as_deref().unwrap_or(method.service()),
            from_method: None,
            multiplexed: config.multiplexed,
            oneway: false,
            announce: true,
            connect_timeout_ms: Some(millis(config.limits.connect_timeout)),
            usual_timeout_ms: timeout_ms(config.limits.default_timeout),
        });
        let head = Arc::new(head.map_err(|e| Error::from(e).with_phase(Phase::Encode).with_sent(Sent::No))?);
        if heads.len() <= id {
            heads.resize(id + 1, None);
        }
        heads[id] = Some(Arc::clone(&head));
        Ok(head)
    }
}

/// An outbox on its way in a closure: if the closure is dropped, its callers hear of it.
struct Unopened(Option<Arc<Outbox>>);

impl Drop for Unopened {
    fn drop(&mut self) {
        if let Some(outbox) = self.0.take() {
            outbox.undelivered();
        }
    }
}

impl Slot {
    /// The connection that new calls get, if there is one.
    #[inline]
    pub(crate) fn conn(&self) -> Option<ConnId> {
        let bits = self.conn.load(Ordering::Acquire);
        (bits != NO_CONN).then(|| ConnId::from_bits(bits))
    }

    /// New calls get another connection.
    pub(crate) fn forget(&self, id: ConnId) {
        let _ = self.conn.compare_exchange(id.to_bits(), NO_CONN, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The connection has answered: the peer is well.
    pub(crate) fn works(&self) {
        let mut state = self.state.lock();
        state.failures = 0;
        state.retry_at = None;
        state.why = None;
    }

    pub(crate) fn orphan(&self, conn: ConnId, seq: SeqId, found: Found) {
        self.orphans.lock().insert((conn, seq), found);
    }

    #[cfg(feature = "testing")]
    pub(crate) fn orphans(&self) -> usize {
        self.orphans.lock().len()
    }

    pub(crate) fn adopt(&self, conn: ConnId, seq: SeqId) -> Option<Found> {
        self.orphans.lock().remove(&(conn, seq))
    }
}

/// Between half of the pause and all of it, so that many clients do not return at once.
fn jitter(pause: Duration) -> Duration {
    let random = local::random() % 512;
    pause / 2 + pause / 1024 * random as u32
}

fn backoff(state: &SlotState, retry_in: Duration) -> Error {
    let error = match &state.why {
        Some(why) => Error::closed(format!("{why}; next attempt in {retry_in:.0?}")),
        None => Error::from(Refusal::Backoff { retry_in }),
    };
    error.with_phase(Phase::Connect).with_sent(Sent::No)
}

pub(crate) fn config_error(e: rpc_transport::UrlError) -> Error {
    crate::ConfigError::new("url", e.url, e.why).into()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::client::builder::Config;
    use crate::limits::Limits;

    static METHOD: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Blob");

    /// A name may have several addresses: where nobody listens at the first, the call tries the next, and none fails for it.
    #[test]
    fn a_call_tries_every_endpoint() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoints = [nobody, silent.local_addr().unwrap()].map(Endpoint::Tcp).to_vec();
        let reactors = ReactorPool::global().unwrap().handles().to_vec();
        let config = Config {
            limits: Limits { default_timeout: Duration::from_millis(200), ..Limits::client() },
            connections: 1,
            multiplexed: true,
            checksum: false,
            socket: Default::default(),
            from_service: String::new(),
            to_service: None,
            #[cfg(feature = "tls")]
            tls: None,
        };
        let url = "tcp://two.example:1".parse().unwrap();
        let channel = Channel::new(ChannelInner::new(&url, endpoints, config, reactors, None), ());
        let error = channel.unary::<(), ()>(&METHOD, ()).wait().unwrap_err();
        assert_eq!(
            error.code(),
            crate::Code::DeadlineExceeded,
            "the second endpoint takes it, and says nothing: {error}"
        );
        assert_eq!(channel.stats().connects.get(), 2);
    }
}
