//! Frames that carry their length in a fixed place.

use bytes::BufMut;

use super::{DEFAULT_MAX_FRAME_SIZE, FrameError, Framing, Next, Span};

/// Size of a length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthWidth {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Three bytes.
    U24,
    /// Four bytes.
    U32,
    /// Eight bytes.
    U64,
}

impl LengthWidth {
    /// The width in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            LengthWidth::U8 => 1,
            LengthWidth::U16 => 2,
            LengthWidth::U24 => 3,
            LengthWidth::U32 => 4,
            LengthWidth::U64 => 8,
        }
    }

    const fn max(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Frames whose length stands in a field of fixed width and place, unsigned.
///
/// ```text
///   ◄─ offset ─►◄─ width ─►◄──────── value + adjustment ────────►
///   ┌───────────┬──────────┬──────────────────────────────────────┐
///   │ header    │ length   │ rest of the frame                    │
///   └───────────┴──────────┴──────────────────────────────────────┘
///   ◄──── strip ────►◄──────────── what the handler sees ─────────►
/// ```
///
/// The vocabulary is that of Netty's `LengthFieldBasedFrameDecoder`, with two differences: by default everything through the
/// length field is stripped, and the limit counts what follows the length field.
///
/// ```
/// # use rpc_transport::{Framing, LengthField, LengthWidth, Next, Span};
/// let mut framing = LengthField::new(LengthWidth::U32).max_frame_size(1024);
/// assert_eq!(framing.next(b"\0\0\0\x02hi"), Ok(Next::Frame(Span { skip: 4, len: 2 })));
/// assert_eq!(framing.next(b"\0\0\0\x02h"), Ok(Next::More { need: 6 }));
/// assert!(framing.next(b"\0\0\x04\x01").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LengthField {
    offset: u32,
    width: LengthWidth,
    adjustment: i64,
    includes_itself: bool,
    strip: Option<u32>,
    little_endian: bool,
    max_frame_size: u32,
}

impl LengthField {
    /// A big-endian field at the very front that counts what follows it.
    pub const fn new(width: LengthWidth) -> LengthField {
        LengthField {
            offset: 0,
            width,
            adjustment: 0,
            includes_itself: false,
            strip: None,
            little_endian: false,
            max_frame_size: DEFAULT_MAX_FRAME_SIZE,
        }
    }

    /// Bytes before the length field. Default 0.
    pub const fn offset(self, offset: u32) -> LengthField {
        LengthField { offset, ..self }
    }

    /// Added to the field's value to get the number of bytes that follow the field. Default 0; negative when the value counts
    /// the field or what is before it, too.
    pub const fn adjustment(self, adjustment: i64) -> LengthField {
        LengthField { adjustment, ..self }
    }

    /// The value counts the length field's own bytes, too: the field's width is subtracted, besides the adjustment.
    pub const fn includes_itself(self) -> LengthField {
        LengthField {
            includes_itself: true,
            ..self
        }
    }

    /// Bytes dropped from the front of each frame before the handler sees it. By default everything through the length field.
    pub const fn strip(self, strip: u32) -> LengthField {
        LengthField {
            strip: Some(strip),
            ..self
        }
    }

    /// The field's least significant byte comes first.
    pub const fn little_endian(self) -> LengthField {
        LengthField {
            little_endian: true,
            ..self
        }
    }

    /// Largest frame accepted from a peer or written, in bytes after the length field. Default 16 MiB. A longer announcement
    /// is [`FrameError::TooLarge`] as soon as the length field is there.
    pub const fn max_frame_size(self, limit: u32) -> LengthField {
        LengthField {
            max_frame_size: limit,
            ..self
        }
    }

    /// Writes what stands before a payload of `payload_len` bytes, counted from the end of the length field: `offset` zero
    /// bytes and the length field.
    ///
    /// # Errors
    /// [`TooLarge`](FrameError::TooLarge) when the payload exceeds `max_frame_size`; [`Invalid`](FrameError::Invalid) when the
    /// field cannot hold the value, or a receiver could not strip as many bytes. Nothing is written then.
    pub fn write_head(&self, payload_len: usize, out: &mut impl BufMut) -> Result<(), FrameError> {
        let limit = u64::from(self.max_frame_size);
        let len = u64::try_from(payload_len).unwrap_or(u64::MAX);
        if len > limit {
            return Err(FrameError::TooLarge { len, limit });
        }
        self.span(len, &[])?;
        let value = i128::from(len) - self.added();
        let value = u64::try_from(value)
            .ok()
            .filter(|value| *value <= self.width.max());
        let value = value
            .ok_or_else(|| FrameError::invalid("its length does not fit the length field", &[]))?;
        out.put_bytes(0, self.offset as usize);
        match self.little_endian {
            false => out.put_uint(value, self.width.bytes()),
            true => out.put_uint_le(value, self.width.bytes()),
        }
        Ok(())
    }

    /// What the value differs by from the number of bytes after the field.
    #[inline]
    fn added(&self) -> i128 {
        let own = if self.includes_itself {
            self.width.bytes() as i128
        } else {
            0
        };
        i128::from(self.adjustment) - own
    }

    /// Offset and width.
    #[inline]
    fn head(&self) -> u64 {
        u64::from(self.offset) + self.width.bytes() as u64
    }

    /// The frame with `rest` bytes after the length field; `rest` is within the limit.
    #[inline]
    fn span(&self, rest: u64, input: &[u8]) -> Result<Span, FrameError> {
        let head = self.head();
        let total = head + rest; // both fit 33 bits
        let strip = self.strip.map_or(head, u64::from);
        if strip > total {
            return Err(FrameError::invalid(
                "it is shorter than the bytes to strip from it",
                input,
            ));
        }
        match (usize::try_from(total), usize::try_from(strip)) {
            (Ok(total), Ok(skip)) => Ok(Span {
                skip,
                len: total - skip,
            }),
            _ => Err(FrameError::TooLarge {
                len: total,
                limit: usize::MAX as u64,
            }),
        }
    }

    #[inline]
    fn value(&self, field: &[u8]) -> u64 {
        match (field, self.little_endian) {
            (&[a, b, c, d], false) => u64::from(u32::from_be_bytes([a, b, c, d])),
            (_, false) => field
                .iter()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
            (_, true) => field
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        }
    }
}

impl Framing for LengthField {
    #[inline]
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let start = self.offset as usize;
        let need = start.saturating_add(self.width.bytes());
        let Some(field) = input.get(start..need) else {
            return Ok(Next::More { need });
        };
        let limit = u64::from(self.max_frame_size);
        let rest = i128::from(self.value(field)) + self.added(); // 64-bit terms: cannot overflow
        if rest < 0 {
            return Err(FrameError::invalid(
                "its length is smaller than its header",
                input,
            ));
        }
        if rest > i128::from(limit) {
            return Err(FrameError::TooLarge {
                len: u64::try_from(rest).unwrap_or(u64::MAX),
                limit,
            });
        }
        let span = self.span(rest as u64, input)?;
        let need = span.consumed();
        Ok(if input.len() < need {
            Next::More { need }
        } else {
            Next::Frame(span)
        })
    }
}
