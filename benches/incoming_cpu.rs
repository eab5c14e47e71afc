//! What `Placement::IncomingCpu` brings to clients on this machine, beside the other placements: an exchange of 32 bytes.
//!
//! On paper: a client and its reactor on one core need not wake each other's core, which takes some 20 µs each way where cores sleep; on two they can
//! work at the same time, which one exchange at a time has no use for. A placement that does not look at cores puts half of the connections on the
//! other one.
//!
//! `cargo bench -p benches --features affinity --bench incoming_cpu` takes half a minute. Two reactors and two clients, each bound to the first or the last core;
//! the placements one after the other, nine rounds, medians.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rpc_transport::{Cx, Frame, Handler, ListenOptions, Placement, PoolOptions, ReactorPool, Unframed};

struct Echo;

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        cx.output().write_bytes(frame.to_bytes());
    }
}

fn on_cores() -> ReactorPool {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let options = PoolOptions { reactors: 2, cores: vec![0, last], ..PoolOptions::default() };
    ReactorPool::start(options).expect("two cores")
}

/// Exchanges in a second over so many connections of each client, each client taking them in turn.
fn rate(placement: Placement, connections: usize, time: Duration) -> f64 {
    let (server, clients) = (on_cores(), on_cores());
    let options = ListenOptions { placement, ..ListenOptions::default() };
    let url = "tcp://127.0.0.1:0".parse().expect("a URL");
    let listener = server.listen(&url, options, |_| (Unframed, Echo)).expect("it listens");
    let addr = listener.url().to_string().trim_start_matches("tcp://").to_owned();
    let (tell, hear) = mpsc::channel();
    for client in clients.handles() {
        let (addr, tell) = (addr.clone(), tell.clone());
        // On the core of this reactor, which does nothing else.
        client.run(move || {
            let dial = |_| TcpStream::connect(&addr).expect("it listens");
            let mut sockets: Vec<TcpStream> = (0..connections).map(dial).collect();
            sockets.iter().for_each(|socket| socket.set_nodelay(true).expect("an option"));
            let (begun, mut exchanges, mut bytes) = (Instant::now(), 0, [b'x'; 32]);
            while begun.elapsed() < time {
                for socket in &mut sockets {
                    socket.write_all(&bytes).expect("it reads");
                }
                for socket in &mut sockets {
                    socket.read_exact(&mut bytes).expect("an echo");
                }
                exchanges += connections;
            }
            tell.send(exchanges as f64 / begun.elapsed().as_secs_f64()).expect("it is waited for");
        });
    }
    drop(tell);
    hear.iter().sum()
}

fn main() {
    let once = std::env::args().any(|arg| arg == "--test");
    let (rounds, time) = if once { (1, Duration::from_millis(10)) } else { (9, Duration::from_millis(500)) };
    let placements = [Placement::RoundRobin, Placement::ReusePort, Placement::IncomingCpu];
    for connections in [1, 64] {
        let mut rates = placements.map(|_| Vec::new());
        for _ in 0..rounds {
            for (placement, rates) in placements.into_iter().zip(&mut rates) {
                rates.push(rate(placement, connections, time));
            }
        }
        for (placement, rates) in placements.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let (least, median, most) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
            println!(
                "{connections:>3} connections a client, {placement:?}: {median:.0} exchanges a second ({least:.0} to {most:.0})"
            );
        }
    }
}
