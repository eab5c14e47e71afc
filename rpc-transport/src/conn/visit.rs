//! Visits: code of somebody else that runs on a connection's handler.

use super::{ConnId, Cx, Entry, Pipeline, settle};
use crate::reactor::ReactorHandle;
use crate::reactor::core::{Core, try_with, with};

/// Runs `f` on a connection of this thread's reactor, if it is still there and not running already.
pub(crate) fn visit<R>(id: ConnId, f: impl FnOnce(&mut dyn Pipeline, &mut Cx<'_>) -> R) -> Option<R> {
    let (mut entry, now) = with(|core| core.conns.take(id).map(|entry| (entry, core.now)))?;
    let result = entry.call(now, f);
    settle(entry, now);
    result
}

/// As [`visit`], for code that may run anywhere, such as a task's: nothing if this thread does not turn `reactor`.
#[inline]
pub(crate) fn visit_from<R>(
    reactor: &ReactorHandle,
    id: ConnId,
    f: impl FnOnce(&mut dyn Pipeline, &mut Cx<'_>) -> R,
) -> Option<R> {
    let take = |core: &mut Core| {
        let entry = if core.handle.is(reactor) { core.conns.take(id) } else { None };
        entry.map(|entry| (entry, core.now))
    };
    let (mut entry, now) = try_with(take).flatten()?;
    let result = entry.call(now, f);
    match entry.conn.can_wait() {
        true => settle_later(entry),
        false => settle(entry, now),
    }
    result
}

/// Puts a connection back as it is. Many tasks may visit it in a turn: what follows from all that they did is done once, before the turn's
/// output is written.
#[inline(always)]
fn settle_later(mut entry: Box<Entry>) {
    with(|core| {
        let id = entry.conn.id;
        if !std::mem::replace(&mut entry.conn.in_visited, true) {
            core.visited.push(id);
        }
        core.conns.put(id, entry);
    });
}

/// Settles the connections that were visited.
pub(crate) fn settle_visited() {
    while let Some(id) = with(|core| core.visited.pop()) {
        if let Some((mut entry, now)) = with(|core| core.conns.take(id).map(|entry| (entry, core.now))) {
            entry.conn.in_visited = false;
            settle(entry, now);
        }
    }
}
