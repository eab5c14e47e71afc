//! Frames that end with a delimiter, or have one length, against a search byte by byte.

use arbitrary::Unstructured;
use rpc_transport::{Delimiter, FixedLength, FrameError, Framing, Line, Next};

use crate::stream::{self, Outcome};
use crate::{meter, reach};

const DELIMITER: &str = "rpc-transport/src/framing/delimiter.rs";
const FIXED: &str = "rpc-transport/src/framing/fixed_length.rs";

/// What ends a frame, as both sides are told about it.
#[derive(Debug)]
enum Shape {
    Delimiter { end: [u8; 3], len: u8, keep: bool, limit: u8 },
    Line { lf: bool, limit: u8 },
    Fixed { len: u8 },
}

/// All three, and how each writes.
#[derive(Clone)]
enum Either {
    Delimiter(Delimiter),
    Line(Line),
    Fixed(FixedLength),
}

impl Framing for Either {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        match self {
            Either::Delimiter(framing) => framing.next(input),
            Either::Line(framing) => framing.next(input),
            Either::Fixed(framing) => framing.next(input),
        }
    }
}

impl Either {
    fn write(&self, content: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Either::Delimiter(framing) => framing.write(content, out),
            Either::Line(framing) => framing.write(content, out),
            Either::Fixed(framing) => framing.write(content, out),
        }
    }

    fn file(&self) -> &'static str {
        if matches!(self, Either::Fixed(_)) { FIXED } else { DELIMITER }
    }
}

impl Shape {
    fn end(&self) -> &[u8] {
        match self {
            Shape::Delimiter { end, len, .. } => &end[..1 + usize::from(*len) % end.len()],
            Shape::Line { .. } => b"\n",
            Shape::Fixed { .. } => b"",
        }
    }

    fn framing(&self) -> Either {
        match self {
            Shape::Delimiter { keep, limit, .. } => {
                let framing = Delimiter::new(self.end()).max_frame_size((*limit).into());
                Either::Delimiter(if *keep { framing.keep() } else { framing })
            }
            Shape::Line { lf, limit } => {
                let framing = Line::new().max_frame_size((*limit).into());
                Either::Line(if *lf { framing.lf() } else { framing })
            }
            Shape::Fixed { len } => Either::Fixed(FixedLength::new(u32::from(*len).max(1))),
        }
    }

    /// The content of the first frame, and how many bytes it uses up.
    fn first<'a>(&self, input: &'a [u8]) -> Option<(&'a [u8], usize)> {
        if let Shape::Fixed { len } = self {
            let len = usize::from(*len).max(1);
            return Some((input.get(..len)?, len));
        }
        let end = self.end();
        let at = (0..input.len()).find(|at| input[*at..].starts_with(end))?;
        let used = at + end.len();
        let content = match self {
            Shape::Line { .. } if at > 0 && input[at - 1] == b'\r' => &input[..at - 1],
            _ => &input[..at],
        };
        Some((content, used))
    }

    /// What must come out.
    fn reference(&self, mut input: &[u8]) -> Outcome {
        let mut outcome = Outcome { frames: Vec::new(), error: None, left: 0 };
        let (limit, keeps) = match self {
            Shape::Delimiter { limit, keep, .. } => (usize::from(*limit), *keep),
            Shape::Line { limit, .. } => (usize::from(*limit), false),
            Shape::Fixed { .. } => (usize::MAX, false),
        };
        // The longest end of a line has two bytes.
        let longest = limit.saturating_add(self.end().len().max(if matches!(self, Shape::Line { .. }) { 2 } else { 0 }));
        loop {
            match self.first(input) {
                Some((content, used)) if content.len() <= limit => {
                    outcome.frames.push(if keeps { &input[..used] } else { content }.to_vec());
                    input = &input[used..];
                }
                None if input.len() < longest => break,
                _ => {
                    outcome.error = Some(FrameError::TooLarge { len: 0, limit: limit as u64 });
                    break;
                }
            }
        }
        outcome.left = input.len();
        outcome
    }
}

/// Frames that end with any bytes.
pub fn delimiter(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((end, len, keep, limit)) = u.arbitrary() else { return };
    judge(&Shape::Delimiter { end, len, keep, limit }, u.take_rest());
}

/// Lines.
pub fn line(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((lf, limit)) = u.arbitrary() else { return };
    judge(&Shape::Line { lf, limit }, u.take_rest());
}

/// Frames of one length.
pub fn fixed_length(data: &[u8]) {
    let [len, stream @ ..] = data else { return };
    judge(&Shape::Fixed { len: *len }, stream);
}

/// Split invariance, a second opinion, time, and what is written is read again as one frame.
fn judge(shape: &Shape, stream: &[u8]) {
    let framing = shape.framing();
    let expected = shape.reference(stream);
    let whole = stream::receive(&mut framing.clone(), [stream]);
    reach::note(framing.file(), "next", &framing.clone().next(stream));
    let found = meter::framing(stream.len(), || stream::count(&mut framing.clone(), stream));
    assert_eq!(found, whole.frames.len());
    for pieces in [vec![stream], stream::pieces(stream), stream.chunks(1).collect()] {
        let pieces = stream::receive(&mut framing.clone(), pieces);
        assert_eq!(about(pieces), about(expected.clone()), "{shape:?}");
    }
    let mut written = Vec::new();
    let wrote = framing.write(stream, &mut written);
    if wrote.is_err() {
        assert!(written.is_empty(), "part of a refused frame was written");
        return;
    }
    let read = stream::receive(&mut framing.clone(), [&written[..], &written[..]]);
    let content = if matches!(shape, Shape::Delimiter { keep: true, .. }) { &written[..] } else { stream };
    assert_eq!((read.error, read.left), (None, 0), "{shape:?}");
    assert_eq!(read.frames, [content, content], "{shape:?}");
}

/// How much of a frame that is too long was there when it showed does not matter.
fn about(mut outcome: Outcome) -> Outcome {
    if let Some(FrameError::TooLarge { len, .. }) = &mut outcome.error {
        *len = 0;
    }
    outcome.left = if outcome.error.is_some() { 0 } else { outcome.left };
    outcome
}
