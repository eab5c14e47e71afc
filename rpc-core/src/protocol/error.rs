//! [`ProtocolError`]: why bytes from a peer are not the protocol.

use std::fmt;

use rpc_transport::FrameError;

use super::detect::Spoken;

/// Bytes that break the wire protocol. Every one of them ends the connection: the stream behind it cannot be trusted.
///
/// The facts are fields; [`kind`](ProtocolError::kind) is the stable short name, and `Display` one line with values and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The first bytes of a frame match no protocol of this port.
    Magic(FirstBytes),
    /// A frame announced itself longer than `max_frame_size`; nothing was allocated for it.
    TooLarge {
        /// Bytes after the length field, as announced.
        announced: u32,
        /// `max_frame_size`.
        limit: u32,
    },
    /// HEADER SIZE is zero; the smallest is one unit of four bytes.
    HeaderSize,
    /// A length field below the smallest frame there is.
    LengthBelowMinimum {
        /// Bytes after the length field, as announced.
        announced: u32,
        /// Smallest legal value.
        minimum: u32,
    },
    /// LENGTH ends before the payload that HEADER SIZE puts behind the header.
    LengthBelowHeader {
        /// Value of LENGTH.
        announced: u32,
        /// The least LENGTH that holds the announced header.
        header: u32,
    },
    /// Bytes are left after the end that the length field announced.
    Leftover {
        /// Where the length field ends the frame or payload, itself included.
        announced: u64,
        /// Bytes present.
        present: u64,
    },
    /// A PROTOCOL ID that is not spoken here.
    ProtocolId(u8),
    /// The transform ids run past the header.
    Transform {
        /// Ids announced.
        count: u8,
        /// Bytes of header left for them.
        room: u32,
    },
    /// An info block of unknown kind, so that its length is unknown too.
    InfoId {
        /// The id found.
        id: u8,
        /// Offset in the info section.
        at: u32,
    },
    /// A pair, or the count of pairs, runs past the header.
    Kv {
        /// Offset in the info section.
        at: u32,
        /// Bytes needed from there.
        need: u32,
        /// Bytes there.
        have: u32,
    },
    /// What follows the header is not framed Kitex Protobuf.
    PayloadMagic(FirstBytes),
    /// The payload is too short to hold its own head.
    PayloadShort {
        /// Bytes of payload, length field included.
        have: u64,
        /// Least bytes of a payload, length field included.
        need: u64,
    },
    /// The inner length N runs past the outer frame.
    PayloadOverrun {
        /// Bytes of payload as N announces them, length field included.
        announced: u64,
        /// Bytes of payload in the frame.
        have: u64,
    },
    /// The payload is transformed (compressed); no transform is implemented, nor does Kitex send any.
    Transformed {
        /// Transform ids in the header.
        count: u8,
    },
    /// METHOD LENGTH is zero, or runs past the payload.
    Method {
        /// The length announced.
        announced: u32,
        /// Bytes left for method and body.
        room: u32,
    },
    /// A message type other than call, reply, exception and oneway.
    MsgType(u16),
    /// A control frame that says nothing which can be obeyed; what is wrong with it.
    Control(&'static str),
    /// Fewer bytes than the frame announces; on a stream this means "wait", in a whole frame it is an error.
    Short {
        /// Bytes present.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The connection speaks a protocol that is known but not served here.
    Unsupported(Spoken),
}

impl ProtocolError {
    /// The stable short name of the rule that was broken: `magic`, `too_large`, `header_size`, `length`, `protocol_id`, `transform`,
    /// `info_id`, `kv`, `payload`, `method`, `msg_type`, `control`, `short` or `unsupported`. Good for counters and log filters.
    pub fn kind(&self) -> &'static str {
        match self {
            ProtocolError::Magic(_) => "magic",
            ProtocolError::TooLarge { .. } => "too_large",
            ProtocolError::HeaderSize => "header_size",
            ProtocolError::LengthBelowMinimum { .. }
            | ProtocolError::LengthBelowHeader { .. }
            | ProtocolError::Leftover { .. } => "length",
            ProtocolError::ProtocolId(_) => "protocol_id",
            ProtocolError::Transform { .. } => "transform",
            ProtocolError::InfoId { .. } => "info_id",
            ProtocolError::Kv { .. } => "kv",
            ProtocolError::PayloadMagic(_)
            | ProtocolError::PayloadShort { .. }
            | ProtocolError::PayloadOverrun { .. }
            | ProtocolError::Transformed { .. } => "payload",
            ProtocolError::Method { .. } => "method",
            ProtocolError::MsgType(_) => "msg_type",
            ProtocolError::Control(_) => "control",
            ProtocolError::Short { .. } => "short",
            ProtocolError::Unsupported(_) => "unsupported",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind())?;
        match *self {
            ProtocolError::Magic(first) => write!(f, "{first} match no protocol of this port"),
            ProtocolError::TooLarge { announced, limit } => {
                write!(f, "frame of {announced} bytes, limit {limit}")?;
                match looks_like(&announced.to_be_bytes()) {
                    Some(guess) => write!(f, " ({guess})"),
                    None => Ok(()),
                }
            }
            ProtocolError::HeaderSize => f.write_str("HEADER SIZE 0, at least 1"),
            ProtocolError::LengthBelowMinimum { announced, minimum } => {
                write!(f, "frame of {announced} bytes, at least {minimum}")
            }
            ProtocolError::LengthBelowHeader { announced, header } => {
                write!(f, "LENGTH {announced}, but its header alone needs {header}")
            }
            ProtocolError::Leftover { announced, present } => {
                write!(f, "{present} bytes where the length field announces {announced}")
            }
            ProtocolError::ProtocolId(id) => write!(f, "unsupported PROTOCOL ID {id:#04x}"),
            ProtocolError::Transform { count, room } => {
                write!(f, "{count} transform ids in a header with room for {room}")
            }
            ProtocolError::InfoId { id, at } => {
                write!(f, "unknown info block {id:#04x} at offset {at} of the info section")
            }
            ProtocolError::Kv { at, need, have } => {
                write!(f, "{need} bytes needed at offset {at} of the info section, {have} there")
            }
            ProtocolError::PayloadMagic(first) => write!(f, "not framed Kitex Protobuf: {first}"),
            ProtocolError::PayloadShort { have, need } => {
                write!(f, "payload of {have} bytes, at least {need}")
            }
            ProtocolError::PayloadOverrun { announced, have } => {
                write!(f, "inner length announces {announced} bytes in a frame that holds {have}")
            }
            ProtocolError::Transformed { count } => {
                write!(f, "{count} transforms on the payload, none is supported")
            }
            ProtocolError::Method { announced, room } => {
                write!(f, "METHOD LENGTH {announced}, from 1 to {room} expected")
            }
            ProtocolError::MsgType(kind) => {
                write!(f, "unsupported message type {kind}, from 1 to 4 expected")
            }
            ProtocolError::Control(reason) => write!(f, "control frame: {reason}"),
            ProtocolError::Short { have, need } => write!(f, "{have} bytes, {need} needed"),
            ProtocolError::Unsupported(spoken) => {
                write!(f, "the peer speaks {spoken}, which this port does not serve")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

impl ProtocolError {
    /// What the transport reports when framing fails on `input`: it keeps the first bytes and a reason, not every number.
    pub(super) fn into_frame_error(self, input: &[u8]) -> FrameError {
        let guess = looks_like(input);
        let reason = match self {
            ProtocolError::TooLarge { announced, limit } if guess.is_none() => {
                return FrameError::TooLarge { len: announced.into(), limit: limit.into() };
            }
            ProtocolError::Unsupported(Spoken::Http2) => "HTTP/2 is not served on this port",
            ProtocolError::Unsupported(_) => "TTHeader Streaming is not served on this port",
            ProtocolError::HeaderSize => "HEADER SIZE is 0",
            ProtocolError::LengthBelowMinimum { .. } => "its length is below that of the smallest frame",
            ProtocolError::LengthBelowHeader { .. } => "its length is smaller than its header",
            _ => guess.unwrap_or("its first bytes match no protocol of this port"),
        };
        FrameError::invalid(reason, input)
    }
}

/// The first bytes of something unknown, at most eight. Operators look for them in logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FirstBytes {
    bytes: [u8; 8],
    len: u8,
}

impl FirstBytes {
    /// Keeps the first eight of `bytes`, or all when there are fewer.
    pub fn of(bytes: &[u8]) -> FirstBytes {
        let mut first = FirstBytes { bytes: [0; 8], len: bytes.len().min(8) as u8 };
        for (to, from) in first.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        first
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    /// What the bytes look like, if it is something well known, such as `looks like an HTTP/1 request`.
    pub fn looks_like(&self) -> Option<&'static str> {
        looks_like(self.as_bytes())
    }
}

impl fmt::Debug for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 0 {
            return f.write_str("no bytes");
        }
        write!(f, "first {} bytes", self.len)?;
        for byte in self.as_bytes() {
            write!(f, " {byte:02x}")?;
        }
        write!(f, " \"{}\"", self.as_bytes().escape_ascii())?;
        match self.looks_like() {
            Some(guess) => write!(f, " ({guess})"),
            None => Ok(()),
        }
    }
}

/// What the first bytes of a foreign protocol look like.
fn looks_like(first: &[u8]) -> Option<&'static str> {
    const STARTS: &[(&[u8], &str)] = &[
        (b"PRI ", "looks like an HTTP/2 preface"),
        (b"GET ", "looks like an HTTP/1 request"),
        (b"POST", "looks like an HTTP/1 request"),
        (b"PUT ", "looks like an HTTP/1 request"),
        (b"HEAD", "looks like an HTTP/1 request"),
        (b"DELE", "looks like an HTTP/1 request"),
        (b"OPTI", "looks like an HTTP/1 request"),
        (b"PATC", "looks like an HTTP/1 request"),
        (b"CONN", "looks like an HTTP/1 request"),
        (b"TRAC", "looks like an HTTP/1 request"),
        (b"HTTP", "looks like an HTTP/1 response"),
        (b"\x16\x03", "looks like a TLS ClientHello"),
        (b"\x15\x03", "looks like a TLS alert: call this peer at tls://"),
        (b"SSH-", "looks like an SSH banner"),
        (b"PROX", "looks like a PROXY v1 header"),
        (b"\r\n\r\n", "looks like a PROXY v2 header"),
        (b"stat", "looks like a memcached command"),
        (b"\x80\x01", "looks like unframed Thrift"),
        (b"\xff\xaf", "looks like a mesh header"),
    ];
    const AT_FOUR: &[(&[u8], &str)] =
        &[(b"\x80\x01", "looks like framed Thrift"), (b"\x0f\xff", "looks like an Apache THeader")];
    let tail = first.get(4..).unwrap_or_default();
    let by = |bytes: &[u8], table: &'static [(&[u8], &'static str)]| {
        table.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, name)| *name)
    };
    by(first, STARTS).or_else(|| by(tail, AT_FOUR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn foreign_protocols_are_named() {
        let check = |bytes: &[u8], name| assert_eq!(FirstBytes::of(bytes).looks_like(), name, "{bytes:02x?}");
        check(b"GET / HTTP/1.1\r\n",                   Some("looks like an HTTP/1 request"));
        check(b"PRI * HTTP/2.0\r\n",                   Some("looks like an HTTP/2 preface"));
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01",     Some("looks like a TLS ClientHello"));
        check(b"SSH-2.0-OpenSSH_9.6\r\n",              Some("looks like an SSH banner"));
        check(b"PROXY TCP4 1.2.3.4",                   Some("looks like a PROXY v1 header"));
        check(b"\r\n\r\n\0\r\nQUIT\n",                 Some("looks like a PROXY v2 header"));
        check(b"stats\r\n",                            Some("looks like a memcached command"));
        check(b"\0\0\0\x20\x80\x01\0\x01",             Some("looks like framed Thrift"));
        check(b"\0\0\0\x20\x0f\xff\0\0",               Some("looks like an Apache THeader"));
        check(b"\x80",                                 None);
        check(b"",                                     None);
    }

    #[test]
    fn one_line_names_the_bytes_and_the_guess() {
        let error = ProtocolError::Magic(FirstBytes::of(b"GET / HTTP/1.1\r\n"));
        assert_eq!(
            error.to_string(),
            "magic: first 8 bytes 47 45 54 20 2f 20 48 54 \"GET / HT\" (looks like an HTTP/1 request) match no protocol of this port"
        );
        let error = ProtocolError::TooLarge { announced: 0x1603_0102, limit: 16 << 20 };
        assert_eq!(
            error.to_string(),
            "too_large: frame of 369295618 bytes, limit 16777216 (looks like a TLS ClientHello)"
        );
    }
}
