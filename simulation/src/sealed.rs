//! What anybody can see of one direction of a connection under TLS: records, and nothing of what is in them.

use std::collections::HashSet;

/// Bytes by which a payload is known.
pub(crate) const NEEDLE: usize = 8;

/// A record's header: its kind, a version, its length.
const HEADER: usize = 5;

/// Most bytes in a record: 16 KiB, and what encryption adds.
const LONGEST: usize = (16 << 10) + 256;

/// One direction.
#[derive(Default)]
pub(crate) struct Sealed {
    /// What has come of a header.
    header: Vec<u8>,
    /// Bytes of the record that are still to come.
    left: usize,
    /// The bytes before the next one, the last of them at the end.
    window: [u8; NEEDLE],
}

impl Sealed {
    /// More bytes; returns how many records they begin.
    ///
    /// # Errors
    /// What is no record, and what should not be seen.
    pub(crate) fn take(&mut self, bytes: &[u8], secrets: &HashSet<[u8; NEEDLE]>) -> Result<u64, String> {
        let mut begun = 0;
        for byte in bytes {
            self.window.rotate_left(1);
            self.window[NEEDLE - 1] = *byte;
            if secrets.contains(&self.window) {
                return Err("TLS: a payload in plain text on the wire".to_owned());
            }
            if self.left > 0 {
                self.left -= 1;
                continue;
            }
            self.header.push(*byte);
            if let [kind, major, _, high, low] = self.header[..] {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                if !(20..=23).contains(&kind) || major != 3 || self.left > LONGEST {
                    return Err(format!("TLS: no record: {:02x?}", self.header));
                }
                begun += 1;
                self.header.clear();
            }
        }
        debug_assert!(self.header.len() < HEADER);
        Ok(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_what_is_none() {
        let secrets = HashSet::from([*b"a secret"]);
        let take = |bytes: &[u8]| {
            let whole = Sealed::default().take(bytes, &secrets);
            let mut piecemeal = Sealed::default();
            let pieces: Result<Vec<u64>, String> = bytes.chunks(1).map(|byte| piecemeal.take(byte, &secrets)).collect();
            assert_eq!(whole, pieces.map(|begun| begun.iter().sum()));
            whole
        };
        assert_eq!(take(b"\x17\x03\x03\0\x02xx\x16\x03\x01\0\0\x15\x03\x03\0"), Ok(2));
        assert!(take(b"\x17\x03\x03\0\x0cand a secret").is_err());
        assert!(take(b"\x17\x03\x03\x41\x01").is_err());
        assert!(take(b"\0\0\0\x0d\x90").is_err());
    }
}
