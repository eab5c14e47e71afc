//! A store that speaks Redis's protocol, a framing of its own: try `redis-cli -p 6380`, or `redis-benchmark -p 6380 -t ping,set,get`.

mod framing;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes};
use framing::{MOST, Resp, command};
use rpc_transport::{Cx, Frame, Handler, ListenOptions, PoolOptions, ReactorPool};

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
