//! The result of one measurement.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{Counts, Failure, RunArgs};

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

    /// System calls of both sides' reactors, for each call.
    pub fn system_calls(&self) -> f64 {
        self.per_call(self.client.system_calls() + self.server.system_calls())
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
            let Counts { cpu_us, polls, reads, empty_reads, writes, wakes } = *counts;
            let [cpu, calls] = [cpu_us, counts.system_calls()].map(|n| self.per_call(n));
            let [polls, reads, empty, writes, wakes] =
                [polls, reads, empty_reads, writes, wakes].map(|n| self.per_call(n));
            println!(
                "  {side} a call: CPU {cpu:.2} µs, system calls {calls:.4} (polls {polls:.4}, reads {reads:.4}, \
                 empty {empty:.4}, writes {writes:.4}, wakes {wakes:.4})"
            );
        }
        Ok(())
    }
}

impl RunArgs {
    /// The measurement's name, as in `echo_32b_x100_in_flight reactor`.
    pub fn case(&self) -> String {
        let size = match self.payload {
            n if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{}mib", n >> 20),
            n if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{}kib", n >> 10),
            n => format!("{n}b"),
        };
        let mut name = format!("{}_{size}_x{}_in_flight", self.method, self.in_flight);
        if self.connections > 1 {
            name += &format!("_x{}_connections", self.connections);
        }
        if self.transport == crate::Transport::Unix {
            name += "_unix";
        }
        if self.pin {
            name += "_pinned";
        }
        format!("{name} {}", self.client)
    }
}
