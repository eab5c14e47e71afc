//! What can go wrong, as data: [`Cause`] and the small types in it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use rpc_transport::FrameError;

use crate::protocol::ttheader::{HeaderError, InfoError};
use crate::protocol::{Corrupt, ProtocolError};
use crate::status::{BizStatus, Code};

/// What went wrong, as data.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// A handler or middleware says so, in these words.
    Message(String),
    /// The deadline passed.
    Deadline {
        /// The time the call had.
        limit: Duration,
    },
    /// The caller gave up.
    Cancelled,
    /// A socket failed.
    Transport(io::Error),
    /// The connection ended under the call; why.
    Closed(String),
    /// The peer's bytes cannot be cut into frames.
    Framing(FrameError),
    /// The peer's bytes break the protocol.
    Protocol(ProtocolError),
    /// The header is over a limit of this side.
    Header(InfoError),
    /// The peer answered with an exception.
    Remote {
        /// Its type id.
        type_id: i32,
        /// Its text.
        message: String,
    },
    /// A handler wants its caller to get exactly this exception.
    Exception {
        /// Its type id.
        type_id: i32,
        /// Its text.
        message: String,
    },
    /// The service answered with a business status.
    Business(BizStatus),
    /// This side did not even try, or the server did not.
    Refused(Refusal),
    /// The request's header cannot be sent like this.
    Unsendable(HeaderError),
    /// The message cannot be encoded.
    Encode(prost::EncodeError),
    /// The message cannot be decoded.
    Decode(prost::DecodeError),
    /// The payload is not what its checksum says.
    Corrupt(Corrupt),
    /// A setting is wrong.
    Config(ConfigError),
    /// Another error, of the user's code or of a library.
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Message(text) | Cause::Closed(text) => f.write_str(text),
            Cause::Deadline { limit } => write!(f, "no reply within {}", Span(*limit)),
            Cause::Cancelled => f.write_str("cancelled by the caller"),
            Cause::Transport(error) => error.fmt(f),
            Cause::Framing(error) => error.fmt(f),
            Cause::Protocol(error) => error.fmt(f),
            Cause::Header(error) => error.fmt(f),
            Cause::Remote { type_id, message } => {
                write!(f, "remote exception {type_id}: {message}")
            }
            Cause::Exception { type_id, message } => write!(f, "exception {type_id}: {message}"),
            Cause::Business(status) => status.fmt(f),
            Cause::Refused(refusal) => refusal.fmt(f),
            Cause::Unsendable(error) => error.fmt(f),
            Cause::Encode(error) => error.fmt(f),
            Cause::Decode(error) => error.fmt(f),
            Cause::Corrupt(error) => error.fmt(f),
            Cause::Config(error) => error.fmt(f),
            Cause::Other(error) => error.fmt(f),
        }
    }
}

/// Why a call was refused before it began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Too much is queued to be written on the connection.
    Overcrowded {
        /// Bytes queued.
        queued: usize,
        /// `write_hard`.
        limit: usize,
    },
    /// Too many calls at once.
    TooManyInFlight {
        /// Name of the limit reached, such as `max_inflight`.
        name: &'static str,
        /// Its value.
        limit: usize,
    },
    /// The server finishes what it has and takes nothing new.
    ShuttingDown,
    /// Connecting failed lately, and is not tried again yet.
    Backoff {
        /// When the next attempt is due.
        retry_in: Duration,
    },
    /// There is no endpoint to call.
    NoEndpoint,
    /// `.wait()` on a reactor thread would wait for itself.
    WaitOnReactor,
    /// The deadline had passed before the handler could start.
    Expired,
}

impl Refusal {
    pub(super) fn code(&self) -> Code {
        match self {
            Refusal::Overcrowded { .. } | Refusal::TooManyInFlight { .. } => Code::ResourceExhausted,
            Refusal::ShuttingDown | Refusal::Backoff { .. } | Refusal::NoEndpoint => Code::Unavailable,
            Refusal::WaitOnReactor => Code::FailedPrecondition,
            Refusal::Expired => Code::DeadlineExceeded,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Overcrowded { queued, limit } => {
                write!(f, "overcrowded: {queued} bytes wait to be written, limit {limit}")
            }
            Refusal::TooManyInFlight { name, limit } => write!(f, "request over limit: {name} is {limit}"),
            Refusal::ShuttingDown => f.write_str("the server is shutting down"),
            Refusal::Backoff { retry_in } => write!(f, "connecting failed, next attempt in {}", Span(*retry_in)),
            Refusal::NoEndpoint => f.write_str("no endpoint to call"),
            Refusal::WaitOnReactor => f.write_str(
                "blocking on a reactor thread would wait for itself: await the call, or wait on another thread",
            ),
            Refusal::Expired => f.write_str("the deadline passed before the handler started"),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting.
    pub name: Cow<'static, str>,
    /// The value it was given.
    pub value: String,
    /// What is wrong with it, or what would be right.
    pub reason: String,
}

impl ConfigError {
    /// `name` cannot be `value`, because of `reason`.
    pub fn new(name: impl Into<Cow<'static, str>>, value: impl fmt::Display, reason: impl Into<String>) -> ConfigError {
        ConfigError { name: name.into(), value: value.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.name, self.value, self.reason)
    }
}

impl std::error::Error for ConfigError {}

/// A time as operators read it: `850 µs`, `50 ms`, `12.5 s`.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            us @ ..1_000 => write!(f, "{us} µs"),
            us @ ..10_000_000 => write!(f, "{} ms", us / 1_000),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}
