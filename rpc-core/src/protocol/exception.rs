//! [`Exception`]: the message of a type 3 payload.

use bytes::BufMut;
use prost::Message;

/// An error as it travels: a protobuf message of a number and a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exception {
    /// Which kind of error, see [`type_id`](mod@crate::type_id).
    pub type_id: i32,
    /// Its text.
    pub message: String,
}

/// The message as protobuf sees it. Bytes rather than a string, so that a text which is not UTF-8 still says something.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    type_id: i32,
    #[prost(bytes = "vec", tag = "2")]
    message: Vec<u8>,
}

impl Exception {
    /// Reads a body; fields in any order, unknown ones skipped, text that is not UTF-8 repaired.
    ///
    /// # Errors
    /// The body is not a protobuf message.
    pub fn decode(body: &[u8]) -> Result<Exception, prost::DecodeError> {
        let wire = Wire::decode(body)?;
        let message = String::from_utf8(wire.message)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Ok(Exception { type_id: wire.type_id, message })
    }

    /// Bytes that [`encode`](Exception::encode) writes.
    pub fn encoded_len(&self) -> usize {
        let text = self.message.len();
        let number = match self.type_id {
            0 => 0,
            id => 1 + prost::encoding::encoded_len_varint(id as u64),
        };
        number + if text == 0 { 0 } else { 1 + prost::length_delimiter_len(text) + text }
    }

    /// Writes the body. A number or text at its default is left out, as proto3 has it.
    pub fn encode<B: BufMut>(&self, out: &mut B) {
        if self.type_id != 0 {
            out.put_u8(0x08);
            prost::encoding::encode_varint(self.type_id as u64, out);
        }
        if !self.message.is_empty() {
            out.put_u8(0x12);
            prost::encoding::encode_varint(self.message.len() as u64, out);
            out.put_slice(self.message.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn exceptions_are_proto3_messages() {
        let check = |type_id, message: &str, bytes: &[u8]| {
            let exception = Exception { type_id, message: message.into() };
            let mut out = Vec::new();
            exception.encode(&mut out);
            assert_eq!((out.as_slice(), exception.encoded_len()), (bytes, bytes.len()));
            assert_eq!(Exception::decode(bytes).unwrap(), exception);
        };
        check(0,  "",  b"");
        check(1,  "x", b"\x08\x01\x12\x01x");
        check(0,  "x", b"\x12\x01x");
        check(-1, "",  b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    }

    #[test]
    fn any_order_and_unknown_fields_are_read() {
        let read = Exception::decode(b"\x1a\x01?\x12\x02\xffx\x08\x06").unwrap();
        assert_eq!(read, Exception { type_id: 6, message: "\u{fffd}x".into() });
        assert!(Exception::decode(b"\x12\x05x").is_err());
    }
}
