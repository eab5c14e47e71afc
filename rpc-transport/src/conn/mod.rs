//! One connection: readable socket to whole frames, and back.
//!
//! ```text
//!            byte budget              one at a time
//!  socket ──► Inbound ──► Framing ──► Handler::on_frame
//!  socket ◄── gathered write ◄── LinkBuffer ◄── Cx::output
//! ```
//!
//! A connection belongs to one reactor; only the thread that turns it touches the connection. While its handler runs,
//! the connection is taken out of the reactor's slab, so that code under the handler can reach other connections.
//! Others hold a [`ConnRef`] and send it a message. Nothing here knows what a request is.

#[cfg(feature = "testing")]
mod audit;
mod conn_ref;
mod cx;
mod extra;
mod framed;
mod inbound;
mod linger;
mod memory;
mod outlast;
#[cfg(not(feature = "tls"))]
mod plain;
mod report;
#[cfg(feature = "tls")]
pub(crate) mod secure;
mod setup;
mod slab;
mod time;
mod transfer;
mod visit;

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Instant;

#[cfg(feature = "testing")]
pub(crate) use audit::audit;
pub use conn_ref::ConnRef;
pub(crate) use conn_ref::Parcel;
pub use cx::Cx;
use extra::Extra;
pub use extra::NotWritten;
pub(crate) use framed::{EARLY_FLUSH_FRAMES, Framed, Pipeline, WAKERS_AT_ONCE};
pub(crate) use inbound::Inbound;
use memory::ACCOUNT_STEP;
pub(crate) use report::report;
#[cfg(feature = "tls")]
pub(crate) use secure::resume_handshakes;
pub(crate) use setup::Setup;
pub use slab::ConnId;
pub(crate) use slab::{Slab, Token};
pub(crate) use visit::{settle_visited, visit, visit_from};

use crate::buffer::{BLOCK_SIZE, LinkBuffer};
use crate::config::ConnLimits;
use crate::driver::{CloseHow, Event, Key};
use crate::error::CloseReason;
use crate::listener::{Admission, ListenerShared};
use crate::log_limit::LogLimit;
use crate::panics::caught;
#[cfg(feature = "testing")]
use crate::panics::fail_points;
use crate::reactor::core::{TimerKey, with};
use crate::reactor::{ReactorHandle, guarded, wake_others};
use crate::stats::MemoryBudget;
use crate::timer::TimerId;
#[cfg(feature = "tls")]
use crate::tls::{Session, Stage};

/// Turns' worth of frames that a connection may hand up at once while no other is ready, and of bytes while there is no other.
const TURNS_ALONE: usize = 16;

/// A connection and what lies above it.
pub(crate) struct Entry {
    conn: Conn,
    pipeline: Box<dyn Pipeline>,
}

pub(crate) struct Conn {
    id: ConnId,
    /// `None` once the socket is closed, or when connecting failed at once.
    key: Option<Key>,
    /// As a URL; whoever handles the connection may share it.
    peer: Arc<str>,
    /// Of an accepted connection.
    admission: Option<Admission>,
    limits: Arc<ConnLimits>,
    memory: Arc<MemoryBudget>,
    reactor: ReactorHandle,
    phase: Phase,
    /// This side ends it, in good order: the peer shall hear what was written last.
    parting: bool,
    /// What most connections never need.
    extra: Option<Box<Extra>>,
    inbound: Inbound,
    outbound: LinkBuffer,
    /// Bytes ever written to the socket.
    written: u64,
    readable: bool,
    writable: bool,
    /// Write interest is registered for a short write.
    watched: bool,
    /// The peer's end of file or a hang-up was reported; no second event comes.
    hangup: bool,
    /// A failure, such as a reset, was reported: what is written reaches nobody.
    failed: bool,
    in_ready: bool,
    in_dirty: bool,
    in_visited: bool,
    /// The output has reached `write_high` and not come down to `write_low` since.
    crowded: bool,
    paused: Paused,
    /// It was not read when it last ran, so that time does not count against the peer.
    was_paused: bool,
    /// Timers of the handler.
    armed: usize,
    /// The handler has work under way, and whether the reactor counts that.
    busy: bool,
    counted: bool,
    stalled_since: Option<Instant>,
    /// Its output has not moved for a while: the peer does not read.
    stuck: bool,
    opened: Instant,
    last_active: Instant,
    heard: Instant,
    check: Option<(TimerId, Instant)>,
    /// Bytes reported to `memory`.
    accounted: usize,
    /// When a check last looked at how much of `memory` it holds while it is not read for that, and how much that was.
    looked: Option<Box<(Instant, usize)>>,
    #[cfg(feature = "tls")]
    tls: Option<Box<Session>>,
    /// Where its handshake, which is under way, is counted.
    #[cfg(feature = "tls")]
    rationed: Option<Stage>,
}

/// What it is doing. Reasons are boxed: a connection has one at its end only.
enum Phase {
    /// Not established yet: TCP's connect, or TLS's handshake, at either side.
    Connecting,
    Open,
    /// No more reading; closes when the output is written.
    Closing(Box<Closing>),
    /// The handler has heard that it is over, the output is written and its end, too. What still comes is read and dropped: a system
    /// that closes a socket with unread input resets it, and then the peer may lose what was written last.
    Lingering {
        until: Instant,
    },
    /// The peer is gone, and so is the socket; the handler has work that is to end all the same, and hears of its own end after that.
    Outlasting(Box<CloseReason>),
    /// Closes now, with a reset; queued output is dropped.
    Aborting(Box<CloseReason>),
}

struct Closing {
    reason: CloseReason,
    /// By when the output must be written.
    until: Option<Instant>,
}

impl Phase {
    #[cold]
    fn closing(reason: CloseReason) -> Phase {
        Phase::Closing(Box::new(Closing { reason, until: None }))
    }

    #[cold]
    fn aborting(reason: CloseReason) -> Phase {
        Phase::Aborting(Box::new(reason))
    }
}

/// Why the connection is not read.
#[derive(Default)]
struct Paused {
    by_handler: bool,
    by_output: bool,
    by_memory: bool,
}

impl Paused {
    fn any(&self) -> bool {
        self.by_handler || self.by_output || self.by_memory
    }

    /// Want of memory stops reading only: whole frames may be what memory is short of, and handing them up is what gives it back.
    fn frames_wait(&self) -> bool {
        self.by_handler || self.by_output
    }
}

/// A connection that was accepted or is to be connected; `socket` says which and makes the system's side of it.
pub(crate) fn open(
    setup: Setup,
    pipeline: Box<dyn Pipeline>,
    socket: impl FnOnce(&mut dyn crate::driver::Driver, usize) -> io::Result<Key>,
) -> ConnId {
    let is_client = setup.admission.is_none();
    let is_open = !is_client && !setup.is_secure();
    let (id, key, now) = with(|core| {
        let id = core.conns.reserve();
        let key = socket(&mut *core.driver, Token::Conn(id).pack());
        (id, key, core.now)
    });
    setup.reactor.stats().connections.add(1);
    crate::buffer::bound_pool(setup.memory.limit());
    let mut conn = Conn {
        id,
        key: None,
        peer: setup.peer,
        admission: setup.admission,
        limits: setup.limits,
        memory: setup.memory,
        reactor: setup.reactor,
        phase: if is_open { Phase::Open } else { Phase::Connecting },
        parting: false,
        extra: None,
        inbound: Inbound::default(),
        outbound: LinkBuffer::new(),
        written: 0,
        readable: false,
        writable: true,
        watched: false,
        hangup: false,
        failed: false,
        in_ready: false,
        in_dirty: false,
        in_visited: false,
        crowded: false,
        paused: Paused::default(),
        was_paused: false,
        armed: 0,
        busy: false,
        counted: false,
        stalled_since: None,
        stuck: false,
        opened: now,
        last_active: now,
        heard: now,
        check: None,
        accounted: 0,
        looked: None,
        #[cfg(feature = "tls")]
        rationed: (!is_client && setup.tls.is_some()).then_some(Stage::Begun),
        #[cfg(feature = "tls")]
        tls: setup.tls,
    };
    match key {
        Ok(key) => conn.key = Some(key),
        Err(e) if is_client => conn.phase = Phase::aborting(CloseReason::Connect(e)),
        Err(e) => conn.phase = Phase::aborting(CloseReason::Io(e)),
    }
    let mut entry = Box::new(Entry { conn, pipeline });
    if is_client {
        entry.try_connected(now);
    } else if matches!(entry.conn.phase, Phase::Open) {
        entry.tell_open(now);
    }
    #[cfg(feature = "tls")]
    if entry.conn.rationed.is_some() {
        entry.conn.begin_accepted();
    }
    if matches!(entry.conn.phase, Phase::Aborting(_)) {
        // Not now: a handler that connects anew in `on_close` would come here again, ever deeper.
        entry.conn.in_ready = true;
        with(|core| {
            core.ready.push_back(id);
            core.conns.put(id, entry);
        });
    } else {
        settle(entry, now);
    }
    id
}

/// Notes an event; the work is done when the connection's turn comes.
pub(crate) fn note(entry: &mut Entry, event: Event) -> bool {
    let conn = &mut entry.conn;
    conn.readable |= event.readable || event.hangup;
    conn.writable |= event.writable || event.hangup;
    conn.hangup |= event.hangup;
    conn.failed |= event.failed;
    !std::mem::replace(&mut conn.in_ready, true)
}

/// One connection's turn: connect, write what waits, read, hand up frames.
pub(crate) fn advance(id: ConnId, others_ready: bool) {
    let Some((mut entry, now)) = with(|core| core.conns.take(id).map(|entry| (entry, core.now))) else { return };
    entry.conn.in_ready = false;
    if matches!(entry.conn.phase, Phase::Connecting) {
        entry.try_connected(now);
    }
    if matches!(entry.conn.phase, Phase::Open) {
        if entry.conn.stalled_since.is_some() {
            entry.conn.write_out();
        }
        entry.read(now, others_ready);
    }
    if matches!(entry.conn.phase, Phase::Lingering { .. }) {
        entry.conn.discard(now);
    }
    settle(entry, now);
}

/// Writes a connection's output at the end of the turn.
pub(crate) fn flush(id: ConnId) {
    let Some((mut entry, now)) = with(|core| core.conns.take(id).map(|entry| (entry, core.now))) else { return };
    entry.conn.in_dirty = false;
    entry.conn.write_out();
    settle(entry, now);
}

/// The connection's own timer: one for all of its time limits.
pub(crate) fn on_check(id: ConnId) {
    let Some((mut entry, now)) = with(|core| core.conns.take(id).map(|entry| (entry, core.now))) else { return };
    entry.conn.check = None;
    let active = entry.conn.last_active;
    let idle = entry.call(now, |above, _| above.is_idle().then(|| above.idle_since().unwrap_or(active)));
    entry.conn.enforce_time_limits(now, idle.unwrap_or(Some(active)));
    settle(entry, now);
}

/// Ends a connection at once. One that lingers has nothing left but words on their way, which a reset would take back.
pub(crate) fn kill(id: ConnId, reason: CloseReason) {
    let Some((mut entry, now)) = with(|core| core.conns.take(id).map(|entry| (entry, core.now))) else { return };
    match entry.conn.phase {
        Phase::Lingering { .. } => {
            entry.conn.stop_lingering(now);
            settle(entry, now);
        }
        _ => {
            entry.conn.abort(reason);
            end(entry, now, false);
        }
    }
}

impl Entry {
    /// Runs the handler's code. A panic in it ends this connection, not the reactor.
    #[inline]
    fn call<R>(&mut self, now: Instant, f: impl FnOnce(&mut dyn Pipeline, &mut Cx<'_>) -> R) -> Option<R> {
        let (pipeline, conn) = (&mut *self.pipeline, &mut self.conn);
        let result = caught(|| {
            #[cfg(feature = "testing")]
            let _open = fail_points::Open::new(true);
            f(pipeline, &mut Cx::new(conn, now))
        });
        if result.is_none() {
            static PANICS: LogLimit = LogLimit::new();
            if let Some(skipped) = PANICS.pass(now) {
                let peer = &self.conn.peer;
                tracing::error!(%peer, skipped, "a connection's handler panicked; the connection is closed");
            }
            self.conn.phase = Phase::aborting(CloseReason::Local("its handler panicked"));
        }
        result
    }

    fn tell_open(&mut self, now: Instant) {
        tracing::debug!(peer = %self.conn.peer, "connection open");
        self.call(now, |pipeline, cx| pipeline.on_open(cx));
    }

    fn tell_end(&mut self, now: Instant, reason: &CloseReason) {
        tracing::debug!(peer = %self.conn.peer, %reason, "connection closed");
        self.call(now, |pipeline, cx| {
            #[cfg(feature = "testing")]
            let _closed = fail_points::Open::new(false);
            pipeline.on_close(cx, reason)
        });
    }

    #[inline]
    pub(crate) fn handler(&mut self) -> &mut dyn Any {
        self.pipeline.handler()
    }

    pub(crate) fn is_of(&self, listener: &Arc<ListenerShared>) -> bool {
        self.conn.admission.as_ref().is_some_and(|a| a.is_of(listener))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_busy(&self) -> bool {
        self.conn.busy
    }

    /// One of the handler's timers has come.
    pub(crate) fn timer_gone(&mut self) {
        self.conn.armed -= 1;
    }

    /// Tells the handler that output which had reached `write_high` is down to `write_low`.
    fn tell_drained(&mut self, now: Instant) {
        let (len, limits) = (self.conn.outbound.len(), &self.conn.limits);
        if len >= limits.write_high {
            self.conn.crowded = true;
        } else if len <= limits.write_low && std::mem::take(&mut self.conn.crowded) {
            self.call(now, |pipeline, cx| pipeline.on_drained(cx));
        }
    }

    fn try_connected(&mut self, now: Instant) {
        let Some(key) = self.conn.key else { return };
        #[cfg(feature = "tls")]
        if self.conn.is_shaking() {
            return self.shake(now);
        }
        match with(|core| core.driver.connected(key)) {
            #[cfg(feature = "tls")]
            Ok(true) if self.conn.tls.is_some() => self.begin_shaking(now),
            Ok(true) => self.opened(now),
            Ok(false) => {}
            Err(e) => self.conn.phase = Phase::aborting(CloseReason::Connect(e)),
        }
    }

    /// The connection is established.
    fn opened(&mut self, now: Instant) {
        self.conn.phase = Phase::Open;
        (self.conn.last_active, self.conn.heard) = (now, now);
        // From now on other limits count, and they may come sooner.
        if let Some((timer, _)) = self.conn.check.take() {
            with(|core| core.timers.cancel(timer));
        }
        self.tell_open(now);
    }

    fn read(&mut self, now: Instant, others_ready: bool) {
        let limits = &self.conn.limits;
        let (bytes, turn) = (limits.turn_bytes, limits.turn_frames.max(1));
        let (mut budget, mut frames) = match (others_ready, with(|core| core.conns.len())) {
            (true, _) => (bytes, turn),
            // Who is quiet now may have something to say in a moment, and is not heard before the next turn.
            (false, 2..) => (bytes, turn.saturating_mul(TURNS_ALONE)),
            (false, _) => (bytes.saturating_mul(TURNS_ALONE), usize::MAX),
        };
        budget = self.conn.allowed(budget);
        loop {
            while self.conn.has_frames_to_hand_up() && frames > 0 {
                frames -= self.hand_up(now, frames).min(frames);
            }
            if !self.conn.readable || !self.conn.is_read() || budget == 0 || frames == 0 {
                return; // what is left waits for the next turn
            }
            match self.conn.read_once(budget) {
                Ok(0) => {
                    self.conn.readable = false;
                    self.end_of_file(now);
                    return;
                }
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    (self.conn.last_active, self.conn.heard) = (now, now);
                    frames -= self.hand_up(now, frames).min(frames);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.conn.reactor.stats().empty_reads.add(1);
                    self.conn.readable = false;
                    return;
                }
                Err(e) => {
                    self.conn.phase = Phase::aborting(CloseReason::Io(e));
                    return;
                }
            }
        }
    }

    /// Hands up at most that many frames and says how many.
    fn hand_up(&mut self, now: Instant, frames: usize) -> usize {
        let mut inbound = std::mem::take(&mut self.conn.inbound);
        let result = self.call(now, |pipeline, cx| pipeline.on_input(cx, &mut inbound, frames));
        self.conn.inbound = inbound;
        self.conn.inbound.settle(now);
        let handled = match result {
            Some(Ok(handled)) => handled,
            Some(Err(reason)) => {
                // Who accepted this may not read until its output is, which nobody here does any more: neither would drain.
                match (&self.conn.admission, &self.conn.phase) {
                    (None, Phase::Open) => self.conn.abort(reason),
                    _ => self.conn.close(reason),
                }
                0
            }
            None => 0,
        };
        wake_others(WAKERS_AT_ONCE);
        handled
    }
}

impl Conn {
    /// This side closes once the output is written. The first reason given counts.
    fn close(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Connecting | Phase::Open) {
            self.phase = Phase::closing(reason);
            self.parting = true;
        }
    }

    /// Closes now, with a reset, and drops the output. The first reason given counts.
    fn abort(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Aborting(_)) {
            self.phase = Phase::aborting(reason);
        }
    }

    fn is_read(&self) -> bool {
        matches!(self.phase, Phase::Open) && !self.paused.any()
    }

    fn has_frames_to_hand_up(&self) -> bool {
        matches!(self.phase, Phase::Open) && !self.paused.frames_wait() && self.inbound.has_frames()
    }

    /// Whether there is something to do before any event.
    fn is_runnable(&self) -> bool {
        match self.phase {
            Phase::Open => self.readable && self.is_read() || self.has_frames_to_hand_up(),
            Phase::Lingering { .. } => self.readable,
            _ => false,
        }
    }

    /// Has its handler's work counted.
    #[inline]
    fn count(&mut self, work: &mut usize) {
        if self.busy != self.counted {
            *work = if self.busy { *work + 1 } else { *work - 1 };
            self.counted = self.busy;
        }
    }

    /// Whether what follows from a visit may be put off: the connection goes on, and what was written matters to no limit yet.
    #[inline]
    fn can_wait(&self) -> bool {
        let held = self.outbound.len();
        matches!(self.phase, Phase::Open | Phase::Connecting)
            && held < self.accounted + BLOCK_SIZE
            && held < self.limits.write_high
    }

    /// Whether nothing has happened but perhaps some more output: no list but the one of output, no timer and no limit is concerned.
    /// It is so after most visits.
    #[inline]
    fn is_unchanged(&self) -> bool {
        let held = self.outbound.len();
        matches!(self.phase, Phase::Open)
            && held.abs_diff(self.accounted) < ACCOUNT_STEP
            && (held > 0 || self.accounted == 0)
            && held < self.limits.write_high
            && !self.crowded
            && !self.paused.any()
            && !self.was_paused
            && self.inbound.batch.is_empty()
            && (self.in_ready || !(self.readable || self.inbound.has_frames()))
            // The armed check is not too late: only idleness counts, and that moves away.
            && self.check.is_some()
            && self.stalled_since.is_none()
            && self.extra.is_none()
            && self.inbound.partial_since.is_none()
            && self.is_quietly_secure()
            && (self.admission.is_none() || self.inbound.frames_done)
    }
}

/// Puts a connection back after its code ran: on the lists it belongs to, under the timer it needs, or to its end.
fn settle(mut entry: Box<Entry>, now: Instant) {
    if entry.conn.is_unchanged() {
        let conn = &mut entry.conn;
        let dirty = !conn.outbound.is_empty() && conn.writable && !std::mem::replace(&mut conn.in_dirty, true);
        return with(|core| {
            let id = entry.conn.id;
            entry.conn.count(&mut core.work);
            if dirty {
                core.dirty.push(id);
            }
            core.conns.put(id, entry);
        });
    }
    entry.tell_drained(now);
    if entry.conn.extra.is_some() {
        entry.conn.close_if_over();
    }
    if let Phase::Closing(_) = entry.conn.phase {
        entry.conn.limit_closing(now);
        entry.conn.write_out();
    }
    if entry.conn.extra.is_some() {
        entry.look_at_output();
    }
    entry.linger(now);
    let done = matches!(entry.conn.phase, Phase::Outlasting(_)) && entry.is_done(now);
    entry.conn.account(now);
    let conn = &mut entry.conn;
    if conn.failed && matches!(conn.phase, Phase::Open) && conn.paused.any() && conn.outbound.is_empty() {
        // Neither reading nor writing would tell for perhaps long: its calls would run on for nobody.
        conn.abort(CloseReason::Io(io::ErrorKind::ConnectionReset.into()));
    }
    let over = match conn.phase {
        Phase::Aborting(_) => true,
        Phase::Closing(_) => conn.outbound.is_empty() && !conn.has_unsent(),
        Phase::Lingering { until } => now >= until,
        Phase::Outlasting(_) => done,
        Phase::Connecting | Phase::Open => false,
    };
    if over {
        return end(entry, now, true);
    }
    let ready = conn.is_runnable() && !std::mem::replace(&mut conn.in_ready, true);
    let unsent = !conn.outbound.is_empty() && conn.writable && !matches!(conn.phase, Phase::Connecting);
    let dirty = unsent && !std::mem::replace(&mut conn.in_dirty, true);
    let at = conn.next_check().into_iter().chain(conn.recheck_at(now)).min();
    let id = conn.id;
    with(|core| {
        let conn = &mut entry.conn;
        match (conn.check, at) {
            (_, None) => {}
            (Some((_, armed)), Some(at)) if armed <= at => {}
            (stale, Some(at)) => {
                if let Some((timer, _)) = stale {
                    core.timers.cancel(timer);
                }
                conn.check = Some((core.timers.insert(at, TimerKey::Check(id)), at));
            }
        }
        conn.count(&mut core.work);
        if ready {
            core.ready.push_back(id);
        }
        if dirty {
            core.dirty.push(id);
        }
        core.conns.put(id, entry);
    });
}

/// The end of a connection: tells the handler, unless it knows, and frees everything, unless the handler stays, if
/// it may.
fn end(mut entry: Box<Entry>, now: Instant, may_stay: bool) {
    #[cfg(feature = "tls")]
    entry.conn.end_handshake();
    let (how, mut reason) = match std::mem::replace(&mut entry.conn.phase, Phase::closing(CloseReason::Stopped)) {
        Phase::Aborting(reason) => (CloseHow::Abort, Some(*reason)),
        Phase::Closing(closing) => (CloseHow::Graceful, Some(closing.reason)),
        Phase::Outlasting(reason) => (CloseHow::Graceful, Some(*reason)),
        Phase::Lingering { .. } => (CloseHow::Graceful, None), // the handler has heard of it
        Phase::Connecting | Phase::Open => (CloseHow::Abort, Some(CloseReason::Stopped)),
    };
    if let Some(key) = entry.conn.key.take() {
        with(|core| core.driver.close(key, how));
        if let Some(ends) = reason.take_if(|_| may_stay) {
            match entry.stay(now, ends) {
                Ok(()) => return,
                Err((gone, ends)) => (entry, reason) = (gone, Some(ends)),
            }
        }
    }
    with(|core| {
        if let Some((timer, _)) = entry.conn.check.take() {
            core.timers.cancel(timer);
        }
        core.conns.release(entry.conn.id);
        entry.conn.busy = false;
        entry.conn.count(&mut core.work);
    });
    entry.conn.memory.adjust(entry.conn.accounted, 0);
    entry.conn.accounted = 0;
    entry.conn.reactor.stats().connections.sub(1);
    drop(entry.conn.admission.take());
    if let Some(reason) = reason {
        entry.tell_end(now, &reason);
    }
    if entry.conn.armed > 0 {
        with(|core| core.leave_timers(entry.conn.armed));
    }
    guarded("the end of a handler", || drop(entry));
}
