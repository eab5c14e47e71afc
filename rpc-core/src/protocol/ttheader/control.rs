//! [`ControlFrame`]: what two peers of this framework say to each other beside calls. `docs/control-frames.md` has the bytes.

use bytes::BufMut;

use super::decode::TtFrame;
use super::layout::{FIXED, MAGIC, PROTOCOL_DEFAULT, block, int_key, str_key};
use super::pairs::{Entry, InfoEntries};
use crate::protocol::error::ProtocolError;

/// Most entries of a control frame; there are three at most in ours.
const MAX_ENTRIES: usize = 16;
/// Longest reason, in bytes.
const MAX_REASON: usize = 256;
/// Bytes of info that any control frame of ours fits in.
const SCRATCH: usize = 384;

/// A frame with id 0 and no payload. Sent only between peers that both announced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlFrame<'a> {
    /// Asks for a [`Pong`](ControlFrame::Pong) with the same number.
    Ping(u64),
    /// Answers a [`Ping`](ControlFrame::Ping).
    Pong(u64),
    /// From a client: nobody waits for the reply to this request any more.
    Cancel(i32),
    /// Open no more calls here.
    GoAway {
        /// The request that was taken last; 0 while that is not decided. For logs: ids are not ordered.
        last: i32,
        /// Why, for logs; may be empty.
        reason: &'a [u8],
    },
}

impl<'a> ControlFrame<'a> {
    /// Reads a frame with id 0; `None` if it is no control frame of ours.
    ///
    /// # Errors
    /// It is one, and malformed: fatal for the connection.
    pub fn decode(frame: &TtFrame<'a>) -> Result<Option<ControlFrame<'a>>, ProtocolError> {
        let (mut entries, mut kind, mut number, mut reason) = (0, None, None, &b""[..]);
        for entry in InfoEntries::new(frame.info) {
            entries += 1;
            match entry? {
                Entry::Int { key: int_key::CONTROL, value } => kind = Some(value),
                Entry::Int { key: int_key::CONTROL_NUMBER, value } => number = Some(value),
                Entry::Str { key: str_key::REASON, value } => reason = value,
                _ => {}
            }
        }
        let Some(kind) = kind else { return Ok(None) };
        if entries > MAX_ENTRIES {
            return Err(ProtocolError::Control("too many entries"));
        }
        if !frame.payload.is_empty() {
            return Err(ProtocolError::Control("it has a payload"));
        }
        if reason.len() > MAX_REASON {
            return Err(ProtocolError::Control("its reason is too long"));
        }
        let Some(number) = number else { return Err(ProtocolError::Control("its number is missing")) };
        let frame = match kind {
            b"ping" => ControlFrame::Ping(opaque(number)?),
            b"pong" => ControlFrame::Pong(opaque(number)?),
            b"cancel" => match seq(number)? {
                0 => return Err(ProtocolError::Control("no call has the id 0")),
                seq => ControlFrame::Cancel(seq),
            },
            b"goaway" => ControlFrame::GoAway { last: seq(number)?, reason },
            _ => return Err(ProtocolError::Control("of an unknown kind")),
        };
        Ok(Some(frame))
    }

    /// Whether a whole frame looks like one: a TTHeader with id 0 and nothing behind it. Costs nothing to speak of.
    pub fn is(frame: &[u8]) -> bool {
        let Some(fixed) = frame.first_chunk::<FIXED>() else { return false };
        let header_end = FIXED + 4 * usize::from(u16::from_be_bytes([fixed[12], fixed[13]]));
        fixed[4..6] == MAGIC.to_be_bytes() && fixed[8..12] == [0; 4] && header_end == frame.len()
    }

    /// Writes the whole frame. Does not allocate. A reason over 256 bytes is cut.
    pub fn encode<B: BufMut>(&self, out: &mut B) {
        let mut scratch = [0; SCRATCH];
        let mut info = &mut scratch[..];
        let (kind, sign, magnitude, reason): (&[u8], _, _, _) = match *self {
            ControlFrame::Ping(number) => (b"ping", "", number, &b""[..]),
            ControlFrame::Pong(number) => (b"pong", "", number, &b""[..]),
            ControlFrame::Cancel(seq) => (b"cancel", sign(seq), seq.unsigned_abs().into(), &b""[..]),
            ControlFrame::GoAway { last, reason } => {
                (b"goaway", sign(last), last.unsigned_abs().into(), &reason[..reason.len().min(MAX_REASON)])
            }
        };
        if !reason.is_empty() {
            info.put_slice(&[block::STRINGS, 0, 1]);
            put_string(&mut info, str_key::REASON);
            put_string(&mut info, reason);
        }
        info.put_slice(&[block::INTS, 0, 2]);
        info.put_u16(int_key::CONTROL);
        put_string(&mut info, kind);
        info.put_u16(int_key::CONTROL_NUMBER);
        let mut digits = [0; 20];
        let digits = decimal(magnitude, &mut digits);
        info.put_u16((sign.len() + digits.len()) as u16);
        info.put_slice(sign.as_bytes());
        info.put_slice(digits);

        let len = SCRATCH - info.len();
        let header = (2 + len).next_multiple_of(4);
        out.put_u32((FIXED - 4 + header) as u32);
        out.put_u16(MAGIC);
        out.put_u16(0);
        out.put_i32(0);
        out.put_u16((header / 4) as u16);
        out.put_slice(&[PROTOCOL_DEFAULT, 0]);
        out.put_slice(&scratch[..header - 2]);
    }
}

fn put_string(out: &mut impl BufMut, text: &[u8]) {
    out.put_u16(text.len() as u16);
    out.put_slice(text);
}

fn sign(seq: i32) -> &'static str {
    if seq < 0 { "-" } else { "" }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// Digits alone: `parse` would take a sign.
fn digits(text: &[u8]) -> Result<u64, ProtocolError> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(ProtocolError::Control("its number is none, or too large"))
}

fn opaque(text: &[u8]) -> Result<u64, ProtocolError> {
    digits(text)
}

fn seq(text: &[u8]) -> Result<i32, ProtocolError> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let magnitude = i64::try_from(digits(text)?).unwrap_or(i64::MAX);
    let number = if negative { -magnitude } else { magnitude };
    i32::try_from(number).map_err(|_| ProtocolError::Control("its number is no id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ttheader::StringBlock;

    fn frame(ints: &[(u16, &str)], reason: &str, payload: &[u8]) -> Result<String, &'static str> {
        let mut strings = StringBlock::new();
        if !reason.is_empty() {
            strings.push(str_key::REASON, reason.as_bytes()).unwrap();
        }
        let mut info = strings.as_bytes().to_vec();
        info.extend([block::INTS, 0, ints.len() as u8]);
        for (key, value) in ints {
            info.extend(key.to_be_bytes());
            info.extend((value.len() as u16).to_be_bytes());
            info.extend(value.as_bytes());
        }
        match ControlFrame::decode(&TtFrame { flags: 0, seq: 0, info: &info, payload }) {
            Ok(frame) => Ok(format!("{frame:?}")),
            Err(ProtocolError::Control(reason)) => Err(reason),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    #[rustfmt::skip]
    fn control_frames_are_taken_whole_or_not_at_all() {
        let check = |kind: &str, number: &str, want: Result<&str, &str>| {
            let ints = [(int_key::CONTROL, kind), (int_key::CONTROL_NUMBER, number)];
            assert_eq!(frame(&ints, "", b""), want.map(str::to_owned), "{kind} {number}");
        };
        check("ping",   "0",                    Ok("Some(Ping(0))"));
        check("ping",   "18446744073709551615", Ok("Some(Ping(18446744073709551615))"));
        check("ping",   "18446744073709551616", Err("its number is none, or too large"));
        check("ping",   "-1",                   Err("its number is none, or too large"));
        check("ping",   "+1",                   Err("its number is none, or too large"));
        check("ping",   "",                     Err("its number is none, or too large"));
        check("pong",   "7",                    Ok("Some(Pong(7))"));
        check("cancel", "-2147483648",          Ok("Some(Cancel(-2147483648))"));
        check("cancel", "2147483648",           Err("its number is no id"));
        check("cancel", "99999999999999999999", Err("its number is none, or too large"));
        check("cancel", "9999999999999999999",  Err("its number is no id"));
        check("cancel", "--1",                  Err("its number is none, or too large"));
        check("cancel", "0",                    Err("no call has the id 0"));
        check("goaway", "0",                    Ok("Some(GoAway { last: 0, reason: [] })"));
        check("Ping",   "1",                    Err("of an unknown kind"));
        check("",       "1",                    Err("of an unknown kind"));
        assert_eq!(frame(&[(int_key::CONTROL, "ping")], "", b""), Err("its number is missing"));
        assert_eq!(frame(&[(int_key::CONTROL_NUMBER, "1")], "", b""), Ok("None".into()));
        assert_eq!(frame(&[(int_key::CONTROL, "ping"), (int_key::CONTROL_NUMBER, "1")], "", b"x"), Err("it has a payload"));
        let long = "x".repeat(257);
        assert_eq!(frame(&[(int_key::CONTROL, "goaway"), (int_key::CONTROL_NUMBER, "1")], &long, b""), Err("its reason is too long"));
        let mut many = vec![(1, "x"); 16];
        many.insert(0, (int_key::CONTROL, "ping"));
        assert_eq!(frame(&many, "", b""), Err("too many entries"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = [b'r'; 300];
        for written in [
            ControlFrame::Ping(0),
            ControlFrame::Ping(u64::MAX),
            ControlFrame::Pong(1),
            ControlFrame::Cancel(i32::MIN),
            ControlFrame::Cancel(i32::MAX),
            ControlFrame::GoAway { last: 0, reason: b"" },
            ControlFrame::GoAway { last: -1, reason: b"shutting down" },
            ControlFrame::GoAway { last: i32::MIN, reason: &long },
        ] {
            let mut out = Vec::new();
            written.encode(&mut out);
            let frame = TtFrame::decode(&out).unwrap();
            assert_eq!((frame.seq, frame.flags, frame.payload), (0, 0, &b""[..]));
            let expected = match written {
                ControlFrame::GoAway { last, reason } => {
                    ControlFrame::GoAway { last, reason: &reason[..reason.len().min(256)] }
                }
                other => other,
            };
            assert_eq!(ControlFrame::decode(&frame), Ok(Some(expected)));
        }
    }
}
