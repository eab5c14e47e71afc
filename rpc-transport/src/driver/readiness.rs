//! The driver over mio: epoll, kqueue.
//!
//! mio reports edges. What is remembered between edges is the reactor's business (`conn`), with one exception: which
//! interests are registered. TCP sockets have both from the start and are never registered again. A Unix socket has
//! WRITABLE only while a short write waits, because there each read of the peer would otherwise report it.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{SockRef, Socket};

use super::{CloseHow, Driver, EVENTS, Event, Key, RawSocket, Wake};
use crate::buffer::Block;
use crate::socket::{self, SocketOptions};
use crate::udp::UdpOptions;
use crate::url::Endpoint;

const WAKER: Token = Token(usize::MAX);

/// How often a wake-up is tried that fails.
const WAKE_TRIES: u32 = 4;

/// Writing to a socket whose peer is gone must be an error, never a signal.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
const SEND_FLAGS: i32 = 0;

pub(crate) struct ReadinessDriver {
    poll: Poll,
    events: Events,
    waker: Arc<MioWaker>,
    sources: Vec<Option<Source>>,
    free: Vec<u32>,
}

enum Source {
    Tcp(TcpStream),
    Unix(UnixStream),
    TcpListener(TcpListener),
    /// The path is boxed because a connection's entry would be as large.
    UnixListener(UnixListener, Box<PathBuf>),
    Udp(UdpSocket),
}

/// The poller's descriptor, for who waits for it and for other things at once. It is a descriptor of its own, and stays open as long as
/// this lives.
#[cfg(feature = "tokio")]
pub(crate) struct Descriptor(Registry);

#[cfg(feature = "tokio")]
impl std::os::fd::AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

struct MioWaker(mio::Waker);

impl Wake for MioWaker {
    fn wake(&self) {
        // A reactor that is not woken leaves its callers waiting, so one failure is not believed.
        let tried = (0..WAKE_TRIES).find_map(|last| match self.0.wake() {
            Ok(()) => Some(Ok(())),
            Err(e) => (last == WAKE_TRIES - 1).then_some(Err(e)),
        });
        if let Some(Err(e)) = tried {
            tracing::error!(error = %e, "cannot wake a reactor; it goes on at its next event");
        }
    }
}

impl ReadinessDriver {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(MioWaker(mio::Waker::new(poll.registry(), WAKER)?));
        Ok(ReadinessDriver {
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
            sources: Vec::new(),
            free: Vec::new(),
        })
    }

    /// A descriptor that is readable while there are events.
    #[cfg(feature = "tokio")]
    pub(crate) fn descriptor(&self) -> io::Result<Descriptor> {
        self.poll.registry().try_clone().map(Descriptor)
    }

    fn insert(&mut self, mut source: Source, token: usize) -> io::Result<Key> {
        uninterrupted(|| source.register(self.poll.registry(), Token(token)))?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sources.push(None);
            (self.sources.len() - 1) as u32
        });
        self.sources[slot as usize] = Some(source);
        Ok(Key(slot))
    }

    fn source(&self, key: Key) -> io::Result<&Source> {
        self.sources.get(key.0 as usize).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Source {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Source::Tcp(s) => registry.register(s, token, both),
            Source::Unix(s) => registry.register(s, token, Interest::READABLE),
            Source::TcpListener(s) => registry.register(s, token, Interest::READABLE),
            Source::UnixListener(s, _) => registry.register(s, token, Interest::READABLE),
            Source::Udp(s) => registry.register(s, token, both),
        }
    }

    fn sock(&self) -> SockRef<'_> {
        match self {
            Source::Tcp(s) => SockRef::from(s),
            Source::Unix(s) => SockRef::from(s),
            Source::TcpListener(s) => SockRef::from(s),
            Source::UnixListener(s, _) => SockRef::from(s),
            Source::Udp(s) => SockRef::from(s),
        }
    }
}

/// A signal is no reason to fail a system call. `call` makes one: of several in a row, one might be interrupted each time.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn stream_of(socket: Socket, endpoint: &Endpoint) -> Source {
    match endpoint {
        Endpoint::Tcp(_) => Source::Tcp(TcpStream::from_std(socket.into())),
        Endpoint::Unix(_) => Source::Unix(UnixStream::from_std(socket.into())),
    }
}

fn listener_of(socket: Socket, endpoint: &Endpoint) -> Source {
    match endpoint {
        Endpoint::Tcp(_) => Source::TcpListener(TcpListener::from_std(socket.into())),
        Endpoint::Unix(path) => Source::UnixListener(UnixListener::from_std(socket.into()), Box::new(path.clone())),
    }
}

impl Driver for ReadinessDriver {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn random(&mut self) -> u64 {
        RandomState::new().hash_one(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // epoll takes milliseconds in an i32: a longer wait ends early, which is harmless.
        let timeout = timeout.map(|t| t.min(Duration::from_secs(3600)));
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        events.extend(self.events.iter().filter(|e| e.token() != WAKER).map(|e| Event {
            token: e.token().0,
            readable: e.is_readable(),
            writable: e.is_writable(),
            hangup: e.is_read_closed() || e.is_write_closed() || e.is_error(),
            failed: e.is_error(),
        }));
        Ok(())
    }

    fn listen(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<(Key, Endpoint)> {
        let listener = listener_of(socket::listen(endpoint, options)?, endpoint);
        let bound = match &listener {
            Source::TcpListener(listener) => Endpoint::Tcp(uninterrupted(|| listener.local_addr())?),
            _ => endpoint.clone(),
        };
        Ok((self.insert(listener, token)?, bound))
    }

    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn listen_on(&mut self, socket: Socket, endpoint: &Endpoint, token: usize) -> io::Result<Key> {
        self.insert(listener_of(socket, endpoint), token)
    }

    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    fn share(&self, listener: Key) -> io::Result<Socket> {
        self.source(listener)?.sock().try_clone()
    }

    fn accept(&mut self, listener: Key) -> io::Result<(RawSocket, Endpoint)> {
        match self.source(listener)? {
            Source::TcpListener(l) => {
                let (stream, peer) = uninterrupted(|| l.accept())?;
                Ok((RawSocket(Box::new(Source::Tcp(stream))), Endpoint::Tcp(peer)))
            }
            Source::UnixListener(l, path) => {
                let (stream, _) = uninterrupted(|| l.accept())?;
                Ok((RawSocket(Box::new(Source::Unix(stream))), Endpoint::Unix(PathBuf::clone(path))))
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn adopt(&mut self, raw: RawSocket, options: &SocketOptions, token: usize) -> io::Result<Key> {
        let source = *raw.0.downcast::<Source>().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        if let Source::Tcp(stream) = &source {
            socket::prepare_stream(&SockRef::from(stream), options)?;
        }
        self.insert(source, token)
    }

    fn connect(&mut self, endpoint: &Endpoint, options: &SocketOptions, token: usize) -> io::Result<Key> {
        // Anew, with a new socket: whether an interrupted connect goes on by itself depends on the system.
        let socket = uninterrupted(|| socket::connect(endpoint, options))?;
        self.insert(stream_of(socket, endpoint), token)
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        let source = self.source(key)?;
        if let Some(e) = uninterrupted(|| source.sock().take_error())? {
            return Err(e);
        }
        match uninterrupted(|| source.sock().peer_addr()) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn bind_udp(&mut self, addr: SocketAddr, options: &UdpOptions, token: usize) -> io::Result<(Key, SocketAddr)> {
        let socket = UdpSocket::from_std(socket::datagrams(addr, options)?.into());
        let bound = uninterrupted(|| socket.local_addr())?;
        Ok((self.insert(Source::Udp(socket), token)?, bound))
    }

    fn recv_from(&mut self, key: Key, room: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.source(key)? {
            Source::Udp(s) => uninterrupted(|| s.recv_from(room)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn send_to(&mut self, key: Key, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self.source(key)? {
            Source::Udp(s) => uninterrupted(|| s.send_to(datagram, to)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn read(&mut self, key: Key, block: &mut Block, max: usize) -> io::Result<usize> {
        let sock = self.source(key)?.sock();
        uninterrupted(|| block.fill_from(&sock, max))
    }

    fn write(&mut self, key: Key, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let sock = self.source(key)?.sock();
        uninterrupted(|| match bufs {
            [one] => sock.send_with_flags(one, SEND_FLAGS),
            _ => sock.send_vectored_with_flags(bufs, SEND_FLAGS),
        })
    }

    fn watch_writable(&mut self, key: Key, on: bool, token: usize) -> io::Result<()> {
        let interest = if on { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        match self.sources.get_mut(key.0 as usize) {
            Some(Some(Source::Unix(s))) => uninterrupted(|| self.poll.registry().reregister(s, Token(token), interest)),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, key: Key) -> io::Result<()> {
        self.source(key)?.sock().shutdown(Shutdown::Write)
    }

    fn close(&mut self, key: Key, how: CloseHow) {
        let Some(mut source) = self.sources.get_mut(key.0 as usize).and_then(Option::take) else { return };
        self.free.push(key.0);
        if how == CloseHow::Abort {
            // Lingering for zero seconds turns the close into a reset; if that fails it is an ordinary close.
            let _ = source.sock().set_linger(Some(Duration::ZERO));
        }
        // Closing the descriptor removes it from the poller as well, so a failure here has no effect; but not where another process has the
        // same socket, so this comes first.
        let _ = match &mut source {
            Source::Tcp(s) => self.poll.registry().deregister(s),
            Source::Unix(s) => self.poll.registry().deregister(s),
            Source::TcpListener(s) => self.poll.registry().deregister(s),
            Source::UnixListener(s, path) => {
                if how != CloseHow::Leave {
                    let _ = std::fs::remove_file(&**path);
                }
                self.poll.registry().deregister(s)
            }
            Source::Udp(s) => self.poll.registry().deregister(s),
        };
    }

    fn local(&self, key: Key) -> Option<Endpoint> {
        let address = self.source(key).ok()?.sock().local_addr().ok()?;
        let unix = || address.as_pathname().map(|path| Endpoint::Unix(path.to_owned()));
        address.as_socket().map(Endpoint::Tcp).or_else(unix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B07: no system call that this driver makes fails because a signal came; all go through here.
    #[test]
    fn b07_an_interrupted_call_is_made_again() {
        let mut outcomes = vec![Err(io::ErrorKind::WouldBlock.into()), Ok(7)];
        outcomes.extend((0..3).map(|_| Err(io::ErrorKind::Interrupted.into())));
        let mut call = || uninterrupted(|| outcomes.pop().expect("no call too many"));
        assert_eq!(call().unwrap(), 7);
        assert_eq!(call().unwrap_err().kind(), io::ErrorKind::WouldBlock, "other errors are passed on");
    }
}
