//! Requests without bodies, and what they are answered with.

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx, Delimiter, Frame, Handler};

/// What each request is answered with.
pub(crate) const HELLO: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
const REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What a request says of itself that matters here.
enum Asks {
    Reply {
        and_closes: bool,
    },
    /// It is malformed, or has a body, which this server would take for the next request.
    TooMuch,
}

fn read(head: &[u8]) -> Asks {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return Asks::TooMuch;
    }
    let mut and_closes = request.version == Some(0);
    for httparse::Header { name, value } in request.headers.iter() {
        let is = |what| name.eq_ignore_ascii_case(what);
        if is("transfer-encoding") || (is("content-length") && *value != b"0") {
            return Asks::TooMuch;
        }
        if is("connection") {
            and_closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    Asks::Reply { and_closes }
}

pub(crate) struct Plaintext;

impl Handler for Plaintext {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let (reply, closes) = match read(frame.bytes()) {
            Asks::Reply { and_closes } => (HELLO, and_closes),
            Asks::TooMuch => (REFUSED, true),
        };
        cx.output().put_slice(reply);
        if closes {
            cx.close(CloseReason::Local("the last reply has been given"));
        }
    }
}

/// A request's head is a frame.
pub(crate) fn heads() -> Delimiter {
    Delimiter::new("\r\n\r\n").keep().max_frame_size(16 << 10)
}
