//! The limits of a connection and of a listener: finite, named, with a unit and a consequence.

use std::time::Duration;

/// What one connection may cost. Shared by all connections of a listener or of a client.
#[derive(Clone, Debug)]
pub struct ConnLimits {
    /// A server's connection must complete its first frame within this time. Default 10 s. Then: closed.
    pub first_frame_timeout: Duration,
    /// An accepted connection's TLS handshake must be over within this time; [`first_frame_timeout`](ConnLimits::first_frame_timeout)
    /// begins after it. Default 10 s. Then: closed with a reset.
    pub handshake_timeout: Duration,
    /// A frame that has begun must be complete within this time, and after 5 s must have come at 1 KiB/s at least. Default
    /// 30 s. Then: closed (slow loris). Time in which this side does not read does not count, unless that is for want of memory.
    pub frame_progress: Duration,
    /// A connection on which nothing arrived, nothing is queued and the handler holds no work is closed after this
    /// time. Default 10 min for servers; clients use 1 min.
    pub idle_timeout: Duration,
    /// Connecting, with its TLS handshake if it has one, takes at most this time. Default 1 s. Then: closed with [`CloseReason::ConnectTimeout`](crate::CloseReason).
    pub connect_timeout: Duration,
    /// Queued output, in bytes, from which on an accepted connection is not read any more. Default 1 MiB. A connected one is read all
    /// the same: if both sides stopped, each full of output, neither would go on.
    pub write_high: usize,
    /// Queued output, in bytes, at which reading goes on. Default 256 KiB.
    pub write_low: usize,
    /// Queued output, in bytes, at which the connection is closed. Default: the larger of 8 MiB and
    /// `max_frame_size` + `write_high`.
    pub write_hard: usize,
    /// Queued output must make progress within this time; once the connection closes, all of it must be gone within this time and a second
    /// for every 64 KiB. Default 30 s. Then: closed with a reset.
    pub write_stall_timeout: Duration,
    /// Frames of one connection handled before the other ready connections get their turn. Default 64; sixteen times as
    /// many while no other is ready, any number while there is no other.
    pub turn_frames: usize,
    /// Bytes of one connection read before the other connections get their turn. Default 256 KiB; sixteen times as much while its
    /// reactor has no other.
    pub turn_bytes: usize,
}

impl Default for ConnLimits {
    fn default() -> Self {
        ConnLimits {
            first_frame_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            frame_progress: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(1),
            write_high: 1 << 20,
            write_low: 256 << 10,
            write_hard: (16 << 20) + (1 << 20),
            write_stall_timeout: Duration::from_secs(30),
            turn_frames: 64,
            turn_bytes: 256 << 10,
        }
    }
}

/// What one listener may cost.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    /// Open connections of this listener. Default 16,384. Beyond: accepted, closed, counted.
    pub max_connections: usize,
    /// Of those, from one IPv4 address, or from one /64 of IPv6. Default 16,384, for many clients may stand behind one address. Beyond: accepted,
    /// closed, counted.
    /// Addresses are counted if it is less than `max_connections`.
    pub max_connections_per_peer: usize,
    /// TLS handshakes under way on each reactor. Default 1,024. Beyond: the oldest is closed with a reset, and makes room for the newest, since
    /// one that goes on takes a round trip or two; of those whose ClientHello was answered only if they are half of all. While frames come in
    /// on other connections of the reactor, handshakes have a tenth of its time and as much as it slept beside them, and the newest goes first.
    pub max_handshakes: usize,
    /// Connections accepted in a second; a tenth of them may come at once. Default 100,000. Beyond: they wait in the kernel's queue
    /// ([`SocketOptions::backlog`](crate::SocketOptions)), and when that is full their peers try again by themselves.
    pub accept_rate: u32,
    /// After an accept error such as EMFILE the listener pauses for 10 ms, then twice as long each time, up to this.
    /// Default 1 s.
    pub accept_backoff_max: Duration,
}

impl Default for ListenLimits {
    fn default() -> Self {
        ListenLimits {
            max_connections: 16_384,
            max_connections_per_peer: 16_384,
            max_handshakes: 1024,
            accept_rate: 100_000,
            accept_backoff_max: Duration::from_secs(1),
        }
    }
}

/// Which reactor gets an accepted connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Each reactor in turn.
    #[default]
    RoundRobin,
    /// The reactor with the fewest connections of this listener.
    LeastConnections,
    /// The same reactor for all connections from an IP address, as long as the listener lives; Unix sockets in turn.
    SourceHash,
    /// Any reactor.
    Random,
    /// A listening socket for each reactor (`SO_REUSEPORT`): the kernel spreads connections by a hash of both addresses, and each reactor
    /// keeps what it accepts. No reactor hands connections to others, so more are accepted in a second; but they are spread less evenly,
    /// and what waits for a reactor waits though others are idle. TCP only.
    ReusePort,
    /// As [`ReusePort`](Placement::ReusePort), but a connection goes to the reactor that is bound to the core on which its first packet came in
    /// (`SO_INCOMING_CPU`): where the network card, or a client on this machine, has its packets handled by that core, the bytes
    /// of a connection never move to another. Where no reactor is bound to that core, the kernel spreads by its hash. Needs
    /// [`PoolOptions::cores`](crate::PoolOptions::cores), Linux from 6.2 on, and feature `affinity`. `docs/performance.md` has figures.
    IncomingCpu,
}

impl Placement {
    /// Whether each reactor has a listening socket of its own.
    pub(crate) fn is_sharded(self) -> bool {
        matches!(self, Placement::ReusePort | Placement::IncomingCpu)
    }
}
