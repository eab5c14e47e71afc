//! The result of one measurement.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{Counts, Failure, SystemCalls};

/// One measurement's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub case: String,
    /// Calls that ended while measuring.
    pub calls: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Times from call to reply.
    pub latency: Latency,
    /// The client's counters over that time.
    pub client: Counts,
    /// The server's.
    pub server: Counts,
}

/// Quantiles of the latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the calls are at or below.
    pub p50: f64,
    /// 99 % are.
    pub p99: f64,
    /// 99.9 % are.
    pub p999: f64,
    /// All are.
    pub max: f64,
}

impl Latency {
    pub(crate) fn of(nanos: &Histogram<u64>) -> Latency {
        let us = |quantile| nanos.value_at_quantile(quantile) as f64 / 1000.0;
        Latency { p50: us(0.5), p99: us(0.99), p999: us(0.999), max: nanos.max() as f64 / 1000.0 }
    }
}

impl Report {
    /// Calls a second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// A count or a time, for each call.
    pub fn per_call(&self, total: u64) -> f64 {
        total as f64 / self.calls.max(1) as f64
    }

    /// System calls of both sides' reactors, for each call, if both count them.
    pub fn system_calls(&self) -> Option<f64> {
        let calls = self.client.calls?.total() + self.server.calls?.total();
        Some(self.per_call(calls))
    }

    /// Prints it for people, or as a line of JSON.
    ///
    /// # Errors
    /// When it is no JSON; that cannot be.
    pub fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        let Latency { p50, p99, p999, max } = self.latency;
        println!("{}: {} calls in {:.2} s, {:.0} calls/s", self.case, self.calls, self.seconds, self.rate());
        println!("  latency µs    p50 {p50:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1}");
        for (side, counts) in [("client", &self.client), ("server", &self.server)] {
            println!("  {side}: CPU {:.2} µs a call, {} KiB of memory", self.per_call(counts.cpu_us), counts.rss_kib);
            if let Some(calls) = counts.calls {
                let SystemCalls { polls, reads, empty_reads, writes, wakes } = calls;
                let [all, polls, reads, empty, writes, wakes] =
                    [calls.total(), polls, reads, empty_reads, writes, wakes].map(|n| self.per_call(n));
                println!(
                    "    system calls a call: {all:.4} (polls {polls:.4}, reads {reads:.4}, empty {empty:.4}, \
                     writes {writes:.4}, wakes {wakes:.4})"
                );
            }
        }
        Ok(())
    }
}
