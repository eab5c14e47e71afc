//! Frames of one length.

use bytes::BufMut;

use super::{FrameError, Framing, Next, Span};

/// Frames of always the same length, as Netty's `FixedLengthFrameDecoder` has them.
///
/// ```
/// # use rpc_transport::{FixedLength, Framing, Next, Span};
/// let mut framing = FixedLength::new(3);
/// assert_eq!(framing.next(b"abcd"), Ok(Next::Frame(Span { skip: 0, len: 3, tail: 0 })));
/// assert_eq!(framing.next(b"d"), Ok(Next::More { need: 3 }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedLength(usize);

impl FixedLength {
    /// Frames of so many bytes.
    ///
    /// # Panics
    /// If `len` is 0: a frame has a byte at least.
    pub const fn new(len: u32) -> FixedLength {
        assert!(len > 0, "a frame has a byte at least");
        FixedLength(len as usize)
    }

    /// Writes a frame: its content, which is copied.
    ///
    /// # Errors
    /// [`Invalid`](FrameError::Invalid) when it is of another length. Nothing is written then.
    pub fn write(&self, content: &[u8], out: &mut impl BufMut) -> Result<(), FrameError> {
        if content.len() != self.0 {
            return Err(FrameError::invalid("it is not of the one length that frames have", content));
        }
        out.put_slice(content);
        Ok(())
    }
}

impl Framing for FixedLength {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        Ok(match input.len() < self.0 {
            true => Next::More { need: self.0 },
            false => Next::Frame(Span { skip: 0, len: self.0, tail: 0 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_are_written() {
        let mut out = Vec::new();
        let framing = FixedLength::new(3);
        assert!(framing.write(b"ab", &mut out).is_err() && framing.write(b"abcd", &mut out).is_err() && out.is_empty());
        framing.write(b"abc", &mut out).expect("three bytes");
        assert_eq!(out, b"abc");
    }
}
