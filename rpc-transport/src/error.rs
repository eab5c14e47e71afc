//! Why a connection ended.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::framing::FrameError;

/// Why a connection ended; given once to [`Handler::on_close`](crate::Handler::on_close).
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer closed its side, with no frame cut short. Frames that came before are handed up, and what is written by then is still sent;
    /// what would be written later is not, since a peer that only half-closes looks the same as one that is gone. Work that is to end all the
    /// same: [`Handler::outlasts`](crate::Handler::outlasts).
    PeerClosed,
    /// The peer closed its side in the middle of a frame.
    CutShort {
        /// Bytes of the unfinished frame that had arrived.
        arrived: usize,
    },
    /// A system call failed: reset, broken pipe, …
    Io(io::Error),
    /// Connecting failed.
    Connect(io::Error),
    /// Connecting took longer than `connect_timeout`.
    ConnectTimeout(Duration),
    /// The bytes cannot be cut into frames: the stream cannot be trusted any more.
    Framing(FrameError),
    /// Under TLS: the peer's bytes cannot be trusted, or it ended without a `close_notify`. What goes wrong while connecting is
    /// [`CloseReason::Connect`] instead, with the [`TlsError`](crate::TlsError) in it: see [`CloseReason::tls`].
    #[cfg(feature = "tls")]
    Tls(crate::TlsError),
    /// A limit of [`ConnLimits`](crate::ConnLimits) was reached; its name.
    Limit(&'static str),
    /// This side closed it; why.
    Local(&'static str),
    /// The reactor stopped.
    Stopped,
}

#[cfg(feature = "tls")]
impl CloseReason {
    /// What was wrong with TLS, if it was that: at either side, during the handshake and after it.
    pub fn tls(&self) -> Option<&crate::TlsError> {
        match self {
            CloseReason::Tls(error) => Some(error),
            CloseReason::Connect(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::PeerClosed => f.write_str("the peer closed the connection"),
            CloseReason::CutShort { arrived } => {
                write!(f, "the peer closed the connection inside a frame, {arrived} bytes into it")
            }
            CloseReason::Io(e) => write!(f, "the connection failed: {e}"),
            CloseReason::Connect(e) => write!(f, "cannot connect: {e}"),
            CloseReason::ConnectTimeout(t) => write!(f, "cannot connect within {t:?} (connect_timeout)"),
            CloseReason::Framing(e) => write!(f, "the peer's bytes are not frames: {e}"),
            #[cfg(feature = "tls")]
            CloseReason::Tls(e) => write!(f, "the connection failed: {e}"),
            CloseReason::Limit(name) => write!(f, "the connection reached its limit {name}"),
            CloseReason::Local(why) => write!(f, "closed by this side: {why}"),
            CloseReason::Stopped => f.write_str("the reactor stopped"),
        }
    }
}

impl std::error::Error for CloseReason {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CloseReason::Io(e) | CloseReason::Connect(e) => Some(e),
            CloseReason::Framing(e) => Some(e),
            #[cfg(feature = "tls")]
            CloseReason::Tls(e) => Some(e),
            _ => None,
        }
    }
}
