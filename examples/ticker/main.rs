//! A server that speaks first: sends each client a line now and then. A line from the client says how often, in milliseconds.
//!
//! `cargo run -p examples --bin ticker` (or with a URL); then `socat - tcp:127.0.0.1:7002`.

use std::time::Duration;

use rpc_transport::{Cx, Frame, Handler, Line, ListenOptions, PoolOptions, ReactorPool, TimerId};

struct Ticker {
    line: Line,
    every: Duration,
    ticks: u64,
    timer: Option<TimerId>,
}

impl Ticker {
    fn arm(&mut self, cx: &mut Cx<'_>) {
        let at = cx.now() + self.every;
        if let Some(before) = self.timer.replace(cx.arm(at, 0)) {
            cx.disarm(before);
        }
    }

    fn say(&self, cx: &mut Cx<'_>, text: &str) {
        self.line.write(text.as_bytes(), cx.output()).expect("a short line");
    }
}

impl Handler for Ticker {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.say(cx, "hello; say how often, in milliseconds");
        self.arm(cx);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        match std::str::from_utf8(frame.bytes()).map(str::parse) {
            Ok(Ok(ms @ 1..)) => {
                self.every = Duration::from_millis(ms);
                self.arm(cx);
            }
            _ => self.say(cx, "that is no number of milliseconds"),
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, _: u64) {
        self.ticks += 1;
        // Who does not read gets no more: its output is bounded.
        if !cx.is_crowded() {
            self.say(cx, &format!("tick {}", self.ticks));
        }
        self.arm(cx);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7002".to_owned());
    let (line, every) = (Line::new().max_frame_size(100), Duration::from_secs(1));
    let mut options = ListenOptions::default();
    options.conn.first_frame_timeout = Duration::from_secs(3600); // clients need not say anything
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener = pool.listen(&url.parse()?, options, move |_| {
        (line.clone(), Ticker { line: line.clone(), every, ticks: 0, timer: None })
    })?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
