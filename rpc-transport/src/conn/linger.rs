//! The end of a connection that this side closes: the peer hears all that was written, though it may still write.

use std::io;
use std::time::{Duration, Instant};

use super::{Conn, Cx, Entry, Framed, Inbound, Phase};
use crate::buffer::LinkBuffer;
use crate::error::CloseReason;
use crate::framing::{FrameError, Framing, Next};
use crate::handler::{Frame, Handler};
use crate::reactor::core::with;
use crate::reactor::guarded;

/// How long a peer may take to hear the last words and close its side. Until then it counts as one of its listener's connections.
const LINGER: Duration = Duration::from_secs(1);

impl Entry {
    /// Begins to linger once the output is written, if the peer may not have read all of it. The handler hears of the end now: what it
    /// would go on doing nobody would hear of.
    pub(super) fn linger(&mut self, now: Instant) {
        let conn = &mut self.conn;
        let (Phase::Closing(_), Some(key)) = (&conn.phase, conn.key) else { return };
        let heard = conn.written == 0 || !conn.parting;
        #[cfg(feature = "tls")]
        let heard = conn.has_heard_all(heard);
        if heard || conn.admission.is_none() || !conn.outbound.is_empty() {
            return;
        }
        if with(|core| core.driver.finish(key)).is_err() {
            return; // the peer is gone
        }
        conn.key = None; // nothing can be written any more
        if let Phase::Closing(closing) = std::mem::replace(&mut conn.phase, Phase::closing(CloseReason::Stopped)) {
            self.tell_end(now, &closing.reason);
        }
        let over = std::mem::replace(&mut self.pipeline, Box::new(Framed { framing: Ended, handler: Ended }));
        guarded("the end of a handler", || drop(over));
        // Whatever the handler did in its last call, the last words have been said.
        let conn = &mut self.conn;
        conn.forget_extra();
        (conn.inbound, conn.outbound, conn.busy) = (Inbound::default(), LinkBuffer::new(), false);
        #[cfg(feature = "tls")]
        {
            conn.end_handshake();
            conn.tls = None; // what still comes is not looked at
        }
        conn.phase = Phase::Lingering { until: now + LINGER };
        conn.key = Some(key);
        conn.readable = true; // what has arrived by now brings no further event
    }
}

/// In the place of the handler that has heard of its end. Nothing is asked of it: messages go back to their senders.
pub(super) struct Ended;

impl Handler for Ended {
    fn on_frame(&mut self, _: &mut Cx<'_>, _: Frame<'_>) {}
}

impl Framing for Ended {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        Ok(Next::More { need: input.len() + 1 })
    }
}

impl Conn {
    /// No more time: reads what has arrived, so that closing is no reset, and closes.
    pub(super) fn stop_lingering(&mut self, now: Instant) {
        self.readable = true;
        self.discard(now);
        self.phase = Phase::Lingering { until: now };
    }

    /// Reads what still comes, up to a turn's worth, and drops it; at its end the lingering is over.
    pub(super) fn discard(&mut self, now: Instant) {
        let mut budget = self.limits.turn_bytes;
        while self.readable && budget > 0 {
            self.inbound = Inbound::default();
            match self.read_once(budget) {
                Ok(n) if n > 0 => budget = budget.saturating_sub(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Ok(_) | Err(_) => {
                    self.readable = false;
                    if let Phase::Lingering { until } = &mut self.phase {
                        *until = now;
                    }
                }
            }
        }
        self.inbound = Inbound::default();
    }
}
