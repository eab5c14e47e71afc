//! Requests with the checksum of their payload.

use rpc_transport::{Cx, LinkBuffer};

use super::refusals::{timeout_ms, too_large};
use crate::error::{Error, Phase, Sent};
use crate::mux::{SeqId, Spec};
use crate::protocol::ttheader::layout::str_key;
use crate::protocol::ttheader::{HeaderError, RequestHead, StringBlock};
use crate::protocol::{Checksum, MessageType};

/// Writes a whole request. Its message is encoded before its header, which has to say what the message adds up to.
#[cold]
pub(super) fn write(
    cx: &mut Cx<'_>,
    head: &RequestHead,
    seq: SeqId,
    spec: &Spec,
    message: LinkBuffer,
    limit: usize,
) -> Result<(), Error> {
    let unsendable = |e: HeaderError| Error::from(e).with_phase(Phase::Encode).with_sent(Sent::No);
    let method = spec.method.name().as_bytes();
    let checksum = Checksum::of_message(MessageType::Call, method, seq.to_wire(), message.pieces());
    let mut strings = StringBlock::new();
    strings.push(str_key::CHECKSUM, &checksum.to_hex()).map_err(unsendable)?;
    let extra = [&spec.extra[..], strings.as_bytes()].concat();
    let frame_len = head.frame_len(extra.len(), message.len());
    if frame_len > limit {
        return Err(too_large(frame_len, limit));
    }
    let timeout = Some(timeout_ms(spec.timeout));
    head.write(cx.output(), seq.to_wire(), timeout, &extra, message.len()).map_err(unsendable)?;
    cx.output().append(message);
    Ok(())
}
