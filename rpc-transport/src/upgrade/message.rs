//! What the two processes say to each other, sans-IO. Each message is one packet of a `SOCK_SEQPACKET` socket.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 4 | `RPCU` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind |
//! | 6 | | body |
//!
//! | kind | from | body |
//! | --- | --- | --- |
//! | 1 hello | new | |
//! | 2 socket | old | a byte of flags (1: nobody else keeps it), and the address that it was asked for by, in UTF-8; its descriptor goes with it |
//! | 3 end | old | how many sockets there were, 2 bytes |
//! | 4 ready | new | the numbers, from 0, of the sockets that it has not taken, 2 bytes each |
//! | 5 go | old | |
//! | 6 serving | new | |

use std::fmt;

/// The version of what is said here. Both must have the same.
pub(super) const VERSION: u8 = 1;

/// The longest message, in bytes.
pub(super) const MAX: usize = 4 << 10;

/// Sockets that are handed over at most: as many numbers fit into `ready`.
pub(super) const MAX_SOCKETS: usize = 1024;

const MAGIC: &[u8; 4] = b"RPCU";
const SOLE: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Hello,
    Socket { asked: String, sole: bool },
    End(u16),
    Ready { left: Vec<u16> },
    Go,
    Serving,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// It is not from a process that knows this protocol.
    Garbage,
    /// It is from one that knows another version of it.
    Version(u8),
    /// A message that is not the one expected there.
    OutOfTurn(&'static str),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Garbage => f.write_str("it said what no process of ours says"),
            MessageError::Version(theirs) => {
                write!(f, "it speaks version {theirs} of the hand-over, this process version {VERSION}")
            }
            MessageError::OutOfTurn(what) => write!(f, "it said `{what}` out of turn"),
        }
    }
}

impl Message {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Message::Hello => "hello",
            Message::Socket { .. } => "socket",
            Message::End(_) => "end",
            Message::Ready { .. } => "ready",
            Message::Go => "go",
            Message::Serving => "serving",
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut begin = |kind: u8| out.extend([VERSION, kind]);
        match self {
            Message::Hello => begin(1),
            Message::Socket { asked, sole } => {
                begin(2);
                out.push(if *sole { SOLE } else { 0 });
                out.extend(asked.as_bytes());
            }
            Message::End(count) => {
                begin(3);
                out.extend(count.to_be_bytes());
            }
            Message::Ready { left } => {
                begin(4);
                out.extend(left.iter().flat_map(|number| number.to_be_bytes()));
            }
            Message::Go => begin(5),
            Message::Serving => begin(6),
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        let garbage = MessageError::Garbage;
        let [b'R', b'P', b'C', b'U', version, kind, body @ ..] = bytes else { return Err(garbage) };
        if *version != VERSION {
            return Err(MessageError::Version(*version));
        }
        match (kind, body) {
            (1, []) => Ok(Message::Hello),
            (2, [flags @ (0 | SOLE), asked @ ..]) => {
                let asked = std::str::from_utf8(asked).map_err(|_| garbage)?.to_owned();
                Ok(Message::Socket { asked, sole: *flags == SOLE })
            }
            (3, [high, low]) => Ok(Message::End(u16::from_be_bytes([*high, *low]))),
            (4, numbers) if numbers.len() % 2 == 0 && numbers.len() <= 2 * MAX_SOCKETS => {
                let left = numbers.chunks_exact(2).map(|n| u16::from_be_bytes([n[0], n[1]])).collect();
                Ok(Message::Ready { left })
            }
            (5, []) => Ok(Message::Go),
            (6, []) => Ok(Message::Serving),
            _ => Err(garbage),
        }
    }
}

/// For the fuzz target: a message, read and written again.
#[cfg(feature = "testing")]
pub(crate) fn rewritten(bytes: &[u8]) -> Result<Vec<u8>, MessageError> {
    Message::decode(bytes).map(|message| message.encode())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[rustfmt::skip]
    fn messages_are_read_as_they_were_written() {
        let check = |bytes: &[u8], expected: Result<Message, MessageError>| {
            assert_eq!(Message::decode(bytes), expected, "{bytes:x?}");
            if let Ok(message) = expected {
                assert_eq!(message.encode(), bytes);
                assert!(bytes.len() <= MAX);
            }
        };
        check(b"RPCU\x01\x01",              Ok(Message::Hello));
        check(b"RPCU\x01\x02\x01unix:a",    Ok(Message::Socket { asked: "unix:a".into(), sole: true }));
        check(b"RPCU\x01\x02\x00fd://web",  Ok(Message::Socket { asked: "fd://web".into(), sole: false }));
        check(b"RPCU\x01\x03\x01\x02",      Ok(Message::End(258)));
        check(b"RPCU\x01\x04",              Ok(Message::Ready { left: vec![] }));
        check(b"RPCU\x01\x04\x00\x01\x00\x07", Ok(Message::Ready { left: vec![1, 7] }));
        check(b"RPCU\x01\x05",              Ok(Message::Go));
        check(b"RPCU\x01\x06",              Ok(Message::Serving));
        check(&Message::Ready { left: vec![7; MAX_SOCKETS] }.encode(), Ok(Message::Ready { left: vec![7; MAX_SOCKETS] }));

        check(b"",                          Err(MessageError::Garbage));
        check(b"RPCU\x01",                  Err(MessageError::Garbage));
        check(b"GET / HTTP/1.1\r\n",        Err(MessageError::Garbage));
        check(b"RPCU\x02\x01",              Err(MessageError::Version(2)));
        check(b"RPCU\x01\x07",              Err(MessageError::Garbage));
        check(b"RPCU\x01\x01more",          Err(MessageError::Garbage));
        check(b"RPCU\x01\x02",              Err(MessageError::Garbage));
        check(b"RPCU\x01\x02\x02a",         Err(MessageError::Garbage));
        check(b"RPCU\x01\x02\x01\xff",      Err(MessageError::Garbage));
        check(b"RPCU\x01\x03\x01",          Err(MessageError::Garbage));
        check(b"RPCU\x01\x04\x01",          Err(MessageError::Garbage));
    }

    proptest! {
        /// Whatever comes is a message that is written like this, or none.
        #[test]
        fn any_bytes_are_read(head in prop::bool::ANY, mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if head {
                bytes.splice(..0, *b"RPCU\x01");
            }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
