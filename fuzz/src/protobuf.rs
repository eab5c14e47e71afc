//! Messages as services have them: decoded from a frame without copying, encoded into a chain of segments.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use prost::Message;
use rpc_transport::{FrameBuf, LinkBuffer};

use crate::meter;

/// Everything a message can have that is decoded by a rule of its own.
#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(message, repeated, tag = "1")]
    leaves: Vec<Leaf>,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
    #[prost(string, repeated, tag = "3")]
    names: Vec<String>,
    #[prost(btree_map = "string, uint64", tag = "4")]
    labels: BTreeMap<String, u64>,
    #[prost(sint64, repeated, tag = "5")]
    numbers: Vec<i64>,
    #[prost(message, optional, boxed, tag = "6")]
    child: Option<Box<Tree>>,
    #[prost(double, tag = "7")]
    ratio: f64,
    #[prost(oneof = "Choice", tags = "8, 9")]
    choice: Option<Choice>,
}

/// Small: what an empty one of two bytes becomes counts towards 64 times the input, while the vector of them grows, too.
#[derive(Clone, PartialEq, Message)]
struct Leaf {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bool, tag = "2")]
    known: bool,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Choice {
    #[prost(bool, tag = "8")]
    Yes(bool),
    #[prost(bytes = "bytes", tag = "9")]
    Blob(Bytes),
}

/// T6: any bytes as a message, from a slice, from a frame within a read, and from a chain: one result, within the memory that its
/// input allows, encoded alike everywhere.
pub fn protobuf(data: &[u8]) {
    let from_slice = meter::protobuf(data.len(), || Tree::decode(data));

    let read = Bytes::from([b"before", data, b"after"].concat());
    let from_frame = Tree::decode(FrameBuf::new(&read, &read[6..6 + data.len()]));
    let mut chain = LinkBuffer::new();
    for piece in data.chunks(5) {
        chain.append(LinkBuffer::from(Bytes::copy_from_slice(piece)));
    }
    let from_chain = Tree::decode(&mut chain);
    let (Ok(message), Ok(from_frame), Ok(from_chain)) = (&from_slice, &from_frame, &from_chain) else {
        assert!(from_slice.is_err() && from_frame.is_err() && from_chain.is_err());
        return;
    };
    // By their text: not a number is equal to nothing.
    let text = format!("{message:?}");
    assert_eq!((format!("{from_frame:?}"), format!("{from_chain:?}")), (text.clone(), text.clone()));

    let encoded = message.encode_to_vec();
    let mut out = LinkBuffer::new();
    message.encode(&mut out).expect("it has room");
    assert_eq!(out.remaining(), message.encoded_len());
    assert!(out == encoded[..], "a chain and a vector differ");
    // prost takes minus zero for the default, and does not write it.
    let unsigned = |text: &str| text.replace("ratio: -0.0", "ratio: 0.0");
    assert_eq!(unsigned(&format!("{:?}", Tree::decode(out).expect("we read what we write"))), unsigned(&text));
}
