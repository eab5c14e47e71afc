//! What must hold of a channel's connections between two turns.

use std::collections::HashSet;

use rpc_transport::testing::each_handler;

use super::channel::Channel;
use super::handler::ClientHandler;

/// What a channel holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelAudit {
    /// Its connections, those that are ending included.
    pub connections: usize,
    /// Calls that have an id and have not ended, or not been fetched.
    pub waiting: usize,
    /// Of those, how many are on the wire.
    pub on_wire: usize,
    /// Ids that wait for a late reply.
    pub abandoned: usize,
    /// Outcomes of local calls whose connection ended before they asked.
    pub orphans: usize,
}

/// Looks at a channel whose reactors are turned by hand.
///
/// # Errors
/// The invariant that does not hold.
pub fn audit_channel<M>(channel: &Channel<M>) -> Result<ChannelAudit, String> {
    let inner = channel.inner();
    let mut audit = ChannelAudit::default();
    let mut broken = None;
    let mut seen = HashSet::new();
    for slot in &inner.slots {
        audit.orphans += slot.orphans();
        if !seen.insert(slot.reactor.index()) {
            continue; // a reactor with several of its connections
        }
        each_handler::<ClientHandler>(&slot.reactor, |id, handler, busy| {
            if !handler.is_of(inner) {
                return;
            }
            match handler.audit(busy) {
                Ok(one) => {
                    audit.connections += 1;
                    audit.waiting += one.waiting;
                    audit.on_wire += one.on_wire;
                    audit.abandoned += one.abandoned;
                }
                Err(what) => broken = Some(format!("client connection {id:?}: {what}")),
            }
        });
    }
    match broken {
        Some(broken) => Err(broken),
        None => Ok(audit),
    }
}
