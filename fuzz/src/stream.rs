//! Bytes as a connection gets them: in pieces, kept until a frame is whole.

use rpc_transport::{FrameError, Framing, Next};

/// What a framing made of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) error: Option<FrameError>,
    /// Bytes that wait for the rest of their frame.
    pub(crate) left: usize,
}

/// A connection in small: appends pieces, takes frames, and holds the framing to its contract.
pub(crate) fn receive<'a>(framing: &mut impl Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut input = Vec::new();
    let (mut start, mut needed) = (0, 0);
    let mut outcome = Outcome { frames: Vec::new(), error: None, left: 0 };
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            let rest = &input[start..];
            match framing.next(rest) {
                Ok(Next::Frame(span)) => {
                    assert!(span.consumed() > 0, "a frame of nothing");
                    assert!(rest.len() >= needed, "a frame of fewer bytes than were asked for");
                    outcome.frames.push(rest[span.skip..span.skip + span.len].to_vec());
                    start += span.consumed();
                    needed = 0;
                }
                Ok(Next::More { need }) => {
                    assert!(need > rest.len(), "asked for bytes that are there");
                    assert!(need >= needed, "asked for less than before");
                    needed = need;
                    break;
                }
                Err(error) => {
                    outcome.error = Some(error);
                    outcome.left = rest.len();
                    return outcome;
                }
            }
        }
    }
    outcome.left = input.len() - start;
    outcome
}

/// The frames of a stream, counted and not kept: what finding them costs.
pub(crate) fn count(framing: &mut impl Framing, mut input: &[u8]) -> usize {
    let mut frames = 0;
    while let Ok(Next::Frame(span)) = framing.next(input) {
        frames += 1;
        input = &input[span.consumed()..];
    }
    frames
}

/// Most bytes that an input stands for: more than a block of a connection, so that frames are larger than one.
pub(crate) const MOST: usize = 96 * 1024;

/// What an input stands for: behind the two bytes of `RUN`, a number and a byte are so many times 512 of it, and one of them more. So a
/// frame of two blocks is a short input.
pub(crate) fn expand(data: &[u8]) -> Vec<u8> {
    const RUN: [u8; 2] = [0xf7, 0x5e];
    let (mut out, mut rest) = (Vec::new(), data);
    while let [first, after @ ..] = rest {
        rest = match rest {
            [a, b, count, byte, after @ ..] if [*a, *b] == RUN => {
                let room = MOST.saturating_sub(out.len());
                out.extend(std::iter::repeat_n(*byte, (512 * usize::from(*count) + 1).min(room)));
                after
            }
            _ => {
                out.push(*first);
                after
            }
        };
    }
    out.truncate(MOST);
    out
}

/// Cuts `data` into pieces of which the sizes are a function of the data: small ones mostly, so that every boundary is met. Of long data
/// all of them are larger, so that there are not more than some hundreds.
pub(crate) fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut state = data
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let (mut pieces, mut rest) = (Vec::new(), data);
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most = if state >> 62 == 0 { 64 } else { 7 } * (1 + data.len() / 2048);
        let (piece, after) = rest.split_at((1 + (state >> 33) as usize % most).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs_are_long() {
        assert_eq!(super::expand(b"a\xf7\x5e\x01bc\xf7\x5e\x00"), [b"a", &[b'b'; 513][..], b"c\xf7\x5e\x00"].concat());
        assert_eq!(super::expand(&b"\xf7\x5e\xff.".repeat(2)).len(), super::MOST);
    }

    #[test]
    fn pieces_are_the_whole() {
        let data: Vec<u8> = (0..=255).collect();
        let pieces = super::pieces(&data);
        assert!(pieces.len() > 5 && pieces.concat() == data);
    }
}
