//! The end of a run: everybody leaves, and nothing may be left.

use std::sync::Arc;
use std::time::Duration;

use rpc_transport::ReactorHandle;
use rpc_transport::testing::{Step, audit, blocks_out};

use super::{World, is_secure, url};

/// The longest time until servers that shut down are at rest: what runs ends by its deadline, of at most five seconds; goodbyes and
/// lingering ends take a second each.
const SHUTDOWN: Duration = Duration::from_secs(8);

/// The longest time until nothing is left when everybody has been cut: lingering ends, and connecting in vain.
const CUT: Duration = Duration::from_secs(2);

impl World {
    /// Everybody leaves, the clients first or the servers; then nothing may be left.
    pub(super) fn wind_up(&mut self) -> Result<(), String> {
        self.foreign.clear();
        self.attackers.clear();
        self.net.set_knobs(|knobs| (knobs.late_wake, knobs.spurious, knobs.stale) = (0, 0, 0));
        let (gently, clients_first) = (self.net.below(4) > 0, self.net.below(2) == 0);
        if clients_first {
            self.dismiss_clients();
        }
        for index in 0..self.servers.len() {
            match &self.servers[index].handle {
                Some(handle) if gently => {
                    handle.begin_shutdown();
                    self.witness.leaves(&url(&self.servers[index].plan.url));
                }
                _ => {
                    self.dies(index);
                    self.servers[index].handle = None;
                }
            }
        }
        if gently {
            let rests = self.settle(SHUTDOWN)?;
            if self.gentle && rests {
                self.check_counts()?;
            } else if self.gentle && self.servers.iter().all(|seat| seat.plan.limits.is_empty()) {
                return Err(format!("I25: servers have not shut down after {SHUTDOWN:?}: {}", self.what_is_left()));
            }
        }
        self.dismiss_clients();
        self.pipeliners.clear();
        for index in 0..self.servers.len() {
            if let Some(handle) = self.servers[index].handle.take() {
                self.dies(index);
                handle.cut();
            }
        }
        // Where there were panics timers may be left that find nobody.
        if !self.settle(CUT)? && !self.panics {
            return Err(format!("I14: not at rest after {CUT:?}: {}", self.what_is_left()));
        }
        match self.what_is_left() {
            left if left.is_empty() => self.check_gone(),
            left => Err(format!("I14: {left}")),
        }
    }

    fn dismiss_clients(&mut self) {
        for seat in &mut self.clients {
            seat.client = None;
        }
    }

    /// Until nothing will ever happen again (true), or the time is over.
    fn settle(&mut self, limit: Duration) -> Result<bool, String> {
        let until = self.net.elapsed() + limit;
        while self.net.elapsed() <= until {
            self.steps += 1;
            self.pipeline()?;
            match self.net.step() {
                Step::Idle if self.work(1) => {}
                Step::Idle => return Ok(true),
                Step::Turned(index) => {
                    self.look_at(index)?;
                    self.check_shells(index)?;
                }
                Step::Passed => _ = self.work(4),
            }
            if let Some(what) = self.ledger.complaint().or_else(|| self.witness.complaint()) {
                return Err(what);
            }
        }
        Ok(false)
    }

    /// I23, of servers that have shut down gently: what they count is what passed through the network, where that can be seen.
    fn check_counts(&self) -> Result<(), String> {
        for seat in self.servers.iter().filter(|seat| seat.steady && !is_secure(&seat.plan.url)) {
            let Some(handle) = &seat.handle else { continue };
            let (stats, seen) = (handle.stats(), self.witness.tally(&url(&seat.plan.url)));
            // Whose client left before the reply may have been heard, or not.
            let heard = seen.asked.saturating_sub(seen.left)..=seen.asked;
            let said = seen.answered..=seen.answered + seen.left;
            let paid = stats.accepted <= stats.replied + seen.left;
            if !heard.contains(&stats.accepted) || !said.contains(&stats.replied) || !paid {
                let counted = (stats.accepted, stats.replied);
                return Err(format!("I23: it counts (accepted, replied) {counted:?}, the network saw {seen:?}"));
            }
        }
        Ok(())
    }

    /// Nothing, if all is well.
    fn what_is_left(&self) -> String {
        let mut left = Vec::new();
        for reactor in self.reactors() {
            match audit(&reactor) {
                None => left.push(format!("I25: {reactor:?} stopped by itself")),
                Some(Err(broken)) => left.push(broken),
                Some(Ok(audit)) => {
                    // A panic can come before the timer that was just armed is noted; that of a dead connection finds nobody.
                    let timers = audit.timers - if self.panics { audit.stale_timers } else { 0 };
                    if audit.connections + audit.listeners + timers + audit.tasks + audit.held > 0 {
                        left.push(format!("{reactor:?} still has {audit:?}"));
                    }
                }
            }
        }
        let counts = [
            (self.ledger.running(), "handlers"),
            (self.net.sockets(), "sockets"),
            (self.net.listeners(), "listeners"),
            (blocks_out(), "blocks of memory"),
            (self.books.iter().flatten().map(|(budget, _)| budget.used()).sum(), "bytes accounted"),
        ];
        left.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        left.extend(self.ledger.audit());
        left.join("; ")
    }

    fn reactors(&self) -> Vec<ReactorHandle> {
        let pools = self.servers.iter().map(|seat| &seat.pool).chain(self.clients.iter().map(|seat| &seat.pool));
        pools.flat_map(|pool| pool.handles()).cloned().collect()
    }

    /// I25: with the pools everything ends, and nobody holds what handlers shared.
    fn check_gone(&mut self) -> Result<(), String> {
        let reactors = self.reactors();
        self.jobs.clear();
        self.servers.clear();
        self.clients.clear();
        if let Some(reactor) = reactors.iter().find(|reactor| audit(reactor).is_some()) {
            return Err(format!("I25: {reactor:?} outlives its pool"));
        }
        match Arc::strong_count(&self.ledger) {
            1 => Ok(()),
            holders => Err(format!("I25: {} callers or services are still held by somebody", holders - 1)),
        }
    }
}
