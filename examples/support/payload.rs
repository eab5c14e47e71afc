//! Payloads that carry their number and a checksum, so that a mixed-up or damaged reply shows.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::idl::testee::{Item, Mixed};

/// Number and checksum, 8 bytes each. A shorter payload is a prefix of them.
const HEAD: usize = 16;

/// What is wrong with a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It has another length.
    Length {
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        due: usize,
    },
    /// It is of another call.
    Number {
        /// The number in it.
        got: u64,
        /// The call's.
        due: u64,
    },
    /// Its bytes are damaged.
    Checksum,
    /// Its content differs.
    Content,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Length { got, due } => write!(f, "{got} bytes instead of {due}"),
            Wrong::Number { got, due } => write!(f, "the payload of call {got} came to call {due}"),
            Wrong::Checksum => f.write_str("the checksum does not match"),
            Wrong::Content => f.write_str("another content"),
        }
    }
}

/// The payload of call `number`, of `len` bytes: number, checksum, then bytes that depend on the number.
pub fn make(number: u64, len: usize) -> Bytes {
    let mut body = BytesMut::with_capacity(len.max(HEAD) + 8);
    body.put_u64_le(number);
    body.put_u64_le(0);
    let mut state = number;
    while body.len() < len {
        state = mix(state);
        body.put_u64_le(state);
    }
    body.truncate(len.max(HEAD));
    let sum = checksum(number, len, &body[HEAD..]);
    body[8..HEAD].copy_from_slice(&sum.to_le_bytes());
    body.truncate(len);
    body.freeze()
}

/// Whether `payload` is what [`make`] gave for `number` and `len`.
///
/// # Errors
/// What differs first: length, number, checksum.
pub fn check(number: u64, len: usize, payload: &[u8]) -> Result<(), Wrong> {
    if payload.len() != len {
        return Err(Wrong::Length { got: payload.len(), due: len });
    }
    let Some((head, body)) = payload.split_at_checked(HEAD) else {
        return if make(number, len) == payload { Ok(()) } else { Err(Wrong::Content) };
    };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
    if word(0) != number {
        return Err(Wrong::Number { got: word(0), due: number });
    }
    if word(8) == checksum(number, len, body) { Ok(()) } else { Err(Wrong::Checksum) }
}

/// A structured message that depends on `number`: some `lines` lines of an order.
pub fn mixed(number: u64, lines: usize) -> Mixed {
    let item = |line: u64| Item {
        sku: format!("sku-{number}-{line}"),
        quantity: mix(number ^ line) as u32,
        price: (mix(line) % 100_000) as f64 / 100.0,
        tags: (0..line % 4).map(|tag| format!("tag-{tag}")).collect(),
    };
    Mixed {
        id: number.to_string(),
        created_ms: (mix(number) >> 1) as i64,
        items: (0..lines as u64).map(item).collect(),
        labels: (0..number % 5).map(|n| (format!("label-{n}"), format!("value {}", mix(number + n)))).collect(),
        paid: number % 2 == 1,
    }
}

/// The finaliser of splitmix64: every bit of the input changes half of the output.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Eight bytes a step; a swap of words and a changed bit both show.
fn checksum(number: u64, len: usize, body: &[u8]) -> u64 {
    let mut sum = mix(number ^ (len as u64).rotate_left(32));
    let words = body.chunks_exact(8);
    for byte in words.remainder() {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    for word in words {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_shows() {
        for len in [0, 1, 7, 8, 15, 16, 17, 24, 25, 1000] {
            let good = make(7, len);
            assert_eq!((good.len(), check(7, len, &good)), (len, Ok(())));
            assert!(len == 0 || check(8, len, &good).is_err(), "of another call, {len} bytes");
            assert!(check(7, len + 1, &good).is_err());
            for at in 0..len {
                let mut bad = good.to_vec();
                bad[at] ^= 1;
                assert!(check(7, len, &bad).is_err(), "byte {at} of {len}");
            }
        }
        assert_eq!(mixed(9, 3), mixed(9, 3));
        assert_ne!(mixed(9, 3), mixed(10, 3));
    }
}
