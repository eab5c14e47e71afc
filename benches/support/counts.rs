//! What one side has done and used: system calls from the reactors' counters, processor time from the system.

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rpc_transport::ReactorStats;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// A side's counters, since its start or over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Processor time of the whole process, user and system, in microseconds.
    pub cpu_us: u64,
    /// Waits for events.
    pub polls: u64,
    /// Reads that returned something.
    pub reads: u64,
    /// Reads that found nothing.
    pub empty_reads: u64,
    /// Writes.
    pub writes: u64,
    /// Wake-ups written by other threads.
    pub wakes: u64,
}

impl Counts {
    /// The counters now, of this process and these reactors.
    ///
    /// # Errors
    /// When the system does not tell the processor time.
    pub fn now<'a>(reactors: impl IntoIterator<Item = &'a ReactorStats>) -> Result<Counts, Failure> {
        let usage: Usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let mut counts = Counts { cpu_us: cpu_us.unsigned_abs(), ..Counts::default() };
        for stats in reactors {
            counts.polls += stats.polls.get();
            counts.reads += stats.reads.get();
            counts.empty_reads += stats.empty_reads.get();
            counts.writes += stats.writes.get();
            counts.wakes += stats.wakes.get();
        }
        Ok(counts)
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            cpu_us: self.cpu_us - earlier.cpu_us,
            polls: self.polls - earlier.polls,
            reads: self.reads - earlier.reads,
            empty_reads: self.empty_reads - earlier.empty_reads,
            writes: self.writes - earlier.writes,
            wakes: self.wakes - earlier.wakes,
        }
    }

    /// System calls of the reactors. What other threads use to sleep and to wake each other is not among them.
    pub fn system_calls(&self) -> u64 {
        self.polls + self.reads + self.empty_reads + self.writes + self.wakes
    }
}
