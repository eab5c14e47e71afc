//! What an info section says: [`RequestInfo`] at the server, [`ReplyInfo`] at the client.
//!
//! Parsed at most once per distinct section: callers compare the raw bytes with the last ones first.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::layout::{MAX_SENT_HEADER, block, int_key, is_reserved, str_key};
use super::pairs::{Entry, InfoEntries, StringBlock};
use super::{HeaderError, json};
use crate::metadata::Metadata;
use crate::protocol::error::ProtocolError;
use crate::protocol::payload::MessageType;
use crate::status::{BizStatus, Code};

/// The info section of nearly every reply: message type 2 and nothing else. Equal bytes need no parsing.
pub const REPLY_INFO: &[u8] = &msg_type_info(b'2');
/// The info section of a plain exception: message type 3 and nothing else.
pub const EXCEPTION_INFO: &[u8] = &msg_type_info(b'3');

/// The int block with the message type, padded to the 12 bytes of variable header that it and the ids make.
const fn msg_type_info(digit: u8) -> [u8; 10] {
    [block::INTS, 0, 1, 0, int_key::MSG_TYPE as u8, 0, 1, digit, 0, 0]
}

/// How much header is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Longest variable header in bytes. Default 65,532. A call with a longer one is refused and its connection stays.
    pub max_header_size: u32,
    /// Most entries of a header, repeated ones included. Default 128. A call with more is refused and its connection stays.
    pub max_header_entries: u32,
}

impl Default for HeaderLimits {
    fn default() -> HeaderLimits {
        HeaderLimits { max_header_size: MAX_SENT_HEADER as u32, max_header_entries: 128 }
    }
}

/// Why an info section is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoError {
    /// It is malformed: fatal for the connection.
    Protocol(ProtocolError),
    /// It is longer than `max_header_size`: the call is refused with `ResourceExhausted`, the connection stays.
    TooLarge {
        /// Bytes of variable header.
        size: u32,
        /// The limit.
        limit: u32,
    },
    /// It has more entries than `max_header_entries`: as above.
    TooMany {
        /// The limit.
        limit: u32,
    },
}

impl InfoError {
    /// Whether the connection has to end.
    pub fn is_fatal(&self) -> bool {
        matches!(self, InfoError::Protocol(_))
    }
}

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InfoError::Protocol(error) => error.fmt(f),
            InfoError::TooLarge { size, limit } => {
                write!(f, "header of {size} bytes, limit {limit} (max_header_size)")
            }
            InfoError::TooMany { limit } => {
                write!(f, "header of more than {limit} entries (max_header_entries)")
            }
        }
    }
}

impl std::error::Error for InfoError {}

impl From<ProtocolError> for InfoError {
    fn from(error: ProtocolError) -> InfoError {
        InfoError::Protocol(error)
    }
}

/// Hands every entry to `on`, within the limits.
fn walk<'a>(info: &'a [u8], limits: &HeaderLimits, mut on: impl FnMut(Entry<'a>)) -> Result<(), InfoError> {
    // The protocol id and the count of transforms belong to the header, too.
    let size = info.len() as u64 + 2;
    if size > u64::from(limits.max_header_size) {
        return Err(InfoError::TooLarge { size: size as u32, limit: limits.max_header_size });
    }
    let mut left = limits.max_header_entries;
    for entry in InfoEntries::new(info) {
        let entry = entry?;
        left = left.checked_sub(1).ok_or(InfoError::TooMany { limit: limits.max_header_entries })?;
        on(entry);
    }
    Ok(())
}

/// Pairs of metadata cut from one copy of the section, made when the first pair comes.
struct Cuts<'a> {
    info: &'a [u8],
    copy: Option<Bytes>,
}

impl<'a> Cuts<'a> {
    /// Both must be slices of the section. A pair with an empty key or value is dropped.
    fn push(&mut self, pairs: &mut Vec<(Bytes, Bytes)>, key: &[u8], value: &[u8]) {
        if !key.is_empty() && !value.is_empty() {
            pairs.push((self.cut(key), self.cut(value)));
        }
    }

    fn cut(&mut self, part: &[u8]) -> Bytes {
        let copy = self.copy.get_or_insert_with(|| Bytes::copy_from_slice(self.info));
        copy.slice(range(self.info, part))
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn range(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start + part.len()
}

/// What a request's info section says. Everything in it is optional.
///
/// It keeps the bytes it was made of: [`update`](RequestInfo::update) with the same ones is one comparison, and with others it reuses
/// the memory. Texts are bytes, because nothing promises UTF-8; an empty one counts as absent.
#[derive(Debug, Clone, Default)]
pub struct RequestInfo {
    raw: Vec<u8>,
    service: Range<usize>,
    from_service: Range<usize>,
    from_method: Range<usize>,
    to_method: Range<usize>,
    remote_address: Range<usize>,
    checksum: Range<usize>,
    timeout: Option<Duration>,
    message_type: Option<MessageType>,
    capabilities: Option<u32>,
    persistent: Metadata,
    transient: Metadata,
}

impl RequestInfo {
    /// Reads an info section.
    ///
    /// # Errors
    /// See [`InfoError`].
    pub fn parse(info: &[u8], limits: &HeaderLimits) -> Result<RequestInfo, InfoError> {
        let mut this = RequestInfo::default();
        this.update(info, limits)?;
        Ok(this)
    }

    /// Makes this the summary of `info`: nothing to do when it is already. Allocates only for metadata, or when `info` is longer
    /// than any before. After an error it is empty.
    ///
    /// # Errors
    /// See [`InfoError`].
    #[inline]
    pub fn update(&mut self, info: &[u8], limits: &HeaderLimits) -> Result<(), InfoError> {
        if self.raw == info { Ok(()) } else { self.reparse(info, limits) }
    }

    fn reparse(&mut self, info: &[u8], limits: &HeaderLimits) -> Result<(), InfoError> {
        *self = RequestInfo { raw: std::mem::take(&mut self.raw), ..RequestInfo::default() };
        self.raw.clear();
        let mut found = RequestInfo::default();
        let (mut persistent, mut transient) = (Vec::new(), Vec::new());
        let mut cuts = Cuts { info, copy: None };
        walk(info, limits, |entry| match entry {
            Entry::Int { key, value } => found.int(info, key, value),
            Entry::Acl(b"") => {}
            Entry::Acl(token) => {
                transient.push((Bytes::from_static(str_key::ACL_TOKEN), cuts.cut(token)));
            }
            Entry::Str { key, value } => {
                if let Some(key) = key.strip_prefix(str_key::PERSISTENT) {
                    cuts.push(&mut persistent, key, value);
                } else if let Some(key) =
                    key.strip_prefix(str_key::TRANSIENT_UPSTREAM).or_else(|| key.strip_prefix(str_key::TRANSIENT))
                {
                    cuts.push(&mut transient, key, value);
                } else if key == str_key::SERVICE {
                    found.service = range(info, value);
                } else if key == str_key::REMOTE_ADDRESS {
                    found.remote_address = range(info, value);
                } else if key == str_key::CHECKSUM {
                    found.checksum = range(info, value);
                }
            }
        })?;
        found.persistent = Metadata::from_repeating(persistent);
        found.transient = Metadata::from_repeating(transient);
        found.raw = std::mem::take(&mut self.raw);
        found.raw.extend_from_slice(info);
        *self = found;
        Ok(())
    }

    fn int(&mut self, info: &[u8], key: u16, value: &[u8]) {
        match key {
            int_key::FROM_SERVICE => self.from_service = range(info, value),
            int_key::FROM_METHOD => self.from_method = range(info, value),
            int_key::TO_METHOD => self.to_method = range(info, value),
            int_key::RPC_TIMEOUT => self.timeout = timeout(value),
            int_key::MSG_TYPE => {
                self.message_type = number(value).and_then(|n| MessageType::from_wire(u16::try_from(n).ok()?));
            }
            int_key::CAPABILITIES => self.capabilities = capabilities(value),
            _ => {}
        }
    }

    fn text(&self, range: &Range<usize>) -> Option<&[u8]> {
        self.raw.get(range.clone()).filter(|text| !text.is_empty())
    }

    /// Bytes of memory that it keeps, about: pairs of metadata are slices of a copy of the section.
    pub(crate) fn memory(&self) -> usize {
        let pairs = self.persistent.list_memory() + self.transient.list_memory();
        let copy = if pairs > 0 { self.raw.len() } else { 0 };
        size_of::<RequestInfo>() + self.raw.capacity() + copy + pairs
    }

    /// The bytes it was made of.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The IDL service, without package.
    pub fn service(&self) -> Option<&[u8]> {
        self.text(&self.service)
    }

    /// The caller's service.
    pub fn from_service(&self) -> Option<&[u8]> {
        self.text(&self.from_service)
    }

    /// The method that the caller is serving.
    pub fn from_method(&self) -> Option<&[u8]> {
        self.text(&self.from_method)
    }

    /// The method, as the header has it; the payload's decides.
    pub fn to_method(&self) -> Option<&[u8]> {
        self.text(&self.to_method)
    }

    /// The caller's address, as a proxy saw it.
    pub fn remote_address(&self) -> Option<&[u8]> {
        self.text(&self.remote_address)
    }

    /// The payload's checksum, as the header has it.
    pub fn checksum(&self) -> Option<&[u8]> {
        self.text(&self.checksum)
    }

    /// The timeout that the caller set, at most 2^32 - 1 ms, so that adding it to a clock cannot overflow. `None` when it is absent,
    /// not a number, zero or less.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The message type, as the header has it; the payload's decides.
    pub fn message_type(&self) -> Option<MessageType> {
        self.message_type
    }

    /// The capability bits of a caller of this framework; `None` for any other caller.
    pub fn capabilities(&self) -> Option<u32> {
        self.capabilities
    }

    /// Metadata that goes on to every further hop.
    pub fn persistent(&self) -> &Metadata {
        &self.persistent
    }

    /// Metadata for this hop only, the ACL token under `gdpr-token` among it.
    pub fn transient(&self) -> &Metadata {
        &self.transient
    }
}

/// What a reply's info section says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyInfo {
    /// The connection is about to close: no further call on it.
    pub closing: bool,
    /// The business status, if the reply is one.
    pub business: Option<BizStatus>,
    /// The code of an exception, from a peer of this framework.
    pub code: Option<Code>,
    /// The handler certainly did not start, says a peer of this framework.
    pub not_executed: bool,
    /// The capability bits of a server of this framework.
    pub capabilities: Option<u32>,
    /// The payload's checksum, as the header has it; never empty.
    pub checksum: Option<Box<[u8]>>,
    /// Metadata from the handler; reserved names are not among it.
    pub backward: Metadata,
}

impl ReplyInfo {
    /// Reads an info section. [`REPLY_INFO`] has an empty summary, which costs nothing to make.
    ///
    /// Extras of a business status that are no JSON object of strings are dropped with a warning; the status is kept.
    ///
    /// # Errors
    /// See [`InfoError`].
    pub fn parse(info: &[u8], limits: &HeaderLimits) -> Result<ReplyInfo, InfoError> {
        let mut this = ReplyInfo::default();
        if info == REPLY_INFO {
            return Ok(this);
        }
        let (mut status, mut message, mut extra) = (0, &b""[..], &b""[..]);
        let mut backward = Vec::new();
        let mut cuts = Cuts { info, copy: None };
        walk(info, limits, |entry| match entry {
            Entry::Int { key: int_key::CAPABILITIES, value } => this.capabilities = capabilities(value),
            Entry::Int { .. } | Entry::Acl(_) => {}
            Entry::Str { key, value } => match key {
                str_key::CLOSING => this.closing = value == b"1",
                str_key::CODE => this.code = Code::from_wire_name(value),
                str_key::NOT_EXECUTED => this.not_executed = value == b"1",
                str_key::BIZ_STATUS => status = number(value).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
                str_key::BIZ_MESSAGE => message = value,
                str_key::BIZ_EXTRA => extra = value,
                str_key::CHECKSUM => this.checksum = (!value.is_empty()).then(|| value.into()),
                key => {
                    let key = key.strip_prefix(str_key::BACKWARD).unwrap_or(key);
                    if !is_reserved(key) {
                        cuts.push(&mut backward, key, value);
                    }
                }
            },
        })?;
        this.backward = Metadata::from_repeating(backward);
        if status != 0 {
            let message = String::from_utf8_lossy(message).into_owned();
            let extra = match extra {
                b"" => Default::default(),
                text => json::read(text).unwrap_or_else(|reason| {
                    tracing::debug!(status, reason, "extras of a business status dropped");
                    Default::default()
                }),
            };
            this.business = Some(BizStatus { status, message, extra });
        }
        Ok(this)
    }
}

impl BizStatus {
    /// Adds the string pairs that carry it on a reply with an empty body.
    ///
    /// # Errors
    /// Message or extras over 65,535 bytes.
    pub fn put(&self, strings: &mut StringBlock) -> Result<(), HeaderError> {
        strings.push(str_key::BIZ_STATUS, self.status.to_string().as_bytes())?;
        strings.push(str_key::BIZ_MESSAGE, self.message.as_bytes())?;
        if !self.extra.is_empty() {
            strings.push(str_key::BIZ_EXTRA, json::write(&self.extra).as_bytes())?;
        }
        Ok(())
    }
}

/// A decimal number with an optional sign, as Go reads it; beyond i64 it stays at the end of the range.
fn number(value: &[u8]) -> Option<i64> {
    let (negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let magnitude = digits.iter().try_fold(0i64, |number, digit| match digit {
        b'0'..=b'9' => Some(number.saturating_mul(10).saturating_add((digit - b'0').into())),
        _ => None,
    })?;
    Some(if negative { -magnitude } else { magnitude })
}

fn timeout(value: &[u8]) -> Option<Duration> {
    let ms = number(value).filter(|ms| *ms > 0)?;
    Some(Duration::from_millis((ms as u64).min(u32::MAX.into())))
}

fn capabilities(value: &[u8]) -> Option<u32> {
    number(value).and_then(|bits| u32::try_from(bits).ok())
}

#[cfg(test)]
mod tests;
