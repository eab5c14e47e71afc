//! System calls of ours, from the reactors' own counters.

use bench_driver::{Counts, SystemCalls};
use rpc_transport::ReactorStats;

use crate::Failure;

/// What this process has used up to now, with these reactors' system calls.
pub(crate) fn of<'a>(reactors: impl IntoIterator<Item = &'a ReactorStats>) -> Result<Counts, Failure> {
    let mut calls = SystemCalls::default();
    for stats in reactors {
        calls.polls += stats.polls.get();
        calls.reads += stats.reads.get();
        calls.empty_reads += stats.empty_reads.get();
        calls.writes += stats.writes.get();
        calls.wakes += stats.wakes.get();
    }
    Counts::now(Some(calls))
}
