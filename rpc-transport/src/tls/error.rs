//! What goes wrong with TLS: in words that name the cause and the remedy.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Why a TLS connection could not be made or did not end well. Its text is one line: the cause, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    kind: TlsErrorKind,
    detail: String,
}

/// What programs may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsErrorKind {
    /// What the peer sent first is no TLS: it may speak plain text.
    PlainText,
    /// The peer closed the connection within the handshake. One that speaks plain text may do so.
    ClosedInHandshake,
    /// The peer's certificate was issued by nobody whom this side trusts.
    UnknownIssuer,
    /// The peer's certificate is for another name.
    WrongName,
    /// The peer's certificate is not valid any more.
    Expired,
    /// The peer's certificate is not valid yet.
    NotYetValid,
    /// The peer's certificate was revoked.
    Revoked,
    /// The peer's certificate is bad in another way.
    BadCertificate,
    /// A client was asked for a certificate and sent none.
    NoCertificate,
    /// The peer does not accept this side's certificate, or misses one; its alert says so.
    Rejected,
    /// Both sides have no version, cipher suite or application protocol in common.
    Incompatible,
    /// The peer closed the connection without a `close_notify`: what it sent last may have been cut off by somebody else.
    Truncated,
    /// The peer's bytes break the protocol, or were changed on their way.
    Protocol,
}

impl TlsError {
    pub(crate) fn new(kind: TlsErrorKind, detail: impl Into<String>) -> TlsError {
        TlsError { kind, detail: detail.into() }
    }

    /// What it is, for programs.
    pub fn kind(&self) -> TlsErrorKind {
        self.kind
    }
}

impl TlsErrorKind {
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            TlsErrorKind::PlainText => {
                ("the peer's first bytes are no TLS", "it may speak plain text; use tcp:// with it")
            }
            TlsErrorKind::ClosedInHandshake => (
                "the peer closed the connection within the TLS handshake",
                "it may speak plain text, which tcp:// is for, or its log says why",
            ),
            TlsErrorKind::UnknownIssuer => (
                "the peer's certificate was issued by nobody known",
                "add its CA to the trusted roots, or its intermediate certificates to its chain",
            ),
            TlsErrorKind::WrongName => (
                "the peer's certificate is for another name",
                "call it by a name in its certificate, or set the server name",
            ),
            TlsErrorKind::Expired => ("the peer's certificate has expired", "renew it, or set this machine's clock"),
            TlsErrorKind::NotYetValid => ("the peer's certificate is not valid yet", "set the clocks of both machines"),
            TlsErrorKind::Revoked => ("the peer's certificate was revoked", "have another one issued"),
            TlsErrorKind::BadCertificate => ("the peer's certificate is not accepted", "have another one issued"),
            TlsErrorKind::NoCertificate => {
                ("the client sent no certificate, and one is required", "give the client an identity")
            }
            TlsErrorKind::Rejected => (
                "the peer does not accept this side's certificate",
                "give this side one that the peer's roots have issued for it, and that has not expired",
            ),
            TlsErrorKind::Incompatible => (
                "both sides have no version, cipher suite or application protocol in common",
                "compare what both are configured for",
            ),
            TlsErrorKind::Truncated => (
                "the peer closed the connection without a close_notify",
                "what it sent last may have been cut off by somebody else",
            ),
            TlsErrorKind::Protocol => {
                ("the peer broke the TLS protocol", "its bytes may have been changed on their way")
            }
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cause, remedy) = self.kind.words();
        match self.detail.as_str() {
            "" => write!(f, "{cause}: {remedy}"),
            detail => write!(f, "{cause} ({detail}): {remedy}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> TlsError {
        TlsError::new(kind_of(error), one_line(&error.to_string()))
    }
}

fn kind_of(error: &Error) -> TlsErrorKind {
    match error {
        Error::InvalidCertificate(bad) => match bad {
            CertificateError::UnknownIssuer => TlsErrorKind::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsErrorKind::WrongName
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsErrorKind::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsErrorKind::NotYetValid,
            CertificateError::Revoked => TlsErrorKind::Revoked,
            _ => TlsErrorKind::BadCertificate,
        },
        Error::NoCertificatesPresented => TlsErrorKind::NoCertificate,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => TlsErrorKind::Rejected,
            AlertDescription::NoApplicationProtocol
            | AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => TlsErrorKind::Incompatible,
            _ => TlsErrorKind::Protocol,
        },
        Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => {
            TlsErrorKind::Rejected
        }
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsErrorKind::Incompatible,
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            TlsErrorKind::PlainText
        }
        _ => TlsErrorKind::Protocol,
    }
}

/// What a library says may stand over several lines.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a configuration cannot be used: which part of it, what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfigError {
    what: String,
    why: String,
}

impl TlsConfigError {
    pub(super) fn new(what: impl Into<String>, why: impl fmt::Display) -> TlsConfigError {
        TlsConfigError { what: what.into(), why: one_line(&why.to_string()) }
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS configuration: {}: {}", self.what, self.why)
    }
}

impl std::error::Error for TlsConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn errors_name_the_cause_and_the_remedy() {
        let check = |error: Error, kind: TlsErrorKind, words: &str| {
            let error = TlsError::from(&error);
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        };
        let bad = Error::InvalidCertificate;
        //    what rustls says                                               kind                          words
        check(bad(CertificateError::UnknownIssuer),                          TlsErrorKind::UnknownIssuer,  "add its CA to the trusted roots");
        check(bad(CertificateError::NotValidForName),                        TlsErrorKind::WrongName,      "set the server name");
        check(bad(CertificateError::Expired),                                TlsErrorKind::Expired,        "renew it");
        check(bad(CertificateError::NotValidYet),                            TlsErrorKind::NotYetValid,    "clocks");
        check(bad(CertificateError::BadSignature),                           TlsErrorKind::BadCertificate, "have another one issued");
        check(Error::NoCertificatesPresented,                                TlsErrorKind::NoCertificate,  "give the client an identity");
        check(Error::AlertReceived(AlertDescription::CertificateRequired),   TlsErrorKind::Rejected,       "give this side one");
        check(Error::AlertReceived(AlertDescription::NoApplicationProtocol), TlsErrorKind::Incompatible,   "in common");
        check(Error::InvalidMessage(InvalidMessage::InvalidContentType),     TlsErrorKind::PlainText,      "use tcp://");
        check(Error::DecryptError,                                           TlsErrorKind::Protocol,       "changed on their way");
    }
}
