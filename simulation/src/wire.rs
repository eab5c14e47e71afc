//! Bytes of peers without the framework.

use prost::Message;

use crate::ledger::ATTACKER;
use crate::service::{Act, Request};

/// How a request stands on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// With a TTHeader; without one a request has no timeout, and its reply must come in order.
    pub(crate) header: bool,
    /// The reply may come in any order: flag 0x0001.
    pub(crate) any_order: bool,
    /// No reply is wanted.
    pub(crate) oneway: bool,
    pub(crate) seq: u32,
    /// In milliseconds.
    pub(crate) timeout: Option<u32>,
}

/// A call of an attacker.
pub(crate) fn attack(oneway: bool) -> Vec<u8> {
    let request = Request { number: ATTACKER, act: Act::Echo as u32, ..Request::default() };
    frame(Shape { oneway, seq: 5, ..Shape::default() }, &request)
}

/// A request as a frame: length, perhaps the header, then length (with a header only), magic 9001, type 1 (4: oneway), method, sequence
/// number, message.
pub(crate) fn frame(shape: Shape, request: &Request) -> Vec<u8> {
    let method = if request.blocks { "Block" } else { "Do" };
    let mut message = vec![0x90, 0x01, 0, if shape.oneway { 4 } else { 1 }];
    put_prefixed(&mut message, method.as_bytes());
    message.extend(shape.seq.to_be_bytes());
    message.extend(request.encode_to_vec());
    let mut frame = Vec::new();
    if !shape.header {
        put_prefixed(&mut frame, &message);
        return frame;
    }
    // Protocol and transforms; a table of pairs by number, with the timeout alone.
    let mut info = vec![0, 0];
    if let Some(timeout) = shape.timeout.map(|timeout| timeout.to_string()) {
        info.extend([0x10, 0, 1, 0, 12, 0, timeout.len() as u8]);
        info.extend(timeout.bytes());
    }
    info.resize(info.len().next_multiple_of(4), 0);
    let mut rest = vec![0x10, 0, 0, u8::from(shape.any_order)];
    rest.extend(shape.seq.to_be_bytes());
    rest.extend((info.len() as u16 / 4).to_be_bytes());
    rest.extend(info);
    put_prefixed(&mut rest, &message);
    put_prefixed(&mut frame, &rest);
    frame
}

fn put_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}
