//! What a handler can do with its own connection.

use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::extra::{Completion, WhenRead};
use super::{Conn, ConnId, ConnRef, NotWritten, Phase};
use crate::buffer::LinkBuffer;
use crate::error::CloseReason;
use crate::listener::{Admission, ListenerHandle};
use crate::panics::fail_point;
use crate::reactor::ReactorHandle;
use crate::reactor::TaskId;
use crate::reactor::core::{TimerKey, with};
use crate::stats::MemoryBudget;
use crate::timer::TimerId;
use crate::url::Url;

/// What a handler can do with its own connection.
pub struct Cx<'a> {
    pub(super) conn: &'a mut Conn,
    now: Instant,
}

impl<'a> Cx<'a> {
    #[inline]
    pub(super) fn new(conn: &'a mut Conn, now: Instant) -> Self {
        Cx { conn, now }
    }

    /// The time of this turn: read once when the reactor woke.
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// This connection's id within its reactor.
    #[inline]
    pub fn id(&self) -> ConnId {
        self.conn.id
    }

    /// The local task that is visiting, if `waker` is its own: then [`local::wake`](crate::local::wake) does the same for less.
    #[inline]
    pub fn task_of(&self, waker: &Waker) -> Option<TaskId> {
        crate::local::task_of(waker)
    }

    /// Says whether the handler has work under way, such as calls: while it has, the reactor is not left unattended. At first it has none.
    #[inline]
    pub fn set_busy(&mut self, busy: bool) {
        self.conn.busy = busy;
    }

    /// This connection, for other threads.
    pub fn conn_ref(&self) -> ConnRef {
        ConnRef::new(self.conn.id, self.conn.reactor.clone())
    }

    /// The reactor this connection belongs to.
    pub fn reactor(&self) -> &ReactorHandle {
        &self.conn.reactor
    }

    /// The listener that accepted this connection; `None` if this side connected, or the handler [outlasts](crate::Handler::outlasts) it.
    ///
    /// ```
    /// # use std::{io::{Read, Write}, net::TcpStream};
    /// # use rpc_transport::{Cx, Frame, Handler, Line, ListenOptions, PoolOptions, ReactorPool};
    /// struct Session;
    ///
    /// impl Handler for Session {
    ///     fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
    ///         if frame.bytes() == b"shut down" {
    ///             cx.listener().expect("it was accepted").shut_down();
    ///         }
    ///     }
    /// }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = ReactorPool::start(PoolOptions::default())?;
    /// # let listener = pool.listen(&"tcp://127.0.0.1:0".parse()?, ListenOptions::default(), |_| (Line::new(), Session))?;
    /// # let address = listener.url().to_string().trim_start_matches("tcp://").to_owned();
    /// # let mut peers = [TcpStream::connect(&address)?, TcpStream::connect(&address)?];
    /// # peers[0].write_all(b"shut down\n")?;
    /// # assert_eq!((peers[0].read(&mut [0])?, peers[1].read(&mut [0])?), (0, 0));
    /// # assert!(TcpStream::connect(&address).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn listener(&self) -> Option<ListenerHandle> {
        self.conn.admission.as_ref().map(Admission::listener)
    }

    /// The peer as a URL: for an accepted Unix connection the listener's path.
    #[inline]
    pub fn peer(&self) -> &Arc<str> {
        &self.conn.peer
    }

    /// The address of this side, by a system call. Of an accepted Unix connection it is the listener's path.
    ///
    /// # Errors
    /// `AddrNotAvailable` for a Unix connection of a client's, which has no name; otherwise the system's, such as `NotConnected`.
    pub fn local(&self) -> io::Result<Url> {
        let key = self.conn.key.ok_or(io::ErrorKind::NotConnected)?;
        let endpoint = with(|core| core.driver.local(key)).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Url::from(&endpoint))
    }

    /// Where output is written. It leaves in one gathered write at the end of the turn.
    #[inline]
    pub fn output(&mut self) -> &mut LinkBuffer {
        fail_point();
        &mut self.conn.outbound
    }

    /// Bytes written by the handler and not yet taken by the kernel; under TLS, not yet encrypted.
    #[inline]
    pub fn output_len(&self) -> usize {
        self.conn.outbound.len()
    }

    /// Bytes the kernel has taken, and under TLS up to 64 KiB that are encrypted and wait for it, since the connection was opened. What is appended now begins at stream position
    /// `written() + output_len()`.
    #[inline]
    pub fn written(&self) -> u64 {
        self.conn.written
    }

    /// When bytes of the peer were last read; at first when the connection was made.
    #[inline]
    pub fn heard(&self) -> Instant {
        self.conn.heard
    }

    /// Whether a frame has begun to come, and not all of it is here.
    pub fn is_within_frame(&self) -> bool {
        self.conn.inbound.partial_since.is_some()
    }

    /// Whether the peer is read: not while the connection is paused, for whatever reason.
    pub fn is_read(&self) -> bool {
        self.conn.is_read()
    }

    /// Whether the output queue has reached `write_high`.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.conn.outbound.len() >= self.conn.limits.write_high
    }

    /// The process's buffered bytes.
    pub fn memory(&self) -> &MemoryBudget {
        &self.conn.memory
    }

    /// Writes the output now instead of at the end of the turn.
    pub fn flush(&mut self) {
        fail_point();
        self.conn.write_out();
    }

    /// Has `done` called when the system has taken all that is in the output now, which does not mean that the peer has read it; or when the connection ends
    /// before that. Under TLS it is the ciphertext that the system has taken then. On this reactor, exactly once, in the order of these calls. Allocates the closure's box.
    pub fn when_written(&mut self, done: impl FnOnce(Result<(), NotWritten>) + Send + 'static) {
        self.complete(Completion::new(done));
    }

    pub(crate) fn complete(&mut self, done: Completion) {
        fail_point();
        self.conn.when_written(done);
    }

    /// Ends this side: tells the peer, once the output is written, that nothing more will come; under TLS by a `close_notify` and the end of the
    /// socket. The peer goes on being read. What is written after this ends the connection with a broken pipe, whether the
    /// output before it has been written or not; [`ConnRef::write`] is told that nothing was.
    ///
    /// All limits of an open connection still hold: `write_stall_timeout` until the output is written, `idle_timeout` for a peer that says
    /// nothing more and does not end its side. When it [has](crate::Handler::on_eof), the connection is over.
    pub fn finish(&mut self) {
        fail_point();
        self.conn.finish();
    }

    /// Whether this side [has ended](Cx::finish), or is to once the output is written.
    pub fn is_finished(&self) -> bool {
        self.conn.finished().0
    }

    /// Hands up no more frames until [`Cx::resume`]; the peer is not read meanwhile.
    #[inline]
    pub fn pause(&mut self) {
        fail_point();
        self.conn.paused.by_handler = true;
    }

    /// Ends [`Cx::pause`].
    #[inline]
    pub fn resume(&mut self) {
        fail_point();
        self.conn.paused.by_handler = false;
    }

    /// Calls [`Handler::on_deadline`](crate::Handler::on_deadline) with `key` at `at`, or up to a millisecond later.
    #[inline]
    pub fn arm(&mut self, at: Instant, key: u64) -> TimerId {
        fail_point();
        let id = self.conn.id;
        self.conn.armed += 1;
        with(|core| core.arm_work(at, TimerKey::Handler(id, key)))
    }

    /// As [`Cx::arm`], for what is no work under way, such as a look at the peer from time to time: a reactor that blocking callers
    /// turn is left unattended all the same, so that it may come 20 ms late, unless the handler is [busy](Cx::set_busy). The handler takes
    /// it back when the connection ends.
    pub fn remind(&mut self, at: Instant, key: u64) -> TimerId {
        fail_point();
        let id = self.conn.id;
        with(|core| core.timers.insert(at, TimerKey::Reminder(id, key)))
    }

    /// Takes back [`Cx::remind`] of this connection. An id whose time has passed is ignored.
    pub fn forget(&mut self, reminder: TimerId) {
        fail_point();
        let id = self.conn.id;
        with(|core| {
            if core.timers.get(reminder).is_some_and(|key| matches!(key, TimerKey::Reminder(of, _) if *of == id)) {
                core.timers.cancel(reminder);
            }
        });
    }

    /// Takes back [`Cx::arm`] of this connection. An id whose time has passed is ignored; what is still armed when the
    /// connection ends is taken back then.
    #[inline]
    pub fn disarm(&mut self, timer: TimerId) {
        fail_point();
        let id = self.conn.id;
        let own = with(|core| {
            let own = core.timers.get(timer).is_some_and(|key| matches!(key, TimerKey::Handler(of, _) if *of == id));
            if own {
                core.timers.cancel(timer);
                core.work -= 1;
            }
            own
        });
        self.conn.armed -= usize::from(own);
    }

    /// Wakes a task of some other executor: at once if few are to be woken in this batch, else after the flush.
    pub fn wake(&mut self, waker: Waker) {
        with(|core| core.wakers.push(waker));
        fail_point(); // not before: to lose the waker would be a mistake of its own
    }

    /// Whether the connection is being closed.
    #[inline]
    pub fn is_closing(&self) -> bool {
        !matches!(self.conn.phase, Phase::Connecting | Phase::Open)
    }

    /// Whether the handler has heard that the connection is over, and only its socket is left.
    #[inline]
    pub(crate) fn is_lingering(&self) -> bool {
        matches!(self.conn.phase, Phase::Lingering { .. })
    }

    /// Whether the connection has been established.
    #[inline]
    pub fn is_open(&self) -> bool {
        !matches!(self.conn.phase, Phase::Connecting)
    }

    /// Closes the connection once the output is written. The first reason given counts. The handler hears of the end then; the socket of
    /// an accepted connection stays until the peer has closed its side, too, but no longer than a second, so that the peer hears all of
    /// the output though it may still write.
    pub fn close(&mut self, reason: CloseReason) {
        self.conn.close(reason);
    }

    /// As [`Cx::close`], but first hands up all that has come from the peer by the time the output is written: a handler that owes each
    /// frame an answer hears of every one that it could have heard of. Until then the connection is open, and waits where it is paused;
    /// only a peer that sends faster than it is read, or does not read, can put off the end.
    pub fn close_when_read(&mut self, reason: CloseReason) {
        self.conn.extra().when_read.get_or_insert(WhenRead { reason, output_waited: false });
        self.conn.readable = true; // only a read can tell
    }

    /// Closes the connection at once with a reset; queued output is dropped.
    pub fn abort(&mut self, reason: CloseReason) {
        self.conn.abort(reason);
    }

    /// Whether frames already received must wait: paused, output over `write_high`, or closing.
    #[inline]
    pub(crate) fn must_stop(&mut self) -> bool {
        // Only the accepting side stops reading: if both did, each full of output, neither would ever go on.
        if self.conn.admission.is_some() && self.conn.outbound.len() >= self.conn.limits.write_high {
            self.conn.write_out();
            self.conn.paused.by_output = self.conn.outbound.len() > self.conn.limits.write_low;
        }
        self.conn.paused.frames_wait() || self.is_closing()
    }

    pub(crate) fn count_frames(&mut self, n: usize) {
        self.conn.reactor.stats().frames.add(n as u64);
    }
}
