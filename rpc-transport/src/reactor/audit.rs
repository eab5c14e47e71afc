//! What must hold of a reactor between two turns, and what it holds.

use std::sync::Arc;

use super::ReactorHandle;
use super::core::{Core, TimerKey, with};
use crate::conn::{self, Token};
use crate::listener::Listener;
use crate::stats::MemoryBudget;

/// What a connection waits for an event of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    pub(crate) token: usize,
    pub(crate) input: bool,
    pub(crate) room: bool,
    /// Nothing else, because it is not read.
    pub(crate) failure: bool,
}

/// What a reactor holds.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReactorAudit {
    /// Open connections.
    pub connections: usize,
    /// Open listeners.
    pub listeners: usize,
    /// Timers of all kinds.
    pub timers: usize,
    /// Of those, what connections that have ended left behind.
    pub stale_timers: usize,
    /// Local tasks that have not ended.
    pub tasks: usize,
    /// Bytes that its connections hold.
    pub held: usize,
    /// Blocks of memory that they hold.
    pub blocks: usize,
    /// What its connections wait for.
    pub(crate) awaited: Vec<Awaited>,
    /// Bytes reported to each budget.
    pub budgets: Vec<(Arc<MemoryBudget>, usize)>,
}

/// Looks at a reactor that is turned by hand. `None`: it has stopped.
///
/// # Errors
/// The invariant that does not hold.
pub fn audit(reactor: &ReactorHandle) -> Option<Result<ReactorAudit, String>> {
    reactor.at_hand(|| with(look)).map(|result| result.map_err(|broken| format!("{reactor:?}: {broken}")))
}

fn look(core: &mut Core) -> Result<ReactorAudit, String> {
    let mut audit = ReactorAudit {
        listeners: core.listeners.iter().flatten().count(),
        timers: core.timers.len(),
        stale_timers: core.stale_timers,
        tasks: core.tasks.running(),
        ..ReactorAudit::default()
    };
    let (mut checks, mut armed, mut busy, mut ready) = (0, 0, 0, 0);
    for id in core.conns.ids() {
        let entry = core.conns.get(id).ok_or_else(|| format!("connection {id:?} is still out after the turn"))?;
        let conn = conn::audit(id, entry)?;
        audit.connections += 1;
        let (input, room, failure) = (conn.awaits_input, conn.awaits_room, conn.is_paused);
        audit.awaited.push(Awaited { token: Token::Conn(id).pack(), input, room, failure });
        audit.held += conn.held;
        audit.blocks += conn.blocks;
        checks += usize::from(conn.has_check);
        armed += conn.armed;
        busy += usize::from(conn.busy);
        ready += usize::from(conn.in_ready);
        match audit.budgets.iter_mut().find(|(budget, _)| Arc::ptr_eq(budget, &conn.memory)) {
            Some((_, sum)) => *sum += conn.accounted,
            None => audit.budgets.push((conn.memory, conn.accounted)),
        }
        let listed = core.ready.iter().filter(|listed| **listed == id).count();
        if listed != usize::from(conn.in_ready) {
            return Err(format!("connection {id:?} is {listed} times on the ready list"));
        }
    }
    // Those of connections that have ended since are skipped in the next turn.
    let listed = core.ready.iter().filter(|id| core.conns.is_used(**id)).count();
    if listed != ready {
        return Err(format!("{listed} on the ready list, {ready} of them say so"));
    }
    if core.handle.stats().connections.get() != audit.connections as u64 {
        return Err(format!("{} connections, {} counted", audit.connections, core.handle.stats().connections.get()));
    }
    let (mut accepts, mut wakers, mut reminders) = (0, 0, 0);
    let mut orphan = None;
    let Core { timers, conns, .. } = core;
    timers.retain(|key| {
        accepts += usize::from(matches!(key, TimerKey::Accept(_)));
        wakers += usize::from(matches!(key, TimerKey::Waker(_)));
        if let TimerKey::Reminder(id, _) = key {
            reminders += 1;
            orphan = orphan.or((!conns.is_used(*id)).then_some(*id));
        }
        true
    });
    if let Some(id) = orphan {
        return Err(format!("a reminder of connection {id:?}, which is gone"));
    }
    let paused = core.listeners.iter().flatten().filter(|listener| Listener::is_paused(listener)).count();
    let timed = core.listeners.iter().flatten().filter(|listener| Listener::has_timer(listener)).count();
    if accepts < paused || accepts != timed {
        return Err(format!("{paused} listeners paused, {timed} of them until a timer, {accepts} timers to end that"));
    }
    if core.work != armed + wakers + busy {
        let counted = core.work;
        return Err(format!(
            "{counted} pieces of work counted, {armed} + {wakers} timers and {busy} connections of it"
        ));
    }
    let expected = checks + armed + wakers + reminders + accepts + core.stale_timers;
    if core.timers.len() != expected {
        return Err(format!("{} timers, {expected} that somebody waits for", core.timers.len()));
    }
    Ok(audit)
}
