//! What a connection looks like, for who asks.

use std::time::Instant;

use super::{Conn, ConnId, Entry, Phase};
use crate::diagnose::{ConnSnapshot, ConnState, Held};
use crate::driver::Key;
use crate::panics::caught;
use crate::reactor::core::Core;
use crate::url::Url;

impl Entry {
    pub(crate) fn key(&self) -> Option<Key> {
        self.conn.key
    }

    /// How much there is to say about it, to compare it with others: those that are held up come first, then those that hold the most.
    pub(crate) fn weight(&self) -> (bool, usize) {
        (
            self.conn.hold_ups().any() || self.conn.stalled_since.is_some(),
            self.conn.inbound.len() + self.conn.outbound.len(),
        )
    }
}

impl Conn {
    fn hold_ups(&self) -> Held {
        let Conn { paused, .. } = self;
        Held { by_handler: paused.by_handler, by_output: paused.by_output, by_memory: paused.by_memory }
    }
}

/// A system call for its own address is all that this costs.
pub(crate) fn report(core: &mut Core, id: ConnId) -> Option<ConnSnapshot> {
    let Core { conns, driver, now, .. } = core;
    let entry = conns.get(id)?;
    let local = entry.conn.key.and_then(|key| driver.local(key)).map(|endpoint| Url::from(&endpoint));
    let load = caught(|| entry.pipeline.load()).unwrap_or_default();
    let conn = &entry.conn;
    let (finished, peer_finished) = conn.finished();
    let since = |at: Instant| now.saturating_duration_since(at);
    Some(ConnSnapshot {
        id,
        peer: conn.peer.clone(),
        local,
        accepted: conn.admission.is_some(),
        state: match &conn.phase {
            Phase::Connecting => ConnState::Connecting,
            Phase::Open => ConnState::Open,
            Phase::Closing(closing) => ConnState::Closing(closing.reason.to_string()),
            Phase::Lingering { .. } => ConnState::Lingering,
            Phase::Outlasting(reason) => ConnState::Outlasting(reason.to_string()),
            Phase::Aborting(reason) => ConnState::Closing(reason.to_string()),
        },
        finished,
        peer_finished,
        age: since(conn.opened),
        quiet: since(conn.heard),
        bytes_out: conn.written,
        load,
        input: conn.inbound.len(),
        output: conn.outbound.len(),
        within_frame: conn.inbound.partial_since.map(since),
        stalled: conn.stalled_since.map(since),
        held: conn.hold_ups(),
        seen: None,
        tcp: None,
    })
}
