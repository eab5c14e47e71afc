//! What the caller of a call that does not go out is told.

use std::time::Duration;

use crate::error::{Error, Phase, Refusal, Sent};
use crate::status::Code;

/// A peer's text, short enough for an error.
pub(crate) fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned()
}

#[cold]
pub(crate) fn refusal_error(refusal: Refusal) -> Error {
    Error::from(refusal).with_phase(Phase::Queue)
}

#[cold]
pub(crate) fn too_many_waiting(limit: usize) -> Error {
    refusal_error(Refusal::TooManyInFlight { name: "client_max_waiting", limit })
}

pub(crate) fn expired(timeout: Duration) -> Error {
    Error::deadline(timeout).with_sent(Sent::No).with_phase(Phase::Queue)
}

#[cold]
pub(crate) fn too_large(len: usize, limit: usize) -> Error {
    let text = format!(
        "the request's frame has {len} bytes, the limit max_frame_size is {limit}: send less at once, or raise it at both ends"
    );
    Error::new(Code::ResourceExhausted, text).with_sent(Sent::No).with_phase(Phase::Encode)
}

/// As it travels: whole milliseconds, rounded up, at least one.
#[inline]
pub(crate) fn timeout_ms(timeout: Duration) -> u32 {
    let begun = timeout.subsec_nanos().div_ceil(1_000_000);
    let whole = u32::try_from(timeout.as_secs()).ok().and_then(|secs| secs.checked_mul(1000));
    whole.and_then(|millis| millis.checked_add(begun)).unwrap_or(u32::MAX).max(1)
}
