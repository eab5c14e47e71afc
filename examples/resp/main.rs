//! A store that speaks Redis's protocol, a framing of its own: try `redis-cli -p 6380`, or `redis-benchmark -p 6380 -t ping,set,get`.
use std::{collections::HashMap, sync::Arc, sync::Mutex};

use bytes::{BufMut, Bytes};
use rpc_transport::{Cx, Frame, FrameError, Framing, Handler, ListenOptions, Next, PoolOptions, ReactorPool, Span};

/// Most words of a command, bytes of a word, and keys.
const MOST: [usize; 3] = [64, 1 << 20, 1 << 20];

/// The number behind `mark` and what follows its line, such as `$3\r\n`; `None` if the line is not whole.
fn number(input: &[u8], mark: u8, most: usize) -> Result<Option<(usize, &[u8])>, FrameError> {
    let end = input.iter().take(16).position(|byte| *byte == b'\n');
    let wrong = || FrameError::invalid("no length within its limit where one is due", input);
    let Some(end) = end else { return if input.len() < 16 { Ok(None) } else { Err(wrong()) } };
    let text = input[..end].strip_prefix(&[mark]).and_then(|line| std::str::from_utf8(line).ok());
    let number = text.and_then(|text| text.trim_end().parse().ok()).filter(|number| *number <= most);
    Ok(Some((number.ok_or_else(wrong)?, &input[end + 1..])))
}

type Command<'a> = (Vec<&'a [u8]>, usize);

/// The words of the command at the front, and its length: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`.
fn command(input: &[u8]) -> Result<Option<Command<'_>>, FrameError> {
    let Some((count, mut rest)) = number(input, b'*', MOST[0])? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((len, after)) = number(rest, b'$', MOST[1])? else { return Ok(None) };
        let Some((word, after)) = after.split_at_checked(len + 2) else { return Ok(None) };
        words.push(&word[..len]);
        rest = after;
    }
    Ok(Some((words, input.len() - rest.len())))
}

struct Resp;
impl Framing for Resp {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let whole = command(input)?.map(|(_, len)| Next::Frame(Span { skip: 0, len, tail: 0 }));
        Ok(whole.unwrap_or(Next::More { need: input.len() + 1 }))
    }
}

struct Client(Arc<Mutex<HashMap<Bytes, Bytes>>>);
impl Handler for Client {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let Ok(Some((words, _))) = command(frame.bytes()) else { return };
        let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let (mut store, out) = (self.0.lock().unwrap(), cx.output());
        match (&name[..], &words[..]) {
            (b"PING", [_]) => out.put_slice(b"+PONG\r\n"),
            (b"GET", [_, key]) if store.contains_key(*key) => {
                out.put_slice(format!("${}\r\n", store[*key].len()).as_bytes());
                out.write_bytes(store[*key].clone()); // large values are linked, not copied
                out.put_slice(b"\r\n");
            }
            (b"GET", [_, _]) => out.put_slice(b"$-1\r\n"),
            (b"SET", [_, key, value]) if store.len() < MOST[2] || store.contains_key(*key) => {
                store.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                out.put_slice(b"+OK\r\n");
            }
            _ => out.put_slice(b"-ERR no such command, or no room\r\n"),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:6380".to_owned());
    let (pool, store) = (ReactorPool::start(PoolOptions::default())?, Arc::default());
    let listener = pool.listen(&url.parse()?, ListenOptions::default(), move |_| (Resp, Client(Arc::clone(&store))))?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
