//! [`TtFrame`]: one whole frame taken apart without a copy.

use super::layout::{FIXED, FLAG_STREAMING, MAGIC, PROTOCOL_DEFAULT};
use crate::protocol::error::{FirstBytes, ProtocolError};

/// A TTHeader frame, its parts borrowed from the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtFrame<'a> {
    /// Bit set; unknown bits are to be ignored.
    pub flags: u16,
    /// Sequence number of the header. Multiplexing pairs by it; 0 marks a control frame.
    pub seq: i32,
    /// The info blocks, padding included. Equal bytes mean equal content, so a caller compares before it parses.
    pub info: &'a [u8],
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> TtFrame<'a> {
    /// Takes a whole frame apart, its LENGTH field included. The info section is not walked.
    ///
    /// # Errors
    /// In this order: `short`, `magic`, `length` (bytes after the frame's end), `header_size`, `length` (LENGTH below the header it
    /// announces), `protocol_id`, `transform`, and `payload` when transforms are present. All of them are fatal for the connection.
    #[inline]
    pub fn decode(frame: &'a [u8]) -> Result<TtFrame<'a>, ProtocolError> {
        let Some(head) = frame.first_chunk::<16>() else {
            return Err(too_short(frame));
        };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let magic = u16::from_be_bytes([head[4], head[5]]);
        let flags = u16::from_be_bytes([head[6], head[7]]);
        let seq = i32::from_be_bytes([head[8], head[9], head[10], head[11]]);
        let header_end = FIXED + 4 * usize::from(u16::from_be_bytes([head[12], head[13]]));
        let plain = magic == MAGIC
            && u64::from(length) + 4 == frame.len() as u64
            && header_end != FIXED
            && head[14] == PROTOCOL_DEFAULT
            && head[15] == 0;
        if !plain {
            check(frame, head)?;
        }
        match (frame.get(16..header_end), frame.get(header_end..)) {
            (Some(info), Some(payload)) => Ok(TtFrame { flags, seq, info, payload }),
            _ => Err(below_header(length, header_end)),
        }
    }
}

/// The rules one by one, in their order, for a frame that is not the usual one.
#[cold]
fn check(frame: &[u8], head: &[u8; 16]) -> Result<(), ProtocolError> {
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let magic = u16::from_be_bytes([head[4], head[5]]);
    let flags = u16::from_be_bytes([head[6], head[7]]);
    let header_end = FIXED + 4 * usize::from(u16::from_be_bytes([head[12], head[13]]));
    let [protocol, transforms] = [head[14], head[15]];
    if magic != MAGIC {
        return Err(ProtocolError::Magic(FirstBytes::of(frame)));
    }
    let (have, need) = (frame.len() as u64, u64::from(length) + 4);
    if have < need {
        return Err(ProtocolError::Short { have, need });
    }
    if have > need {
        return Err(ProtocolError::Leftover { announced: need, present: have });
    }
    check_header_size(length, header_end)?;
    match protocol {
        0x00 | 0x03 | 0x04 => {}
        0x10 | 0x11 if flags & FLAG_STREAMING != 0 => {}
        other => return Err(ProtocolError::ProtocolId(other)),
    }
    let room = (header_end - FIXED - 2) as u32;
    if u32::from(transforms) > room {
        return Err(ProtocolError::Transform { count: transforms, room });
    }
    if transforms > 0 {
        return Err(ProtocolError::Transformed { count: transforms });
    }
    Ok(())
}

/// What the fixed part alone can prove wrong: lets framing refuse a frame before the rest of it arrives.
pub(in crate::protocol) fn check_fixed(length: u32, header_size: u16) -> Result<(), ProtocolError> {
    check_header_size(length, FIXED + 4 * usize::from(header_size))
}

fn check_header_size(length: u32, header_end: usize) -> Result<(), ProtocolError> {
    if header_end == FIXED {
        return Err(ProtocolError::HeaderSize);
    }
    if u64::from(length) + 4 < header_end as u64 {
        return Err(below_header(length, header_end));
    }
    Ok(())
}

#[cold]
fn below_header(length: u32, header_end: usize) -> ProtocolError {
    ProtocolError::LengthBelowHeader { announced: length, header: header_end as u32 - 4 }
}

/// Fewer bytes than the smallest frame has up to its info: say what is wrong if it shows already.
#[cold]
fn too_short(frame: &[u8]) -> ProtocolError {
    let have = frame.len() as u64;
    let Some(head) = frame.first_chunk::<6>() else {
        return ProtocolError::Short { have, need: 18 };
    };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    if head[4..6] != MAGIC.to_be_bytes() {
        return ProtocolError::Magic(FirstBytes::of(frame));
    }
    let need = u64::from(length) + 4;
    if have < need {
        return ProtocolError::Short { have, need };
    }
    match frame.first_chunk::<14>() {
        Some(fixed) if have == need => match check_fixed(length, u16::from_be_bytes([fixed[12], fixed[13]])) {
            Err(error) => error,
            Ok(()) => ProtocolError::Short { have, need: 18 },
        },
        _ => ProtocolError::LengthBelowMinimum { announced: length, minimum: super::layout::MIN_LENGTH },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame with this fixed part; LENGTH is right unless given.
    fn frame(length: Option<u32>, flags: u16, units: u16, variable: &[u8], payload: &[u8]) -> Vec<u8> {
        let length = length.unwrap_or((10 + variable.len() + payload.len()) as u32);
        let mut out = length.to_be_bytes().to_vec();
        out.extend(MAGIC.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(7i32.to_be_bytes());
        out.extend(units.to_be_bytes());
        out.extend(variable);
        out.extend(payload);
        out
    }

    #[test]
    #[rustfmt::skip]
    fn headers_are_refused_by_the_first_rule_they_break() {
        let check = |frame: Vec<u8>, kind| {
            let got = TtFrame::decode(&frame).map_or_else(|error| error.kind(), |_| "ok");
            assert_eq!(got, kind, "{frame:02x?}");
        };
        //          LENGTH    FLAGS   SIZE  protocol, transforms, info     payload
        check(frame(None,     0x0000, 1,    &[0x00, 0, 0, 0],              b"x"),  "ok");
        check(frame(None,     0xfffd, 1,    &[0x04, 0, 0, 0],              b""),   "ok");
        check(frame(None,     0x0002, 1,    &[0x10, 0, 0, 0],              b""),   "ok");
        check(frame(None,     0x0000, 1,    &[0x10, 0, 0, 0],              b""),   "protocol_id");
        check(frame(None,     0x0000, 0,    &[0x00, 0, 0, 0],              b""),   "header_size");
        check(frame(None,     0x0000, 2,    &[0x00, 0, 0, 0],              b""),   "length");
        check(frame(None,     0x0000, 9999, &[0x02, 9, 0, 0],              b"x"),  "length");
        check(frame(Some(15), 0x0000, 1,    &[0x00, 0, 0, 0],              b""),   "short");
        check(frame(Some(13), 0x0000, 1,    &[0x00, 0, 0, 0],              b""),   "length");
        check(frame(Some(0),  0x0000, 1,    &[0x00, 0, 0, 0],              b""),   "length");
        check(frame(None,     0x0000, 1,    &[0x00, 2, 1, 3],              b""),   "payload");
        check(frame(None,     0x0000, 1,    &[0x00, 3, 1, 3],              b"x"),  "transform");
        check(frame(None,     0x0000, 1,    &[],                           b""),   "length");
        check(frame(None,     0x0000, 0,    &[],                           b""),   "header_size");
        check(frame(Some(u32::MAX), 0, 1,   &[0x00, 0, 0, 0],              b""),   "short");
        check(Vec::new(),                                                          "short");
        check(b"GET / HTTP/1.1\r\n\r\n".to_vec(),                                  "magic");
    }
}
