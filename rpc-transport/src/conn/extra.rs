//! What few connections need: sides that end one by one, completions of writes, a close that waits for what has come. In a box of its own,
//! so that the others pay nothing for it: a connection that has one is never "unchanged" after its code ran.

use std::collections::VecDeque;
use std::fmt;
use std::io;
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
#[derive(Default, PartialEq, Eq)]
enum Finish {
    #[default]
    No,
    /// Once the output is written.
    Asked,
    Done,
}

/// The connection ended before all of the output was written. What the peer has got of it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotWritten;

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection ended before all was written")
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
}

impl Conn {
    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Has `done` told when the output as it is now has been taken by the system.
    pub(super) fn when_written(&mut self, done: Completion) {
        if matches!(self.phase, Phase::Connecting | Phase::Open | Phase::Closing(_)) {
            let position = self.written + self.outbound.len() as u64;
            self.extra().written.push_back((position, done));
        }
    }

    /// Ends what this side writes, once the output is written.
    pub(super) fn finish(&mut self) {
        let extra = self.extra();
        if extra.finish == Finish::No {
            extra.finish = Finish::Asked;
        }
    }

    /// Whether this side is to end.
    pub(super) fn is_finishing(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.finish == Finish::Asked)
    }

    /// Ends this side if all has been written; under TLS that it ends has to be written, too.
    fn end_output(&mut self) {
        if let (Phase::Open, true, Some(key)) = (&self.phase, self.outbound.is_empty(), self.key) {
            self.write_out();
            if self.outbound.is_empty() && !self.has_unsent() && matches!(self.phase, Phase::Open) {
                self.extra().finish = Finish::Done;
                if let Err(e) = with(|core| core.driver.finish(key)) {
                    self.phase = Phase::aborting(CloseReason::Io(e)); // the peer is gone
                }
            }
        }
    }

    /// Closes if that was to be when all that has come is handed up, and it is. What is in the output may be what tells the peer to send
    /// no more, so whatever comes before that is written counts, too.
    #[cold]
    pub(super) fn close_if_read(&mut self) {
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

    /// Nobody writes any more: those who wait for it hear that, and nothing is left to be remembered.
    pub(super) fn forget_extra(&mut self) {
        self.extra = None;
    }
}

impl Entry {
    /// What follows from how much has been written: completions, the end of this side, and, if the peer has ended its own, that of the
    /// connection.
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
        if let (true, Finish::Done, true) = (matches!(self.conn.phase, Phase::Open), &extra.finish, extra.peer_finished)
        {
            self.conn.phase = Phase::closing(CloseReason::PeerClosed);
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
            if self.conn.failed {
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
                conn.readable |= conn.failed; // to be looked at once more
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
