//! The end of a connection that this side closes: the peer hears all that was written, though it may still write.

use std::io;
use std::time::{Duration, Instant};

use super::{Conn, Inbound, Phase};
use crate::error::CloseReason;
use crate::reactor::core::with;

/// How long a peer may take to hear the last words and close its side.
const LINGER: Duration = Duration::from_secs(1);

impl Conn {
    /// Begins to linger if the peer may not have read all that was written, and may still write.
    pub(super) fn linger(&mut self, now: Instant) {
        let (Phase::Closing(reason), Some(key)) = (&self.phase, self.key) else { return };
        let ours = matches!(**reason, CloseReason::Local(_) | CloseReason::Framing(_));
        if !ours || self.admission.is_none() || self.written == 0 || self.hangup || !self.outbound.is_empty() {
            return;
        }
        if with(|core| core.driver.finish(key)).is_ok()
            && let Phase::Closing(reason) = std::mem::replace(&mut self.phase, Phase::Connecting)
        {
            self.phase = Phase::Lingering { reason, until: now + LINGER };
            self.readable = true; // what has arrived by now brings no further event
            self.inbound = Inbound::default();
        }
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
                    if let Phase::Lingering { until, .. } = &mut self.phase {
                        *until = now;
                    }
                }
            }
        }
        self.inbound = Inbound::default();
    }
}
