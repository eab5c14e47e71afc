//! Requests without bodies, and what they are answered with.

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx, Delimiter, Frame, Handler};

pub(crate) const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Whether the connection ends behind the reply; `None` for what is malformed, or has a body, which this server would take for the next request.
fn closes_behind(head: &[u8]) -> Option<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok().filter(|status| status.is_complete())?;
    let mut closes = request.version == Some(0);
    for httparse::Header { name, value } in request.headers.iter() {
        let is = |what| name.eq_ignore_ascii_case(what);
        if is("transfer-encoding") || (is("content-length") && *value != b"0") {
            return None;
        }
        if is("connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    Some(closes)
}

pub(crate) struct Plaintext;

impl Handler for Plaintext {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let closes = closes_behind(frame.bytes());
        cx.output().put_slice(if closes.is_some() { HELLO } else { REFUSED });
        if closes != Some(false) {
            cx.close(CloseReason::Local("the last reply has been given"));
        }
    }
}

/// A request's head is a frame.
pub(crate) fn heads() -> Delimiter {
    Delimiter::new("\r\n\r\n").keep().max_frame_size(16 << 10)
}
