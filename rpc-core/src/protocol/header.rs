//! [`Form`]: how a unary message is framed, frame by frame.

use super::error::{FirstBytes, ProtocolError};
use super::payload;
use super::ttheader::layout;

/// Framing of one message. It may differ from frame to frame on a connection; a reply takes that of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// TTHeader around framed Kitex Protobuf: every current client.
    TtHeader,
    /// Bare framed Kitex Protobuf: no metadata in either direction.
    Framed,
}

/// The form of a whole frame, by the magic at offset 4.
///
/// # Errors
/// `short` below six bytes, else `magic`.
#[inline]
pub fn form_of(frame: &[u8]) -> Result<Form, ProtocolError> {
    match frame.first_chunk::<6>().map(|head| u16::from_be_bytes([head[4], head[5]])) {
        Some(layout::MAGIC) => Ok(Form::TtHeader),
        Some(payload::MAGIC) => Ok(Form::Framed),
        Some(_) => Err(ProtocolError::Magic(FirstBytes::of(frame))),
        None => Err(ProtocolError::Short { have: frame.len() as u64, need: 6 }),
    }
}
