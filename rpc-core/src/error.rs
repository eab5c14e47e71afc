//! [`Error`]: why a call has no reply, who says so, and whether to try again.

mod cause;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rpc_transport::FrameError;
#[cfg(feature = "tls")]
use rpc_transport::TlsPeer;

use crate::protocol::ttheader::{HeaderError, InfoError, ReplyInfo};
use crate::protocol::{Corrupt, Exception, ProtocolError};
use crate::status::{BizStatus, Code, text_of, type_id};
use cause::Span;
pub use cause::{Cause, ConfigError, Refusal};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call has no reply. One pointer wide, one allocation, on the error path only.
///
/// `Display` is one line with everything: code, method, peer, cause, phase, attempt, time, and whether the peer can have seen the
/// request. `Debug` prints the same line, so that `fn main() -> rpc_core::Result<()>` ends readably. What programs ask is data:
/// [`code`](Error::code), [`id`](Error::id), [`sent`](Error::sent), [`is_retryable`](Error::is_retryable), [`cause`](Error::cause).
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    method: Cow<'static, str>,
    peer: Option<Peer>,
    id: Option<i32>,
    attempt: u32,
    phase: Option<Phase>,
    elapsed: Duration,
    sent: Sent,
    cause: Cause,
}

/// How far a call had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Finding endpoints.
    Resolve,
    /// Connecting.
    Connect,
    /// Encoding the request.
    Encode,
    /// Waiting for a place on a connection.
    Queue,
    /// Writing the request.
    Write,
    /// Waiting for the reply.
    Wait,
    /// Decoding the reply, or at a server the request.
    Decode,
    /// At a server: in the handler.
    Handle,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Resolve => "resolve",
            Phase::Connect => "connect",
            Phase::Encode => "encode",
            Phase::Queue => "queue",
            Phase::Write => "write",
            Phase::Wait => "wait",
            Phase::Decode => "decode",
            Phase::Handle => "handle",
        })
    }
}

/// Whether the peer can have processed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    /// Certainly not: no byte of it left, or the peer says that its handler did not start.
    No,
    /// It may have been.
    Maybe,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Sent::No => "not sent",
            Sent::Maybe => "maybe processed",
        })
    }
}

/// The other end, as a URL: `tcp://…`, `tls://…` or `unix:…`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    url: Arc<str>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<TlsPeer>>,
}

impl Peer {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// What its TLS handshake has told: at a server, of the caller of a call. `None` without TLS, and for a peer that is only a name, as in
    /// errors at a client.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsPeer> {
        self.tls.as_deref()
    }

    /// The same peer, whose handshake is over. A handle of its own: see [`Peer::is`].
    #[cfg(feature = "tls")]
    pub(crate) fn proved(&self, tls: &Arc<TlsPeer>) -> Peer {
        Peer { url: Arc::from(&*self.url), tls: Some(Arc::clone(tls)) }
    }

    /// Whether both are one handle's clones.
    pub(crate) fn is(&self, other: &Peer) -> bool {
        Arc::ptr_eq(&self.url, &other.url)
    }
}

impl<T: Into<Arc<str>>> From<T> for Peer {
    fn from(url: T) -> Peer {
        Peer {
            url: url.into(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.url)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Error {
    /// An error of a handler or middleware. The caller gets `code` and `message`; a Kitex caller only the text.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error::of(code, Sent::Maybe, Cause::Message(message.into()))
    }

    /// A business status; 0 means "no error" on the wire, so use another number.
    pub fn business(status: i32, message: impl Into<String>) -> Error {
        BizStatus { status, message: message.into(), ..BizStatus::default() }.into()
    }

    /// An exception that reaches the caller with exactly this type id and text.
    pub fn exception(type_id: i32, message: impl Into<String>) -> Error {
        let message = message.into();
        Error::of(Code::from_type_id(type_id), Sent::Maybe, Cause::Exception { type_id, message })
    }

    /// The service has no such method.
    pub fn unknown_method(service: &str, method: &str) -> Error {
        Error::exception(type_id::UNKNOWN_METHOD, format!("unknown method {method} (service {service})"))
            .with_sent(Sent::No)
    }

    /// No service for the call.
    pub fn unknown_service(service: &str, method: &str) -> Error {
        Error::exception(type_id::UNKNOWN_SERVICE, format!("unknown service {service}, method {method}"))
            .with_sent(Sent::No)
    }

    /// Whatever a handler's own code or a library reports.
    pub fn other(code: Code, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::of(code, Sent::Maybe, Cause::Other(error.into()))
    }

    /// The call had `limit`, and it is over.
    pub fn deadline(limit: Duration) -> Error {
        Error::of(Code::DeadlineExceeded, Sent::Maybe, Cause::Deadline { limit })
    }

    /// The caller gave up.
    pub fn cancelled() -> Error {
        Error::of(Code::Cancelled, Sent::Maybe, Cause::Cancelled)
    }

    /// The connection ended under the call.
    pub fn closed(reason: impl Into<String>) -> Error {
        Error::of(Code::Unavailable, Sent::Maybe, Cause::Closed(reason.into()))
    }

    /// What an exception from the peer means, with what the reply's header says about it, if it had one.
    pub fn remote(exception: Exception, info: Option<&ReplyInfo>) -> Error {
        let named = info.and_then(|info| info.code).filter(|code| *code != Code::Ok);
        let code = named.unwrap_or_else(|| Code::from_type_id(exception.type_id));
        let sent = if info.is_some_and(|info| info.not_executed) { Sent::No } else { Sent::Maybe };
        let type_id = exception.type_id;
        let message = text_of(exception, named.is_some());
        Error::of(code, sent, Cause::Remote { type_id, message })
    }

    fn of(code: Code, sent: Sent, cause: Cause) -> Error {
        Error(Box::new(Inner {
            code,
            method: Cow::Borrowed(""),
            peer: None,
            id: None,
            attempt: 0,
            phase: None,
            elapsed: Duration::ZERO,
            sent,
            cause,
        }))
    }

    /// Adds an extra to a business status; on any other error it changes nothing.
    pub fn with_extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Error {
        if let Cause::Business(status) = &mut self.0.cause {
            status.extra.insert(key.into(), value.into());
        }
        self
    }

    /// Replaces the code.
    pub fn with_code(mut self, code: Code) -> Error {
        self.0.code = code;
        self
    }

    /// Says which method was called: `package.Service/Method`.
    pub fn with_method(mut self, method: impl Into<Cow<'static, str>>) -> Error {
        self.0.method = method.into();
        self
    }

    /// Says who was called.
    pub fn with_peer(mut self, peer: impl Into<Peer>) -> Error {
        self.0.peer = Some(peer.into());
        self
    }

    /// Says by which number the call's connection knew it.
    pub fn with_id(mut self, id: i32) -> Error {
        self.0.id = Some(id);
        self
    }

    /// Says which attempt failed, counted from 1.
    pub fn with_attempt(mut self, attempt: u32) -> Error {
        self.0.attempt = attempt;
        self
    }

    /// Says how far the call had come.
    pub fn with_phase(mut self, phase: Phase) -> Error {
        self.0.phase = Some(phase);
        self
    }

    /// Says how long the call took.
    pub fn with_elapsed(mut self, elapsed: Duration) -> Error {
        self.0.elapsed = elapsed;
        self
    }

    /// Says whether the peer can have processed the request.
    pub fn with_sent(mut self, sent: Sent) -> Error {
        self.0.sent = sent;
        self
    }

    /// What kind of failure it is.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The method called, `package.Service/Method`; empty when unknown.
    pub fn method(&self) -> &str {
        &self.0.method
    }

    /// Who was called, if a peer was chosen.
    pub fn peer(&self) -> Option<&Peer> {
        self.0.peer.as_ref()
    }

    /// The number of the call on its connection, as it stands in the frames and in a packet dump; `None` if it never got one.
    pub fn id(&self) -> Option<i32> {
        self.0.id
    }

    /// Which attempt failed, counted from 1; 0 when unknown.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// How far the call had come, if it was one.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// How long the call took; zero when unknown.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed
    }

    /// Whether the peer can have processed the request.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// What went wrong.
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// What went wrong, by value.
    pub fn into_cause(self) -> Cause {
        self.0.cause
    }

    /// The business status, if the service answered with one.
    pub fn business_status(&self) -> Option<&BizStatus> {
        match &self.0.cause {
            Cause::Business(status) => Some(status),
            _ => None,
        }
    }

    /// Whether repeating the call is safe and may help: it was certainly not processed, and what failed is the way to the service or
    /// its load rather than the call. Decided on data, never on text.
    pub fn is_retryable(&self) -> bool {
        self.0.sent == Sent::No && matches!(self.0.code, Code::Unavailable | Code::ResourceExhausted)
            // Too large for the wire: it will be again.
            && self.0.phase != Some(Phase::Encode)
            && !matches!(self.0.cause, Cause::Unsendable(_) | Cause::Encode(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { code, method, peer, id, attempt, phase, elapsed, sent, cause } = &*self.0;
        write!(f, "{code}: ")?;
        match (method.is_empty(), peer) {
            (false, Some(peer)) => write!(f, "{method} at {peer}: ")?,
            (false, None) => write!(f, "{method}: ")?,
            (true, Some(peer)) => write!(f, "{peer}: ")?,
            (true, None) => {}
        }
        fmt::Write::write_fmt(&mut OneLine(f), format_args!("{cause}"))?;
        let Some(phase) = phase else { return Ok(()) };
        write!(f, " (phase {phase}")?;
        if let Some(id) = id {
            write!(f, ", id {id}")?;
        }
        if *attempt > 0 {
            write!(f, ", attempt {attempt}")?;
        }
        // A passed deadline has said its time already.
        if !elapsed.is_zero() && !matches!(cause, Cause::Deadline { .. }) {
            write!(f, ", after {}", Span(*elapsed))?;
        }
        write!(f, ", {sent})")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Texts come from peers: control characters are escaped, so that a line of log stays one line.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(char::is_control) {
            let (plain, tail) = rest.split_at(at);
            let mut chars = tail.chars();
            self.0.write_str(plain)?;
            if let Some(control) = chars.next() {
                write!(self.0, "{}", control.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Cause::Transport(error) => Some(error),
            Cause::Framing(error) => Some(error),
            Cause::Protocol(error) => Some(error),
            Cause::Header(error) => Some(error),
            Cause::Unsendable(error) => Some(error),
            Cause::Encode(error) => Some(error),
            Cause::Decode(error) => Some(error),
            Cause::Corrupt(error) => Some(error),
            Cause::Config(error) => Some(error),
            Cause::Other(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::of(Code::Unavailable, Sent::Maybe, Cause::Transport(error))
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Error {
        Error::of(Code::Unavailable, Sent::Maybe, Cause::Framing(error))
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Error {
        Error::of(Code::Unavailable, Sent::Maybe, Cause::Protocol(error))
    }
}

impl From<InfoError> for Error {
    fn from(error: InfoError) -> Error {
        match error {
            InfoError::Protocol(error) => error.into(),
            limit => Error::of(Code::ResourceExhausted, Sent::No, Cause::Header(limit)),
        }
    }
}

impl From<BizStatus> for Error {
    fn from(status: BizStatus) -> Error {
        Error::of(Code::Unknown, Sent::Maybe, Cause::Business(status))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::of(refusal.code(), Sent::No, Cause::Refused(refusal))
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Error {
        let code = match error {
            HeaderError::Reserved(_) | HeaderError::NoMethod => Code::InvalidArgument,
            _ => Code::ResourceExhausted,
        };
        Error::of(code, Sent::No, Cause::Unsendable(error))
    }
}

impl From<prost::EncodeError> for Error {
    fn from(error: prost::EncodeError) -> Error {
        Error::of(Code::Internal, Sent::No, Cause::Encode(error))
    }
}

/// As a server sees it: the request is wrong. A client says [`Code::Internal`] of a reply.
impl From<prost::DecodeError> for Error {
    fn from(error: prost::DecodeError) -> Error {
        Error::of(Code::InvalidArgument, Sent::Maybe, Cause::Decode(error))
    }
}

impl From<Corrupt> for Error {
    fn from(error: Corrupt) -> Error {
        Error::of(Code::DataLoss, Sent::Maybe, Cause::Corrupt(error))
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::of(Code::InvalidArgument, Sent::No, Cause::Config(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
        fn check<T: Send + Sync + std::error::Error + 'static>() {}
        check::<Error>();
    }

    #[test]
    fn one_line_says_everything() {
        let error = Error::deadline(Duration::from_millis(50))
            .with_method("hello.Greeter/SayHello")
            .with_peer("tcp://127.0.0.1:7000")
            .with_phase(Phase::Wait)
            .with_id(131_072)
            .with_attempt(1)
            .with_elapsed(Duration::from_millis(51));
        assert_eq!(
            error.to_string(),
            "DeadlineExceeded: hello.Greeter/SayHello at tcp://127.0.0.1:7000: no reply within 50 ms (phase wait, id 131072, attempt 1, maybe processed)"
        );
        let error = Error::from(io::Error::from(io::ErrorKind::ConnectionRefused))
            .with_peer("unix:app.sock")
            .with_phase(Phase::Connect)
            .with_elapsed(Duration::from_millis(2))
            .with_sent(Sent::No);
        assert_eq!(
            error.to_string(),
            "Unavailable: unix:app.sock: connection refused (phase connect, after 2 ms, not sent)"
        );
        let error = Error::business(404, "not found").with_extra("id", "42").with_extra("at", "eu");
        assert_eq!(error.to_string(), "Unknown: business status 404: not found [at=eu, id=42]");
    }

    #[test]
    fn texts_of_peers_stay_on_the_line() {
        let error = Error::remote(Exception { type_id: 6, message: "a\nb\u{1b}[2J é".into() }, None);
        assert_eq!(error.to_string(), "Internal: remote exception 6: a\\nb\\u{1b}[2J é");
    }

    #[test]
    #[rustfmt::skip]
    fn retry_is_decided_on_data() {
        let check = |error: Error, want| assert_eq!(error.is_retryable(), want, "{error}");
        let io = || Error::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let remote = |code, not_executed| {
            let info = ReplyInfo { code, not_executed, ..ReplyInfo::default() };
            Error::remote(Exception { type_id: 6, message: "text".into() }, Some(&info))
        };
        check(io(),                                                   false);
        check(io().with_sent(Sent::No),                               true);
        check(Refusal::ShuttingDown.into(),                           true);
        check(Refusal::WaitOnReactor.into(),                          false);
        check(Refusal::Expired.into(),                                false);
        check(remote(Some(Code::ResourceExhausted), true),            true);
        check(remote(Some(Code::ResourceExhausted), false),           false);
        check(remote(Some(Code::InvalidArgument), true),              false);
        check(remote(None, true),                                     false);
        check(Error::deadline(Duration::ZERO).with_sent(Sent::No),    false);
        let too_large = Error::new(Code::ResourceExhausted, "the frame is too large").with_sent(Sent::No);
        check(too_large.with_phase(Phase::Encode),                    false);
        check(Error::business(5, "no"),                               false);
        check(Error::new(Code::Unavailable, "by a handler"),          false);
        check(HeaderError::HeaderTooLarge { len: 1, limit: 0 }.into(), false);
    }

    #[test]
    fn our_own_callers_get_the_code_and_the_bare_text() {
        let info = ReplyInfo { code: Some(Code::NotFound), ..ReplyInfo::default() };
        let exception = || Exception { type_id: 6, message: "biz error: no such user".into() };
        let ours = Error::remote(exception(), Some(&info));
        assert_eq!(ours.to_string(), "NotFound: remote exception 6: no such user");
        let kitex = Error::remote(exception(), None);
        assert_eq!(kitex.to_string(), "Internal: remote exception 6: biz error: no such user");
    }
}
