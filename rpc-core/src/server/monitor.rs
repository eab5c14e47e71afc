//! A server's counters, from outside.

use std::fmt;
use std::sync::{Arc, Weak};

use rpc_transport::diagnose::Silence;
use rpc_transport::{Counter, Lane, LaneStats, MemoryBudget, ReactorPool, Snapshot, SnapshotOptions};

use super::shared::{Counters, ServerShared};
use super::watchdog::Holder;

/// What a server has done, and what it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Open connections.
    pub connections: u64,
    /// Requests whose handler did not end at once, and which are owed a reply. A method that blocks and whose connection has ended, or
    /// which was cut, is not among them, though it may still hold a worker; what limits the server's work counts it.
    pub in_flight: u64,
    /// Requests received. At rest they are as many as `replied`, and those whose connection ended before their handler did.
    pub accepted: u64,
    /// Requests answered: with a reply or an error. Oneway ones count as answered when their handler ends.
    pub replied: u64,
    /// Bytes held for peers: partial frames and queued output.
    pub buffered_bytes: u64,
    /// Content errors of peers.
    pub glitches: u64,
}

/// See [`ServerHandle::monitor`](crate::ServerHandle::monitor).
#[derive(Clone)]
pub struct Monitor {
    pub(super) shared: Weak<ServerShared>,
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) pool: Weak<ReactorPool>,
}

impl Monitor {
    /// The counters now; all zero when the server is gone.
    pub fn stats(&self) -> ServerStats {
        let Some(shared) = self.shared.upgrade() else { return ServerStats::default() };
        let sum = |f: fn(&Counters) -> &Counter| shared.reactors.iter().map(|r| f(&r.counters).get()).sum();
        ServerStats {
            connections: *shared.open.lock() as u64,
            in_flight: sum(|c| &c.in_flight),
            accepted: sum(|c| &c.accepted),
            replied: sum(|c| &c.replied),
            glitches: sum(|c| &c.glitches),
            buffered_bytes: self.memory.used() as u64,
        }
    }

    /// What the worker pool has done for methods marked as blocking, or as slow; how long their calls waited for a thread. `None` if no method of
    /// the server is, and when the server is gone.
    pub fn workers(&self, lane: Lane) -> Option<LaneStats> {
        self.shared.upgrade()?.workers().map(|workers| workers.stats(lane))
    }

    /// What its reactors, connections and listeners do just now, as an operator reads it. See
    /// [`ReactorPool::snapshot`](rpc_transport::ReactorPool::snapshot), which says what it costs and how long it blocks; here a reactor that
    /// is held is shown with the method that holds it. `None` when the server is gone. For what takes time to see, such as who stalls,
    /// have it [observed](rpc_transport::ReactorPool::observe) first.
    pub fn snapshot(&self, options: &SnapshotOptions) -> Option<Snapshot> {
        let (shared, pool) = (self.shared.upgrade()?, self.pool.upgrade()?);
        let mut snapshot = pool.snapshot(options);
        for (reactor, here) in snapshot.reactors.iter_mut().zip(&shared.reactors) {
            if let Err(Silence::Held { by, same_turn: true, .. }) = &mut reactor.inside {
                *by = Some(Holder(here).to_string());
            }
        }
        Some(snapshot)
    }

    /// The server's reactors, while it lives.
    pub fn reactors(&self) -> Option<Arc<ReactorPool>> {
        self.pool.upgrade()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
