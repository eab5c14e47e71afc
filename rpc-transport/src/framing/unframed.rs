//! No framing: whatever has come.

use super::{FrameError, Framing, Next, Span};

/// Whatever has come is a frame, for a stream whose bytes only pass through, or which its handler cuts up by itself. Where a frame ends says
/// nothing: it depends on how the bytes arrived. It is as large as what was read, at most the room for a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unframed;

impl Framing for Unframed {
    #[inline]
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        match input.len() {
            0 => Ok(Next::More { need: 1 }),
            len => Ok(Next::Frame(Span { skip: 0, len, tail: 0 })),
        }
    }
}
