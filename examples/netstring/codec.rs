//! A length in decimal digits, a colon, so many bytes, a comma.

use bytes::BufMut;
use rpc_transport::{FrameError, Framing, Next, Span};

/// Most bytes of a string.
const LONGEST: usize = 99_999;

pub(crate) struct Netstring;

impl Netstring {
    /// # Panics
    /// When the string is too long.
    pub(crate) fn write(content: &[u8], out: &mut impl BufMut) {
        assert!(content.len() <= LONGEST, "a string of {} bytes, limit {LONGEST}", content.len());
        out.put_slice(format!("{}:", content.len()).as_bytes());
        out.put_slice(content);
        out.put_u8(b',');
    }
}

impl Framing for Netstring {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let digits = input.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let len = input[..digits].iter().take(6).fold(0, |len, digit| len * 10 + usize::from(digit - b'0'));
        let zeros = digits > 1 && input[0] == b'0';
        match input.get(digits) {
            _ if zeros => return Err(FrameError::invalid("a length with leading zeros", input)),
            _ if len > LONGEST => return Err(FrameError::TooLarge { len: len as u64, limit: LONGEST as u64 }),
            None => return Ok(Next::More { need: input.len() + 1 }),
            Some(b':') if digits > 0 => {}
            Some(_) => return Err(FrameError::invalid("no length and a colon", input)),
        }
        let span = Span { skip: digits + 1, len, tail: 1 };
        match input.get(span.skip + len) {
            None => Ok(Next::More { need: span.consumed() }),
            Some(b',') => Ok(Next::Frame(span)),
            Some(_) => Err(FrameError::invalid("no comma behind the string", input)),
        }
    }
}
