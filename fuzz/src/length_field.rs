//! Frames with a length field of any shape, against a decoder in numbers that cannot overflow.

use arbitrary::{Arbitrary, Unstructured};
use rpc_transport::{FrameError, Framing, LengthField, LengthWidth};

use crate::stream::{self, Outcome};
use crate::{meter, reach};

/// A length field, as both sides are told about it.
#[derive(Debug, Arbitrary)]
struct Shape {
    offset: u8,
    width: Width,
    adjustment: Adjustment,
    includes_itself: bool,
    strip: Option<u8>,
    little_endian: bool,
    limit: Limit,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Width {
    U8,
    U16,
    U24,
    U32,
    U64,
}

#[derive(Debug, Arbitrary)]
enum Adjustment {
    None,
    Small(i8),
    Any(i64),
}

#[derive(Debug, Arbitrary)]
enum Limit {
    Small(u8),
    Any(u32),
}

impl Shape {
    fn width(&self) -> usize {
        match self.width {
            Width::U8 => 1,
            Width::U16 => 2,
            Width::U24 => 3,
            Width::U32 => 4,
            Width::U64 => 8,
        }
    }

    fn adjustment(&self) -> i64 {
        match self.adjustment {
            Adjustment::None => 0,
            Adjustment::Small(n) => n.into(),
            Adjustment::Any(n) => n,
        }
    }

    fn limit(&self) -> u32 {
        match self.limit {
            Limit::Small(n) => n.into(),
            Limit::Any(n) => n,
        }
    }

    fn framing(&self) -> LengthField {
        let width = match self.width {
            Width::U8 => LengthWidth::U8,
            Width::U16 => LengthWidth::U16,
            Width::U24 => LengthWidth::U24,
            Width::U32 => LengthWidth::U32,
            Width::U64 => LengthWidth::U64,
        };
        let framing = LengthField::new(width).offset(self.offset.into()).adjustment(self.adjustment());
        let framing = framing.max_frame_size(self.limit());
        let framing = if self.includes_itself { framing.includes_itself() } else { framing };
        let framing = if self.little_endian { framing.little_endian() } else { framing };
        match self.strip {
            Some(strip) => framing.strip(strip.into()),
            None => framing,
        }
    }

    /// What must come out.
    fn reference(&self, mut input: &[u8]) -> Outcome {
        let mut outcome = Outcome { frames: Vec::new(), error: None, left: 0 };
        let (start, end) = (usize::from(self.offset), usize::from(self.offset) + self.width());
        while input.len() >= end {
            let mut field = input[start..end].to_vec();
            if self.little_endian {
                field.reverse();
            }
            let value = field.iter().fold(0i128, |value, byte| value * 256 + i128::from(*byte));
            let own = if self.includes_itself { self.width() as i128 } else { 0 };
            let rest = value + i128::from(self.adjustment()) - own;
            let total = end as i128 + rest;
            let strip = self.strip.map_or(end as i128, i128::from);
            outcome.error = if rest < 0 {
                Some(FrameError::invalid("its length is smaller than its header", input))
            } else if rest > self.limit().into() {
                Some(FrameError::TooLarge { len: rest.min(u64::MAX.into()) as u64, limit: self.limit().into() })
            } else if strip > total {
                Some(FrameError::invalid("it is shorter than the bytes to strip from it", input))
            } else {
                None
            };
            if outcome.error.is_some() || (input.len() as i128) < total {
                break;
            }
            let (frame, after) = input.split_at(total as usize);
            outcome.frames.push(frame[strip as usize..].to_vec());
            input = after;
        }
        outcome.left = input.len();
        outcome
    }
}

/// The splitter of frames with a length field: split invariance, a second opinion, memory, time, and its own heads read again.
pub fn length_field(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(shape) = Shape::arbitrary(&mut u) else { return };
    let stream = u.take_rest();
    let framing = shape.framing();
    let expected = shape.reference(stream);
    let whole = stream::receive(&mut framing.clone(), [stream]);
    reach::note("rpc-transport/src/framing/length_field.rs", "next", &framing.clone().next(stream));
    let found = meter::framing(stream.len(), || stream::count(&mut framing.clone(), stream));
    assert_eq!(found, whole.frames.len());
    assert_eq!(whole, expected, "{shape:?}");
    for pieces in [stream::pieces(stream), stream.chunks(1).collect()] {
        assert_eq!(about(stream::receive(&mut framing.clone(), pieces)), about(expected.clone()), "{shape:?}");
    }
    let mut written = Vec::new();
    let head = framing.write_head(stream.len(), &mut written);
    if head.is_err() {
        assert!(written.is_empty(), "part of a refused head was written");
        return;
    }
    written.extend_from_slice(stream);
    let strip = shape.strip.map_or(usize::from(shape.offset) + shape.width(), usize::from);
    let read = stream::receive(&mut framing.clone(), [&written[..], &written[..]]);
    assert_eq!((read.error, read.left), (None, 0), "{shape:?}");
    assert_eq!(read.frames, [&written[strip..], &written[strip..]], "{shape:?}");
}

/// An error quotes the bytes that were there when it showed; what it is about does not depend on them.
fn about(mut outcome: Outcome) -> Outcome {
    if let Some(FrameError::Invalid { first, .. }) = &mut outcome.error {
        *first = [0; 8];
    }
    outcome.left = if outcome.error.is_some() { 0 } else { outcome.left };
    outcome
}
