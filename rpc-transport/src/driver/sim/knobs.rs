//! How a simulated network behaves.

use std::time::Duration;

/// How the network behaves. Chances are per mille.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// The shortest and the longest time a segment takes.
    pub latency: (Duration, Duration),
    /// The most bytes that arrive at once.
    pub segment: usize,
    /// Bytes that the system holds for one direction of a connection.
    pub buffer: usize,
    /// Connections that wait to be accepted; more are not answered.
    pub backlog: usize,
    /// The longest time that one turn of a reactor takes.
    pub turn: Duration,
    /// A write takes less than there is room for.
    pub short_write: u32,
    /// A write takes nothing though there is room, and does not say that it would block. No system is known to do so.
    pub empty_write: u32,
    /// A wait reports readiness that is none.
    pub spurious: u32,
    /// A wait reports a token whose socket was closed a while ago.
    pub stale: u32,
    /// An event is reported a while after it happened.
    pub late_event: u32,
    /// An event is left for the next wait, behind others.
    pub left_event: u32,
    /// A wake-up takes effect a while later.
    pub late_wake: u32,
    /// A connection attempt is lost: nobody answers.
    pub lost_syn: u32,
    /// A connection dies while it waits to be accepted.
    pub aborted_accept: u32,
    /// The system has no descriptor, port, route or memory for a new connection.
    pub no_connect: u32,
    /// Accepting fails, by any of the errors that say nothing of the listener.
    pub no_accept: u32,
    /// The poller refuses a socket, or a change of what it tells of it.
    pub no_register: u32,
}

impl Default for Knobs {
    /// A well-behaved network: 20 to 60 µs a segment of at most 64 KiB.
    fn default() -> Self {
        Knobs {
            latency: (Duration::from_micros(20), Duration::from_micros(60)),
            segment: 64 << 10,
            buffer: 256 << 10,
            backlog: 128,
            turn: Duration::from_micros(5),
            short_write: 0,
            empty_write: 0,
            spurious: 0,
            stale: 0,
            late_event: 0,
            left_event: 0,
            late_wake: 0,
            lost_syn: 0,
            aborted_accept: 0,
            no_connect: 0,
            no_accept: 0,
            no_register: 0,
        }
    }
}
