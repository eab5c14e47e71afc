//! Bytes of attackers.

use prost::Message;

use crate::ledger::ATTACKER;
use crate::service::{Act, Request};

/// A call as it stands on the wire without a TTHeader: length, magic 9001, type 1 (4: oneway), method, sequence number, message.
pub(crate) fn request(oneway: bool) -> Vec<u8> {
    let request = Request { number: ATTACKER, act: Act::Echo as u32, ..Request::default() };
    let mut message = b"\x90\x01\x00\x01\x00\x00\x00\x02Do\x00\x00\x00\x05".to_vec();
    message[3] = if oneway { 4 } else { 1 };
    message.extend(request.encode_to_vec());
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.extend(message);
    frame
}
