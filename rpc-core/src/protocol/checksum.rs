//! [`Checksum`]: CRC-32C of a payload, as the string pair `crc32c` of its TTHeader.
//!
//! Sent and checked only where a builder's `checksum` asks for it, which needs the feature `crc32c`.

use std::fmt;

use super::payload::{self, MessageType};
use super::ttheader::put_payload_head;

#[cfg(feature = "crc32c")]
use crc32c::crc32c_append as append;

/// Nobody asks: without the feature there is no way to switch checksums on.
#[cfg(not(feature = "crc32c"))]
fn append(crc: u32, _: &[u8]) -> u32 {
    crc
}

/// Digits of a checksum on the wire.
const DIGITS: usize = 8;

/// CRC-32C (Castagnoli) of all bytes after the TTHeader, the payload's own length field included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u32);

impl Checksum {
    /// That of a whole payload.
    pub fn of(payload: &[u8]) -> Checksum {
        Checksum(append(0, payload))
    }

    /// That of the payload which a message of these parts will be; `body` are the pieces of the message.
    pub fn of_message<'a>(
        kind: MessageType,
        method: &[u8],
        seq: i32,
        body: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Checksum {
        let n = payload::FIXED + method.len() + body.clone().map(<[u8]>::len).sum::<usize>();
        let mut head = Vec::with_capacity(payload::FIXED + method.len() + 4);
        put_payload_head(&mut head, n, kind, method, seq);
        Checksum(body.fold(append(0, &head), append))
    }

    /// As it travels: lower-case hex digits.
    pub fn to_hex(self) -> [u8; DIGITS] {
        let digit = |at: usize| b"0123456789abcdef"[(self.0 >> (28 - 4 * at) & 0xf) as usize];
        std::array::from_fn(digit)
    }

    /// Compares a payload with what its header says.
    ///
    /// # Errors
    /// They differ, or the header's text is no checksum.
    pub fn check(announced: &[u8], payload: &[u8]) -> Result<(), Corrupt> {
        let found = Checksum::of(payload).to_hex();
        if announced.eq_ignore_ascii_case(&found) {
            return Ok(());
        }
        let text = |text: &[u8]| String::from_utf8_lossy(&text[..text.len().min(2 * DIGITS)]).into_owned();
        Err(Corrupt { announced: text(announced), found: text(&found) })
    }
}

/// A payload is not what its checksum says: it was changed between the peer's encoder and here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// The checksum in the header; the beginning of it if it is too long for one.
    pub announced: String,
    /// The payload's.
    pub found: String,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the payload's crc32c is {}, its header says {}", self.found, self.announced)
    }
}

impl std::error::Error for Corrupt {}

#[cfg(all(test, feature = "crc32c"))]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnoli_s_in_lower_case_hex() {
        assert_eq!(&Checksum::of(b"123456789").to_hex(), b"e3069283");
        assert_eq!(&Checksum::of(b"").to_hex(), b"00000000");
        assert_eq!(Checksum::check(b"E3069283", b"123456789"), Ok(()));
    }

    #[test]
    fn a_message_in_pieces_has_the_checksum_of_its_payload() {
        let payload = b"\0\0\0\x17\x90\x01\0\x01\0\0\0\x04Echo\0\0\0\x0a\x0a\x05hello";
        for cut in 0..=7 {
            let (a, b) = b"\x0a\x05hello".split_at(cut);
            let of_parts = Checksum::of_message(MessageType::Call, b"Echo", 10, [a, b].into_iter());
            assert_eq!(of_parts, Checksum::of(payload));
        }
        assert_eq!(&Checksum::of(payload).to_hex(), b"f8ed18da");
    }

    #[test]
    #[rustfmt::skip]
    fn what_differs_is_named() {
        let check = |announced: &[u8], text: &str| {
            assert_eq!(Checksum::check(announced, b"123456789").unwrap_err().to_string(), text);
        };
        check(b"e3069284",     "the payload's crc32c is e3069283, its header says e3069284");
        check(b"nonsense, and much of it", "the payload's crc32c is e3069283, its header says nonsense, and mu");
        check(b"e306928",      "the payload's crc32c is e3069283, its header says e306928");
    }
}
