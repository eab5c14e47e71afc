//! Replies, as bytes.

use bytes::BufMut;
use rpc_transport::{LinkBuffer, LogLimit, local};

use crate::error::{Cause, Error, Result, Sent};
use crate::metadata::Metadata;
use crate::middleware::Payload;
use crate::protocol::ttheader::layout::str_key;
use crate::protocol::ttheader::{CONFIRMATION, HeaderError, ReplyHead, ReplyKind, StringBlock};
use crate::protocol::{Checksum, Exception, Form, MessageType};
use crate::status::{Code, exception_of};

/// Where a reply goes, and what its caller understands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyTo {
    pub(crate) form: Form,
    pub(crate) seq: i32,
    /// Nobody waits for a reply.
    pub(crate) oneway: bool,
    /// The caller is of this framework: it understands `rpc-code`.
    pub(crate) ours: bool,
    /// It announced control frames, and no reply has said yet that they are known here.
    pub(crate) confirm: bool,
    /// Its payload gets a checksum.
    pub(crate) checksum: bool,
    /// The connection is about to close: the caller must not use it again.
    pub(crate) closing: bool,
    pub(crate) max_frame_size: u32,
}

impl ReplyTo {
    /// Whether there will be a reply, with a header.
    pub(crate) fn is_written(&self) -> bool {
        !self.oneway && self.form == Form::TtHeader
    }

    /// Whether the header of a reply says more than what it is.
    fn is_plain(&self) -> bool {
        !(self.closing | self.confirm | self.checksum)
    }
}

/// How what a handler returns becomes bytes.
pub(crate) trait Encode<T>: Send + 'static {
    fn len(body: &T) -> usize;
    fn write(body: T, out: &mut LinkBuffer);
}

/// A message.
pub(crate) struct Message;

/// What is encoded already.
pub(crate) struct Encoded;

impl<T: prost::Message> Encode<T> for Message {
    #[inline]
    fn len(body: &T) -> usize {
        body.encoded_len()
    }

    #[inline]
    fn write(body: T, out: &mut LinkBuffer) {
        body.encode_raw(out);
    }
}

impl Encode<Payload> for Encoded {
    fn len(body: &Payload) -> usize {
        body.len()
    }

    fn write(body: Payload, out: &mut LinkBuffer) {
        out.append(body.into_link());
    }
}

/// Writes a handler's result.
#[inline]
pub(crate) fn write<E: Encode<R>, R>(
    out: &mut LinkBuffer,
    head: &ReplyHead,
    method: &str,
    to: &ReplyTo,
    backward: &Metadata,
    result: Result<R>,
) {
    if to.oneway {
        return;
    }
    let written = match result {
        Ok(body) if to.is_plain() && backward.is_empty() => write_plain::<E, R>(out, head, to, body),
        Ok(body) => write_with_extras::<E, R>(out, head, method, to, backward, body),
        Err(error) => Err(error),
    };
    if let Err(error) = written {
        write_error(out, method.as_bytes(), to, backward, &error);
    }
}

#[inline]
fn write_plain<E: Encode<R>, R>(out: &mut LinkBuffer, head: &ReplyHead, to: &ReplyTo, body: R) -> Result<()> {
    let len = E::len(&body);
    within_limit(head, to, 0, len)?;
    if to.form != Form::TtHeader || !head.write_plain(out, to.seq, len) {
        head.write(out, to.form, ReplyKind::Reply, to.seq, len, b"").map_err(unsendable)?;
    }
    E::write(body, out);
    Ok(())
}

/// A reply whose header says more than what it is.
#[cold]
fn write_with_extras<E: Encode<R>, R>(
    out: &mut LinkBuffer,
    head: &ReplyHead,
    method: &str,
    to: &ReplyTo,
    backward: &Metadata,
    body: R,
) -> Result<()> {
    let len = E::len(&body);
    let mut strings = closing_block(to).map_err(unsendable)?;
    push_backward(&mut strings, backward).map_err(unsendable)?;
    let mut head_of = |mut strings: StringBlock, message: Option<&LinkBuffer>| {
        if let Some(message) = message {
            push_checksum(&mut strings, to, MessageType::Reply, method.as_bytes(), message.pieces())
                .map_err(unsendable)?;
        }
        let extra = with_confirmation(strings, to);
        within_limit(head, to, extra.len(), len)?;
        head.write(&mut *out, to.form, ReplyKind::Reply, to.seq, len, &extra).map_err(unsendable)
    };
    if to.checksum {
        let mut message = LinkBuffer::new();
        E::write(body, &mut message);
        head_of(strings, Some(&message))?;
        out.append(message);
    } else {
        head_of(strings, None)?;
        E::write(body, out);
    }
    Ok(())
}

#[inline]
fn within_limit(head: &ReplyHead, to: &ReplyTo, extra_len: usize, len: usize) -> Result<()> {
    match head.frame_len(to.form, extra_len, len) {
        frame_len if frame_len > to.max_frame_size as usize => Err(too_large(frame_len, to.max_frame_size)),
        _ => Ok(()),
    }
}

#[cold]
fn too_large(len: usize, limit: u32) -> Error {
    let text = format!(
        "the reply's frame has {len} bytes, the limit max_frame_size is {limit}: send less at once, or raise it at both ends"
    );
    Error::new(Code::ResourceExhausted, text)
}

/// It is the reply that cannot be sent: the handler has run.
#[cold]
fn unsendable(error: HeaderError) -> Error {
    Error::from(error).with_sent(Sent::Maybe)
}

/// Writes an error: a business status as a reply, everything else as an exception.
pub(crate) fn write_error(out: &mut LinkBuffer, method: &[u8], to: &ReplyTo, backward: &Metadata, error: &Error) {
    if to.oneway {
        return;
    }
    let written = match (error.cause(), to.form) {
        (Cause::Business(status), Form::TtHeader) => {
            let strings = closing_block(to).and_then(|mut strings| {
                push_backward(&mut strings, backward)?;
                status.put(&mut strings)?;
                push_checksum(&mut strings, to, MessageType::Reply, method, std::iter::empty())?;
                Ok(with_confirmation(strings, to))
            });
            strings.and_then(|extra| ReplyHead::write_for(method, out, to.form, ReplyKind::Reply, to.seq, 0, &extra))
        }
        _ => write_exception(out, method, to, error, shortened(exception_of(error), to.max_frame_size)),
    };
    if let Err(header) = written {
        // What the handler wants to say does not fit into a header: say that instead.
        static UNSENDABLE: LogLimit = LogLimit::new();
        if let Some(skipped) = UNSENDABLE.pass(local::now()) {
            tracing::warn!(error = %header, skipped, "a reply's header cannot be sent");
        }
        let exception = Exception { type_id: 6, message: format!("the reply cannot be sent: {header}") };
        let plain = ReplyTo { ours: false, closing: false, ..*to };
        if let Err(error) = write_exception(out, method, &plain, error, exception) {
            static LOST: LogLimit = LogLimit::new();
            if let Some(skipped) = LOST.pass(local::now()) {
                tracing::error!(%error, skipped, "an exception cannot be sent; its caller will time out");
            }
        }
    }
}

fn write_exception(
    out: &mut LinkBuffer,
    method: &[u8],
    to: &ReplyTo,
    error: &Error,
    exception: Exception,
) -> Result<(), HeaderError> {
    let mut strings = closing_block(to)?;
    if to.ours {
        strings.push(str_key::CODE, error.code().wire_name().as_bytes())?;
        if error.sent() == Sent::No {
            strings.push(str_key::NOT_EXECUTED, b"1")?;
        }
    }
    let mut body = Vec::with_capacity(exception.encoded_len());
    exception.encode(&mut body);
    push_checksum(&mut strings, to, MessageType::Exception, method, std::iter::once(&body[..]))?;
    let extra = with_confirmation(strings, to);
    ReplyHead::write_for(method, out, to.form, ReplyKind::Exception, to.seq, body.len(), &extra)?;
    out.put_slice(&body);
    Ok(())
}

/// A text that leaves room for the rest of a frame: a longer one would end the connection at the caller's side.
fn shortened(mut exception: Exception, max_frame_size: u32) -> Exception {
    let most = max_frame_size as usize / 2;
    if exception.message.len() > most {
        let end = (0..=most).rev().find(|at| exception.message.is_char_boundary(*at));
        exception.message.truncate(end.unwrap_or(0));
    }
    exception
}

fn closing_block(to: &ReplyTo) -> Result<StringBlock, HeaderError> {
    let mut strings = StringBlock::new();
    if to.closing {
        strings.push(str_key::CLOSING, b"1")?;
    }
    Ok(strings)
}

fn push_checksum<'a>(
    strings: &mut StringBlock,
    to: &ReplyTo,
    kind: MessageType,
    method: &[u8],
    body: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(), HeaderError> {
    if !to.checksum || to.form == Form::Framed {
        return Ok(());
    }
    strings.push(str_key::CHECKSUM, &Checksum::of_message(kind, method, to.seq, body).to_hex())
}

/// The info blocks of a reply, with the word that control frames are known here if it is due.
fn with_confirmation(strings: StringBlock, to: &ReplyTo) -> Vec<u8> {
    let mut extra = strings.into_bytes();
    if to.confirm {
        extra.extend(CONFIRMATION);
    }
    extra
}

fn push_backward(strings: &mut StringBlock, backward: &Metadata) -> Result<(), HeaderError> {
    backward.iter().try_for_each(|(key, value)| strings.push_backward(key, value))
}
