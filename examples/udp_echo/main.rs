//! Datagrams, sent back by a socket on each reactor.
//!
//! `cargo run -p examples --bin udp_echo` (or with an address); then `printf hello | socat -t 1 - udp:127.0.0.1:7004`.

use std::net::SocketAddr;

use rpc_transport::{DatagramCx, DatagramHandler, PoolOptions, ReactorPool, UdpOptions};

struct Echo;

impl DatagramHandler for Echo {
    fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], from: SocketAddr) {
        let _ = cx.send_to(datagram, from); // who asks for too much loses some, as everywhere on the way
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7004".to_owned());
    let pool = ReactorPool::start(PoolOptions::default())?;
    let server = pool.bind_udp(addr.parse()?, UdpOptions::default(), |_| Echo)?;
    println!("LISTENING udp://{}", server.local_addr());
    loop {
        std::thread::park();
    }
}
