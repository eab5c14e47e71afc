//! Stock `prost` moves no payload: `bytes` fields are linked when written and sliced when read, in nested messages, too.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use rpc_transport::{FrameBuf, LINK_MIN, LinkBuffer};

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    inner: Option<Inner>,
    #[prost(uint64, tag = "3")]
    number: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Inner {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    parts: Vec<Bytes>,
    #[prost(sint64, tag = "2")]
    offset: i64,
}

fn envelope(parts: &[&Bytes]) -> Envelope {
    Envelope {
        name: "a name".into(),
        inner: Some(Inner { parts: parts.iter().map(|part| (*part).clone()).collect(), offset: -5 }),
        number: 1 << 40,
    }
}

fn payload(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

fn contains(outer: &Bytes, part: &Bytes) -> bool {
    let (outer, part) = (outer.as_ptr_range(), part.as_ptr_range());
    outer.start <= part.start && part.end <= outer.end
}

/// Also after the message went through `append` and `seal`, as requests do.
#[test]
fn encoding_links_large_bytes_fields_of_nested_messages() {
    let (first, small, second) = (payload(1, LINK_MIN), payload(2, 10), payload(3, 1 << 20));
    let message = envelope(&[&first, &small, &second]);
    let mut encoded = LinkBuffer::new();
    message.encode(&mut encoded).unwrap();
    encoded.seal();
    let mut out = LinkBuffer::new();
    out.put_slice(b"another message");
    out.append(encoded);
    assert!(out.skip(15));

    let flat = message.encode_to_vec();
    assert!(out == flat[..]);
    let mut linked = Vec::new();
    while out.has_remaining() {
        let piece = out.chunk();
        linked.push(piece.as_ptr());
        let n = piece.len();
        out.advance(n);
    }
    assert!(linked.contains(&first.as_ptr()));
    assert!(linked.contains(&second.as_ptr()));
    assert!(!linked.contains(&small.as_ptr()));
}

#[test]
fn a_length_delimited_message_keeps_its_fields_too() {
    let part = payload(1, 100_000);
    let mut out = LinkBuffer::new();
    envelope(&[&part]).encode_length_delimited(&mut out).unwrap();
    let head = out.chunk().len();
    out.advance(head);
    assert_eq!(out.chunk().as_ptr(), part.as_ptr());
}

#[test]
fn a_message_written_into_a_block_is_read_without_a_copy() {
    let (small, large) = (payload(2, 10), payload(3, LINK_MIN - 1));
    let mut received = LinkBuffer::new();
    received.put_slice(b"head");
    envelope(&[&small, &large]).encode(&mut received).unwrap();
    let memory = received.next(received.len()).unwrap();

    // One read, a frame within it.
    let decoded = Envelope::decode(FrameBuf::new(&memory, &memory[4..])).unwrap();
    assert_eq!(decoded, envelope(&[&small, &large]));
    assert!(decoded.inner.unwrap().parts.iter().all(|part| contains(&memory, part)));

    // The same as a buffer.
    let mut buffer = LinkBuffer::from(memory.clone());
    assert!(buffer.skip(4));
    let decoded = Envelope::decode(&mut buffer).unwrap();
    assert_eq!(decoded, envelope(&[&small, &large]));
    assert!(decoded.inner.unwrap().parts.iter().all(|part| contains(&memory, part)));
    assert!(buffer.is_empty());
}

#[test]
fn a_linked_field_comes_out_as_the_memory_that_went_in() {
    let part = payload(1, 1 << 20);
    let mut buffer = LinkBuffer::new();
    envelope(&[&part]).encode(&mut buffer).unwrap();
    let decoded = Envelope::decode(buffer).unwrap();
    assert_eq!(decoded.inner.unwrap().parts[0].as_ptr(), part.as_ptr());
}

#[test]
fn every_cut_of_a_message_is_an_error_or_a_prefix_and_never_a_panic() {
    let flat = envelope(&[&payload(1, 40), &payload(2, 0)]).encode_to_vec();
    for cut in 0..=flat.len() {
        let memory = Bytes::copy_from_slice(&flat);
        let from_frame = Envelope::decode(FrameBuf::new(&memory, &memory[..cut]));
        let from_slice = Envelope::decode(&flat[..cut]);
        let mut split = LinkBuffer::from(memory.slice(..cut / 2));
        split.append(LinkBuffer::from(memory.slice(cut / 2..cut)));
        assert_eq!(from_frame.ok(), from_slice.clone().ok());
        assert_eq!(Envelope::decode(split).ok(), from_slice.ok());
    }
}
