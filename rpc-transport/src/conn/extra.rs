//! What few connections need: sides that end one by one, completions of writes, a close that waits for what has come. In a box of its own,
//! so that the others pay nothing for it: a connection that has one is never "unchanged" after its code ran.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::time::Instant;

use super::{Conn, Entry, Inbound, Phase};
use crate::error::CloseReason;
use crate::panics::caught;
use crate::reactor::core::with;
use crate::reactor::guarded;

/// Completions that may wait on a connection. Beyond it is ended as at `write_hard`, which does not count them.
const MAX_COMPLETIONS: usize = 65_536;

#[derive(Default)]
pub(super) struct Extra {
    /// This side ends it once all that has come is handed up.
    pub(super) when_read: Option<WhenRead>,
    /// Who is to hear when the output as it was has been taken, in that order: the stream position, and the closure.
    written: VecDeque<(u64, Completion)>,
    /// The peer writes no more, and the handler wants to go on.
    peer_finished: bool,
    finish: Finish,
}

pub(super) struct WhenRead {
    pub(super) reason: CloseReason,
    /// Output waited when it was looked at last: more may have come meanwhile.
    pub(super) output_waited: bool,
}

/// The end of what this side writes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Finish {
    #[default]
    No,
    /// Once the output is written, up to that stream position.
    Asked(u64),
    Done(u64),
}

impl Finish {
    /// The stream position where this side ends.
    fn at(self) -> Option<u64> {
        match self {
            Finish::No => None,
            Finish::Asked(at) | Finish::Done(at) => Some(at),
        }
    }
}

/// The connection, or this side of it, ended before all of that was written. What the peer has got of it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWritten;

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection, or this side of it, ended before all was written")
    }
}

impl std::error::Error for NotWritten {}

/// Who is to hear of a write. Told exactly once: if by nobody else, then when it is dropped, that nothing was written.
pub(crate) struct Completion(Option<Done>);

type Done = Box<dyn FnOnce(Result<(), NotWritten>) + Send>;

impl Completion {
    pub(crate) fn new(done: impl FnOnce(Result<(), NotWritten>) + Send + 'static) -> Self {
        Completion(Some(Box::new(done)))
    }

    fn written(mut self) {
        if let Some(done) = self.0.take() {
            guarded("the completion of a write", || done(Ok(())));
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            caught(|| done(Err(NotWritten))); // others may be dropped with it: no panic may leave here
        }
    }
}

impl Extra {
    /// Whether nothing is left to be remembered.
    fn is_over(&self) -> bool {
        self.when_read.is_none() && self.written.is_empty() && !self.peer_finished && self.finish == Finish::No
    }

    /// Whether both sides have ended, or are to.
    fn is_finished(&self) -> bool {
        self.peer_finished && self.finish != Finish::No
    }
}

impl Conn {
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The stream position behind the output.
    fn output_end(&self) -> u64 {
        self.written + self.outbound.len() as u64
    }

    /// Has `done` told when the output as it is now has been taken by the system.
    pub(super) fn when_written(&mut self, done: Completion) {
        if matches!(self.phase, Phase::Connecting | Phase::Open | Phase::Closing(_)) {
            let position = self.output_end();
            self.extra().written.push_back((position, done));
        }
    }

    /// Ends what this side writes, once the output is written.
    pub(super) fn finish(&mut self) {
        let end = self.output_end();
        let extra = self.extra();
        if extra.finish == Finish::No {
            extra.finish = Finish::Asked(end);
        }
    }

    /// Whether this side is to end, and has not.
    pub(super) fn is_finishing(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| matches!(extra.finish, Finish::Asked(_)))
    }

    /// Whether this side, and the peer's, have ended or are to.
    pub(super) fn finished(&self) -> (bool, bool) {
        self.extra.as_ref().map_or((false, false), |extra| (extra.finish != Finish::No, extra.peer_finished))
    }

    /// Ends this side if all has been written; under TLS that it ends has to be written, too.
    fn end_output(&mut self) {
        if let (Phase::Open, true, Some(key)) = (&self.phase, self.outbound.is_empty(), self.key) {
            self.write_out();
            if self.outbound.is_empty() && !self.has_unsent() && matches!(self.phase, Phase::Open) {
                self.extra().finish = Finish::Done(self.written);
                if let Err(e) = with(|core| core.driver.finish(key)) {
                    self.phase = Phase::aborting(CloseReason::Io(e)); // the peer is gone
                }
            }
        }
    }

    /// Closes if both sides have ended: what is left to be written has the time that any last words have. And if that was to be when all that
    /// has come is handed up, and it is.
    #[cold]
    pub(super) fn close_if_over(&mut self) {
        self.close_if_read();
        if let (Phase::Open, Some(extra)) = (&self.phase, &self.extra) {
            if extra.finish.at().is_some_and(|end| self.output_end() > end) {
                self.give_up(io::ErrorKind::BrokenPipe.into()); // somebody has written behind the end
            } else if extra.is_finished() {
                self.phase = Phase::closing(CloseReason::PeerClosed);
            }
        }
    }

    /// What is in the output may be what tells the peer to send no more, so whatever comes before that is written counts, too.
    fn close_if_read(&mut self) {
        let waits = !self.outbound.is_empty() || self.has_unsent();
        let Some(when_read) = self.extra.as_mut().and_then(|extra| extra.when_read.as_mut()) else { return };
        if std::mem::replace(&mut when_read.output_waited, waits) && !waits {
            self.readable = true; // only a read can tell
        }
        let rest = self.readable || self.inbound.has_frames() || waits;
        if self.is_read()
            && let Some(when_read) = self.extra().when_read.take_if(|_| !rest)
        {
            self.close(when_read.reason);
        }
    }

    /// Whether the peer does not read any more either, as far as the system knows: of TCP after a reset, of a Unix socket at once.
    fn is_left(&self) -> bool {
        let Some(key) = self.key else { return false };
        let nothing = with(|core| core.driver.write(key, &[IoSlice::new(&[])]));
        nothing.is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
    }

    /// Nobody writes any more: those who wait for it hear that, and nothing is left to be remembered.
    pub(super) fn forget_extra(&mut self) {
        self.extra = None;
    }
}

impl Entry {
    /// What follows from how much has been written: completions, and the end of this side.
    #[cold]
    pub(super) fn look_at_output(&mut self) {
        if self.conn.is_finishing() {
            self.conn.end_output();
        }
        let delivered = self.conn.delivered();
        let Some(extra) = &mut self.conn.extra else { return };
        let mut come = Vec::new();
        while extra.written.front().is_some_and(|(position, _)| *position <= delivered) {
            come.extend(extra.written.pop_front().map(|(_, done)| done));
        }
        if extra.written.len() > MAX_COMPLETIONS {
            self.conn.phase = Phase::aborting(CloseReason::Limit("write_hard"));
        }
        self.conn.extra.take_if(|extra| extra.is_over());
        come.into_iter().for_each(Completion::written);
    }

    /// The peer writes no more: nothing is left to be read. The connection ends, unless the handler says otherwise.
    #[cold]
    pub(super) fn end_of_file(&mut self, now: Instant) {
        if self.conn.extra.as_ref().is_some_and(|extra| extra.peer_finished) {
            // A later event, of an end that has been told. Reading does not tell of a reset any more.
            self.conn.inbound.settle(now);
            if self.conn.is_left() {
                self.conn.abort(CloseReason::Io(io::ErrorKind::ConnectionReset.into()));
            }
            return;
        }
        let (arrived, cut) = (self.conn.inbound.len(), self.conn.end_of_secure());
        let goes_on = arrived == 0 && cut.is_none() && self.call(now, |pipeline, cx| pipeline.on_eof(cx)) == Some(true);
        let conn = &mut self.conn;
        match conn.phase {
            Phase::Open if goes_on => {
                conn.extra().peer_finished = true;
                conn.readable = true; // to be looked at once more: perhaps the peer is gone altogether, and no further event says so
                conn.inbound.settle(now);
                conn.inbound.frames_done = true; // none is awaited
            }
            Phase::Open => {
                conn.phase = Phase::closing(match arrived {
                    0 => cut.unwrap_or(CloseReason::PeerClosed),
                    arrived => CloseReason::CutShort { arrived },
                });
                conn.inbound = Inbound::default(); // its block goes back to the pool
            }
            _ => {} // the handler has closed it, or panicked
        }
    }
}
