//! The blocks of an info section: [`InfoEntries`] walks them, [`StringBlock`] and [`request_metadata`] write them.

use super::encode::HeaderError;
use super::layout::{block, is_reserved, str_key};
use crate::metadata::Metadata;
use crate::protocol::error::ProtocolError;

/// One entry of an info section. Keys and values are raw bytes; nothing promises UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A string pair.
    Str {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A pair with a numeric key.
    Int {
        /// The key, see [`int_key`](super::layout::int_key).
        key: u16,
        /// The value.
        value: &'a [u8],
    },
    /// The ACL token, which applications see as transient metadata.
    Acl(&'a [u8]),
}

/// Walks an info section, each byte once; ends after the first error.
///
/// Entries are neither merged nor counted: for a repeated key the last value wins, and limits are the caller's.
#[derive(Debug, Clone)]
pub struct InfoEntries<'a> {
    info: &'a [u8],
    at: usize,
    /// Entries left in the current block, and its kind.
    left: u16,
    kind: u8,
}

impl<'a> InfoEntries<'a> {
    /// Starts at the beginning of `info`, as [`TtFrame::info`](super::TtFrame) has it.
    pub fn new(info: &'a [u8]) -> InfoEntries<'a> {
        InfoEntries { info, at: 0, left: 0, kind: block::PADDING }
    }

    fn fail<T>(&mut self, need: usize) -> Result<T, ProtocolError> {
        let error =
            ProtocolError::Kv { at: self.at as u32, need: need as u32, have: (self.info.len() - self.at) as u32 };
        self.end();
        Err(error)
    }

    fn end(&mut self) {
        self.at = self.info.len();
        self.left = 0;
    }

    fn u16(&mut self) -> Result<u16, ProtocolError> {
        match self.info.get(self.at..).and_then(<[u8]>::first_chunk::<2>) {
            Some(bytes) => {
                self.at += 2;
                Ok(u16::from_be_bytes(*bytes))
            }
            None => self.fail(2),
        }
    }

    fn string(&mut self) -> Result<&'a [u8], ProtocolError> {
        let len = usize::from(self.u16()?);
        let info = self.info;
        match info.get(self.at..self.at + len) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => self.fail(len),
        }
    }

    fn entry(&mut self) -> Result<Entry<'a>, ProtocolError> {
        self.left -= 1;
        match self.kind {
            block::STRINGS => Ok(Entry::Str { key: self.string()?, value: self.string()? }),
            block::INTS => Ok(Entry::Int { key: self.u16()?, value: self.string()? }),
            _ => Ok(Entry::Acl(self.string()?)),
        }
    }
}

impl<'a> Iterator for InfoEntries<'a> {
    type Item = Result<Entry<'a>, ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left == 0 {
            let id = *self.info.get(self.at)?;
            self.at += 1;
            self.kind = id;
            match id {
                block::PADDING => {}
                block::STRINGS | block::INTS => match self.u16() {
                    Ok(count) => self.left = count,
                    Err(error) => return Some(Err(error)),
                },
                block::ACL => self.left = 1,
                _ => {
                    let at = (self.at - 1) as u32;
                    self.end();
                    return Some(Err(ProtocolError::InfoId { id, at }));
                }
            }
        }
        Some(self.entry())
    }
}

impl std::iter::FusedIterator for InfoEntries<'_> {}

/// String pairs on their way into a header. Allocates at the first pair, and keeps its memory when cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StringBlock {
    bytes: Vec<u8>,
    count: u16,
}

impl StringBlock {
    /// No pairs.
    pub const fn new() -> StringBlock {
        StringBlock { bytes: Vec::new(), count: 0 }
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// A key or value over 65,535 bytes, or more than 65,535 pairs: refused, never cut short. The block is unchanged then.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderError> {
        self.push_prefixed(b"", key, value)
    }

    /// Adds a backward value under its own name; an empty key or value is left out, as it would not arrive.
    ///
    /// # Errors
    /// As [`push`](StringBlock::push), and for a [reserved](super::layout::is_reserved) name.
    pub fn push_backward(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderError> {
        if is_reserved(key) {
            return Err(HeaderError::Reserved(String::from_utf8_lossy(key).into_owned()));
        }
        if key.is_empty() || value.is_empty() {
            return Ok(());
        }
        self.push(key, value)
    }

    fn push_prefixed(&mut self, prefix: &[u8], key: &[u8], value: &[u8]) -> Result<(), HeaderError> {
        let key_len = length("header key", prefix.len() + key.len())?;
        let value_len = length("header value", value.len())?;
        let Some(count) = self.count.checked_add(1) else {
            return Err(HeaderError::TooMany { limit: u16::MAX });
        };
        if self.bytes.is_empty() {
            self.bytes.extend([block::STRINGS, 0, 0]);
        }
        self.bytes.extend(key_len);
        self.bytes.extend(prefix);
        self.bytes.extend(key);
        self.bytes.extend(value_len);
        self.bytes.extend(value);
        self.count = count;
        if let Some(place) = self.bytes.get_mut(1..3) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }

    /// The encoded block; nothing at all when there is no pair.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As [`as_bytes`](StringBlock::as_bytes), for other blocks to be put behind it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets the pairs and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

/// The info blocks that carry a request's metadata: for the `extra` of [`RequestHead::write`](super::RequestHead::write).
/// Pairs with an empty key or value are left out. Allocates only when there is something to send.
///
/// # Errors
/// As [`StringBlock::push`], and for a transient key that starts with `UPSTREAM_`.
pub fn request_metadata(persistent: &Metadata, transient: &Metadata) -> Result<Vec<u8>, HeaderError> {
    if persistent.is_empty() && transient.is_empty() {
        return Ok(Vec::new());
    }
    let mut strings = StringBlock::new();
    let mut acl = Vec::new();
    for (prefix, pairs) in [(str_key::PERSISTENT, persistent), (str_key::TRANSIENT, transient)] {
        for (key, value) in pairs.iter().filter(|(key, value)| !key.is_empty() && !value.is_empty()) {
            if prefix == str_key::TRANSIENT && key.starts_with(b"UPSTREAM_") {
                // With the prefix before it, the receiver would take it for another key.
                return Err(HeaderError::Reserved(String::from_utf8_lossy(key).into_owned()));
            }
            if prefix == str_key::TRANSIENT && key == str_key::ACL_TOKEN {
                acl.push(block::ACL);
                acl.extend(length("ACL token", value.len())?);
                acl.extend(value);
            } else {
                strings.push_prefixed(prefix, key, value)?;
            }
        }
    }
    acl.extend(strings.as_bytes());
    Ok(acl)
}

/// A length as it stands before a string, if it fits.
pub(super) fn length(what: &'static str, len: usize) -> Result<[u8; 2], HeaderError> {
    u16::try_from(len).map(u16::to_be_bytes).map_err(|_| HeaderError::TooLong { what, len, limit: u16::MAX.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn sections_are_walked_block_by_block() {
        let check = |info: &[u8], want: &[&str]| {
            let got: Vec<String> = InfoEntries::new(info).map(|entry| match entry {
                Ok(Entry::Str { key, value }) => format!("{}={}", key.escape_ascii(), value.escape_ascii()),
                Ok(Entry::Int { key, value }) => format!("{key}={}", value.escape_ascii()),
                Ok(Entry::Acl(token)) => format!("acl={}", token.escape_ascii()),
                Err(error) => error.kind().into(),
            }).collect();
            assert_eq!(got, want, "{info:02x?}");
        };
        check(b"",                                            &[]);
        check(b"\0\0\0\0\0",                                  &[]);
        check(b"\x01\0\0\x10\0\0",                            &[]);
        check(b"\x01\0\x01\0\x01k\0\x01v\0",                  &["k=v"]);
        check(b"\x01\0\x02\0\x01k\0\x01v\0\0\0\0",            &["k=v", "="]);
        check(b"\x10\0\x01\0\x16\0\x012\0\x01\0\x01\0\0\0\0", &["22=2", "="]);
        check(b"\x11\0\x03tok\x01\0\x01\0\x01\xff\0\0",       &["acl=tok", "\\xff="]);
        check(b"\x10\0\x02\0\x16\0\x012",                     &["22=2", "kv"]);
        check(b"\x01\0\x01\0\x01k\0\x02v",                    &["kv"]);
        check(b"\x01\0",                                      &["kv"]);
        check(b"\x11",                                        &["kv"]);
        check(b"\0\0\x7f\x01\0\x01",                          &["info_id"]);
    }

    /// T7: each step moves forward, so that steps are bounded by bytes whatever they say.
    #[test]
    fn the_walk_is_linear_in_bytes() {
        for unit in [&b"\0"[..], b"\x01\0\0", b"\x11\0\0", b"\x01\0\x01\0\0\0\0", b"\x10\0\x01\0\0\0\0"] {
            let info = unit.repeat(100_000);
            let mut walk = InfoEntries::new(&info);
            let (mut entries, mut before) = (0, 0);
            while let Some(entry) = walk.next() {
                entry.expect("each unit is well formed");
                assert!(walk.at > before);
                before = walk.at;
                entries += 1;
            }
            assert!(walk.at == info.len() && entries <= 100_000);
        }
    }

    #[test]
    fn metadata_is_sent_as_kitex_sends_it() {
        let persistent = [("a", "1"), ("", "x"), ("e", "")].into_iter().collect();
        let transient = [("gdpr-token", "tok"), ("b", "2")].into_iter().collect();
        let blocks = request_metadata(&persistent, &transient).unwrap();
        let want = b"\x11\0\x03tok\x01\0\x02\0\x0dRPC_PERSIST_a\0\x011\0\x0dRPC_TRANSIT_b\0\x012";
        assert_eq!(blocks, want);
        let none = request_metadata(&Metadata::new(), &Metadata::new()).unwrap();
        assert_eq!(none.capacity(), 0);
        let misread = [("UPSTREAM_b", "2")].into_iter().collect();
        assert!(matches!(request_metadata(&persistent, &misread), Err(HeaderError::Reserved(_))));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_the_block_alone() {
        let long = vec![b'x'; 65_536];
        let mut strings = StringBlock::new();
        assert!(strings.is_empty() && strings.as_bytes().is_empty());
        strings.push(b"k", b"v").unwrap();
        let before = strings.clone();
        let error = strings.push(&long, b"v").unwrap_err();
        assert_eq!(error.to_string(), "header key of 65536 bytes, limit 65535");
        assert!(strings.push(b"k", &long).is_err());
        assert!(strings.push(&long[1..], &long[1..]).is_ok());
        strings.clear();
        strings.push(b"k", b"v").unwrap();
        assert_eq!(strings, before);
        for name in ["isn", "crrst", "rpc-code", "PV_x", "RPC_PERSIST_x"] {
            assert!(matches!(strings.push_backward(name.as_bytes(), b"1"), Err(HeaderError::Reserved(_))));
        }
        strings.push_backward(b"", b"v").unwrap();
        strings.push_backward(b"k", b"").unwrap();
        assert_eq!(strings, before);
        for _ in 1..u16::MAX {
            strings.push(b"", b"").unwrap();
        }
        assert!(matches!(strings.push(b"", b""), Err(HeaderError::TooMany { .. })));
    }
}
