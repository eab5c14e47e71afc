//! What stands on the wire, read a second time: from the description of the protocol, and with nothing of the framework.
//!
//! ```text
//!   0       4      6      8    12           14           15          16                 14 + 4 * SIZE
//!   LENGTH  1000   FLAGS  SEQ  HEADER SIZE  PROTOCOL ID  TRANSFORMS  INFO, zero-padded  LENGTH 9001 KIND NAME SEQ MESSAGE
//! ```
//!
//! or without a header, from the second LENGTH on: then replies come in order.

/// One direction of a connection, cut into frames.
#[derive(Default)]
pub(crate) struct Frames {
    /// Of the frame that is not whole.
    bytes: Vec<u8>,
    begun: bool,
    /// Where it begins in the stream.
    start: u64,
}

/// What the next bytes made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A frame begins whose header has this id.
    Begun(u32),
    /// A frame is whole, and ends there in the stream.
    Whole(Frame, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Request {
        seq: u32,
        /// The reply may come in any order.
        any_order: bool,
        /// No reply is wanted.
        oneway: bool,
        /// The call's number, as the message has it.
        number: u64,
    },
    Reply {
        seq: u32,
        /// It says that the connection is about to close.
        closing: bool,
        /// Of the call, if it is an answer to one and no error.
        number: Option<u64>,
    },
    /// No more requests are to come.
    Farewell,
    /// Pings, pongs and cancellations.
    Control,
}

impl Frames {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// They are no frames.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut hear: impl FnMut(Known)) -> Result<(), String> {
        while !bytes.is_empty() {
            let wanted = match number(&self.bytes, 0) {
                Some(length) if self.bytes.len() >= 12 => 4 + length as usize,
                _ => 12,
            };
            let n = wanted.saturating_sub(self.bytes.len()).min(bytes.len());
            self.bytes.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.bytes.len() == 12 && !self.begun {
                self.begun = true;
                if number(&self.bytes, 0).is_none_or(|length| !(14..1 << 30).contains(&length)) {
                    return Err(format!("a frame that begins with {:02x?}", self.bytes));
                }
                if short(&self.bytes, 4) != Some(MESSAGE) {
                    hear(Known::Begun(number(&self.bytes, 8).unwrap_or_default()));
                }
            }
            if self.begun && number(&self.bytes, 0).is_some_and(|length| self.bytes.len() == 4 + length as usize) {
                let frame = read(&self.bytes).ok_or_else(|| format!("a frame that is none: {:02x?}", self.bytes))?;
                self.start += self.bytes.len() as u64;
                self.bytes.clear();
                self.begun = false;
                hear(Known::Whole(frame, self.start));
            }
        }
        Ok(())
    }
}

/// The magic of a message, where a header might be.
const MESSAGE: usize = 0x9001;

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

/// A whole frame; `None` if it is none.
fn read(frame: &[u8]) -> Option<Frame> {
    if short(frame, 4)? == MESSAGE {
        return read_message(frame, None, false, false);
    }
    let (magic, flags, seq) = (short(frame, 4)?, short(frame, 6)?, number(frame, 8)?);
    let end = 14 + 4 * short(frame, 12)?;
    let (info, payload) = (frame.get(16..end)?, frame.get(end..)?);
    let says = read_info(info)?;
    if magic != 0x1000 || frame[15] != 0 {
        return None;
    }
    if seq == 0 {
        return match says {
            Says::GoAway | Says::Closing => Some(Frame::Farewell),
            Says::Other => Some(Frame::Control),
            Says::Nothing => None,
        };
    }
    read_message(payload, Some(seq), flags & 1 == 1, matches!(says, Says::Closing))
}

/// A message with its length; with a header both have the same id.
fn read_message(payload: &[u8], seq_before: Option<u32>, any_order: bool, closing: bool) -> Option<Frame> {
    let name = number(payload, 8)? as usize;
    let framed = number(payload, 0)? as usize == payload.len() - 4 && short(payload, 4)? == MESSAGE;
    let seq = number(payload, 12 + name)?;
    if !framed || seq_before.is_some_and(|before| before != seq) {
        return None;
    }
    let body = payload.get(16 + name..)?;
    match short(payload, 6)? {
        kind @ (1 | 4) => Some(Frame::Request { seq, any_order, oneway: kind == 4, number: call_number(body)? }),
        // A status of the user's is a reply without a message.
        2 if !body.is_empty() => Some(Frame::Reply { seq, closing, number: Some(call_number(body)?) }),
        2 | 3 => Some(Frame::Reply { seq, closing, number: None }),
        _ => None,
    }
}

/// The first field of a request or a reply, a varint; it is left out if it is 0.
fn call_number(body: &[u8]) -> Option<u64> {
    let Some((0x08, varint)) = body.split_first() else { return Some(0) };
    let mut number = 0;
    for (place, byte) in varint.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

enum Says {
    Nothing,
    Closing,
    GoAway,
    /// Another control frame.
    Other,
}

fn read_info(mut info: &[u8]) -> Option<Says> {
    fn string<'a>(info: &mut &'a [u8]) -> Option<&'a [u8]> {
        let len = short(info, 0)?;
        let (text, rest) = info.get(2..)?.split_at_checked(len)?;
        *info = rest;
        Some(text)
    }
    let mut says = Says::Nothing;
    while let Some((kind, rest)) = info.split_first() {
        info = rest;
        let pairs = match kind {
            0 => continue,
            0x11 => {
                string(&mut info)?;
                continue;
            }
            0x01 | 0x10 => short(info, 0)?,
            _ => return None,
        };
        info = &info[2..];
        for _ in 0..pairs {
            if *kind == 0x01 {
                let (key, value) = (string(&mut info)?, string(&mut info)?);
                if (key, value) == (b"crrst", b"1") {
                    says = Says::Closing;
                }
            } else {
                let key = short(info, 0)?;
                info = &info[2..];
                match (key, string(&mut info)?) {
                    (31_002, b"goaway") => says = Says::GoAway,
                    (31_002, b"ping" | b"pong" | b"cancel") => says = Says::Other,
                    (31_002, _) => return None,
                    _ => {}
                }
            }
        }
    }
    Some(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that an implementation in another language made, and what is no frame.
    #[test]
    fn frames_are_what_the_description_says() {
        let vectors = include_str!("../../rpc-core/tests/wire/wire_vectors.tsv");
        let frame = |name: &str| -> Vec<u8> {
            let line = vectors.lines().find(|line| line.starts_with(name)).expect(name);
            let hex = line.rsplit('\t').next().unwrap_or_default();
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect()
        };
        let check = |name: &str, expected: Option<Frame>| {
            let bytes = frame(name);
            for piece in [1, 5, bytes.len()] {
                let (mut frames, mut heard) = (Frames::default(), Vec::new());
                let result = bytes.chunks(piece).try_for_each(|piece| frames.take(piece, |known| heard.push(known)));
                let end = bytes.len() as u64;
                match expected {
                    Some(frame) => {
                        assert_eq!((result, heard.last()), (Ok(()), Some(&Known::Whole(frame, end))), "{name}")
                    }
                    None => assert!(result.is_err(), "{name}: {heard:?}"),
                }
            }
        };
        check("E9b-mux-control-close", Some(Frame::Farewell));
        check("E6-oneway", Some(Frame::Request { seq: 8, any_order: false, oneway: true, number: 0 }));
        check("E8-framed-call", Some(Frame::Request { seq: 1, any_order: false, oneway: false, number: 0 }));
        check("E8b-framed-reply", Some(Frame::Reply { seq: 1, closing: false, number: Some(0) }));
        check("E4b-exception-handler-error", Some(Frame::Reply { seq: 3, closing: false, number: None }));
        check("N2-apache-theader-magic", None);
        check("N7-unknown-info-id", None);
        check("N13-inner-length-below-outer", None);
        check("N17-payload-magic", None);
    }
}
