//! A connection under TLS: what its reads, its writes and its beginning do instead.
//!
//! Until its handshake is over a connection is one that is connecting, accepted or not: it has the handler's output, and does not write it.
//! From then on `outbound` is plaintext, counted once: what is encrypted leaves it. Ciphertext that the kernel does not take, some 64 KiB
//! at most, is the session's, and goes before anything else.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbound::give_up_at;
use super::transfer::clears_latch;
use super::{Conn, Cx, Entry, Phase, Setup, kill};
use crate::buffer::{Block, LinkBuffer};
use crate::clock;
use crate::driver::Key;
use crate::error::CloseReason;
use crate::panics::caught;
use crate::reactor::core::{Core, TimerKey, with};
use crate::tls::{AGAIN, AT_A_TIME, SCRATCH, Session, Stage, TlsError, TlsErrorKind, TlsPeer, Turn};

thread_local! {
    /// Where this thread's connections read ciphertext, and where they encrypt: nothing stays there.
    static INCOMING: RefCell<Option<Block>> = const { RefCell::new(None) };
    static OUTGOING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How long a handshake may go on when its listener shuts down: it costs a round trip or two, and a client that fails in it takes the
/// server for one that is down.
const FINISH: Duration = Duration::from_secs(1);
/// How many blocks are this thread's, and no connection's.
#[cfg(feature = "testing")]
pub(crate) fn blocks_between() -> usize {
    INCOMING.with_borrow(|block| usize::from(block.is_some()))
}

impl Cx<'_> {
    /// Its listener asks it to finish, and it is not open yet: the handler hears that when it is.
    pub(crate) fn finish_when_open(&mut self) {
        let by = self.now() + FINISH;
        let Some(tls) = &mut self.conn.tls else { return };
        tls.finish_by.get_or_insert(by);
        // That comes sooner than what the timer was set for.
        if let Some((timer, _)) = self.conn.check.take() {
            with(|core| core.timers.cancel(timer));
        }
    }

    /// What the TLS handshake has told of the peer; `None` without TLS, and until it is over.
    pub fn tls(&self) -> Option<&Arc<TlsPeer>> {
        self.conn.tls.as_ref()?.peer()
    }
}

impl Setup {
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}

/// Looks again at handshakes that waited for their turn.
pub(crate) fn resume_handshakes() {
    with(|core| {
        core.rations.called();
        for _ in 0..AT_A_TIME {
            let Some(id) = core.rations.next() else { return };
            if let Some(entry) = core.conns.get(id)
                && let Some(tls) = &mut entry.conn.tls
            {
                tls.waits = false;
                if !std::mem::replace(&mut entry.conn.in_ready, true) {
                    core.ready.push_back(id);
                }
            }
        }
        if core.rations.is_to_be_called() {
            core.timers.insert(core.now + AGAIN, TimerKey::Handshakes);
        }
    });
}

impl Entry {
    /// The TCP connection is established: the handshake is next.
    #[cold]
    pub(super) fn begin_shaking(&mut self, now: Instant) {
        if let Some(tls) = &mut self.conn.tls {
            tls.connected = true;
        }
        self.shake(now);
    }

    /// Goes on with the handshake as far as it comes; at its end the connection is open.
    #[cold]
    pub(super) fn shake(&mut self, now: Instant) {
        let Some(key) = self.conn.key else { return };
        let Some(mut tls) = self.conn.tls.take() else { return };
        // What rustls asks on the way, such as which certificate to show, may be the user's.
        let stepped = caught(|| self.conn.shake(&mut tls, key, now));
        let done = !tls.is_handshaking() && tls.unsent().is_empty();
        self.conn.tls = Some(tls);
        match stepped {
            Some(Ok(())) => {}
            Some(Err(reason)) => return self.conn.part_with(reason),
            None => return self.conn.abort(CloseReason::Local("its TLS handshake panicked")),
        }
        if done && matches!(self.conn.phase, Phase::Connecting) {
            self.conn.end_handshake();
            self.conn.opened = now;
            // What has come behind the handshake brings no further event.
            self.conn.readable |= self.conn.tls.as_ref().is_some_and(|tls| tls.has_more());
            let finish = self.conn.tls.as_mut().and_then(|tls| tls.finish_by.take());
            self.opened(now);
            if finish.is_some() {
                self.call(now, |pipeline, cx| pipeline.on_shutdown(cx));
            }
        }
    }
}

impl Conn {
    /// An accepted connection's handshake begins; it may be one too many.
    pub(super) fn begin_accepted(&self) {
        let Some(admission) = &self.admission else { return };
        let most = admission.max_handshakes();
        let oldest = with(|core| {
            let Core { rations, conns, .. } = core;
            rations.begin(self.id, most, |id| conns.get(id).and_then(|entry| entry.conn.stage()))
        });
        if let Some(oldest) = oldest {
            kill(oldest, CloseReason::Limit("max_handshakes"));
        }
    }

    /// Whether the peer needs no time to hear the last words, if that holds of what the handler has said: an alert is one, too.
    pub(super) fn has_heard_all(&self, of_output: bool) -> bool {
        let Some(tls) = &self.tls else { return of_output };
        !self.parting || !tls.has_greeted() || !tls.unsent().is_empty()
    }

    /// Whether its TCP connection is established, and its handshake is not over.
    pub(super) fn is_shaking(&self) -> bool {
        matches!(self.phase, Phase::Connecting) && self.tls.as_ref().is_some_and(|tls| tls.connected)
    }

    /// How far its handshake is, if one is under way.
    fn stage(&self) -> Option<Stage> {
        self.rationed.filter(|_| self.is_shaking())
    }

    /// Whether it neither holds anything for TLS nor owes the peer anything.
    pub(super) fn is_quietly_secure(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_quiet())
    }

    /// Whether ciphertext waits for the kernel.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.unsent().is_empty())
    }

    /// How much of the output the kernel has taken: what is encrypted and waits counts as written.
    pub(super) fn delivered(&self) -> u64 {
        self.tls.as_ref().map_or(self.written, |tls| tls.delivered)
    }

    /// Bytes that TLS holds.
    pub(super) fn held_by_tls(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.held())
    }

    /// Until when more of an unfinished record must be there.
    pub(super) fn record_at(&self) -> Option<Instant> {
        let tls = self.tls.as_ref()?;
        give_up_at(tls.partial_since?, tls.partial().len(), self.limits.frame_progress)
    }

    /// Until when an accepted connection's handshake must be over, or a connected one's connect.
    pub(super) fn handshake_limit(&self) -> Duration {
        match self.admission {
            Some(_) => {
                let finish_by = self.tls.as_ref().and_then(|tls| tls.finish_by);
                let left = finish_by.map(|by| by.saturating_duration_since(self.opened));
                left.unwrap_or(Duration::MAX).min(self.limits.handshake_timeout)
            }
            None => self.limits.connect_timeout,
        }
    }

    /// The handshake is over, be it by the connection's end.
    pub(super) fn end_handshake(&mut self) {
        if let Some(stage) = self.rationed.take() {
            with(|core| core.rations.end(stage));
        }
    }

    /// Why there is nothing left to read.
    pub(super) fn end_of_secure(&self) -> Option<CloseReason> {
        let tls = self.tls.as_ref()?;
        (!tls.closed).then(|| CloseReason::Tls(TlsError::new(TlsErrorKind::Truncated, "")))
    }

    /// The session has failed: the peer shall hear why, by an alert, and nothing else.
    fn part_with(&mut self, reason: CloseReason) {
        self.end_handshake();
        self.outbound = LinkBuffer::new();
        self.close(reason);
    }

    /// A failure as the end of the connection. A server that does not accept a client's certificate says so after the client's handshake
    /// is over; but it has handled nothing before that.
    fn reason_for(&self, tls: &Session, error: TlsError) -> CloseReason {
        let rejected = error.kind() == TlsErrorKind::Rejected && !tls.has_heard();
        match tls.is_client() && (tls.is_handshaking() || rejected) {
            true => CloseReason::Connect(io::Error::new(io::ErrorKind::InvalidData, error)),
            false => CloseReason::Tls(error),
        }
    }

    /// One step of the handshake: what has come, and the answer to it.
    fn shake(&mut self, tls: &mut Session, key: Key, now: Instant) -> Result<(), CloseReason> {
        tls.begin(now);
        loop {
            if let Some(error) = tls.take_failure() {
                return Err(self.reason_for(tls, error));
            }
            self.write_unsent(tls, key);
            if !matches!(self.phase, Phase::Connecting) || !tls.is_handshaking() || !self.readable {
                return Ok(()); // it has ended, is over, or waits for the peer
            }
            if self.admission.is_some() && self.hangup && !tls.has_answered() {
                let error = TlsError::new(TlsErrorKind::ClosedInHandshake, ""); // nobody is there to answer
                return Err(self.reason_for(tls, error));
            }
            if self.admission.is_some() && !self.may_go_on(tls) {
                return Ok(());
            }
            let before = clock::now(); // the driver's would say that a turn begins
            let got = self.fill(tls, key, SCRATCH, now, |_| 0);
            if self.admission.is_some() {
                with(|core| {
                    core.rations.spend(clock::now().saturating_duration_since(before));
                    if tls.has_answered() && self.rationed == Some(Stage::Begun) {
                        self.rationed = Some(Stage::Answered);
                        core.rations.answer(self.id);
                    }
                });
            }
            match got {
                Ok(0) => {
                    let error = TlsError::new(TlsErrorKind::ClosedInHandshake, "");
                    return Err(self.reason_for(tls, error));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if tls.is_client() => return Err(CloseReason::Connect(e)),
                Err(e) => return Err(CloseReason::Io(e)),
            }
        }
    }

    /// Whether the handshake has its turn; if not, it is called. One that was answered does not wait any more: its client has shown
    /// that it goes on, and what is left to do is little.
    fn may_go_on(&self, tls: &mut Session) -> bool {
        if tls.waits || tls.has_answered() {
            return !tls.waits;
        }
        let frames = self.reactor.stats().frames.get();
        let turn = with(|core| {
            let turn = core.rations.turn(self.id, &mut tls.place, frames, clock::now());
            if turn == Turn::WaitsFirst {
                core.timers.insert(core.now + AGAIN, TimerKey::Handshakes);
            }
            turn
        });
        tls.waits = turn != Turn::Now;
        !tls.waits
    }

    /// Reads once from the socket, and opens what has come; 0 is its end.
    fn fill(
        &mut self,
        tls: &mut Session,
        key: Key,
        budget: usize,
        now: Instant,
        take: impl FnMut(&[u8]) -> usize,
    ) -> io::Result<usize> {
        let mut incoming = INCOMING.take().unwrap_or_else(|| Block::exact(SCRATCH));
        incoming.truncate(0);
        incoming.put_slice(tls.partial());
        let asked = incoming.spare().min(budget);
        let read = with(|core| core.driver.read(key, &mut incoming, asked));
        if let Ok(got @ 1..) = read {
            let stats = self.reactor.stats();
            stats.reads.add(1);
            stats.bytes_in.add(got as u64);
            if got < asked {
                stats.short_reads.add(1);
                self.readable = !clears_latch(self.hangup);
            }
            tls.receive(incoming.as_mut_slice(), now, take);
        }
        INCOMING.set(Some(incoming));
        read
    }

    /// [`read_once`](Conn::read_once) under TLS: plaintext that had no room before, or what the socket has. Says how many bytes that is of
    /// the budget; 0 is the end.
    #[cold]
    pub(super) fn read_secure(&mut self, key: Key, budget: usize) -> io::Result<usize> {
        let Some(mut tls) = self.tls.take() else { return Ok(0) };
        let result = caught(|| self.read_session(&mut tls, key, budget));
        let result = result.unwrap_or_else(|| Err(io::Error::other("the TLS session panicked")));
        tls.settle();
        // The rest must be handed on without a further event.
        self.readable |= tls.has_more();
        self.tls = Some(tls);
        result
    }

    fn read_session(&mut self, tls: &mut Session, key: Key, budget: usize) -> io::Result<usize> {
        let now = with(|core| core.now);
        let mut inbound = std::mem::take(&mut self.inbound);
        let (block, asked) = inbound.room(&self.memory);
        let mut room = asked;
        let left = tls.take_opened(room);
        block.put_slice(left);
        let mut given = left.len();
        let mut read = Ok(given);
        if given == 0 && tls.has_more() {
            read = Ok(0); // its end, or a failure
        } else if given == 0 {
            read = self.fill(tls, key, budget, now, |bytes| {
                let n = bytes.len().min(room);
                block.put_slice(&bytes[..n]);
                (given, room) = (given + n, room - n);
                n
            });
        }
        match given {
            0 => inbound.settle(now),
            _ => inbound.after_read(asked, given),
        }
        self.reactor.stats().moved_bytes.add(std::mem::take(&mut inbound.moved) as u64);
        self.inbound = inbound;
        self.write_unsent(tls, key);
        if given == 0
            && let Some(error) = tls.take_failure()
        {
            let reason = self.reason_for(tls, error);
            self.part_with(reason);
            return Ok(1); // the end is not the peer's
        }
        read
    }

    /// [`write_out`](Conn::write_out) under TLS.
    #[cold]
    pub(super) fn write_secure(&mut self, key: Key) {
        let Some(mut tls) = self.tls.take() else { return };
        if !tls.may_write() {
            self.outbound = LinkBuffer::new(); // it ends, and nothing of that can be said any more
        }
        let mut outgoing = OUTGOING.take();
        outgoing.resize(SCRATCH, 0);
        if caught(|| self.write_session(&mut tls, key, &mut outgoing)).is_none() {
            self.abort(CloseReason::Local("its TLS session panicked"));
        }
        OUTGOING.set(outgoing);
        let unsent = !tls.unsent().is_empty();
        self.tls = Some(tls);
        self.after_writing(key, unsent);
    }

    fn write_session(&mut self, tls: &mut Session, key: Key, outgoing: &mut [u8]) {
        loop {
            self.write_unsent(tls, key);
            if tls.unsent().is_empty() {
                tls.delivered = self.written;
            }
            if !self.writable || matches!(self.phase, Phase::Aborting(_)) {
                return;
            }
            if self.outbound.is_empty() {
                if matches!(self.phase, Phase::Closing(_)) || self.is_finishing() {
                    tls.part();
                    self.write_unsent(tls, key);
                }
                return;
            }
            if tls.parted {
                return self.give_up(io::ErrorKind::BrokenPipe.into());
            }
            match tls.seal(self.outbound.pieces(), outgoing) {
                Ok((0, _)) if tls.unsent().is_empty() => return self.give_up(io::ErrorKind::WriteZero.into()),
                Ok((0, _)) => {}
                Ok((plain, sealed)) => {
                    bytes::Buf::advance(&mut self.outbound, plain);
                    self.written += plain as u64;
                    let n = self.write_sealed(key, &outgoing[..sealed]);
                    tls.keep_unsent(&outgoing[n..sealed]);
                }
                Err(error) => return self.give_up(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }

    fn write_unsent(&mut self, tls: &mut Session, key: Key) {
        while !tls.unsent().is_empty() && self.writable && !matches!(self.phase, Phase::Aborting(_)) {
            let n = self.write_sealed(key, tls.unsent());
            tls.note_sent(n);
        }
    }

    /// Writes once, and says how much the kernel has taken.
    fn write_sealed(&mut self, key: Key, sealed: &[u8]) -> usize {
        let result = with(|core| core.driver.write(key, &[IoSlice::new(sealed)]));
        let stats = self.reactor.stats();
        stats.writes.add(1);
        stats.iovecs.add(1);
        let now = with(|core| core.now);
        match result {
            Ok(0) => self.give_up(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                stats.bytes_out.add(n as u64);
                self.last_active = now;
                (self.stalled_since, self.stuck) = (None, false);
                if n < sealed.len() {
                    self.wait_for_room(key, now);
                }
                return n;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait_for_room(key, now),
            Err(e) => self.give_up(e),
        }
        0
    }
}
