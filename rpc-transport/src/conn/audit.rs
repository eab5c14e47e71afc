//! What must hold of a connection between two turns.

use std::sync::Arc;

use super::linger::Ended;
use super::{ACCOUNT_STEP, ConnId, Entry, Phase};
use crate::stats::MemoryBudget;

/// A connection's share of what its reactor holds.
pub(crate) struct ConnAudit {
    /// It would read if it were told that there is something.
    pub(crate) awaits_input: bool,
    pub(crate) awaits_room: bool,
    /// Open, and not read.
    pub(crate) is_paused: bool,
    pub(crate) in_ready: bool,
    pub(crate) armed: usize,
    pub(crate) busy: bool,
    pub(crate) has_check: bool,
    pub(crate) accounted: usize,
    pub(crate) held: usize,
    /// Blocks of memory.
    pub(crate) blocks: usize,
    pub(crate) memory: Arc<MemoryBudget>,
}

pub(crate) fn audit(id: ConnId, entry: &mut Entry) -> Result<ConnAudit, String> {
    let ended = entry.handler().is::<Ended>();
    let conn = &entry.conn;
    let broken = |what: &str| Err(format!("connection {id:?} to {}: {what}", conn.peer));
    let held = conn.held();
    if conn.id != id {
        return broken("it has another's place");
    }
    if conn.key.is_none() && !matches!(conn.phase, Phase::Outlasting(_) | Phase::Aborting(_)) {
        return broken("no socket, and it is not ending");
    }
    if matches!(conn.phase, Phase::Outlasting(_)) && (conn.key.is_some() || held > 0 || conn.accounted > 0) {
        return broken("it outlasts its socket, and holds what nobody will read or write");
    }
    if matches!(conn.phase, Phase::Open) && conn.is_runnable() && !conn.in_ready {
        return broken("something can be read, and it is not on the ready list");
    }
    let connecting = matches!(conn.phase, Phase::Connecting | Phase::Aborting(_));
    if matches!(conn.phase, Phase::Lingering { .. }) && (conn.readable && !conn.in_ready || held > 0) {
        return broken("it lingers, and does not read what comes");
    }
    if matches!(conn.phase, Phase::Lingering { .. }) != ended {
        return broken("a handler without a connection, or a connection without a handler");
    }
    if !conn.outbound.is_empty() && conn.writable && !connecting {
        return broken("output waits though the socket has room");
    }
    if !conn.outbound.is_empty() && !connecting && (conn.stalled_since.is_none() || !conn.watched) {
        return broken("output waits, and nothing will tell of room");
    }
    if conn.has_unsent() && !matches!(conn.phase, Phase::Aborting(_)) && (conn.writable || !conn.watched) {
        return broken("ciphertext waits, and there is room, or nothing will tell of it");
    }
    if conn.outbound.len() > conn.limits.write_hard {
        return broken("more output than write_hard");
    }
    if conn.in_dirty || conn.in_visited {
        return broken("a turn ended without its flush");
    }
    match (conn.next_check(), conn.check) {
        (Some(_), None) if !matches!(conn.phase, Phase::Aborting(_)) => return broken("a time limit without a timer"),
        (Some(at), Some((_, armed))) if armed > at => {
            return broken(&format!("its timer comes {:?} after its time limit {}", armed - at, phase(&conn.phase)));
        }
        _ => {}
    }
    let content = conn.inbound.len() + conn.outbound.len();
    #[cfg(feature = "tls")]
    let content = content + conn.tls.as_ref().map_or(0, |tls| tls.partial().len() + tls.unsent().len());
    if held < content {
        return broken("it holds less than its content");
    }
    if held.abs_diff(conn.accounted) > ACCOUNT_STEP {
        return broken(&format!(
            "it holds {held} bytes, and the process's budget knows of {} {}",
            conn.accounted,
            phase(&conn.phase)
        ));
    }
    let (_, peer_finished) = conn.finished();
    let reads = matches!(conn.phase, Phase::Open) && conn.is_read() || matches!(conn.phase, Phase::Lingering { .. });
    Ok(ConnAudit {
        awaits_input: reads && !conn.readable && !peer_finished,
        is_paused: matches!(conn.phase, Phase::Open) && !conn.is_read(),
        awaits_room: !connecting && !conn.outbound.is_empty() && !conn.writable,
        in_ready: conn.in_ready,
        armed: conn.armed,
        busy: conn.busy,
        has_check: conn.check.is_some(),
        accounted: conn.accounted,
        held,
        blocks: usize::from(conn.inbound.block.is_some()) + usize::from(conn.outbound.has_block()),
        memory: Arc::clone(&conn.memory),
    })
}

fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Connecting => "while connecting".to_owned(),
        Phase::Open => "while open".to_owned(),
        Phase::Lingering { .. } => "while lingering".to_owned(),
        Phase::Closing(closing) => format!("while closing: {}", closing.reason),
        Phase::Outlasting(_) => "while outlasting its socket".to_owned(),
        Phase::Aborting(reason) => format!("while closing: {reason}"),
    }
}
