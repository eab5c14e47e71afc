//! Frames that end with a delimiter: a line, or any bytes.

use bytes::BufMut;
use memchr::{memchr, memmem};

use super::{FrameError, Framing, Next, Span};

/// Default of the longest frame before its delimiter: 64 KiB. What has come of an unfinished frame is searched anew with each read, so
/// that a peer which sends byte by byte makes us look at this much for every one of them.
const DEFAULT_MAX: u32 = 64 * 1024;

/// Frames that end with `delimiter`, whatever stands in them. The handler sees each without it.
///
/// The vocabulary is that of Netty's `DelimiterBasedFrameDecoder`. It has one delimiter here; [`Line`] knows both ends of a line.
///
/// ```
/// # use rpc_transport::{Delimiter, Framing, Next, Span};
/// let mut framing = Delimiter::new("\r\n\r\n").max_frame_size(8 << 10);
/// assert_eq!(framing.next(b"GET /\r\n\r\nGET"), Ok(Next::Frame(Span { skip: 0, len: 5, tail: 4 })));
/// assert_eq!(framing.next(b"GET"), Ok(Next::More { need: 4 }));
/// ```
#[derive(Debug, Clone)]
pub struct Delimiter {
    finder: memmem::Finder<'static>,
    keep: bool,
    max_frame_size: u32,
}

impl Delimiter {
    /// Frames that end with these bytes.
    ///
    /// # Panics
    /// Without a byte: every frame would be empty.
    pub fn new(delimiter: impl AsRef<[u8]>) -> Delimiter {
        let delimiter = delimiter.as_ref();
        assert!(!delimiter.is_empty(), "a delimiter has a byte at least");
        Delimiter { finder: memmem::Finder::new(delimiter).into_owned(), keep: false, max_frame_size: DEFAULT_MAX }
    }

    /// The handler sees the delimiter, too, at the end of each frame.
    pub fn keep(self) -> Delimiter {
        Delimiter { keep: true, ..self }
    }

    /// Largest frame accepted from a peer or written, in bytes before the delimiter. Default 64 KiB. A longer one is
    /// [`FrameError::TooLarge`] as soon as it has come so far without its delimiter.
    pub fn max_frame_size(self, limit: u32) -> Delimiter {
        Delimiter { max_frame_size: limit, ..self }
    }

    /// Writes a frame: its content, which is copied, and the delimiter.
    ///
    /// # Errors
    /// [`TooLarge`](FrameError::TooLarge) when it exceeds `max_frame_size`; [`Invalid`](FrameError::Invalid) when a receiver would see it
    /// end sooner, because the delimiter stands in it, or begins in it. Nothing is written then.
    pub fn write(&self, content: &[u8], out: &mut impl BufMut) -> Result<(), FrameError> {
        let delimiter = self.finder.needle();
        within(content.len(), self.max_frame_size)?;
        // One may begin in the content and end in the delimiter behind it: "aa" behind "a".
        let begins_within = |at: usize| {
            let (begin, rest) = delimiter.split_at(at);
            content.ends_with(begin) && delimiter.starts_with(rest)
        };
        if self.finder.find(content).is_some() || (1..delimiter.len()).any(begins_within) {
            return Err(FrameError::invalid("its content has the delimiter in it", content));
        }
        out.put_slice(content);
        out.put_slice(delimiter);
        Ok(())
    }
}

impl Framing for Delimiter {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let delimiter = self.finder.needle().len();
        let most = self.max_frame_size as usize + delimiter;
        match self.finder.find(input.get(..most).unwrap_or(input)) {
            Some(len) if self.keep => Ok(Next::Frame(Span { skip: 0, len: len + delimiter, tail: 0 })),
            Some(len) => Ok(Next::Frame(Span { skip: 0, len, tail: delimiter })),
            None => unfinished(input, most, self.max_frame_size),
        }
    }
}

/// Lines: frames that end with `\n`, or with `\r\n`; the handler sees each without that.
///
/// The vocabulary is that of Netty's `LineBasedFrameDecoder`. What stands in a line is not looked at; a `\r` elsewhere is a byte as others are.
///
/// ```
/// # use rpc_transport::{Framing, Line, Next, Span};
/// let mut framing = Line::new();
/// assert_eq!(framing.next(b"PING\r\nPO"), Ok(Next::Frame(Span { skip: 0, len: 4, tail: 2 })));
/// assert_eq!(framing.next(b"\n"), Ok(Next::Frame(Span { skip: 0, len: 0, tail: 1 })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    end: &'static [u8],
    max_frame_size: u32,
}

impl Line {
    /// Takes both ends, and writes `\r\n`, as most protocols of the internet have it.
    pub const fn new() -> Line {
        Line { end: b"\r\n", max_frame_size: DEFAULT_MAX }
    }

    /// Writes `\n` alone.
    pub const fn lf(self) -> Line {
        Line { end: b"\n", ..self }
    }

    /// Longest line accepted from a peer or written, in bytes before its end. Default 64 KiB. A longer one is [`FrameError::TooLarge`] as
    /// soon as it has come so far without its end.
    pub const fn max_frame_size(self, limit: u32) -> Line {
        Line { max_frame_size: limit, ..self }
    }

    /// Writes a line: its content, which is copied, and its end.
    ///
    /// # Errors
    /// [`TooLarge`](FrameError::TooLarge) when it exceeds `max_frame_size`; [`Invalid`](FrameError::Invalid) when there is a `\n` in it, or
    /// a `\r` at its end, which a receiver would take for a part of the line's. Nothing is written then.
    pub fn write(&self, content: &[u8], out: &mut impl BufMut) -> Result<(), FrameError> {
        within(content.len(), self.max_frame_size)?;
        if memchr(b'\n', content).is_some() || content.last() == Some(&b'\r') {
            return Err(FrameError::invalid("its content has the end of a line in it", content));
        }
        out.put_slice(content);
        out.put_slice(self.end);
        Ok(())
    }
}

impl Default for Line {
    fn default() -> Line {
        Line::new()
    }
}

impl Framing for Line {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let most = self.max_frame_size as usize + 2;
        let look = input.get(..most).unwrap_or(input);
        let Some(end) = memchr(b'\n', look) else { return unfinished(input, most, self.max_frame_size) };
        let line = look.get(..end).unwrap_or_default();
        let len = line.strip_suffix(b"\r").unwrap_or(line).len();
        within(len, self.max_frame_size)?;
        Ok(Next::Frame(Span { skip: 0, len, tail: end + 1 - len }))
    }
}

/// There is no delimiter in `input`, which has one at the latest in its first `most` bytes.
fn unfinished(input: &[u8], most: usize, limit: u32) -> Result<Next, FrameError> {
    if input.len() < most {
        return Ok(Next::More { need: input.len() + 1 });
    }
    Err(FrameError::TooLarge { len: input.len() as u64, limit: limit.into() })
}

fn within(len: usize, limit: u32) -> Result<(), FrameError> {
    match len > limit as usize {
        true => Err(FrameError::TooLarge { len: len as u64, limit: limit.into() }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arrival::{Outcome, run};
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Of few different bytes, so that ends are often met; and a thousand times, at once.
        #[test]
        fn frames_do_not_depend_on_how_bytes_arrive(
            stream in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'\r'), Just(b'\n')], 0..40),
            end in "[a\r\n]{1,3}", limit in 0u32..20, cut in 0usize..40
        ) {
            let (begin, rest) = stream.split_at(cut.min(stream.len()));
            let many = stream.repeat(1000);
            let delimiter = Delimiter::new(&end).max_frame_size(limit);
            let line = Line::new().max_frame_size(limit);
            let seen = |outcome: Outcome| outcome.however_it_was_sought();
            prop_assert_eq!(seen(run(&delimiter, [begin, rest])), seen(run(&delimiter, stream.chunks(1))));
            prop_assert_eq!(seen(run(&line, [begin, rest])), seen(run(&line, stream.chunks(1))));
            prop_assert_eq!(seen(run(&line, [&many[..]])), seen(run(&line, many.chunks(7))));
        }

        #[test]
        fn what_is_written_is_read_again(content in "[ab\r\n]{0,6}", end in "[ab]{1,3}") {
            let (delimiter, line) = (Delimiter::new(&end), Line::new().lf());
            let due = Outcome { frames: vec![content.clone().into_bytes(); 2], error: None, left: 0 };
            let mut stream = Vec::new();
            if delimiter.write(content.as_bytes(), &mut stream).is_ok() {
                prop_assert_eq!(run(&delimiter, [&stream[..], &stream]), due.clone());
            }
            stream.clear();
            if line.write(content.as_bytes(), &mut stream).is_ok() {
                prop_assert_eq!(run(&line, [&stream[..], &stream]), due);
            }
        }
    }

    /// All frames of a stream, as they are seen when it comes at once; then the kind of the error, if there is one.
    fn frames(mut framing: impl Framing, mut stream: &[u8]) -> String {
        let mut seen = Vec::new();
        loop {
            match framing.next(stream) {
                Ok(Next::Frame(span)) => {
                    seen.push(stream[span.skip..span.skip + span.len].escape_ascii().to_string());
                    stream = &stream[span.consumed()..];
                }
                Ok(Next::More { need }) => {
                    assert!(need > stream.len());
                    break;
                }
                Err(FrameError::TooLarge { .. }) => {
                    seen.push("too large".to_owned());
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        seen.join("|")
    }

    #[test]
    #[rustfmt::skip]
    fn lines_and_delimiters_end_frames() {
        let line = || Line::new().max_frame_size(4);
        assert_eq!(frames(line(), b"a\nb\r\nc"),       "a|b");
        assert_eq!(frames(line(), b"\n\r\n\n"),         "||");
        assert_eq!(frames(line(), b"a\rb\n\r\r\n"),     "a\\rb|\\r");
        assert_eq!(frames(line(), b"abcd\r\nabcd\n"),   "abcd|abcd");
        assert_eq!(frames(line(), b"abcde\n"),          "too large");
        assert_eq!(frames(line(), b"abcd\r"),           "");
        assert_eq!(frames(line(), b"abcd\rx"),          "too large");
        let double = || Delimiter::new("\r\n\r\n").max_frame_size(6);
        assert_eq!(frames(double(), b"a\r\nb\r\n\r\nc\r\n\r"), "a\\r\\nb");
        assert_eq!(frames(double(), b"\r\n\r\n"),      "");
        assert_eq!(frames(double(), b"abcdef\r\n\r\n"), "abcdef");
        assert_eq!(frames(double(), b"abcdef\r\n\r"),  "");
        assert_eq!(frames(double(), b"abcdefg\r\n\r\n"), "too large");
        assert_eq!(frames(double().keep(), b"a\r\n\r\nb"), "a\\r\\n\\r\\n");
        assert_eq!(frames(Delimiter::new("\0"), b"one\0\0two\0"), "one||two");
    }

    #[test]
    #[rustfmt::skip]
    fn what_is_written_is_one_frame() {
        let line = Line::new().max_frame_size(4);
        let twice = Delimiter::new("aa").max_frame_size(4);
        let write = |wrote: Result<(), FrameError>, out: Vec<u8>| wrote.map(|()| out.escape_ascii().to_string()).ok();
        let line = |content: &[u8]| { let mut out = Vec::new(); write(line.write(content, &mut out), out) };
        let twice = |content: &[u8]| { let mut out = Vec::new(); write(twice.write(content, &mut out), out) };
        assert_eq!(line(b"abcd").as_deref(),  Some("abcd\\r\\n"));
        assert_eq!(line(b"a\rb").as_deref(),  Some("a\\rb\\r\\n"));
        assert_eq!(line(b""),                 Some("\\r\\n".to_owned()));
        for refused in [&b"abcde"[..], b"a\nb", b"a\r"] {
            assert_eq!(line(refused), None);
        }
        assert_eq!(twice(b"ab").as_deref(),   Some("abaa"));
        for refused in [&b"bcdef"[..], b"baab", b"ba"] {
            assert_eq!(twice(refused), None);
        }
    }
}
