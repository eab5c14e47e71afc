//! For tests of framings: bytes as a connection gets them, in chunks, kept until a frame is whole.

use proptest::prelude::*;

use super::{Delimiter, FixedLength, FrameError, Framing, LengthField, LengthWidth, Line, Next};

/// What a framing made of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) error: Option<FrameError>,
    /// Bytes that wait for the rest of their frame.
    pub(super) left: usize,
}

impl Outcome {
    /// Without what depends on how the bytes came: how many of a refused frame's first were there.
    pub(super) fn however_it_came(mut self) -> Outcome {
        self.error = self.error.map(|error| match error {
            FrameError::Invalid { reason, .. } => FrameError::invalid(reason, &[]),
            too_large => too_large,
        });
        self
    }

    /// As [`however_it_came`](Outcome::however_it_came), of a framing that looks for an end: how far it looked in vain depends on that, too.
    pub(super) fn however_it_was_sought(self) -> Outcome {
        let mut outcome = self.however_it_came();
        if let Some(FrameError::TooLarge { len, .. }) = &mut outcome.error {
            *len = 0;
        }
        outcome
    }
}

/// A connection in small: appends chunks, takes frames, and holds `Framing` to its contract.
pub(super) fn run<'a>(framing: &(impl Framing + Clone), chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut framing, mut input) = (framing.clone(), Vec::new());
    let mut outcome = Outcome { frames: Vec::new(), error: None, left: 0 };
    let (mut start, mut needed) = (0, 0);
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            let rest: &[u8] = &input[start..];
            match framing.next(rest) {
                Ok(Next::Frame(span)) => {
                    assert!(span.consumed() > 0);
                    assert!(rest.len() >= needed, "a frame of fewer bytes than were asked for");
                    outcome.frames.push(rest[span.skip..][..span.len].to_vec());
                    start += span.consumed();
                    needed = 0;
                }
                Ok(Next::More { need }) => {
                    assert!(need > rest.len(), "asked for bytes that are there");
                    assert!(need >= needed);
                    needed = need;
                    break;
                }
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    outcome.left = input.len() - start;
    outcome
}

/// A thousand frames of these contents come at once, and byte by byte.
fn a_thousand<F: Framing + Clone>(
    framing: &F,
    contents: &[Vec<u8>],
    write: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), FrameError>,
) {
    let (mut stream, mut frames) = (Vec::new(), Vec::new());
    for content in contents.iter().cycle().take(1000) {
        write(content, &mut stream).expect("within its limits");
        frames.push(content.clone());
    }
    let expected = Outcome { frames, error: None, left: 0 };
    assert_eq!(run(framing, [&stream[..]]), expected, "at once");
    assert_eq!(run(framing, stream.chunks(1)), expected, "byte by byte");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn a_thousand_frames_come_at_once_or_byte_by_byte(
        contents in proptest::collection::vec("[a-z]{0,9}".prop_map(String::into_bytes), 1..9)
    ) {
        let (line, delimiter) = (Line::new(), Delimiter::new("-*-"));
        a_thousand(&line, &contents, |content, out| line.write(content, out));
        a_thousand(&delimiter, &contents, |content, out| delimiter.write(content, out));
        let field = LengthField::new(LengthWidth::U24).offset(1).adjustment(-2);
        a_thousand(&field, &contents, |content, out| {
            field.write_head(content.len(), out)?;
            out.extend_from_slice(content);
            Ok(())
        });
        let fixed = FixedLength::new(7);
        let padded: Vec<_> = contents.iter().map(|content| [content, &b"......."[..]].concat()[..7].to_vec()).collect();
        a_thousand(&fixed, &padded, |content, out| fixed.write(content, out));
    }
}

/// What the documentation of Netty's decoders has as examples, but for `LengthField`, which has a table of its own.
#[test]
#[rustfmt::skip]
fn netty_examples() {
    fn check(framing: impl Framing + Clone, input: &[&[u8]], frames: &[&str]) {
        let outcome = run(&framing, input.iter().copied());
        let seen: Vec<_> = outcome.frames.iter().map(|frame| String::from_utf8_lossy(frame)).collect();
        assert_eq!((&seen[..], outcome.error, outcome.left), (&frames.iter().map(|frame| (*frame).into()).collect::<Vec<_>>()[..], None, 0));
    }
    // `FixedLengthFrameDecoder(3)`: four packets become three.
    check(FixedLength::new(3),     &[b"A", b"BC", b"DEFG", b"HI"], &["ABC", "DEF", "GHI"]);
    // `DelimiterBasedFrameDecoder`: of the two ends of a line the one that makes the shorter frame; here `Line` has both.
    check(Line::new(),             &[b"ABC\nDEF\r\n"],            &["ABC", "DEF"]);
    check(Delimiter::new("\r\n"),  &[b"ABC\nDEF\r\n"],            &["ABC\nDEF"]);
    // `LineBasedFrameDecoder` takes both, and its `stripDelimiter` off is `keep` of a delimiter.
    check(Line::new(),             &[b"ABC\r\n", b"DEF\n"],        &["ABC", "DEF"]);
    check(Delimiter::new("\n").keep(), &[b"ABC\nDEF\n"],          &["ABC\n", "DEF\n"]);
    // `Delimiters.nulDelimiter`.
    check(Delimiter::new("\0"),    &[b"ABC\0DEF\0"],              &["ABC", "DEF"]);
}
