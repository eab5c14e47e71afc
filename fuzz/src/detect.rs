//! The first bytes of a connection, and where its frames end.

use rpc_core::protocol::ttheader::TtFrame;
use rpc_core::protocol::{Form, KitexFraming, Payload, Spoken, form_of};
use rpc_transport::{Framing, Next};

use crate::stream::{self, Outcome};
use crate::{meter, reach, reference};

/// A limit that small inputs can exceed.
const LIMIT: u32 = 4096;

/// The framing of a connection: split invariance up to the message that ends it, a second opinion, memory and time.
pub fn detect(data: &[u8]) {
    let whole = stream::receive(&mut KitexFraming::new(LIMIT), [data]);
    let found = meter::framing(data.len(), || stream::count(&mut KitexFraming::new(LIMIT), data));
    assert_eq!(found, whole.frames.len());
    let (messages, ending) = seen(&whole);
    assert_eq!((messages.clone(), ending), frames(data, LIMIT));
    for pieces in [stream::pieces(data), data.chunks(1).collect()] {
        assert_eq!(seen(&stream::receive(&mut KitexFraming::new(LIMIT), pieces)), (messages.clone(), ending));
    }
    let mut framing = KitexFraming::new(LIMIT);
    let (found, held) = meter::peak(|| framing.find(data));
    assert_eq!(held, 0, "finding a frame allocates");
    reach::note("rpc-core/src/protocol/detect.rs", "find", &found);
    match (framing.spoken(), found) {
        (Some(Spoken::Unary), Ok(Next::Frame(_))) => {}
        (Some(Spoken::Http2 | Spoken::Streaming), Err(error)) => assert_eq!(error.kind(), "unsupported"),
        (None, Ok(Next::More { .. }) | Err(_)) => {}
        (spoken, found) => panic!("{found:?} with {spoken:?}"),
    }
    // The transport hears of the same end in its own words.
    let next = KitexFraming::new(LIMIT).next(data);
    reach::note("rpc-core/src/protocol/detect.rs", "next", &next);
    assert_eq!(next.is_err(), KitexFraming::new(LIMIT).find(data).is_err());
    reach::note("rpc-core/src/protocol/header.rs", "form_of", &form_of(data));
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    /// The connection is closed, by its framing or by what is in a frame.
    Closed,
    /// So many bytes wait for more.
    Waits(usize),
}

/// The good frames that a handler gets until the connection ends: a frame may be found whole before a look at its fixed part would
/// have refused it, so what is in it counts.
fn seen(outcome: &Outcome) -> (Vec<Vec<u8>>, Ending) {
    let mut good = Vec::new();
    for frame in &outcome.frames {
        let read = form_of(frame).and_then(|form| match form {
            Form::TtHeader => TtFrame::decode(frame).and_then(|tt| Payload::decode(tt.payload)).map(|_| ()),
            Form::Framed => Payload::decode(frame).map(|_| ()),
        });
        match read {
            Ok(()) => good.push(frame.clone()),
            Err(_) => return (good, Ending::Closed),
        }
    }
    let ending = if outcome.error.is_some() { Ending::Closed } else { Ending::Waits(outcome.left) };
    (good, ending)
}

/// The same from the description: the longest run of legal frames, then whether what follows can begin one.
pub(crate) fn frames(data: &[u8], limit: u32) -> (Vec<Vec<u8>>, Ending) {
    let (mut frames, ending) = cut(data, limit);
    let legal = frames.iter().position(|frame| message(frame).is_err());
    match legal {
        Some(legal) => {
            frames.truncate(legal);
            (frames, Ending::Closed)
        }
        None => (frames, ending),
    }
}

/// The message in a whole frame.
pub(crate) fn message(frame: &[u8]) -> Result<reference::Message, &'static str> {
    match frame.get(4..6) {
        Some([0x10, 0x00]) => reference::frame(frame).and_then(|tt| reference::message(&tt.payload)),
        _ => reference::message(frame),
    }
}

/// The frames of a stream, whatever is in them, up to one that cannot be one.
pub(crate) fn cut(data: &[u8], limit: u32) -> (Vec<Vec<u8>>, Ending) {
    let (mut frames, mut rest) = (Vec::new(), data);
    loop {
        let number = |at: usize, n: usize| {
            let field = rest.get(at..at + n)?;
            Some(field.iter().fold(0u64, |value, byte| value * 256 + u64::from(*byte)))
        };
        let waits = Ending::Waits(rest.len());
        let Some(length) = number(0, 4) else { return (frames, waits) };
        if frames.is_empty() && rest.len() < 8 && b"PRI * HT".starts_with(rest) {
            return (frames, waits);
        }
        let magic = number(4, 2);
        let tt = magic == Some(0x1000);
        if length > limit.into() || length < 12 || magic.is_some_and(|magic| !tt && magic != 0x9001) {
            return (frames, Ending::Closed);
        }
        let Some(flags) = number(6, 2) else { return (frames, waits) };
        let bad_size = number(12, 2).is_some_and(|size| size == 0 || 4 + length < 14 + 4 * size);
        if tt && (flags & 2 != 0 || length < 14 || bad_size) {
            return (frames, Ending::Closed);
        }
        let Some(frame) = rest.get(..4 + length as usize) else { return (frames, waits) };
        frames.push(frame.to_vec());
        rest = &rest[frame.len()..];
    }
}
