//! What a reactor needs of the system: sockets, readiness, a clock.
//!
//! ```text
//!  Reactor ── read(key, block) ──►  Driver  ── recv ──► kernel
//!          ◄── Event{token} ──────          ◄─ epoll ─
//! ```
//!
//! A driver owns its sockets and names them by [`Key`]. `read` *moves what has arrived into a block*: a readiness
//! driver does so by `recv`, a completion driver by handing over what its kernel filled. Nothing above this seam
//! knows which, and the only clock of a reactor is [`Driver::now`], so that a simulated network with a virtual
//! clock can stand here.

mod readiness;
#[cfg(feature = "testing")]
pub(crate) mod sim;

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
pub(crate) use readiness::Descriptor;
pub(crate) use readiness::{ReadinessDriver, uninterrupted};

#[cfg(all(feature = "upgrade", target_os = "linux"))]
use socket2::Socket;

use crate::buffer::Block;
use crate::socket::SocketOptions;
use crate::udp::UdpOptions;
use crate::url::Endpoint;

/// The most events that a driver reports at once.
pub(crate) const EVENTS: usize = 256;

/// Names a socket or listener of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u32);

/// A socket on its way from the reactor that accepted it to the one that will own it.
pub(crate) struct RawSocket(pub(crate) Box<dyn Any + Send>);

/// What happened to the socket or listener with this token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer is gone or has closed its side: no later event will say so again.
    pub(crate) hangup: bool,
    /// The connection has failed, as after a reset: nothing that is written reaches the peer any more.
    pub(crate) failed: bool,
}

/// Ends a driver's wait from another thread.
pub(crate) trait Wake: Send + Sync {
    fn wake(&self);
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseHow {
    /// Queued data of the kernel is still delivered.
    Graceful,
    /// The peer gets a reset, queued data is dropped.
    Abort,
    /// A listener: another process goes on with the same socket, and with its file.
    Leave,
}

/// One reactor's door to the system. Errors are the system call's; `WouldBlock` means "wait for the next event".
pub(crate) trait Driver: Send {
    /// The clock, when a turn or a wait begins or ends; within a turn it is [`clock::now`](crate::clock::now).
    fn now(&self) -> Instant;
    /// A number nobody else need be able to guess: for back-off, not for secrets.
    fn random(&mut self) -> u64;
    fn waker(&self) -> Arc<dyn Wake>;

    /// Waits for events, at most `timeout` (`None`: for ever); returns early when woken.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    fn listen(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<(Key, Endpoint)>;
    /// Takes over a socket that listens already.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn listen_on(&mut self, _: Socket, _: &Endpoint, _token: usize) -> io::Result<Key> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The same socket a second time, for another process.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn share(&self, _listener: Key) -> io::Result<Socket> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn accept(&mut self, listener: Key) -> io::Result<(RawSocket, Endpoint)>;
    /// Takes over an accepted socket.
    fn adopt(&mut self, raw: RawSocket, options: &SocketOptions, token: usize) -> io::Result<Key>;
    /// Starts connecting; a writable event tells when to ask [`Driver::connected`].
    fn connect(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<Key>;
    /// Whether connecting has come to its end; an error is the reason it failed.
    fn connected(&mut self, key: Key) -> io::Result<bool>;

    /// A socket for datagrams, and the address that it got. Not every driver has them.
    fn bind_udp(&mut self, _: SocketAddr, _: &UdpOptions, _token: usize) -> io::Result<(Key, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Copies a datagram into `room`, as far as it fits, and says from where it is.
    fn recv_from(&mut self, _: Key, _room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Sends a datagram; the kernel takes the whole of it, or nothing.
    fn send_to(&mut self, _: Key, _datagram: &[u8], _to: SocketAddr) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Moves at most `max` bytes that have arrived into the block; 0 is end of file.
    fn read(&mut self, key: Key, block: &mut Block, max: usize) -> io::Result<usize>;
    /// Writes as much of the buffers as the system takes now.
    fn write(&mut self, key: Key, bufs: &[io::IoSlice<'_>]) -> io::Result<usize>;
    /// A write came up short: make sure that an event tells when there is room again; or stop doing so.
    fn watch_writable(&mut self, key: Key, on: bool, token: usize) -> io::Result<()>;
    /// Tells the peer that nothing more will be written.
    fn finish(&mut self, key: Key) -> io::Result<()>;
    /// Forgets and closes a socket or listener.
    fn close(&mut self, key: Key, how: CloseHow);

    /// The own address of a socket, for who asks what it is.
    fn local(&self, _key: Key) -> Option<Endpoint> {
        None
    }
    /// Itself, if it is one that stands in front of another.
    fn in_front(&mut self) -> Option<&mut dyn Any> {
        None
    }
}
