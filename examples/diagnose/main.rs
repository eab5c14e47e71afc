//! What an operator sees of a server under load: a snapshot a second.
//!
//! `cargo run --release -p examples --bin diagnose` (or with how many). In the picture: callers, one whose calls hold the reactor for
//! 20 ms, and one that does not read what it asked for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rpc_transport::{
    Cx, Frame, Handler, LengthField, LengthWidth, ListenOptions, PoolOptions, ReactorPool, SnapshotOptions, Url,
};

struct Echo(LengthField);

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let begun = Instant::now();
        while frame.bytes() == b"slow" && begun.elapsed() < Duration::from_millis(20) {} // what no handler should do
        let output = cx.output();
        self.0.write_head(frame.bytes().len(), output).expect("it was read under the same limit");
        output.write_bytes(frame.to_bytes());
    }
}

/// Calls again and again; `pause` lies between a reply and the next call.
fn caller(to: (String, u16), message: &'static [u8], pause: Duration) {
    let mut socket = TcpStream::connect(to).expect("it listens");
    let frame = [&(message.len() as u32).to_be_bytes(), message].concat();
    let mut reply = vec![0; frame.len()];
    while socket.write_all(&frame).and_then(|()| socket.read_exact(&mut reply)).is_ok() {
        thread::sleep(pause); // the rate of its calls
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let snapshots: u32 = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    let framing = LengthField::new(LengthWidth::U32);
    let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() })?;
    let echo = move |_: &rpc_transport::Accepted<'_>| (framing.clone(), Echo(framing.clone()));
    let listener = pool.listen(&"tcp://127.0.0.1:0".parse()?, ListenOptions::default(), echo)?;
    let Url::Tcp { host, port } = listener.url().clone() else { return Err("not TCP".into()) };
    for n in 0..10 {
        let (to, slow) = ((host.clone(), port), n == 0);
        let (message, pause): (&[u8], _) = if slow { (b"slow", 200) } else { (b"quick", 1) };
        thread::spawn(move || caller(to, message, Duration::from_millis(pause)));
    }
    let mut greedy = TcpStream::connect((host, port))?;
    thread::spawn(move || while greedy.write_all(&[&[0, 1, 0, 0], &[7; 1 << 16][..]].concat()).is_ok() {});
    let _observation = pool.observe(); // without it nothing is timed, and nothing costs anything
    for _ in 0..snapshots {
        thread::sleep(Duration::from_secs(1)); // how often an operator looks
        println!("{}", pool.snapshot(&SnapshotOptions { connections: 4, ..SnapshotOptions::default() }));
    }
    Ok(())
}
