//! The wire protocol a second time, from its description: one cursor, owned values, no thought of speed.

/// A TTHeader frame taken apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) flags: u16,
    pub(crate) seq: i32,
    pub(crate) info: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// A framed Kitex Protobuf message taken apart.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) kind: u64,
    pub(crate) method: Vec<u8>,
    pub(crate) seq: i32,
    pub(crate) body: Vec<u8>,
}

/// An entry of an info section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    Str(Vec<u8>, Vec<u8>),
    Int(u64, Vec<u8>),
    Acl(Vec<u8>),
}

/// Bytes read from the front.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().fold(0, |value, byte| value * 256 + u64::from(*byte)))
    }

    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        let taken = self.0.get(..n)?.to_vec();
        self.0 = &self.0[n..];
        Some(taken)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        let len = self.number(2)?;
        self.take(len as usize)
    }
}

/// Takes a whole TTHeader frame apart, or names the first rule it breaks.
pub(crate) fn frame(bytes: &[u8]) -> Result<Frame, &'static str> {
    let mut cursor = Cursor(bytes);
    let (Some(length), Some(magic)) = (cursor.number(4), cursor.number(2)) else { return Err("short") };
    if magic != 0x1000 {
        return Err("magic");
    }
    if (bytes.len() as u64) < 4 + length {
        return Err("short");
    }
    if bytes.len() as u64 > 4 + length {
        return Err("length");
    }
    let fixed = (cursor.number(2), cursor.number(4), cursor.number(2));
    let (Some(flags), Some(seq), Some(size)) = fixed else { return Err("length") };
    if size == 0 {
        return Err("header_size");
    }
    let Some(header) = cursor.take(4 * size as usize) else { return Err("length") };
    let streaming = flags & 2 != 0;
    match header[0] {
        0x00 | 0x03 | 0x04 => {}
        0x10 | 0x11 if streaming => {}
        _ => return Err("protocol_id"),
    }
    match usize::from(header[1]) {
        0 => {}
        count if count > header.len() - 2 => return Err("transform"),
        _ => return Err("payload"),
    }
    Ok(Frame { flags: flags as u16, seq: seq as u32 as i32, info: header[2..].to_vec(), payload: cursor.0.to_vec() })
}

/// The same frame as bytes again.
pub(crate) fn write_frame(frame: &Frame, protocol_id: u8) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(0x1000u16.to_be_bytes());
    out.extend(frame.flags.to_be_bytes());
    out.extend(frame.seq.to_be_bytes());
    out.extend(((2 + frame.info.len()) as u16 / 4).to_be_bytes());
    out.extend([protocol_id, 0]);
    out.extend(&frame.info);
    out.extend(&frame.payload);
    [&(out.len() as u32).to_be_bytes()[..], &out].concat()
}

/// The entries of an info section up to its end, or to the rule that it breaks.
pub(crate) fn entries(info: &[u8]) -> (Vec<Entry>, Option<&'static str>) {
    let mut entries = Vec::new();
    let mut cursor = Cursor(info);
    while let Some(kind) = cursor.number(1) {
        match kind {
            0x00 => {}
            0x01 | 0x10 => {
                let Some(count) = cursor.number(2) else { return (entries, Some("kv")) };
                for _ in 0..count {
                    let entry = match kind {
                        0x01 => cursor.string().and_then(|key| Some(Entry::Str(key, cursor.string()?))),
                        _ => cursor.number(2).and_then(|key| Some(Entry::Int(key, cursor.string()?))),
                    };
                    let Some(entry) = entry else { return (entries, Some("kv")) };
                    entries.push(entry);
                }
            }
            0x11 => match cursor.string() {
                Some(token) => entries.push(Entry::Acl(token)),
                None => return (entries, Some("kv")),
            },
            _ => return (entries, Some("info_id")),
        }
    }
    (entries, None)
}

/// Takes a whole message apart, its length field included, or names the first rule it breaks.
pub(crate) fn message(bytes: &[u8]) -> Result<Message, &'static str> {
    let mut cursor = Cursor(bytes);
    let (n, magic) = (cursor.number(4), cursor.number(2));
    if magic.is_some_and(|magic| magic != 0x9001) {
        return Err("payload");
    }
    let (Some(n), Some(kind), Some(method_len)) = (n, cursor.number(2), cursor.number(4)) else {
        return Err("payload");
    };
    if cursor.0.len() < 4 || n < 12 || n + 4 > bytes.len() as u64 {
        return Err("payload");
    }
    if n + 4 < bytes.len() as u64 {
        return Err("length");
    }
    if !(1..=4).contains(&kind) {
        return Err("msg_type");
    }
    let parts = cursor.take(method_len as usize).and_then(|method| Some((method, cursor.number(4)?)));
    match parts {
        Some((method, seq)) if !method.is_empty() => {
            Ok(Message { kind, method, seq: seq as u32 as i32, body: cursor.0.to_vec() })
        }
        _ => Err("method"),
    }
}

/// CRC-32C (Castagnoli), bit by bit.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// A decimal number with an optional sign; beyond `i64` it stays at the end of the range.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits: Vec<u8> = digits.iter().copied().skip_while(|digit| *digit == b'0').collect();
    let magnitude = match digits.len() {
        0..=18 => digits.iter().fold(0i64, |value, digit| value * 10 + i64::from(digit - b'0')),
        19 => std::str::from_utf8(&digits).expect("digits").parse().unwrap_or(i64::MAX),
        _ => i64::MAX,
    };
    Some(if text.starts_with(b"-") { -magnitude } else { magnitude })
}

/// Pairs of which the last value of a key is the one that counts; those with an empty key or value do not.
pub(crate) fn pairs<'a>(
    pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    pairs
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// A control frame, as its page describes it.
#[derive(Debug, PartialEq)]
pub(crate) enum Control {
    Ping(u64),
    Pong(u64),
    Cancel(i32),
    GoAway(i32, Vec<u8>),
}

/// What a frame with id 0 says: `None` if it is no control frame. An error names the rule of info sections that is broken, or is `None`
/// if it is one of control frames.
pub(crate) fn control(info: &[u8], payload: &[u8]) -> Result<Option<Control>, Option<&'static str>> {
    let (all, error) = entries(info);
    if error.is_some() {
        return Err(error);
    }
    let int = |wanted| {
        all.iter().rev().find_map(|entry| match entry {
            Entry::Int(key, value) if *key == wanted => Some(&value[..]),
            _ => None,
        })
    };
    let Some(kind) = int(31002) else { return Ok(None) };
    let reason = all.iter().rev().find_map(|entry| match entry {
        Entry::Str(key, value) if key == b"rpc-reason" => Some(value.clone()),
        _ => None,
    });
    let reason = reason.unwrap_or_default();
    if !payload.is_empty() || all.len() > 16 || reason.len() > 256 {
        return Err(None);
    }
    let text = int(31003).ok_or(None)?;
    let (minus, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(None);
    }
    let digits: Vec<u8> = digits.iter().copied().skip_while(|digit| *digit == b'0').collect();
    if digits.len() > 20 {
        return Err(None);
    }
    let magnitude = digits.iter().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    let number = if minus { -magnitude } else { magnitude };
    let opaque = || if minus { Err(None) } else { u64::try_from(number).map_err(|_| None) };
    let seq = i32::try_from(number).map_err(|_| None);
    Ok(Some(match kind {
        b"ping" => Control::Ping(opaque()?),
        b"pong" => Control::Pong(opaque()?),
        b"cancel" if number == 0 => return Err(None),
        b"cancel" => Control::Cancel(seq?),
        b"goaway" => Control::GoAway(seq?, reason),
        _ => return Err(None),
    }))
}
