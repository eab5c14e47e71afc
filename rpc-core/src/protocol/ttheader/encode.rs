//! [`RequestHead`] and [`ReplyHead`]: everything before the message, encoded once per method and patched per call.
//!
//! ```text
//!  template  LENGTH │ magic flags │ SEQ │ size, ids, isn, ints … [TIMEOUT] … padding │ N │ 9001 type method │ SEQ
//!            patched               patched                        patched             patched                patched
//! ```
//!
//! With metadata the same template is written in pieces, the extra blocks between its own and the padding.

use std::fmt;

use bytes::BufMut;
use rpc_transport::LinkBuffer;

use super::layout::{
    FIXED, FLAG_OUT_OF_ORDER, MAGIC, MAX_FRAME, MAX_SENT_HEADER, PROTOCOL_DEFAULT, block, capability, int_key, str_key,
};
use super::pairs::{StringBlock, length};
use crate::protocol::header::Form;
use crate::protocol::payload::{self, MessageType};

/// Digits of a patched timeout; leading zeros keep its place and width.
const TIMEOUT_DIGITS: usize = 10;

/// Why a frame cannot be written. Nothing was written then; the fault is local, and no peer saw any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// A string is longer than its length field can say.
    TooLong {
        /// Which one.
        what: &'static str,
        /// Its bytes.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// More string pairs than a block can count.
    TooMany {
        /// Most pairs.
        limit: u16,
    },
    /// The variable header, metadata included, is longer than older peers can read.
    HeaderTooLarge {
        /// Its bytes.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The frame is longer than the format allows.
    FrameTooLarge {
        /// Bytes after the length field.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A method without a name.
    NoMethod,
    /// An application used a name that has a meaning on the wire.
    Reserved(String),
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::TooLong { what, len, limit } => {
                write!(f, "{what} of {len} bytes, limit {limit}")
            }
            HeaderError::TooMany { limit } => write!(f, "too many header pairs, limit {limit}"),
            HeaderError::HeaderTooLarge { len, limit } => {
                write!(f, "header of {len} bytes, limit {limit}")
            }
            HeaderError::FrameTooLarge { len, limit } => {
                write!(f, "frame of {len} bytes, limit {limit}")
            }
            HeaderError::NoMethod => f.write_str("method without a name"),
            HeaderError::Reserved(name) => {
                write!(f, "metadata name {name:?} is reserved by the protocol")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// What a [`RequestHead`] is made of. Texts may be empty, except the method.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHeadSpec<'a> {
    /// IDL service without package: string key `isn`, left out when empty.
    pub service: &'a str,
    /// Bare method name.
    pub method: &'a str,
    /// The caller's service name; left out where there is none.
    pub from_service: Option<&'a str>,
    /// The destination's registry name.
    pub to_service: &'a str,
    /// The method the caller is serving; left out where there is none.
    pub from_method: Option<&'a str>,
    /// Whether replies may come in any order: flag 0x0001.
    pub multiplexed: bool,
    /// Message type 4 instead of 1.
    pub oneway: bool,
    /// Whether to announce ourselves to peers of this framework: int key 31001, with the bit of control frames if multiplexed.
    pub announce: bool,
    /// Connect timeout to tell the peer, in milliseconds.
    pub connect_timeout_ms: Option<u32>,
    /// The timeout that calls usually have, in milliseconds: writing exactly this one is cheaper. Others are as correct.
    pub usual_timeout_ms: u32,
}

/// The bytes before a request's message, all but a few of them constant.
#[derive(Debug, Clone)]
pub struct RequestHead {
    plain: Template,
    timed: Template,
    usual_timeout_ms: u32,
}

impl RequestHead {
    /// Encodes what is constant about a method's requests.
    ///
    /// # Errors
    /// No method, a text over 65,535 bytes, or all of them over 65,532.
    pub fn new(spec: &RequestHeadSpec<'_>) -> Result<RequestHead, HeaderError> {
        let usual_timeout_ms = spec.usual_timeout_ms.max(1);
        Ok(RequestHead {
            plain: Template::request(spec, None)?,
            timed: Template::request(spec, Some(usual_timeout_ms))?,
            usual_timeout_ms,
        })
    }

    /// Writes the frame up to the message, of which `body_len` bytes have to follow. Does not allocate.
    ///
    /// `timeout_ms` is the call's timeout; 0 would mean "none" to the peer, so it is sent as 1. `extra` are encoded info blocks such as
    /// [`request_metadata`](super::request_metadata) makes, often none.
    ///
    /// # Errors
    /// The header is over 65,532 bytes or the frame over 0x3FFFFFFF; nothing is written then.
    #[inline]
    pub fn write<B: HeadBuf>(
        &self,
        out: &mut B,
        seq: i32,
        timeout_ms: Option<u32>,
        extra: &[u8],
        body_len: usize,
    ) -> Result<(), HeaderError> {
        let (template, timeout) = match timeout_ms {
            None => (&self.plain, None),
            Some(ms) if ms == self.usual_timeout_ms => (&self.timed, None),
            Some(ms) => (&self.timed, Some(ms.max(1))),
        };
        template.write(out, seq, timeout, extra, body_len)
    }

    /// As [`write`](RequestHead::write) with the usual timeout and nothing extra. False, and nothing is written, if there is no room for
    /// that in one piece, or it is too long.
    #[inline]
    pub fn write_usual<B: HeadBuf>(&self, out: &mut B, seq: i32, body_len: usize) -> bool {
        self.timed.write_in_place(out, seq, None, body_len)
    }

    /// What LENGTH will say of a frame with a timeout, `extra_len` bytes of extra blocks and a message of `body_len` bytes.
    #[inline]
    pub fn frame_len(&self, extra_len: usize, body_len: usize) -> usize {
        self.timed.frame_len(extra_len, body_len)
    }
}

/// What a server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// Success or a business status.
    Reply,
    /// The message is an [`Exception`](crate::protocol::Exception).
    Exception,
}

impl ReplyKind {
    fn message_type(self) -> MessageType {
        match self {
            ReplyKind::Reply => MessageType::Reply,
            ReplyKind::Exception => MessageType::Exception,
        }
    }
}

/// The bytes before a reply's message, for one method.
#[derive(Debug, Clone)]
pub struct ReplyHead {
    method: Box<[u8]>,
    reply: Template,
}

impl ReplyHead {
    /// Encodes what is constant about a method's replies.
    ///
    /// # Errors
    /// No method.
    pub fn new(method: &str) -> Result<ReplyHead, HeaderError> {
        let blocks = msg_type_block(MessageType::Reply);
        Ok(ReplyHead {
            method: method.as_bytes().into(),
            reply: Template::new(0, &blocks, 0, MessageType::Reply, method)?,
        })
    }

    /// Writes the frame up to the message, of which `body_len` bytes have to follow, in the `form` of the request. Does not allocate.
    ///
    /// `extra` are encoded info blocks such as a [`StringBlock`], usually none. A bare frame has no room for them and drops them.
    ///
    /// # Errors
    /// The header is over 65,532 bytes or the frame over 0x3FFFFFFF; nothing is written then.
    #[inline]
    pub fn write<B: HeadBuf>(
        &self,
        out: &mut B,
        form: Form,
        kind: ReplyKind,
        seq: i32,
        body_len: usize,
        extra: &[u8],
    ) -> Result<(), HeaderError> {
        if form == Form::TtHeader && kind == ReplyKind::Reply && extra.is_empty() {
            return self.reply.write(out, seq, None, b"", body_len);
        }
        ReplyHead::write_for(&self.method, out, form, kind, seq, body_len, extra)
    }

    /// As [`write`](ReplyHead::write) of a reply with a TTHeader and nothing extra. False, and nothing is written, if there is no room for
    /// that in one piece, or it is too long.
    #[inline]
    pub fn write_plain<B: HeadBuf>(&self, out: &mut B, seq: i32, body_len: usize) -> bool {
        self.reply.write_in_place(out, seq, None, body_len)
    }

    /// What the length field of a reply will say.
    pub fn frame_len(&self, form: Form, extra_len: usize, body_len: usize) -> usize {
        match form {
            Form::TtHeader => self.reply.frame_len(extra_len, body_len),
            Form::Framed => payload::FIXED + self.method.len() + body_len,
        }
    }

    /// As [`write`](ReplyHead::write) for a method that nobody prepared, such as an unknown one.
    ///
    /// # Errors
    /// As [`write`](ReplyHead::write).
    pub fn write_for<B: BufMut>(
        method: &[u8],
        out: &mut B,
        form: Form,
        kind: ReplyKind,
        seq: i32,
        body_len: usize,
        extra: &[u8],
    ) -> Result<(), HeaderError> {
        let kind = kind.message_type();
        match form {
            Form::TtHeader => {
                let blocks = [extra, &msg_type_block(kind)];
                write_frame_head(out, 0, seq, blocks, kind, method, body_len)
            }
            Form::Framed => {
                let n = payload::FIXED + method.len() + body_len;
                check_frame(n)?;
                put_payload_head(out, n, kind, method, seq);
                Ok(())
            }
        }
    }
}

/// Writes a TTHeader and a payload head from their parts, for everything that has no template. Does not allocate.
///
/// # Errors
/// The header is over 65,532 bytes or the frame over 0x3FFFFFFF; nothing is written then.
pub fn write_frame_head<B: BufMut>(
    out: &mut B,
    flags: u16,
    seq: i32,
    blocks: [&[u8]; 2],
    kind: MessageType,
    method: &[u8],
    body_len: usize,
) -> Result<(), HeaderError> {
    let header = header_len(2 + blocks[0].len() + blocks[1].len())?;
    let n = payload::FIXED + method.len() + body_len;
    let length = FIXED - 4 + header + 4 + n;
    check_frame(length)?;
    put_fixed(out, length, flags, seq, header);
    out.put_slice(blocks[0]);
    out.put_slice(blocks[1]);
    out.put_bytes(0, header - 2 - blocks[0].len() - blocks[1].len());
    put_payload_head(out, n, kind, method, seq);
    Ok(())
}

/// Where heads are written: what is constant is copied, and the rest is patched in the copy.
pub trait HeadBuf: BufMut {
    /// Copies `src` to the end and gives the copy to be changed; `None` if it has no room in one piece, and nothing is written then.
    fn put_in_place(&mut self, src: &[u8]) -> Option<&mut [u8]>;
}

impl HeadBuf for LinkBuffer {
    #[inline]
    fn put_in_place(&mut self, src: &[u8]) -> Option<&mut [u8]> {
        LinkBuffer::put_in_place(self, src)
    }
}

impl HeadBuf for Vec<u8> {
    fn put_in_place(&mut self, src: &[u8]) -> Option<&mut [u8]> {
        let at = self.len();
        self.extend_from_slice(src);
        Some(&mut self[at..])
    }
}

/// A frame without its message and without extra blocks.
#[derive(Debug, Clone)]
struct Template {
    bytes: Box<[u8]>,
    /// End of the info blocks, before the padding.
    blocks_end: usize,
    /// Where N stands.
    payload_at: usize,
    /// Where the digits of the timeout stand; 0 without one.
    timeout_at: usize,
}

impl Template {
    fn request(spec: &RequestHeadSpec<'_>, timeout_ms: Option<u32>) -> Result<Template, HeaderError> {
        let kind = if spec.oneway { MessageType::Oneway } else { MessageType::Call };
        let flags = if spec.multiplexed { FLAG_OUT_OF_ORDER } else { 0 };
        let mut strings = StringBlock::new();
        if !spec.service.is_empty() {
            strings.push(str_key::SERVICE, spec.service.as_bytes())?;
        }
        let mut blocks = strings.as_bytes().to_vec();
        let (mut ints, mut count, mut timeout_at) = (Vec::new(), 0u16, 0);
        let mut put = |key: u16, value: &[u8]| -> Result<usize, HeaderError> {
            ints.extend(key.to_be_bytes());
            ints.extend(length("header value", value.len())?);
            ints.extend(value);
            count += 1;
            Ok(ints.len() - value.len())
        };
        put(int_key::TRANSPORT_TYPE, b"framed")?;
        // Who has no name says nothing of it. It is worth more than its bytes: with at most eight pairs Kitex's servers need one small map.
        if let Some(name) = spec.from_service {
            put(int_key::FROM_SERVICE, name.as_bytes())?;
        }
        put(int_key::TO_SERVICE, spec.to_service.as_bytes())?;
        put(int_key::TO_METHOD, spec.method.as_bytes())?;
        if let Some(ms) = timeout_ms {
            timeout_at = 16 + blocks.len() + 3 + put(int_key::RPC_TIMEOUT, &ten_digits(ms))?;
        }
        if let Some(ms) = spec.connect_timeout_ms {
            put(int_key::CONNECT_TIMEOUT, ms.to_string().as_bytes())?;
        }
        if let Some(name) = spec.from_method {
            put(int_key::FROM_METHOD, name.as_bytes())?;
        }
        put(int_key::MSG_TYPE, &[kind.digit()])?;
        if spec.announce {
            // On every request, not only a connection's first: equal headers are not read twice, and different ones would be.
            put(int_key::CAPABILITIES, if spec.multiplexed { b"1" } else { b"0" })?;
        }
        blocks.push(block::INTS);
        blocks.extend(count.to_be_bytes());
        blocks.extend(ints);
        Template::new(flags, &blocks, timeout_at, kind, spec.method)
    }

    fn new(
        flags: u16,
        blocks: &[u8],
        timeout_at: usize,
        kind: MessageType,
        method: &str,
    ) -> Result<Template, HeaderError> {
        if method.is_empty() {
            return Err(HeaderError::NoMethod);
        }
        let mut bytes = Vec::new();
        write_frame_head(&mut bytes, flags, 0, [blocks, b""], kind, method.as_bytes(), 0)?;
        let payload_at = bytes.len() - 4 - payload::FIXED - method.len();
        let blocks_end = FIXED + 2 + blocks.len();
        Ok(Template { bytes: bytes.into(), blocks_end, payload_at, timeout_at })
    }

    #[inline]
    fn frame_len(&self, extra_len: usize, body_len: usize) -> usize {
        if extra_len == 0 {
            return self.bytes.len() - 4 + body_len;
        }
        let variable = self.blocks_end - FIXED + extra_len;
        FIXED - 4 + variable.next_multiple_of(4) + (self.bytes.len() - self.payload_at) + body_len
    }

    #[inline]
    fn write<B: HeadBuf>(
        &self,
        out: &mut B,
        seq: i32,
        timeout_ms: Option<u32>,
        extra: &[u8],
        body_len: usize,
    ) -> Result<(), HeaderError> {
        if extra.is_empty() && self.write_in_place(out, seq, timeout_ms, body_len) {
            return Ok(());
        }
        let length = self.bytes.len() - 4 + body_len;
        check_frame(length)?;
        self.write_in_pieces(out, seq, timeout_ms, extra, body_len)
    }

    /// Writes a copy and patches it. False, and nothing is written, if there is no room in one piece, or the frame is too long.
    #[inline]
    fn write_in_place<B: HeadBuf>(&self, out: &mut B, seq: i32, timeout_ms: Option<u32>, body_len: usize) -> bool {
        let len = self.bytes.len();
        let length = len - 4 + body_len;
        if length > MAX_FRAME as usize {
            return false;
        }
        let Some(head) = out.put_in_place(&self.bytes) else { return false };
        let n = length - self.payload_at;
        if let Some(fixed) = head.first_chunk_mut::<FIXED>() {
            fixed[..4].copy_from_slice(&(length as u32).to_be_bytes());
            fixed[8..12].copy_from_slice(&seq.to_be_bytes());
        }
        if let Some(last) = head.last_chunk_mut() {
            *last = seq.to_be_bytes();
        }
        if let Some(ms) = timeout_ms {
            put_at(head, self.timeout_at, ten_digits(ms));
        }
        put_at(head, self.payload_at, (n as u32).to_be_bytes());
        true
    }

    #[cold]
    fn write_in_pieces<B: BufMut>(
        &self,
        out: &mut B,
        seq: i32,
        timeout_ms: Option<u32>,
        extra: &[u8],
        body_len: usize,
    ) -> Result<(), HeaderError> {
        let variable = self.blocks_end - FIXED + extra.len();
        let header = header_len(variable)?;
        let n = self.bytes.len() - self.payload_at - 4 + body_len;
        let length = FIXED - 4 + header + 4 + n;
        check_frame(length)?;
        let flags = u16::from_be_bytes([self.bytes[6], self.bytes[7]]);
        put_fixed(out, length, flags, seq, header);
        match timeout_ms {
            Some(ms) => {
                out.put_slice(&self.bytes[16..self.timeout_at]);
                out.put_slice(&ten_digits(ms));
                out.put_slice(&self.bytes[self.timeout_at + TIMEOUT_DIGITS..self.blocks_end]);
            }
            None => out.put_slice(&self.bytes[16..self.blocks_end]),
        }
        out.put_slice(extra);
        out.put_bytes(0, header - variable);
        out.put_u32(n as u32);
        out.put_slice(&self.bytes[self.payload_at + 4..self.bytes.len() - 4]);
        out.put_i32(seq);
        Ok(())
    }
}

fn put_at<const N: usize>(head: &mut [u8], at: usize, bytes: [u8; N]) {
    head[at..at + N].copy_from_slice(&bytes);
}

fn put_fixed<B: BufMut>(out: &mut B, length: usize, flags: u16, seq: i32, header: usize) {
    let mut fixed = [0; 16];
    put_at(&mut fixed, 0, (length as u32).to_be_bytes());
    put_at(&mut fixed, 4, MAGIC.to_be_bytes());
    put_at(&mut fixed, 6, flags.to_be_bytes());
    put_at(&mut fixed, 8, seq.to_be_bytes());
    put_at(&mut fixed, 12, ((header / 4) as u16).to_be_bytes());
    fixed[14] = PROTOCOL_DEFAULT;
    out.put_slice(&fixed);
}

pub(in crate::protocol) fn put_payload_head<B: BufMut>(
    out: &mut B,
    n: usize,
    kind: MessageType,
    method: &[u8],
    seq: i32,
) {
    let mut head = [0; payload::FIXED];
    put_at(&mut head, 0, (n as u32).to_be_bytes());
    put_at(&mut head, 4, payload::MAGIC.to_be_bytes());
    put_at(&mut head, 6, (kind as u16).to_be_bytes());
    put_at(&mut head, 8, (method.len() as u32).to_be_bytes());
    out.put_slice(&head);
    out.put_slice(method);
    out.put_i32(seq);
}

/// The variable header with its padding, if peers can read it.
fn header_len(variable: usize) -> Result<usize, HeaderError> {
    let padded = variable.next_multiple_of(4);
    if padded > MAX_SENT_HEADER {
        return Err(HeaderError::HeaderTooLarge { len: padded, limit: MAX_SENT_HEADER });
    }
    Ok(padded)
}

fn check_frame(len: usize) -> Result<(), HeaderError> {
    if len > MAX_FRAME as usize {
        return Err(HeaderError::FrameTooLarge { len, limit: MAX_FRAME as usize });
    }
    Ok(())
}

/// The int block that confirms control frames, on a reply.
pub const CONFIRMATION: &[u8] = &{
    let [high, low] = int_key::CAPABILITIES.to_be_bytes();
    [block::INTS, 0, 1, high, low, 0, 1, b'0' + capability::CONTROL_FRAMES as u8]
};

/// The int block with the message type alone, as servers send it.
const fn msg_type_block(kind: MessageType) -> [u8; 8] {
    [block::INTS, 0, 1, 0, int_key::MSG_TYPE as u8, 0, 1, b'0' + kind as u8]
}

fn ten_digits(mut value: u32) -> [u8; TIMEOUT_DIGITS] {
    let mut digits = [b'0'; TIMEOUT_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;
    use crate::protocol::ttheader::{Entry, InfoEntries, TtFrame};

    fn spec() -> RequestHeadSpec<'static> {
        RequestHeadSpec { service: "EchoService", method: "Echo", usual_timeout_ms: 500, ..Default::default() }
    }

    fn frame(head: &RequestHead, timeout_ms: Option<u32>, extra: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        head.write(&mut out, -7, timeout_ms, extra, 3).unwrap();
        out.extend(b"abc");
        out
    }

    fn timeout(frame: &[u8]) -> Option<String> {
        let info = TtFrame::decode(frame).unwrap().info;
        InfoEntries::new(info).find_map(|entry| match entry.unwrap() {
            Entry::Int { key: int_key::RPC_TIMEOUT, value } => Some(String::from_utf8(value.to_vec()).unwrap()),
            _ => None,
        })
    }

    #[test]
    fn the_length_of_a_frame_is_known_beforehand() {
        let head = RequestHead::new(&spec()).unwrap();
        for extra in [&b""[..], b"\x01\0\0", b"\x01\0\x01\0\x01k\0\x01v"] {
            let frame = frame(&head, Some(7), extra);
            assert_eq!(head.frame_len(extra.len(), 3), frame.len() - 4, "{extra:?}");
            let head = ReplyHead::new("Echo").unwrap();
            for form in [Form::TtHeader, Form::Framed] {
                let mut out = Vec::new();
                head.write(&mut out, form, ReplyKind::Reply, 1, 3, extra).unwrap();
                assert_eq!(head.frame_len(form, extra.len(), 3), out.len() + 3 - 4, "{form:?} {extra:?}");
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn timeouts_keep_their_width() {
        let head = RequestHead::new(&spec()).unwrap();
        let check = |ms, want: Option<&str>| {
            for extra in [&b""[..], b"\x01\0\0"] {
                assert_eq!(timeout(&frame(&head, ms, extra)).as_deref(), want);
            }
        };
        check(None,           None);
        check(Some(500),      Some("0000000500"));
        check(Some(1),        Some("0000000001"));
        check(Some(0),        Some("0000000001"));
        check(Some(u32::MAX), Some("4294967295"));
    }

    #[test]
    fn patched_templates_and_pieces_give_the_same_bytes() {
        for service in ["", "EchoService", &"S".repeat(500)] {
            let head = RequestHead::new(&RequestHeadSpec { service, ..spec() }).unwrap();
            for timeout_ms in [None, Some(500), Some(1234)] {
                let whole = frame(&head, timeout_ms, b"");
                let template = if timeout_ms.is_some() { &head.timed } else { &head.plain };
                let mut pieces = Vec::new();
                let patched = timeout_ms.filter(|ms| *ms != 500);
                template.write_in_pieces(&mut pieces, -7, patched, b"", 3).unwrap();
                pieces.extend(b"abc");
                assert_eq!(whole, pieces);
                // The same at the end of a block, where there is not enough room in one piece.
                for room in 0..=template.bytes.len() {
                    let mut link = LinkBuffer::new();
                    link.put_slice(b"before");
                    let before = link.chunk_mut().len() - room;
                    link.put_bytes(0, before);
                    head.write(&mut link, -7, timeout_ms, b"", 3).unwrap();
                    link.put_slice(b"abc");
                    link.advance(6 + before);
                    assert_eq!(link.copy_to_bytes(link.len()), whole, "{room} bytes of room");
                }
            }
        }
    }

    #[test]
    fn oversized_headers_and_frames_are_refused_before_a_byte_is_written() {
        let head = RequestHead::new(&spec()).unwrap();
        let own = head.plain.blocks_end - FIXED;
        let mut out = Vec::new();
        let room = MAX_SENT_HEADER - own;
        let padding = vec![0; room + 1];
        let error = head.write(&mut out, 1, None, &padding, 0).unwrap_err();
        assert_eq!(error.to_string(), "header of 65536 bytes, limit 65532");
        let error = head.write(&mut out, 1, None, b"", 0x3FFF_FFFF).unwrap_err();
        assert!(matches!(error, HeaderError::FrameTooLarge { .. }), "{error}");
        assert!(out.is_empty());
        head.write(&mut out, 1, None, &padding[..room], 0).unwrap();
        assert_eq!(out[12..14], 16_383u16.to_be_bytes());
        assert!(matches!(RequestHead::new(&RequestHeadSpec::default()), Err(HeaderError::NoMethod)));
        let long = "x".repeat(65_536);
        assert!(RequestHead::new(&RequestHeadSpec { from_service: Some(&long), ..spec() }).is_err());
        assert!(RequestHead::new(&RequestHeadSpec { method: &long, ..spec() }).is_err());
        assert!(RequestHead::new(&RequestHeadSpec { to_service: &long[4..], ..spec() }).is_err());
    }
}
