//! What must hold of a server's connections between two turns.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rpc_transport::WorkerPool;
use rpc_transport::testing::each_handler;

use super::handle::ServerHandle;
use super::handler::ServerHandler;

/// What a server holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerAudit {
    /// Its connections.
    pub connections: usize,
    /// Calls whose handler has not ended.
    pub running: usize,
    /// The most of them on one connection.
    pub most_on_one: usize,
    /// Requests received, in all.
    pub accepted: u64,
    /// Requests answered, in all.
    pub replied: u64,
}

/// Looks at a server whose reactors are turned by hand.
///
/// # Errors
/// The invariant that does not hold.
pub fn audit_server(server: &ServerHandle) -> Result<ServerAudit, String> {
    let shared = server.shared();
    let mut audit = ServerAudit::default();
    let mut broken = None;
    for reactor in server.reactors().handles() {
        each_handler::<ServerHandler>(reactor, |id, handler, _| {
            if !handler.is_of(shared) {
                return;
            }
            audit.connections += 1;
            match handler.audit() {
                Ok(running) => {
                    audit.running += running;
                    audit.most_on_one = audit.most_on_one.max(running);
                }
                Err(what) => broken = Some(format!("server connection {id:?}: {what}")),
            }
        });
    }
    if let Some(broken) = broken {
        return Err(broken);
    }
    let stats = server.stats();
    (audit.accepted, audit.replied) = (stats.accepted, stats.replied);
    if stats.in_flight != audit.running as u64 {
        return Err(format!("{} calls run, {} counted", audit.running, stats.in_flight));
    }
    let counted = shared.running.load(Ordering::Acquire);
    // A job counts until it returns, its connection knows of that a little later, and may be gone by then.
    if shared.workers().is_none() && counted != audit.running {
        return Err(format!("{} calls run, {counted} count towards max_inflight", audit.running));
    }
    if stats.connections != audit.connections as u64 {
        return Err(format!("{} connections, {} counted", audit.connections, stats.connections));
    }
    if counted > shared.limits.max_inflight {
        return Err(format!("{counted} calls run, max_inflight is {}", shared.limits.max_inflight));
    }
    if audit.most_on_one > shared.limits.max_inflight_per_conn {
        let limit = shared.limits.max_inflight_per_conn;
        return Err(format!("{} calls of one connection run, max_inflight_per_conn is {limit}", audit.most_on_one));
    }
    Ok(audit)
}

/// The work of a server without worker threads. It does not keep the server alive; what it still has when it is dropped never runs.
#[derive(Clone)]
pub struct Jobs(Arc<WorkerPool>);

impl Jobs {
    /// `None`: the server has no method that blocks.
    pub fn of(server: &ServerHandle) -> Option<Jobs> {
        server.shared().workers().map(|workers| Jobs(Arc::clone(workers)))
    }

    /// Jobs that have not begun.
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// Runs the first of them, here.
    pub fn run_one(&self) {
        self.0.run_one();
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs", self.waiting())
    }
}
