//! Sockets with the options we always want, by socket2.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::driver::uninterrupted;
use crate::udp::UdpOptions;
use crate::url::Endpoint;

/// Socket options of a listener or a client. `TCP_NODELAY` is always on, because writes are gathered already.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Idle time before the first TCP keepalive probe; the interval is a third of it. Default 60 s. `None`: off.
    pub keepalive: Option<Duration>,
    /// Connections the kernel queues before they are accepted. Default 4,096; the kernel caps it (`somaxconn`).
    pub backlog: i32,
    /// `SO_REUSEADDR` on TCP listeners, so that a restart need not wait for old connections. Default on.
    pub reuse_address: bool,
    /// `SO_REUSEPORT` on TCP listeners. Default off.
    pub reuse_port: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        SocketOptions {
            keepalive: Some(Duration::from_secs(60)),
            backlog: 4096,
            reuse_address: true,
            reuse_port: false,
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
    if let Some(idle) = options.keepalive {
        // One after the other: each of them is two system calls.
        let interval = (idle / 3).max(Duration::from_secs(1));
        for keepalive in [TcpKeepalive::new().with_time(idle), TcpKeepalive::new().with_interval(interval)] {
            uninterrupted(|| socket.set_tcp_keepalive(&keepalive))?;
        }
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
