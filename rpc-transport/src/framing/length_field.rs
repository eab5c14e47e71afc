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
/// assert_eq!(framing.next(b"\0\0\0\x02hi"), Ok(Next::Frame(Span { skip: 4, len: 2, tail: 0 })));
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
        LengthField { includes_itself: true, ..self }
    }

    /// Bytes dropped from the front of each frame before the handler sees it. By default everything through the length field.
    pub const fn strip(self, strip: u32) -> LengthField {
        LengthField { strip: Some(strip), ..self }
    }

    /// The field's least significant byte comes first.
    pub const fn little_endian(self) -> LengthField {
        LengthField { little_endian: true, ..self }
    }

    /// Largest frame accepted from a peer or written, in bytes after the length field. Default 16 MiB. A longer announcement
    /// is [`FrameError::TooLarge`] as soon as the length field is there.
    pub const fn max_frame_size(self, limit: u32) -> LengthField {
        LengthField { max_frame_size: limit, ..self }
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
        let value = u64::try_from(value).ok().filter(|value| *value <= self.width.max());
        let value = value.ok_or_else(|| FrameError::invalid("its length does not fit the length field", &[]))?;
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
        let own = if self.includes_itself { self.width.bytes() as i128 } else { 0 };
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
            return Err(FrameError::invalid("it is shorter than the bytes to strip from it", input));
        }
        match (usize::try_from(total), usize::try_from(strip)) {
            (Ok(total), Ok(skip)) => Ok(Span { skip, len: total - skip, tail: 0 }),
            _ => Err(FrameError::TooLarge { len: total, limit: usize::MAX as u64 }),
        }
    }

    #[inline]
    fn value(&self, field: &[u8]) -> u64 {
        match (field, self.little_endian) {
            (&[a, b, c, d], false) => u64::from(u32::from_be_bytes([a, b, c, d])),
            (_, false) => field.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            (_, true) => field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
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
            return Err(FrameError::invalid("its length is smaller than its header", input));
        }
        if rest > i128::from(limit) {
            return Err(FrameError::TooLarge { len: u64::try_from(rest).unwrap_or(u64::MAX), limit });
        }
        let span = self.span(rest as u64, input)?;
        let need = span.consumed();
        Ok(if input.len() < need { Next::More { need } } else { Next::Frame(span) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arrival::{Outcome, run};
    use super::LengthWidth::{U8, U16, U24, U32, U64};
    use super::*;

    fn check(framing: LengthField, input: &[u8], frames: &[&[u8]]) {
        let outcome = run(&framing, [input]);
        assert_eq!(outcome.error, None, "{framing:?} {input:02x?}");
        assert_eq!(outcome.frames, frames, "{framing:?} {input:02x?}");
        assert_eq!(outcome.left, 0, "{framing:?} {input:02x?}");
        for cut in 0..=input.len() {
            let (a, b) = input.split_at(cut);
            assert_eq!(run(&framing, [a, b]), outcome, "cut at {cut}");
        }
        assert_eq!(run(&framing, input.chunks(1)), outcome, "byte by byte");
    }

    fn check_error(framing: LengthField, input: &[u8], error: &str) {
        let outcome = run(&framing, [input]);
        assert!(outcome.frames.is_empty());
        let text = outcome.error.expect(error).to_string();
        assert!(text.contains(error), "{text}");
        assert!(run(&framing, input.chunks(1)).error.is_some());
    }

    /// The examples in the documentation of `LengthFieldBasedFrameDecoder`, in their order.
    #[test]
    #[rustfmt::skip]
    fn netty_examples() {
        let two = LengthField::new(U16).strip(0);
        let three = LengthField::new(U24).strip(0);
        let hello = b"\x00\x0cHELLO, WORLD";
        check(two.clone(),                                 hello,                                   &[hello]);
        check(two.clone().strip(2),                        hello,                                   &[b"HELLO, WORLD"]);
        check(two.clone().adjustment(-2),                  b"\x00\x0eHELLO, WORLD",                 &[b"\x00\x0eHELLO, WORLD"]);
        check(three.clone().offset(2),                     b"\xca\xfe\x00\x00\x0cHELLO, WORLD",     &[b"\xca\xfe\x00\x00\x0cHELLO, WORLD"]);
        check(three.clone().adjustment(2),                 b"\x00\x00\x0c\xca\xfeHELLO, WORLD",     &[b"\x00\x00\x0c\xca\xfeHELLO, WORLD"]);
        check(two.clone().offset(1).adjustment(1).strip(3), b"\xca\x00\x0c\xfeHELLO, WORLD",        &[b"\xfeHELLO, WORLD"]);
        check(two.clone().offset(1).adjustment(-3).strip(3), b"\xca\x00\x10\xfeHELLO, WORLD",       &[b"\xfeHELLO, WORLD"]);
    }

    #[test]
    #[rustfmt::skip]
    fn widths_orders_and_positions() {
        //    framing                                      input                                     frames
        check(LengthField::new(U8),                        b"\x02hi\x00\x01!",                       &[b"hi", b"", b"!"]);
        check(LengthField::new(U16),                       b"\0\x02hi\0\x01!",                       &[b"hi", b"!"]);
        check(LengthField::new(U24),                       b"\0\0\x02hi",                            &[b"hi"]);
        check(LengthField::new(U32),                       b"\0\0\0\x02hi\0\0\0\0",                  &[b"hi", b""]);
        check(LengthField::new(U64),                       b"\0\0\0\0\0\0\0\x02hi",                  &[b"hi"]);
        check(LengthField::new(U16).little_endian(),       b"\x02\0hi",                              &[b"hi"]);
        check(LengthField::new(U24).little_endian(),       b"\x02\0\0hi",                            &[b"hi"]);
        check(LengthField::new(U32).little_endian(),       b"\x02\0\0\0hi",                          &[b"hi"]);
        check(LengthField::new(U64).little_endian(),       b"\x02\0\0\0\0\0\0\0hi",                  &[b"hi"]);
        check(LengthField::new(U16).includes_itself(),     b"\0\x04hi\0\x02",                        &[b"hi", b""]);
        check(LengthField::new(U8).offset(2),              b"ab\x02hicd\x00",                        &[b"hi", b""]);
        check(LengthField::new(U8).strip(2),               b"\x02hi\x01!",                           &[b"i", b""]);
        check(LengthField::new(U8).adjustment(2),          b"\x00hi",                                &[b"hi"]);
    }

    /// T1, T3, B10, B22: lengths that are too large, too small, or beyond all arithmetic.
    #[test]
    #[rustfmt::skip]
    fn illegal_lengths_are_errors_as_soon_as_they_are_there() {
        let limited = LengthField::new(U32).max_frame_size(16);
        check(limited.clone(),                             b"\0\0\0\x10................",            &[b"................"]);
        check_error(limited.clone(),                       b"\0\0\0\x11",                            "frame of 17 bytes, limit 16");
        check_error(limited.clone(),                       b"\x7f\xff\xff\xff",                      "frame of 2147483647 bytes, limit 16");
        check_error(limited.clone(),                       b"\xff\xff\xff\xff",                      "frame of 4294967295 bytes, limit 16");
        check_error(LengthField::new(U32),                 b"\x01\0\0\x01",                          "frame of 16777217 bytes, limit 16777216");
        check_error(LengthField::new(U64),                 &[0xff; 8],                               "frame of 18446744073709551615 bytes");
        check_error(LengthField::new(U64).adjustment(i64::MAX), &[0xff; 8],                          "frame of 18446744073709551615 bytes");
        check_error(LengthField::new(U64).adjustment(i64::MIN), &[0; 8],                             "smaller than its header");
        check_error(LengthField::new(U64).adjustment(i64::MIN).includes_itself(), &[0; 8],           "smaller than its header");
        check_error(LengthField::new(U32).includes_itself(), b"\0\0\0\x03",                          "smaller than its header; it starts with 00 00 00 03 00");
        check_error(LengthField::new(U16).adjustment(-14), b"\0\x0d",                                "smaller than its header");
        check_error(LengthField::new(U8).strip(4),         b"\x02hi",                                "shorter than the bytes to strip");
        check_error(LengthField::new(U8).strip(u32::MAX),  b"\x02",                                  "shorter than the bytes to strip");
    }

    /// T2: what is asked for is within the limit, and a far offset asks for no more than its head.
    #[test]
    fn the_need_is_the_head_first_and_then_the_whole_frame() {
        let mut framing = LengthField::new(U32).offset(4).max_frame_size(1000);
        assert_eq!(framing.next(b""), Ok(Next::More { need: 8 }));
        assert_eq!(framing.next(b"head\0\0\x03"), Ok(Next::More { need: 8 }));
        assert_eq!(framing.next(b"head\0\0\x03\xe8"), Ok(Next::More { need: 1008 }));
        assert!(framing.next(b"head\0\0\x03\xe9").is_err());
        let mut far = LengthField::new(U64).offset(u32::MAX).max_frame_size(u32::MAX);
        assert_eq!(far.next(b"x"), Ok(Next::More { need: (1 << 32) + 7 }));
    }

    #[test]
    #[rustfmt::skip]
    fn heads_are_written_as_they_are_read() {
        fn head(framing: &LengthField, payload: usize) -> Result<Vec<u8>, String> {
            let mut out = Vec::new();
            let result = framing.write_head(payload, &mut out);
            assert!(result.is_ok() || out.is_empty());
            result.map(|()| out).map_err(|error| error.to_string())
        }
        assert_eq!(head(&LengthField::new(U32), 258).unwrap(),                   b"\0\0\x01\x02");
        assert_eq!(head(&LengthField::new(U24).little_endian(), 258).unwrap(),   b"\x02\x01\0");
        assert_eq!(head(&LengthField::new(U16).includes_itself(), 12).unwrap(),  b"\0\x0e");
        assert_eq!(head(&LengthField::new(U8).offset(3), 5).unwrap(),            b"\0\0\0\x05");
        assert_eq!(head(&LengthField::new(U8).adjustment(2), 2).unwrap(),        b"\0");
        assert!(head(&LengthField::new(U8), 256).unwrap_err().contains("does not fit"));
        assert!(head(&LengthField::new(U8).includes_itself(), 255).unwrap_err().contains("does not fit"));
        assert!(head(&LengthField::new(U8).adjustment(2), 1).unwrap_err().contains("does not fit"));
        assert!(head(&LengthField::new(U64).adjustment(i64::MIN).max_frame_size(9), 9).is_ok());
        assert!(head(&LengthField::new(U32).max_frame_size(9), 10).unwrap_err().contains("limit 9"));
        assert!(head(&LengthField::new(U32).max_frame_size(9), usize::MAX).unwrap_err().contains("limit 9"));
        assert!(head(&LengthField::new(U32).strip(9), 1).unwrap_err().contains("strip"));
    }

    /// What Netty's decoder does, in its order, on one buffer with all the input, in numbers that cannot overflow.
    fn reference(framing: &LengthField, mut input: &[u8]) -> Outcome {
        let mut outcome = Outcome { frames: Vec::new(), error: None, left: 0 };
        let width = framing.width.bytes();
        let end = framing.offset as usize + width;
        while input.len() >= end {
            let mut field = input[framing.offset as usize..end].to_vec();
            if framing.little_endian {
                field.reverse();
            }
            let value = field.iter().fold(0i128, |value, byte| value * 256 + i128::from(*byte));
            let own = if framing.includes_itself { width as i128 } else { 0 };
            let rest = value + i128::from(framing.adjustment) - own;
            let limit = i128::from(framing.max_frame_size);
            let strip = framing.strip.map_or(end as i128, i128::from);
            let total = end as i128 + rest;
            outcome.error = if rest < 0 {
                Some(FrameError::invalid("its length is smaller than its header", input))
            } else if rest > limit {
                Some(FrameError::TooLarge { len: rest.min(u64::MAX.into()) as u64, limit: limit as u64 })
            } else if strip > total {
                Some(FrameError::invalid("it is shorter than the bytes to strip from it", input))
            } else {
                None
            };
            if outcome.error.is_some() {
                return outcome;
            }
            if (input.len() as i128) < total {
                break;
            }
            let (frame, after) = input.split_at(total as usize);
            outcome.frames.push(frame[strip as usize..].to_vec());
            input = after;
        }
        outcome.left = input.len();
        outcome
    }

    fn framings() -> impl Strategy<Value = LengthField> {
        let width = prop_oneof![Just(U8), Just(U16), Just(U24), Just(U32), Just(U64)];
        let adjustment = prop_oneof![8 => -4i64..5, 1 => any::<i64>(), 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
        let strip = prop_oneof![3 => Just(None), 3 => (0u32..8).prop_map(Some), 1 => any::<u32>().prop_map(Some)];
        let limit = prop_oneof![4 => 0u32..64, 1 => Just(u32::MAX)];
        (0u32..5, width, adjustment, any::<bool>(), strip, any::<bool>(), limit).prop_map(
            |(offset, width, adjustment, includes_itself, strip, little_endian, max_frame_size)| LengthField {
                offset,
                width,
                adjustment,
                includes_itself,
                strip,
                little_endian,
                max_frame_size,
            },
        )
    }

    /// Mostly zeros and small numbers, so that lengths are often legal.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![6 => Just(0u8), 4 => 0u8..12, 1 => any::<u8>()];
        proptest::collection::vec(byte, 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn behaves_like_the_reference_however_the_bytes_arrive(
            framing in framings(), stream in streams(), cuts in proptest::collection::vec(0usize..80, 0..6)
        ) {
            let expected = reference(&framing, &stream);
            prop_assert_eq!(run(&framing, [&stream[..]]), expected.clone());
            let expected = expected.however_it_came();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(stream.len())).chain([0, stream.len()]).collect();
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(run(&framing, chunks).however_it_came(), expected.clone());
            prop_assert_eq!(run(&framing, stream.chunks(1)).however_it_came(), expected);
        }

        #[test]
        fn what_is_written_is_read_again(framing in framings(), payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = Vec::new();
            if framing.write_head(payload.len(), &mut stream).is_ok() {
                stream.extend_from_slice(&payload);
                let strip = framing.strip.map_or(framing.head() as usize, |strip| strip as usize);
                let outcome = run(&framing, [&stream[..], &stream[..]]);
                prop_assert_eq!(outcome.error, None);
                prop_assert_eq!(outcome.frames, vec![stream[strip..].to_vec(); 2]);
            }
        }
    }
}
