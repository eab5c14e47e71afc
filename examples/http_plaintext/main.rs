//! HTTP/1.1 on the transport alone: answers every request with "Hello, World!". Try it with `curl` or `wrk`.
//! `cargo run -p examples --bin http_plaintext` (or with a URL); then `curl -i http://127.0.0.1:8080/`.

mod http;

use http::{Plaintext, heads};
use rpc_transport::{ListenOptions, PoolOptions, ReactorPool};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:8080".to_owned());
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener = pool.listen(&url.parse()?, ListenOptions::default(), |_| (heads(), Plaintext))?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
