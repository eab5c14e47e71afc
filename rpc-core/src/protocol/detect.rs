//! Which protocol a connection speaks, from its first bytes, and where its frames end.
//!
//! ```text
//!  first 8 bytes ──► "PRI * HT"                  HTTP/2              for life; refused today
//!                ──► 1000 at 4, streaming flag   TTHeader Streaming  for life; refused today
//!                ──► 1000 or 9001 at 4           unary               frame by frame, forms mixed
//!                ──► anything else               error, on 4 bytes when those tell
//! ```

use std::fmt;

use rpc_transport::{DEFAULT_MAX_FRAME_SIZE, FrameError, Framing, Next, Span};

use super::error::{FirstBytes, ProtocolError};
use super::payload;
use super::ttheader::check_fixed;
use super::ttheader::layout::{self, FLAG_STREAMING, MAX_FRAME};

/// Shortest value of a length field that can start a frame of either form, good or bad.
const MIN_LENGTH: u32 = payload::FIXED as u32;
/// What an HTTP/2 connection starts with; these eight bytes decide.
const HTTP2: &[u8; 8] = b"PRI * HT";

/// What a connection speaks, decided once by its first bytes. Later protocols join here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spoken {
    /// Unary messages, TTHeader or bare frame by frame.
    Unary,
    /// HTTP/2, so gRPC.
    Http2,
    /// TTHeader Streaming.
    Streaming,
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Spoken::Unary => "unary Kitex Protobuf",
            Spoken::Http2 => "HTTP/2",
            Spoken::Streaming => "TTHeader Streaming",
        })
    }
}

/// Framing of one connection that speaks Kitex Protobuf. A frame is handed over whole, its length field included.
#[derive(Debug, Clone)]
pub struct KitexFraming {
    max_frame_size: u32,
    spoken: Option<Spoken>,
}

impl Default for KitexFraming {
    fn default() -> KitexFraming {
        KitexFraming::new(DEFAULT_MAX_FRAME_SIZE)
    }
}

impl KitexFraming {
    /// For a connection that has said nothing yet. `max_frame_size` is in bytes without the length field, and cut to the format's
    /// 0x3FFFFFFF; a longer announcement is refused before anything is allocated for it.
    pub fn new(max_frame_size: u32) -> KitexFraming {
        KitexFraming { max_frame_size: max_frame_size.min(MAX_FRAME), spoken: None }
    }

    /// What the connection speaks, once a frame has shown it.
    pub fn spoken(&self) -> Option<Spoken> {
        self.spoken
    }

    /// Finds the frame at the start of `input`, as [`Framing::next`] does, with every detail in the error.
    ///
    /// # Errors
    /// `magic`, `too_large`, `length`, `header_size`, `unsupported`, as soon as the bytes at hand tell.
    #[inline]
    pub fn find(&mut self, input: &[u8]) -> Result<Next, ProtocolError> {
        match self.whole(input) {
            Some(span) => Ok(Next::Frame(span)),
            None => self.wait(input),
        }
    }

    /// Not a whole frame: what is wrong with it, or how much more is needed to say.
    #[cold]
    fn wait(&mut self, input: &[u8]) -> Result<Next, ProtocolError> {
        let Some(prefix) = input.first_chunk::<4>() else {
            return Ok(Next::More { need: 4 });
        };
        let first = self.spoken.is_none();
        if first && input.len() < HTTP2.len() && HTTP2.starts_with(input) {
            return Ok(Next::More { need: HTTP2.len() });
        }
        if first && input.starts_with(HTTP2) {
            return self.unsupported(Spoken::Http2);
        }
        let magic = input.get(4..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_be_bytes(*bytes));
        if magic.is_some_and(|magic| magic != layout::MAGIC && magic != payload::MAGIC) {
            return Err(ProtocolError::Magic(FirstBytes::of(input)));
        }
        let announced = u32::from_be_bytes(*prefix);
        if announced > self.max_frame_size {
            return Err(ProtocolError::TooLarge { announced, limit: self.max_frame_size });
        }
        if announced < MIN_LENGTH {
            return Err(ProtocolError::LengthBelowMinimum { announced, minimum: MIN_LENGTH });
        }
        let Some(head) = input.first_chunk::<8>() else {
            return Ok(Next::More { need: 8 });
        };
        if magic == Some(layout::MAGIC) {
            if u16::from_be_bytes([head[6], head[7]]) & FLAG_STREAMING != 0 {
                return self.unsupported(Spoken::Streaming);
            }
            if let Some(fixed) = input.first_chunk::<{ layout::FIXED }>() {
                check_fixed(announced, u16::from_be_bytes([fixed[12], fixed[13]]))?;
            }
            if announced < layout::MIN_LENGTH {
                return Err(ProtocolError::LengthBelowMinimum { announced, minimum: layout::MIN_LENGTH });
            }
        }
        Ok(Next::More { need: announced as usize + 4 })
    }

    #[cold]
    fn unsupported(&mut self, spoken: Spoken) -> Result<Next, ProtocolError> {
        self.spoken.get_or_insert(spoken);
        Err(ProtocolError::Unsupported(spoken))
    }
}

impl Framing for KitexFraming {
    #[inline]
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        self.find(input).map_err(|error| error.into_frame_error(input))
    }

    #[inline]
    fn whole(&mut self, input: &[u8]) -> Option<Span> {
        let head = input.first_chunk::<8>()?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let magic = u16::from_be_bytes([head[4], head[5]]);
        let unary = match magic {
            layout::MAGIC => u16::from_be_bytes([head[6], head[7]]) & FLAG_STREAMING == 0,
            payload::MAGIC => true,
            _ => false,
        };
        let len = length as usize + 4;
        if !unary || length < MIN_LENGTH || length > self.max_frame_size || len > input.len() {
            return None;
        }
        self.spoken = Some(Spoken::Unary);
        Some(Span { skip: 0, len, tail: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(framing: &mut KitexFraming, input: &[u8]) -> String {
        match framing.find(input) {
            Ok(Next::Frame(span)) => format!("frame {}", span.consumed()),
            Ok(Next::More { need }) => format!("more {need}"),
            Err(error) => error.kind().into(),
        }
    }

    /// Also B20, too long, and B22, shorter than its header.
    #[test]
    #[rustfmt::skip]
    fn four_bytes_decide_when_they_can() {
        let check = |input: &[u8], want: &str| {
            assert_eq!(answer(&mut KitexFraming::new(1 << 20), input), want, "{input:02x?}");
        };
        check(b"",                                   "more 4");
        check(b"\xff\xff\xff",                       "more 4");
        check(b"\xff\xff\xff\xff",                   "too_large");
        check(b"\x7f\xff\xff\xff\x10\0",             "too_large");
        check(b"\0\x10\0\x01",                       "too_large");
        check(b"\0\x10\0\0",                         "more 8");
        check(b"\0\x10\0\0\x10\0\0\0",               "more 1048580");
        check(b"GET ",                               "too_large");
        check(b"GET / H",                            "magic");
        check(b"PRI ",                               "more 8");
        check(b"PRI * H",                            "more 8");
        check(b"PRI * HT",                           "unsupported");
        check(b"PRI /",                              "too_large");
        check(b"PRI / HT",                           "magic");
        check(b"\xff\xaf\0\x04\0\0\0\0",             "magic");
        // T3: lengths below the smallest frame
        check(b"\0\0\0\0",                           "length");
        check(b"\0\0\0\x0b",                         "length");
        check(b"\0\0\0\x0c",                         "more 8");
        check(b"\0\0\0\0\x10\0",                   "length"); // found by fuzzing: more bytes must not mend what fewer refused
        check(b"\0\0\0\x0c\x10\0",                 "more 8");
        check(b"\0\0\0\0\x10\0\0\0",                 "length");
        check(b"\0\0\0\x0d\x10\0\0\0",               "length");
        check(b"\0\0\0\x0e\x10\0\0\0",               "more 18");
        check(b"\0\0\0\x0b\x90\x01\0\x01",           "length");
        // the fixed part is judged before the rest arrives
        check(b"\0\0\x10\0\x10\0\0\0\0\0\0\x01\0\0",         "header_size");
        check(b"\0\0\x10\0\x10\0\0\0\0\0\0\x01\xff\xff",     "length");
        check(b"\0\0\x10\0\x10\0\0\0\0\0\0\x01\0\x01",       "more 4100");
        check(b"\0\0\0\x0e\x10\0\0\x02\0\0\0\x01\0\x01\x10\0\0\0", "unsupported");
        check(b"\0\0\0\x0e\x10\0\0\x01\0\0\0\x01\0\x01\0\0\0\0xx", "frame 18");
    }

    #[test]
    fn a_unary_connection_stays_one() {
        let mut framing = KitexFraming::default();
        assert_eq!(answer(&mut framing, b"\0\0\0\x0e\x10\0\0\0\0\0\0\x01\0\x01\0\0\0\0"), "frame 18");
        assert_eq!(framing.spoken(), Some(Spoken::Unary));
        assert_eq!(answer(&mut framing, b"PRI "), "too_large");
        assert_eq!(answer(&mut framing, b"\0\0\0\x0e\x10\0\0\x02"), "unsupported");
        assert_eq!(framing.spoken(), Some(Spoken::Unary));
    }

    #[test]
    fn the_format_caps_the_limit() {
        let mut framing = KitexFraming::new(u32::MAX);
        assert_eq!(answer(&mut framing, b"\x40\0\0\0"), "too_large");
        assert_eq!(answer(&mut framing, b"\x3f\xff\xff\xff"), "more 8");
    }

    #[test]
    fn the_transport_hears_what_the_peer_looks_like() {
        let hears = |input: &[u8]| KitexFraming::default().next(input).unwrap_err().to_string();
        assert!(hears(b"GET ").contains("looks like an HTTP/1 request"));
        assert!(hears(b"\x16\x03\x01\x02\0\x01\0\x01").contains("looks like a TLS ClientHello"));
        assert!(hears(b"PRI * HTTP/2.0").contains("HTTP/2 is not served"));
        assert!(hears(b"\x7f\xff\xff\xff").contains("frame of 2147483647 bytes, limit 16777216"));
    }
}
