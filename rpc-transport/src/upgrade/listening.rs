//! A listening stream socket that somebody else has made.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use crate::url::{Endpoint, Url};

/// A stream socket that listens already, TCP or Unix; made by another part of the program, by another process, or by systemd.
/// [`ReactorPool::listen_on`](crate::ReactorPool::listen_on) serves there.
pub struct ListeningSocket {
    socket: Socket,
    endpoint: Endpoint,
    /// Nobody accepts there once this process has ended.
    sole: bool,
    /// Another process accepts there until it hears that this one is ready.
    held: bool,
}

impl ListeningSocket {
    /// A socket that is this process's alone: its queue ends with it, and so does a Unix socket's file.
    ///
    /// It is closed in programs that this process starts, and becomes non-blocking, for everybody who has it, when it is served.
    ///
    /// # Errors
    /// `InvalidInput` when it is no listening stream socket of TCP or with a path; or what the system says.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        ListeningSocket::given(fd, true)
    }

    /// As [`ListeningSocket::new`], for a socket that others keep, such as systemd: when this process ends who waits in its queue is left to
    /// them, and so is a Unix socket's file.
    ///
    /// # Errors
    /// As [`ListeningSocket::new`].
    pub fn shared(fd: OwnedFd) -> io::Result<Self> {
        ListeningSocket::given(fd, false)
    }

    pub(crate) fn given(fd: OwnedFd, sole: bool) -> io::Result<Self> {
        let socket = Socket::from(fd);
        socket.set_cloexec(true)?;
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let kind = socket
            .r#type()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("it is no socket: {e}")))?;
        if kind != Type::STREAM {
            return Err(wrong("it is a socket of another kind than a stream"));
        }
        if !socket.is_listener()? {
            return Err(wrong("it does not listen"));
        }
        let domain = socket.domain()?;
        let bound = socket.local_addr()?;
        let endpoint = match (domain, bound.as_socket()) {
            (Domain::IPV4 | Domain::IPV6, Some(addr)) => Endpoint::Tcp(addr),
            (Domain::UNIX, _) => {
                let path = bound.as_pathname().ok_or_else(|| wrong("it is a Unix socket without a path"))?;
                Endpoint::Unix(path.to_owned())
            }
            _ => return Err(wrong("it is neither a TCP nor a Unix socket")),
        };
        Ok(ListeningSocket { socket, endpoint, sole, held: false })
    }

    /// Where it is bound to.
    pub fn url(&self) -> Url {
        Url::from(&self.endpoint)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn is_sole(&self) -> bool {
        self.sole
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    /// The socket, which does not block any more.
    pub(crate) fn into_parts(self) -> io::Result<(Socket, Endpoint)> {
        self.socket.set_nonblocking(true)?;
        Ok((self.socket, self.endpoint))
    }
}

impl fmt::Debug for ListeningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "socket that listens at {}", self.url())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    #[rustfmt::skip]
    fn only_sockets_that_listen_are_taken() {
        let check = |fd: OwnedFd, expected: &str| {
            let got = match ListeningSocket::new(fd) { Ok(socket) => socket.url().to_string(), Err(e) => e.to_string() };
            assert!(got.starts_with(expected), "{got}");
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        check(TcpStream::connect(addr).unwrap().into(),             "it does not listen");
        check(listener.into(),                                      &format!("tcp://{addr}"));
        check(UdpSocket::bind("127.0.0.1:0").unwrap().into(),       "it is a socket of another kind than a stream");
        check(UnixDatagram::unbound().unwrap().into(),              "it is a socket of another kind than a stream");
        check(std::fs::File::open("/dev/null").unwrap().into(),     "it is no socket");
        let nameless = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        nameless.bind(&socket2::SockAddr::unix("\0rpc-transport-listening").unwrap()).unwrap();
        nameless.listen(1).unwrap();
        check(nameless.into(),                                      "it is a Unix socket without a path");
    }

    /// systemd's sockets block, and stay open in programs that are started; both would be felt late.
    #[test]
    fn what_is_served_does_not_block_and_is_not_passed_on() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_cloexec(false).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(1).unwrap();
        let socket = ListeningSocket::new(socket.into()).unwrap();
        assert!(!socket.socket().nonblocking().unwrap(), "nobody serves there yet, or somebody else does");
        let (socket, _) = socket.into_parts().unwrap();
        assert!(socket.nonblocking().unwrap());
        assert!(rustix::io::fcntl_getfd(&socket).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}
