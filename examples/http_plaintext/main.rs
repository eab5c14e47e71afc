//! HTTP/1.1 on the transport alone: answers every request with "Hello, World!". Try it with `curl` or `wrk`.
//!
//! `cargo run -p examples --bin http_plaintext` (or with a URL); then `curl -i http://127.0.0.1:8080/`.

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx, Delimiter, Frame, Handler, ListenOptions, PoolOptions, ReactorPool};

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
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
    for header in request.headers.iter() {
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" if header.value != b"0" => return Asks::TooMuch,
            "transfer-encoding" => return Asks::TooMuch,
            "connection" => and_closes = header.value.eq_ignore_ascii_case(b"close"),
            _ => {}
        }
    }
    Asks::Reply { and_closes }
}

struct Plaintext;

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:8080".to_owned());
    let framing = Delimiter::new("\r\n\r\n").keep().max_frame_size(16 << 10);
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener = pool.listen(&url.parse()?, ListenOptions::default(), move |_| (framing.clone(), Plaintext))?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
