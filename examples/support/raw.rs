//! Frames by hand: for tests that say what a client would not, and for servers that misbehave.
//!
//! Written apart from `rpc-core`, so that a mistake there does not cancel out here. Layouts: TTHeader and Kitex Protobuf.

use std::io::{self, Read, Write};

/// Message type of a request.
pub const CALL: u16 = 1;
/// Message type of a reply.
pub const REPLY: u16 = 2;
/// Message type of an exception.
pub const EXCEPTION: u16 = 3;
/// FLAGS bit of a multiplexing client.
pub const OUT_OF_ORDER: u16 = 1;

/// A Kitex Protobuf message with its length: bare framing, or the payload of a TTHeader frame.
pub fn framed(kind: u16, method: &str, seq: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + method.len() + body.len());
    out.extend(((12 + method.len() + body.len()) as u32).to_be_bytes());
    out.extend([0x90, 0x01]);
    out.extend(kind.to_be_bytes());
    out.extend((method.len() as u32).to_be_bytes());
    out.extend(method.as_bytes());
    out.extend(seq.to_be_bytes());
    out.extend(body);
    out
}

/// A TTHeader frame around a payload; `info` is the info section, without padding.
pub fn ttheader(flags: u16, seq: i32, info: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = (2 + info.len()).next_multiple_of(4);
    let mut out = Vec::with_capacity(14 + header + payload.len());
    out.extend(((10 + header + payload.len()) as u32).to_be_bytes());
    out.extend([0x10, 0x00]);
    out.extend(flags.to_be_bytes());
    out.extend(seq.to_be_bytes());
    out.extend(((header / 4) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(info);
    out.resize(14 + header, 0);
    out.extend(payload);
    out
}

/// A block of string pairs.
pub fn strings<K: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(K, V)]) -> Vec<u8> {
    let mut out = vec![0x01];
    out.extend((pairs.len() as u16).to_be_bytes());
    for (key, value) in pairs {
        for text in [key.as_ref(), value.as_ref()] {
            out.extend((text.len() as u16).to_be_bytes());
            out.extend(text);
        }
    }
    out
}

/// A block of pairs with numbers as keys.
pub fn ints<V: AsRef<[u8]>>(pairs: &[(u16, V)]) -> Vec<u8> {
    let mut out = vec![0x10];
    out.extend((pairs.len() as u16).to_be_bytes());
    for (key, value) in pairs {
        out.extend(key.to_be_bytes());
        out.extend((value.as_ref().len() as u16).to_be_bytes());
        out.extend(value.as_ref());
    }
    out
}

/// A request as a multiplexing client sends it, with no info at all.
pub fn request(seq: i32, method: &str, body: &[u8]) -> Vec<u8> {
    ttheader(OUT_OF_ORDER, seq, b"", &framed(CALL, method, seq, body))
}

/// A successful reply.
pub fn reply(seq: i32, method: &str, body: &[u8]) -> Vec<u8> {
    ttheader(0, seq, &ints(&[(22, "2")]), &framed(REPLY, method, seq, body))
}

/// A message with one field of bytes: `Blob`, `EchoRequest`.
pub fn blob(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x0a];
    varint(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

/// A message whose field 1 is a number: `Millis`, `Size`.
pub fn number(n: u64) -> Vec<u8> {
    let mut out = vec![0x08];
    varint(&mut out, n);
    out
}

/// Appends a protobuf varint.
pub fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A frame taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it has a TTHeader.
    pub ttheader: bool,
    /// FLAGS.
    pub flags: u16,
    /// The sequence number, of the payload if it has one.
    pub seq: i32,
    /// String pairs of the header.
    pub strings: Vec<(String, String)>,
    /// Message type; 0 if the payload is none of Kitex Protobuf.
    pub kind: u16,
    /// Method.
    pub method: String,
    /// The message.
    pub body: Vec<u8>,
}

impl Frame {
    /// The value of a string key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.strings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The type id and text of an exception.
    pub fn exception(&self) -> Option<(i32, String)> {
        if self.kind != EXCEPTION {
            return None;
        }
        let (mut type_id, mut text, mut rest) = (0, String::new(), &self.body[..]);
        while let Some((&tag, more)) = rest.split_first() {
            let (value, more) = read_varint(more)?;
            rest = more;
            match tag {
                0x08 => type_id = value as i32,
                0x12 => {
                    let (bytes, more) = rest.split_at_checked(value as usize)?;
                    text = String::from_utf8_lossy(bytes).into_owned();
                    rest = more;
                }
                _ => return None,
            }
        }
        Some((type_id, text))
    }

    /// The bytes of a message with one field of bytes.
    pub fn blob(&self) -> Option<&[u8]> {
        match self.body.split_first() {
            None => Some(&[]),
            Some((0x0a, rest)) => read_varint(rest).and_then(|(len, rest)| rest.get(..len as usize)),
            Some(_) => None,
        }
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..=end].iter().rev().fold(0, |n, byte| n << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[end + 1..]))
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// What the socket says, and bytes that are no frame or end within one.
pub fn read_frame(socket: &mut impl Read) -> io::Result<Option<Frame>> {
    Ok(match read_bytes(socket)? {
        Some(bytes) => Some(parse(&bytes).ok_or_else(|| io::Error::other(format!("no frame: {bytes:02x?}")))?),
        None => None,
    })
}

/// Reads the bytes of one frame; `None` at the end of the stream.
///
/// # Errors
/// As [`read_frame`].
pub fn read_bytes(socket: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; 4];
    if socket.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut bytes[1..])?;
    let len = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    if len > 64 << 20 {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    bytes.resize(4 + len, 0);
    socket.read_exact(&mut bytes[4..])?;
    Ok(Some(bytes))
}

/// Takes a whole frame apart.
pub fn parse(frame: &[u8]) -> Option<Frame> {
    let u16_at = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let i32_at = |bytes: &[u8], at: usize| Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut parsed = Frame {
        ttheader: u16_at(frame, 4)? == 0x1000,
        flags: 0,
        seq: 0,
        strings: Vec::new(),
        kind: 0,
        method: String::new(),
        body: Vec::new(),
    };
    let mut payload = frame;
    if parsed.ttheader {
        parsed.flags = u16_at(frame, 6)?;
        parsed.seq = i32_at(frame, 8)?;
        let end = 14 + 4 * usize::from(u16_at(frame, 12)?);
        payload = frame.get(end..)?;
        let mut info = frame.get(16..end)?;
        while let Some((&block, rest)) = info.split_first() {
            info = rest;
            if block == 0 {
                continue;
            }
            if block == 0x11 {
                parsed.strings.push(("RPC_TRANSIT_gdpr-token".to_owned(), take_text(&mut info)?));
                continue;
            }
            let pairs = u16_at(info, 0)?;
            info = &info[2..];
            for _ in 0..pairs {
                let key = match block {
                    0x01 => take_text(&mut info)?,
                    _ => {
                        let key = u16_at(info, 0)?;
                        info = &info[2..];
                        format!("#{key}")
                    }
                };
                parsed.strings.push((key, take_text(&mut info)?));
            }
        }
    }
    if u16_at(payload, 4) != Some(0x9001) {
        return Some(parsed);
    }
    parsed.kind = u16_at(payload, 6)?;
    let method = i32_at(payload, 8)? as usize;
    parsed.method = String::from_utf8_lossy(payload.get(12..12 + method)?).into_owned();
    parsed.seq = i32_at(payload, 12 + method)?;
    parsed.body = payload[16 + method..].to_vec();
    Some(parsed)
}

fn take_text(info: &mut &[u8]) -> Option<String> {
    let len = usize::from(u16::from_be_bytes(info.get(..2)?.try_into().ok()?));
    let text = String::from_utf8_lossy(info.get(2..2 + len)?).into_owned();
    *info = &info[2 + len..];
    Some(text)
}

/// Sends bytes, and reads until the peer closes: how many bytes it sent, and whether it closed orderly.
pub fn say(socket: &mut (impl Read + Write), bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let mut heard = Vec::new();
    let sent = socket.write_all(bytes);
    let read = socket.read_to_end(&mut heard);
    (heard, sent.and(read.map(|_| ())))
}
