//! Counters. Each reactor writes its own, padded to cache lines; anyone may read them at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::put_back;

/// A counter that one thread at a time writes and any thread reads: a load and a store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one thread that writes this counter at a time.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts; for the one thread that writes this counter at a time.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one reactor has done since it started.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ReactorStats {
    /// Turns. Each begins with a wait for events, an `epoll_wait` call, unless a host knows that there are none: so may a tokio runtime.
    pub polls: Counter,
    /// Read system calls that returned bytes or end of file.
    pub reads: Counter,
    /// Reads that filled less than was asked for, after which no second read is made.
    pub short_reads: Counter,
    /// Reads that found nothing (`EAGAIN`); none in steady state.
    pub empty_reads: Counter,
    /// Write system calls.
    pub writes: Counter,
    /// Buffers handed to those writes.
    pub iovecs: Counter,
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Bytes of unfinished frames that were moved to a block with room for the whole frame.
    pub moved_bytes: Counter,
    /// Wake-ups written by other threads because this reactor slept.
    pub wakes: Counter,
    /// Calls that were made on it between two turns: [`ReactorHandle::enter_to_call`](crate::ReactorHandle::enter_to_call).
    pub guests: Counter,
    /// Whole frames handed to handlers.
    pub frames: Counter,
    /// Open connections.
    pub connections: Counter,
    /// Connections accepted.
    pub accepted: Counter,
    /// Accept errors of every kind.
    pub accept_errors: Counter,
    /// Connections refused because of `max_connections`.
    pub refused_connections: Counter,
    /// Polls of local tasks.
    pub task_polls: Counter,
    /// Turns that took longer than a server's `reactor_stall`; written by its watchdog.
    pub stalls: Counter,
}

/// Bytes held for peers in the whole process: partial frames and queued output.
#[derive(Debug)]
pub struct MemoryBudget {
    used: AtomicUsize,
    /// Connections that hold some of it.
    holders: AtomicUsize,
    /// New work has been refused, and what is held has not come down to where it is not tight since.
    sheds: AtomicBool,
    /// Bytes of large frames for which there is room already, arrived or not.
    announced: AtomicUsize,
    limit: usize,
    /// 95 % of it.
    refusing_from: usize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes (`max_buffered_bytes`; default 256 MiB).
    pub fn new(limit: usize) -> Self {
        MemoryBudget {
            used: AtomicUsize::new(0),
            holders: AtomicUsize::new(0),
            sheds: AtomicBool::new(false),
            announced: AtomicUsize::new(0),
            limit: limit.max(1),
            refusing_from: limit.max(1) / 100 * 95,
        }
    }

    /// Bytes held now.
    #[inline]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The most that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// At 95 % new work is refused.
    #[inline]
    pub fn refuses_work(&self) -> bool {
        self.would_refuse_work_with(0)
    }

    /// Whether it would be so with that much more.
    #[inline]
    pub(crate) fn would_refuse_work_with(&self, more: usize) -> bool {
        self.used().saturating_add(more) >= self.refusing_from
    }

    /// At 75 % the largest connections are not read any more.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.limit / 4 * 3
    }

    /// Whether it would be so with that much more.
    pub(crate) fn is_tight_with(&self, more: usize) -> bool {
        self.used().saturating_add(more) >= self.limit / 4 * 3
    }

    /// At 100 % the largest connection is closed.
    pub(crate) fn is_spent(&self) -> bool {
        self.used() >= self.limit
    }

    /// Connections that are not read because they hold the most are to be closed until memory is not tight any more. Without that
    /// a few that hold everything, and send nothing, would have the work of all others refused for as long as they like.
    pub(crate) fn sheds(&self) -> bool {
        self.sheds.load(Relaxed)
    }

    /// Room for a frame of that size before it has come: all at once if what is announced stays within an eighth of the limit. That much may
    /// thus be resident though nobody has sent it, because what was freed before is used again.
    pub(crate) fn announce(self: &Arc<Self>, bytes: usize) -> Option<Announced> {
        let before = self.announced.fetch_add(bytes, Relaxed);
        let announced = Announced { bytes, memory: Arc::clone(self) };
        (before.saturating_add(bytes) <= self.limit / 8).then_some(announced)
    }

    pub(crate) fn holders(&self) -> usize {
        self.holders.load(Relaxed)
    }

    /// One connection holds `after` bytes instead of `before`.
    pub(crate) fn adjust(&self, before: usize, after: usize) {
        match (before, after) {
            (0, 1..) => _ = self.holders.fetch_add(1, Relaxed),
            (1.., 0) => _ = self.holders.fetch_sub(1, Relaxed),
            _ => {}
        }
        if put_back!("B34") {
            return self.used.store(self.used() + after - before, Relaxed); // credit is lost between the load and the store
        }
        if after > before {
            self.used.fetch_add(after - before, Relaxed);
            if self.refuses_work() {
                self.sheds.store(true, Relaxed);
            }
        } else if before > after {
            self.used.fetch_sub(before - after, Relaxed);
            if self.sheds() && !self.is_tight() {
                self.sheds.store(false, Relaxed);
            }
        }
    }
}

/// Room for a frame that is on its way; gives it back when dropped.
pub(crate) struct Announced {
    bytes: usize,
    memory: Arc<MemoryBudget>,
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.memory.announced.fetch_sub(self.bytes, Relaxed);
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        MemoryBudget::new(256 << 20)
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use super::*;
    use crate::sync::model::explore;
    use crate::sync::thread;

    /// B34, I11: whatever connections of several reactors take and give back at a time, the books balance.
    #[test]
    fn memory_budget() {
        explore("memory_budget", || {
            let budget = Arc::new(MemoryBudget::new(100));
            let others = [30, 40].map(|held| {
                let budget = Arc::clone(&budget);
                thread::spawn(move || {
                    budget.adjust(0, held);
                    budget.adjust(held, held / 2);
                    assert!(budget.used() >= held / 2 && budget.holders() >= 1, "what this thread holds is in it");
                    budget.adjust(held / 2, 0);
                })
            });
            assert!(budget.used() <= 70 && budget.holders() <= 2);
            others.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((budget.used(), budget.holders()), (0, 0));
        });
    }
}
