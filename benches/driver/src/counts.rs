//! What one side has done and used.

use std::fs;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// A side's counters, since its start or over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Processor time of the whole process, user and system, in microseconds.
    pub cpu_us: u64,
    /// Resident memory now, in KiB.
    pub rss_kib: u64,
    /// System calls, of sides that count them.
    pub calls: Option<SystemCalls>,
}

/// System calls of a side's reactors. What other threads use to sleep and to wake each other is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemCalls {
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
    /// What this process has used up to now.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn now(calls: Option<SystemCalls>) -> Result<Counts, Failure> {
        let usage: Usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse().ok());
        Ok(Counts { cpu_us: cpu_us.unsigned_abs(), rss_kib: rss.unwrap_or_default(), calls })
    }

    /// What was added since `earlier`; memory as it is.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        let calls = self.calls.zip(earlier.calls).map(|(now, then)| SystemCalls {
            polls: now.polls - then.polls,
            reads: now.reads - then.reads,
            empty_reads: now.empty_reads - then.empty_reads,
            writes: now.writes - then.writes,
            wakes: now.wakes - then.wakes,
        });
        Counts { cpu_us: self.cpu_us - earlier.cpu_us, rss_kib: self.rss_kib, calls }
    }
}

impl SystemCalls {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.polls + self.reads + self.empty_reads + self.writes + self.wakes
    }
}
