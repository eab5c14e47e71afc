//! Where a frame begins and ends, decided from bytes alone.
//!
//! ```text
//!   received and not yet consumed                            Framing::next
//!   ┌──────┬───────────────┬──────┬─────────────┐
//!   │ skip │ content (len) │ tail │ next frame… │ ─► Frame(Span { skip, len, tail })
//!   └──────┴───────────────┴──────┴─────────────┘
//!   ┌───────────┐
//!   │ head only │                             ─► More { need }               need is checked against the limit first
//!   └───────────┘
//! ```
//!
//! No I/O, no buffering and no allocation here: the connection owns the bytes and asks again when more have come. An error
//! means that the byte stream cannot be trusted any more, and ends the connection.

// I30: bytes of a peer never panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

#[cfg(test)]
mod arrival;
#[cfg(feature = "tokio")]
mod codec;
mod delimiter;
mod fixed_length;
mod length_field;
mod unframed;

use std::fmt;

#[cfg(feature = "tokio")]
pub use codec::{FrameCodec, WholeFrame};
pub use delimiter::{Delimiter, Line};
pub use fixed_length::FixedLength;
pub use length_field::{LengthField, LengthWidth};
pub use unframed::Unframed;

/// Default of `max_frame_size`: 16 MiB.
pub const DEFAULT_MAX_FRAME_SIZE: u32 = 16 * 1024 * 1024;

/// Finds frames in the byte stream of one connection.
///
/// An implementation may keep state (such as the protocol it detected), but the answer must not depend on how the stream
/// arrived in pieces ([`Unframed`] is the exception).
pub trait Framing: Send {
    /// Looks at the start of `input`: all bytes received and not yet consumed, in one piece. It may be empty.
    ///
    /// # Errors
    /// When `input` cannot be the start of a legal frame, whatever follows. The connection is then closed.
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError>;

    /// A whole frame that [`next`](Framing::next) would find, if it is told at little cost; after `None`, which is the default, `next` is asked.
    /// So an implementation may leave to `next` whatever is rare.
    #[inline]
    fn whole(&mut self, input: &[u8]) -> Option<Span> {
        let _ = input;
        None
    }
}

/// What [`Framing::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A whole frame.
    Frame(Span),
    /// Not yet a whole frame.
    More {
        /// Bytes from the start of `input` until more can be said; more than `input` has. Once the frame's length is known
        /// this is the size of the whole frame, and within the limit, so that memory can be chosen for it.
        need: usize,
    },
}

/// A frame at the start of the input: `skip` bytes that nobody wants, `len` bytes of content, and `tail` bytes that nobody wants.
///
/// Each may be 0, but not all at once: a frame consumes at least one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Bytes before the content.
    pub skip: usize,
    /// Bytes of content.
    pub len: usize,
    /// Bytes behind it, such as a delimiter.
    pub tail: usize,
}

impl Span {
    /// Bytes of the input that this frame uses up.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.skip.saturating_add(self.len).saturating_add(self.tail)
    }
}

/// Why a byte stream is not a sequence of frames, or a frame cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame announced, or about to be sent, is longer than `max_frame_size`.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The start of a frame contradicts itself or its format.
    Invalid {
        /// What is wrong.
        reason: &'static str,
        /// The first bytes of the frame; zero where there were fewer.
        first: [u8; 8],
    },
}

impl FrameError {
    /// An [`Invalid`](FrameError::Invalid) frame that starts with `input`.
    pub fn invalid(reason: &'static str, input: &[u8]) -> FrameError {
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(input) {
            *to = *from;
        }
        FrameError::Invalid { reason, first }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLarge { len, limit } => {
                write!(
                    f,
                    "frame of {len} bytes, limit {limit}: raise `max_frame_size` at the receiver, or send less at once"
                )
            }
            FrameError::Invalid { reason, first } => {
                write!(f, "invalid frame: {reason}; it starts with")?;
                for byte in first {
                    write!(f, " {byte:02x}")?;
                }
                write!(f, ": check that both ends speak the same protocol")
            }
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_value_limit_and_remedy() {
        let too_large = FrameError::TooLarge { len: 17, limit: 16 };
        assert_eq!(
            too_large.to_string(),
            "frame of 17 bytes, limit 16: raise `max_frame_size` at the receiver, or send less at once"
        );
        let invalid = FrameError::invalid("its length is smaller than its header", b"GET /index.html");
        assert_eq!(
            invalid.to_string(),
            "invalid frame: its length is smaller than its header; it starts with 47 45 54 20 2f 69 6e 64: \
             check that both ends speak the same protocol"
        );
        let FrameError::Invalid { first, .. } = FrameError::invalid("short", b"ab") else { panic!() };
        assert_eq!(first, *b"ab\0\0\0\0\0\0");
    }
}
