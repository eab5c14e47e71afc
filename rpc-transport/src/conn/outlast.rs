//! Handlers with work that is to end though their peer is gone: the socket is closed, the handler stays until it is idle.

use std::time::Instant;

use super::{Conn, Entry, Inbound, Paused, Phase};
use crate::buffer::LinkBuffer;
use crate::error::CloseReason;
use crate::reactor::core::with;

impl Entry {
    /// Keeps the handler, if it wants to be kept. The socket has been closed.
    pub(super) fn stay(mut self: Box<Self>, now: Instant, reason: CloseReason) -> Result<(), (Box<Self>, CloseReason)> {
        if self.call(now, |pipeline, cx| pipeline.outlasts(cx, &reason)) != Some(true) {
            return Err((self, reason));
        }
        let conn = &mut self.conn;
        conn.phase = Phase::Outlasting(Box::new(reason));
        conn.inbound = Inbound::default();
        conn.paused = Paused::default();
        conn.stop_writing();
        #[cfg(feature = "tls")]
        drop(conn.tls.take());
        conn.forget_extra();
        if let Some(admission) = &mut conn.admission {
            admission.leave();
        }
        conn.memory.adjust(std::mem::take(&mut conn.accounted), 0);
        with(|core| {
            if let Some((timer, _)) = self.conn.check.take() {
                core.timers.cancel(timer);
            }
            let mut entry = self;
            entry.conn.count(&mut core.work);
            core.conns.put(entry.conn.id, entry);
        });
        Ok(())
    }

    /// Whether the handler has ended what it stayed for.
    pub(super) fn is_done(&mut self, now: Instant) -> bool {
        self.conn.stop_writing();
        self.call(now, |pipeline, _| pipeline.is_idle()) != Some(false)
    }
}

impl Conn {
    /// What is written now reaches nobody.
    fn stop_writing(&mut self) {
        self.outbound = LinkBuffer::new();
        (self.stalled_since, self.stuck) = (None, false);
    }
}
