//! What the caller of a call that does not go out is told.

use std::time::Duration;

use crate::error::{Error, Phase, Refusal, Sent};
use crate::status::Code;

/// A peer's text, short enough for an error.
pub(crate) fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned()
}

pub(crate) fn refusal_error(refusal: Refusal) -> Error {
    Error::from(refusal).with_phase(Phase::Queue)
}

pub(crate) fn expired(timeout: Duration) -> Error {
    Error::deadline(timeout).with_sent(Sent::No).with_phase(Phase::Queue)
}

pub(crate) fn too_large(len: usize, limit: usize) -> Error {
    let text = format!(
        "the request's frame has {len} bytes, the limit max_frame_size is {limit}: send less at once, or raise it at both ends"
    );
    Error::new(Code::ResourceExhausted, text).with_sent(Sent::No).with_phase(Phase::Encode)
}

/// As it travels: whole milliseconds, rounded up, at least one.
pub(crate) fn timeout_ms(timeout: Duration) -> u32 {
    let millis =
        timeout.as_secs().saturating_mul(1000).saturating_add(timeout.subsec_nanos().div_ceil(1_000_000).into());
    u32::try_from(millis).unwrap_or(u32::MAX).max(1)
}
