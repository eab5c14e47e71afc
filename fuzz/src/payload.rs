//! Framed Kitex Protobuf: the head of a message, and the body of an exception.

use prost::Message;
use rpc_core::protocol::{Exception, MessageType, Payload};

use crate::{meter, reach, reference};

/// An exception as a protobuf compiler would have it.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    type_id: i32,
    #[prost(bytes = "vec", tag = "2")]
    message: Vec<u8>,
}

/// The payload decoder against the reference; its body, and the whole input, as an exception against prost.
pub fn payload(data: &[u8]) {
    exception(data);
    let (decoded, held) = meter::peak(|| Payload::decode(data));
    assert_eq!(held, 0, "taking a payload apart allocates");
    reach::note("rpc-core/src/protocol/payload.rs", "decode", &decoded);
    match (decoded, reference::message(data)) {
        (Ok(payload), Ok(expected)) => {
            assert_eq!(MessageType::from_wire(expected.kind as u16), Some(payload.kind));
            assert_eq!((payload.method, payload.body), (&expected.method[..], &expected.body[..]));
            assert_eq!(payload.seq, expected.seq);
            exception(payload.body);
        }
        (Err(error), Err(kind)) => {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        (decoded, expected) => panic!("{decoded:?} where the reference has {expected:?}"),
    }
}

fn exception(body: &[u8]) {
    let exception = meter::protobuf(body.len(), || Exception::decode(body));
    reach::note("rpc-core/src/protocol/exception.rs", "decode", &exception);
    match (exception, Wire::decode(body)) {
        (Ok(exception), Ok(wire)) => {
            assert_eq!(exception.type_id, wire.type_id);
            assert_eq!(exception.message, String::from_utf8_lossy(&wire.message));
            let mut out = Vec::new();
            exception.encode(&mut out);
            assert_eq!(out.len(), exception.encoded_len());
            assert_eq!(Exception::decode(&out).expect("we read what we write"), exception);
        }
        (Err(_), Err(_)) => {}
        (exception, wire) => panic!("{exception:?} where prost has {wire:?}"),
    }
}
