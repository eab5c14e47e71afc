//! Sockets for the peers that let others make them: `TCP_NODELAY` on, and whichever kind the URL names.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bench_driver::Failure;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A socket of either kind.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listener of either kind.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens; returns the URL with the port.
pub(crate) async fn listen(url: &str) -> Result<(Listener, String), Failure> {
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok((Listener::Unix(UnixListener::bind(path)?), url.to_owned()));
    }
    let listener = TcpListener::bind(url.trim_start_matches("tcp://")).await?;
    let url = format!("tcp://{}", listener.local_addr()?);
    Ok((Listener::Tcp(listener), url))
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }
            Listener::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

pub(crate) async fn connect(url: &str) -> io::Result<Socket> {
    if let Some(path) = url.strip_prefix("unix:") {
        return Ok(Socket::Unix(UnixStream::connect(path).await?));
    }
    let socket = TcpStream::connect(url.trim_start_matches("tcp://")).await?;
    socket.set_nodelay(true)?;
    Ok(Socket::Tcp(socket))
}

macro_rules! on_either {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket.get_mut() {
            Socket::Tcp($inner) => $call,
            Socket::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_either!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_either!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_either!(self, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_either!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
