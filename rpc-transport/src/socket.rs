//! Sockets with the options we always want, by socket2.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::driver::uninterrupted;
use crate::udp::UdpOptions;
use crate::url::Endpoint;

/// What the kernel takes of [`Keepalive`]; more is an error there.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
const KEEPALIVE_PROBES_MAX: u32 = 127;

/// Socket options of a listener or a client. `TCP_NODELAY` is always on, because writes are gathered already.
///
/// # How a peer is found that has gone without a word
///
/// A machine that lost its power, or a path that drops everything, sends no end of file and no reset. What finds it:
///
/// | what the connection does | found by | after, by default |
/// | --- | --- | --- |
/// | nothing: all that was sent is acknowledged | [`keepalive`](SocketOptions::keepalive): probes | 40 s |
/// | something that was sent is not acknowledged | [`user_timeout`](SocketOptions::user_timeout) | 40 s |
/// | the peer acknowledges, and does not read | [`write_stall_timeout`](crate::ConnLimits::write_stall_timeout) | 30 s |
/// | the peer began a frame and sends no more | [`frame_progress`](crate::ConnLimits::frame_progress) | 30 s |
/// | the peer has nothing to say | [`idle_timeout`](crate::ConnLimits::idle_timeout): it may live | 10 min |
///
/// They depend on each other. Probes are sent only while nothing is unacknowledged: else the retransmissions are the probes. On Linux
/// `user_timeout`, where it is set, also decides how long probes go unanswered, in place of their count; so it should be
/// [`Keepalive::patience`], as it is by default. It also ends a connection whose peer does not read for so long, though it acknowledges;
/// so it should be longer than `write_stall_timeout`, which ends it with a reason that says so. [`CloseReason::Io`](crate::CloseReason) with
/// [`TimedOut`](std::io::ErrorKind::TimedOut) is how the handler hears of a peer that was found gone.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// TCP keepalive probes. Default: [`Keepalive::default`]. `None`: off.
    pub keepalive: Option<Keepalive>,
    /// How long something that was sent may stay unacknowledged, or the peer's window closed: `TCP_USER_TIMEOUT`, in whole milliseconds.
    /// Default 40 s. `None`: as the kernel has it, which tries for a quarter of an hour. Linux; elsewhere it is ignored.
    pub user_timeout: Option<Duration>,
    /// Connections the kernel queues before they are accepted. Default 4,096; the kernel caps it (`somaxconn`).
    pub backlog: i32,
    /// `SO_REUSEADDR` on TCP listeners, so that a restart need not wait for old connections. Default on.
    pub reuse_address: bool,
    /// `SO_REUSEPORT` on TCP listeners. Default off.
    pub reuse_port: bool,
    /// Of the listening sockets that share a port, this one gets the connections whose packets come in on this core (`SO_INCOMING_CPU`).
    /// Default none. [`Placement::IncomingCpu`](crate::Placement) sets it. Ignored by systems other than Linux.
    pub incoming_cpu: Option<usize>,
}

/// TCP keepalive: when the kernel asks a silent peer whether it is there. Times are in whole seconds, at least one; the kernel takes at most
/// 32,767 of them, and 127 probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe. Default 20 s.
    pub idle: Duration,
    /// Time between probes that are not answered. Default 5 s.
    pub interval: Duration,
    /// Probes that may go unanswered. Default 4. On Linux it counts only where [`SocketOptions::user_timeout`] is not set.
    pub count: u32,
}

impl Keepalive {
    /// How long a peer that has gone is believed to be there: `idle` and `count` times `interval`. Default 40 s.
    pub fn patience(&self) -> Duration {
        self.idle.saturating_add(self.interval.saturating_mul(self.count))
    }
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive { idle: Duration::from_secs(20), interval: Duration::from_secs(5), count: 4 }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        let keepalive = Keepalive::default();
        SocketOptions {
            keepalive: Some(keepalive),
            user_timeout: Some(keepalive.patience()),
            backlog: 4096,
            reuse_address: true,
            reuse_port: false,
            incoming_cpu: None,
        }
    }
}

/// A bound, listening, non-blocking socket.
pub(crate) fn listen(endpoint: &Endpoint, options: &SocketOptions) -> io::Result<Socket> {
    let socket = new_socket(endpoint)?;
    match endpoint {
        Endpoint::Tcp(addr) => {
            uninterrupted(|| socket.set_reuse_address(options.reuse_address))?;
            #[cfg(unix)]
            uninterrupted(|| socket.set_reuse_port(options.reuse_port))?;
            if let Some(core) = options.incoming_cpu {
                prefer_core(&socket, core)?;
            }
            uninterrupted(|| socket.bind(&SockAddr::from(*addr)))?;
        }
        Endpoint::Unix(path) => {
            let addr = SockAddr::unix(path)?;
            if let Err(e) = uninterrupted(|| socket.bind(&addr)) {
                if e.kind() != io::ErrorKind::AddrInUse || !is_stale(path) {
                    return Err(e);
                }
                std::fs::remove_file(path)?;
                uninterrupted(|| socket.bind(&addr))?;
            }
        }
    }
    uninterrupted(|| socket.listen(options.backlog))?;
    Ok(socket)
}

/// `SO_INCOMING_CPU`, where the system has it.
pub(crate) fn prefer_core(socket: &Socket, core: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return uninterrupted(|| socket.set_cpu_affinity(core));
    #[cfg(not(target_os = "linux"))]
    return Ok(());
}

/// A socket file that a dead process left behind: nobody accepts on it.
fn is_stale(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    // Non-blocking: a live listener whose queue is full would hold this thread.
    let probe = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        probe.connect(&SockAddr::unix(path)?)
    };
    is_socket && probe().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// A non-blocking socket whose connect has been started. Of its calls only the connect may be interrupted.
pub(crate) fn connect(endpoint: &Endpoint, options: &SocketOptions) -> io::Result<Socket> {
    let socket = new_socket(endpoint)?;
    let addr = match endpoint {
        Endpoint::Tcp(addr) => {
            prepare_stream(&socket, options)?;
            SockAddr::from(*addr)
        }
        Endpoint::Unix(path) => SockAddr::unix(path)?,
    };
    match socket.connect(&addr) {
        Ok(()) => Ok(socket),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// Options of a TCP stream, accepted or connecting.
pub(crate) fn prepare_stream(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    uninterrupted(|| socket.set_tcp_nodelay(true))?;
    if let Some(Keepalive { idle, interval, count }) = options.keepalive {
        let seconds = |time: Duration| Duration::from_secs(time.as_secs().clamp(1, KEEPALIVE_SECONDS_MAX));
        let probes = count.clamp(1, KEEPALIVE_PROBES_MAX);
        let keepalive =
            TcpKeepalive::new().with_time(seconds(idle)).with_interval(seconds(interval)).with_retries(probes);
        uninterrupted(|| socket.set_tcp_keepalive(&keepalive))?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(timeout) = options.user_timeout {
        // 0 would be the kernel's own; more than an `i32` is refused.
        let timeout = timeout.clamp(Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
        uninterrupted(|| socket.set_tcp_user_timeout(Some(timeout)))?;
    }
    Ok(())
}

/// A bound, non-blocking socket for datagrams.
pub(crate) fn datagrams(addr: SocketAddr, options: &UdpOptions) -> io::Result<Socket> {
    let socket = non_blocking(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    #[cfg(unix)]
    uninterrupted(|| socket.set_reuse_port(options.reuse_port))?;
    if let Some(bytes) = options.recv_buffer {
        uninterrupted(|| socket.set_recv_buffer_size(bytes))?;
    }
    if let Some(bytes) = options.send_buffer {
        uninterrupted(|| socket.set_send_buffer_size(bytes))?;
    }
    uninterrupted(|| socket.bind(&SockAddr::from(addr)))?;
    Ok(socket)
}

fn new_socket(endpoint: &Endpoint) -> io::Result<Socket> {
    match endpoint {
        Endpoint::Tcp(addr) => non_blocking(Domain::for_address(*addr), Type::STREAM, Some(Protocol::TCP)),
        Endpoint::Unix(_) => non_blocking(Domain::UNIX, Type::STREAM, None),
    }
}

fn non_blocking(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    // Where the kernel makes it non-blocking at once, it takes no calls of its own that could be interrupted.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let socket = uninterrupted(|| Socket::new(domain, kind.nonblocking(), protocol))?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let socket = {
        let socket = uninterrupted(|| Socket::new(domain, kind, protocol))?;
        uninterrupted(|| socket.set_nonblocking(true))?;
        socket
    };
    Ok(socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn the_kernel_gets_what_it_takes() {
        let s = Duration::from_secs;
        let check = |keepalive: Option<(Duration, Duration, u32)>, user_timeout, expected| {
            let socket = new_socket(&Endpoint::Tcp(([127, 0, 0, 1], 0).into())).expect("a socket");
            let keepalive = keepalive.map(|(idle, interval, count)| Keepalive { idle, interval, count });
            prepare_stream(&socket, &SocketOptions { keepalive, user_timeout, ..Default::default() }).expect("options");
            let probes = socket.keepalive().expect("it can be asked").then(|| {
                let asked = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval(), socket.tcp_keepalive_retries());
                (asked.0.expect("idle"), asked.1.expect("interval"), asked.2.expect("count"))
            });
            assert_eq!((probes, socket.tcp_user_timeout().expect("it can be asked")), expected);
        };
        //    keepalive                               user_timeout             the kernel has
        check(Some((s(20), s(5), 4)),                 Some(s(40)),             (Some((s(20), s(5), 4)), Some(s(40))));
        check(None,                                   None,                    (None, None));
        check(Some((Duration::ZERO, Duration::ZERO, 0)), Some(Duration::ZERO), (Some((s(1), s(1), 1)), Some(Duration::from_millis(1))));
        check(Some((Duration::MAX, Duration::MAX, u32::MAX)), Some(Duration::MAX),
              (Some((s(32_767), s(32_767), 127)), Some(Duration::from_millis(i32::MAX as u64))));
    }

    #[test]
    fn by_default_probes_and_retransmissions_end_together_and_after_a_peer_that_does_not_read() {
        let (options, limits) = (SocketOptions::default(), crate::ConnLimits::default());
        assert_eq!(options.user_timeout, options.keepalive.map(|keepalive| keepalive.patience()));
        assert!(options.user_timeout > Some(limits.write_stall_timeout));
    }
}
