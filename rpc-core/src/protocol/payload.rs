//! Framed Kitex Protobuf: the payload of a TTHeader frame, and a frame of its own on old clients' connections.
//!
//! ```text
//!  0     4        6              8               12       12 + METHOD LENGTH
//!  N     0x9001   MESSAGE TYPE   METHOD LENGTH   METHOD   SEQ   BODY
//!  u32   u16      u16            u32             bytes    i32   the protobuf message as such, to the end of N
//! ```

use super::error::{FirstBytes, ProtocolError};

/// Value of MAGIC, at offset 4.
pub(super) const MAGIC: u16 = 0x9001;
/// Bytes of N that are neither method nor body.
pub(super) const FIXED: usize = 12;

/// What a message is. Types 5 (stream) and 6 (heartbeat) exist in Kitex's numbering and are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum MessageType {
    /// A request that wants a reply.
    Call = 1,
    /// Success, and business status errors.
    Reply = 2,
    /// An error of the framework or of the handler; the body is an [`Exception`](super::Exception).
    Exception = 3,
    /// A request that must not be answered.
    Oneway = 4,
}

impl MessageType {
    /// The type with this number on the wire.
    #[inline]
    pub fn from_wire(number: u16) -> Option<MessageType> {
        match number {
            1 => Some(MessageType::Call),
            2 => Some(MessageType::Reply),
            3 => Some(MessageType::Exception),
            4 => Some(MessageType::Oneway),
            _ => None,
        }
    }

    /// The decimal digit that int key 22 of the header carries.
    pub(crate) fn digit(self) -> u8 {
        b'0' + self as u8
    }
}

/// A payload, its parts borrowed from the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    /// What it is.
    pub kind: MessageType,
    /// Bare name as in the IDL; never empty, not necessarily UTF-8.
    pub method: &'a [u8],
    /// The sequence number that replies are checked against.
    pub seq: i32,
    /// The protobuf message; empty is legal.
    pub body: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Takes a payload apart; `bytes` begin with N and must end where N says.
    ///
    /// # Errors
    /// `payload` (unknown magic, or N past the end), `length` (bytes after N's end), `msg_type`, `method`; fatal for the connection.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Payload<'a>, ProtocolError> {
        let Some(head) = bytes.first_chunk::<{ FIXED + 4 }>() else {
            return Err(too_short(bytes));
        };
        let n = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let magic = u16::from_be_bytes([head[4], head[5]]);
        if magic != MAGIC || u64::from(n) + 4 != bytes.len() as u64 {
            return Err(not_a_payload(bytes, magic, n));
        }
        let number = u16::from_be_bytes([head[6], head[7]]);
        let Some(kind) = MessageType::from_wire(number) else {
            return Err(ProtocolError::MsgType(number));
        };
        let method_len = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let bad_method = ProtocolError::Method {
            announced: method_len,
            room: (bytes.len() - FIXED - 4).min(u32::MAX as usize) as u32,
        };
        // The sequence number behind the method is split off with it: one bound check serves both.
        let parts = bytes.get(FIXED..).and_then(|rest| rest.split_at_checked(method_len as usize));
        let Some((method, rest)) = parts else {
            return Err(bad_method);
        };
        let Some((seq, body)) = rest.split_first_chunk::<4>() else {
            return Err(bad_method);
        };
        if method.is_empty() {
            return Err(bad_method);
        }
        Ok(Payload { kind, method, seq: i32::from_be_bytes(*seq), body })
    }
}

#[cold]
fn too_short(bytes: &[u8]) -> ProtocolError {
    match bytes.first_chunk::<6>() {
        Some(head) if head[4..] != MAGIC.to_be_bytes() => ProtocolError::PayloadMagic(FirstBytes::of(bytes)),
        _ => ProtocolError::PayloadShort { have: bytes.len() as u64, need: FIXED as u64 + 4 },
    }
}

#[cold]
fn not_a_payload(bytes: &[u8], magic: u16, n: u32) -> ProtocolError {
    let (announced, have) = (u64::from(n) + 4, bytes.len() as u64);
    if magic != MAGIC {
        ProtocolError::PayloadMagic(FirstBytes::of(bytes))
    } else if announced > have {
        ProtocolError::PayloadOverrun { announced, have }
    } else if announced < FIXED as u64 + 4 {
        ProtocolError::PayloadShort { have: announced, need: FIXED as u64 + 4 }
    } else {
        ProtocolError::Leftover { announced, present: have }
    }
}
