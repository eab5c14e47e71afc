//! The time limits of a connection: one timer for all of them.

use std::time::{Duration, Instant};

use super::{Conn, Phase};
use crate::error::CloseReason;

/// How fast a peer must read what is left for it when the connection closes, in bytes a second.
const MIN_RATE: u64 = 64 << 10;

impl Conn {
    /// The next time at which a time limit may have been reached: of those that count in this phase, and no others, since
    /// [`enforce_time_limits`](Conn::enforce_time_limits) must then do something about it. `None`: never.
    pub(super) fn next_check(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connecting => self.connect_at(),
            Phase::Open => {
                [self.stall_at(), self.idle_at(), self.first_frame_at(), self.partial_at()].into_iter().flatten().min()
            }
            Phase::Closing(ref closing) => self.stall_at().into_iter().chain(closing.until).min(),
            Phase::Aborting(_) => self.stall_at(),
            Phase::Lingering { until } => Some(until),
            Phase::Outlasting(_) => None,
        }
    }

    fn connect_at(&self) -> Option<Instant> {
        #[cfg(feature = "tls")]
        return self.opened.checked_add(self.handshake_limit());
        #[cfg(not(feature = "tls"))]
        self.opened.checked_add(self.limits.connect_timeout)
    }

    fn stall_at(&self) -> Option<Instant> {
        self.stalled_since?.checked_add(self.limits.write_stall_timeout)
    }

    /// Sets the end of closing when it begins: `write_stall_timeout` from there, and more for much output. Else a peer that takes a byte
    /// now and then, which no stall is, would keep all of it for ever.
    pub(super) fn limit_closing(&mut self, now: Instant) {
        if let Phase::Closing(closing) = &mut self.phase
            && closing.until.is_none()
        {
            let paid_for = Duration::from_millis(self.outbound.len() as u64 * 1000 / MIN_RATE);
            closing.until = now.checked_add(self.limits.write_stall_timeout.saturating_add(paid_for));
        }
    }

    fn idle_at(&self) -> Option<Instant> {
        self.last_active.checked_add(self.limits.idle_timeout)
    }

    /// Until when the first frame must be there. While this side keeps it waiting its peer cannot help it.
    fn first_frame_at(&self) -> Option<Instant> {
        let awaited = self.admission.is_some() && !self.inbound.frames_done && !self.was_paused && !self.is_held_back();
        awaited.then(|| self.opened.checked_add(self.limits.first_frame_timeout)).flatten()
    }

    /// Until when more of an unfinished frame must be there; likewise, but for want of memory: what has come of it may be what memory is
    /// short of.
    fn partial_at(&self) -> Option<Instant> {
        let awaited = !self.inbound.has_frames() && !self.was_paused;
        let frame_at = awaited.then(|| self.inbound.give_up_at(self.limits.frame_progress)).flatten();
        #[cfg(feature = "tls")]
        return frame_at.into_iter().chain(self.record_at().filter(|_| awaited)).min();
        #[cfg(not(feature = "tls"))]
        frame_at
    }

    pub(super) fn enforce_time_limits(&mut self, now: Instant, idle_since: Option<Instant>) {
        let limits = &self.limits;
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let idle = passed(idle_since.and_then(|since| since.checked_add(limits.idle_timeout)));
        match self.phase {
            #[cfg(feature = "tls")]
            Phase::Connecting if passed(self.connect_at()) && self.admission.is_some() => {
                self.abort(CloseReason::Limit("handshake_timeout"));
            }
            Phase::Connecting if passed(self.connect_at()) => {
                self.abort(CloseReason::ConnectTimeout(limits.connect_timeout));
            }
            Phase::Connecting | Phase::Lingering { .. } | Phase::Outlasting(_) | Phase::Aborting(_) => {}
            _ if passed(self.stall_at()) => self.abort(CloseReason::Limit("write_stall_timeout")),
            Phase::Closing(ref closing) if passed(closing.until) => {
                self.abort(CloseReason::Limit("write_stall_timeout"))
            }
            Phase::Closing(_) => {} // nothing else may cut it short
            Phase::Open if passed(self.partial_at()) && self.is_held_back() => {
                self.abort(CloseReason::Limit("max_buffered_bytes"));
            }
            Phase::Open if passed(self.partial_at()) => self.close(CloseReason::Limit("frame_progress")),
            Phase::Open if passed(self.first_frame_at()) => self.close(CloseReason::Limit("first_frame_timeout")),
            Phase::Open if idle && self.outbound.is_empty() => self.close(CloseReason::Limit("idle_timeout")),
            Phase::Open if passed(self.idle_at()) => self.last_active = now,
            Phase::Open => {}
        }
        self.step_or_shed(now);
    }
}
