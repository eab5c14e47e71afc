//! How a call can end, as numbers and names: [`Code`], Kitex's type ids, and [`BizStatus`].

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Cause, Error};
use crate::protocol::Exception;

/// Why a call failed, in gRPC's vocabulary and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// No error; never the code of an [`Error`].
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// An error of a kind the peer did not name, business statuses among them.
    Unknown = 2,
    /// The request itself is wrong, whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed; the call may have been processed.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// A limit, a quota or a queue is full.
    ResourceExhausted = 8,
    /// The system is not in the state that the call needs.
    FailedPrecondition = 9,
    /// A conflict, such as a lost race; the caller may start over.
    Aborted = 10,
    /// Past the valid range.
    OutOfRange = 11,
    /// Unknown service or method.
    Unimplemented = 12,
    /// A broken invariant, such as a panic of the handler.
    Internal = 13,
    /// The service cannot be reached now.
    Unavailable = 14,
    /// Data is lost or corrupt.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// Every code with its names: as [`Code`] spells it, and as it travels.
    const NAMES: [(Code, &'static str, &'static str); 17] = [
        (Code::Ok, "Ok", "OK"),
        (Code::Cancelled, "Cancelled", "CANCELLED"),
        (Code::Unknown, "Unknown", "UNKNOWN"),
        (Code::InvalidArgument, "InvalidArgument", "INVALID_ARGUMENT"),
        (Code::DeadlineExceeded, "DeadlineExceeded", "DEADLINE_EXCEEDED"),
        (Code::NotFound, "NotFound", "NOT_FOUND"),
        (Code::AlreadyExists, "AlreadyExists", "ALREADY_EXISTS"),
        (Code::PermissionDenied, "PermissionDenied", "PERMISSION_DENIED"),
        (Code::ResourceExhausted, "ResourceExhausted", "RESOURCE_EXHAUSTED"),
        (Code::FailedPrecondition, "FailedPrecondition", "FAILED_PRECONDITION"),
        (Code::Aborted, "Aborted", "ABORTED"),
        (Code::OutOfRange, "OutOfRange", "OUT_OF_RANGE"),
        (Code::Unimplemented, "Unimplemented", "UNIMPLEMENTED"),
        (Code::Internal, "Internal", "INTERNAL"),
        (Code::Unavailable, "Unavailable", "UNAVAILABLE"),
        (Code::DataLoss, "DataLoss", "DATA_LOSS"),
        (Code::Unauthenticated, "Unauthenticated", "UNAUTHENTICATED"),
    ];

    /// The name as the variant is spelled: `DeadlineExceeded`.
    pub fn name(self) -> &'static str {
        Code::NAMES[self as usize].1
    }

    /// The name that gRPC gives it and that travels as `rpc-code`: `DEADLINE_EXCEEDED`.
    pub fn wire_name(self) -> &'static str {
        Code::NAMES[self as usize].2
    }

    /// The code with this [`wire_name`](Code::wire_name).
    pub fn from_wire_name(name: &[u8]) -> Option<Code> {
        Code::NAMES.iter().find(|(_, _, wire)| wire.as_bytes() == name).map(|(code, _, _)| *code)
    }

    /// What an exception with this type id means; retry and reporting decide on it when the peer sent no code.
    pub fn from_type_id(id: i32) -> Code {
        match id {
            type_id::UNKNOWN_METHOD | type_id::UNKNOWN_SERVICE => Code::Unimplemented,
            type_id::PROTOCOL_ERROR | type_id::NO_SERVICE_NAME => Code::InvalidArgument,
            2..=6 | 8..=10 => Code::Internal,
            _ => Code::Unknown,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Type ids of exceptions that Kitex peers understand. A handler may send any other.
pub mod type_id {
    /// Service found, method not.
    pub const UNKNOWN_METHOD: i32 = 1;
    /// The message type makes no sense here.
    pub const INVALID_MESSAGE_TYPE: i32 = 2;
    /// A reply names another method than the call.
    pub const WRONG_METHOD: i32 = 3;
    /// A reply carries another sequence number than the call.
    pub const BAD_SEQUENCE: i32 = 4;
    /// Handler error, panic, deadline, limits, overload.
    pub const INTERNAL_ERROR: i32 = 6;
    /// The body does not parse.
    pub const PROTOCOL_ERROR: i32 = 7;
    /// No service for the call.
    pub const UNKNOWN_SERVICE: i32 = 20;
    /// No service name where one is required.
    pub const NO_SERVICE_NAME: i32 = 21;
}

/// What Kitex's servers put before the text of a handler's error.
const HANDLER_PREFIX: &str = "biz error: ";

/// The exception that tells a Kitex peer about `error`. Business statuses do not travel like this: they are replies.
pub fn exception_of(error: &Error) -> Exception {
    match error.cause() {
        Cause::Exception { type_id, message } => Exception { type_id: *type_id, message: message.clone() },
        Cause::Message(message) => {
            Exception { type_id: type_id::INTERNAL_ERROR, message: format!("{HANDLER_PREFIX}{message}") }
        }
        Cause::Decode(cause) => {
            Exception { type_id: type_id::PROTOCOL_ERROR, message: format!("cannot decode the request: {cause}") }
        }
        Cause::Corrupt(cause) => Exception { type_id: type_id::PROTOCOL_ERROR, message: cause.to_string() },
        cause => Exception { type_id: type_id::INTERNAL_ERROR, message: cause.to_string() },
    }
}

/// The text of an exception for a caller that learns the code by `rpc-code` and needs no hint in the text.
pub(crate) fn text_of(exception: Exception, code_known: bool) -> String {
    match exception.message.strip_prefix(HANDLER_PREFIX) {
        Some(text) if code_known => text.to_owned(),
        _ => exception.message,
    }
}

/// A business status: an error that the service means, rather than a failure of the call. Kitex peers read it natively.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BizStatus {
    /// The number; 0 would be no error, and is not sent.
    pub status: i32,
    /// The text.
    pub message: String,
    /// Whatever else the service wants to say.
    pub extra: BTreeMap<String, String>,
}

impl fmt::Display for BizStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "business status {}: {}", self.status, self.message)?;
        for (at, (key, value)) in self.extra.iter().enumerate() {
            write!(f, "{}{key}={value}", if at == 0 { " [" } else { ", " })?;
        }
        f.write_str(if self.extra.is_empty() { "" } else { "]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_codes_is_in_order() {
        for (number, (code, name, wire)) in Code::NAMES.into_iter().enumerate() {
            assert_eq!((code as usize, code.name(), code.wire_name()), (number, name, wire));
            assert_eq!(format!("{code:?}"), name);
            assert_eq!(Code::from_wire_name(wire.as_bytes()), Some(code));
        }
        assert_eq!(Code::from_wire_name(b"Internal"), None);
    }

    #[test]
    #[rustfmt::skip]
    fn causes_choose_the_type_id() {
        let check = |error: Error, type_id, text: &str| {
            assert_eq!(exception_of(&error), Exception { type_id, message: text.into() });
        };
        check(Error::new(Code::Internal, "disk full"),             6,  "biz error: disk full");
        check(Error::unknown_method("EchoService", "Nope"),        1,  "unknown method Nope (service EchoService)");
        check(Error::unknown_service("S", "M"),                    20, "unknown service S, method M");
        check(Error::exception(1234, "as the user wants it"),      1234, "as the user wants it");
        check(crate::Refusal::ShuttingDown.into(),                 6,  "the server is shutting down");
    }
}
