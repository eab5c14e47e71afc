//! A server that speaks first: sends each client a line now and then. A line from the client says how often, in milliseconds.
//! `cargo run -p examples --bin ticker` (or with a URL), then `socat - tcp:127.0.0.1:7002`.

use std::time::Duration;

use rpc_transport::{Cx, Frame, Handler, Line, ListenOptions, PoolOptions, ReactorPool, TimerId};

struct Ticker {
    line: Line,
    ticks: u64,
    timer: Option<TimerId>,
}

impl Ticker {
    fn say(&self, cx: &mut Cx<'_>, text: &str) {
        self.line.write(text.as_bytes(), cx.output()).expect("a short line");
    }

    fn arm(&mut self, cx: &mut Cx<'_>, ms: u64) {
        self.timer.take().into_iter().for_each(|before| cx.disarm(before));
        self.timer = Some(cx.arm(cx.now() + Duration::from_millis(ms), ms));
    }
}

impl Handler for Ticker {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.say(cx, "hello; say how often, in milliseconds");
        self.arm(cx, 1000);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        match std::str::from_utf8(frame.bytes()).map(str::parse) {
            Ok(Ok(ms @ 1..=86_400_000)) => self.arm(cx, ms), // a day at most
            _ => self.say(cx, "that is no number of milliseconds"),
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, ms: u64) {
        self.ticks += 1;
        if !cx.is_crowded() {
            self.say(cx, &format!("tick {}", self.ticks)); // who does not read gets no more: its output is bounded
        }
        self.arm(cx, ms);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7002".to_owned());
    let line = Line::new().max_frame_size(100);
    let mut options = ListenOptions::default();
    options.conn.first_frame_timeout = Duration::from_secs(3600); // clients need not say anything
    let pool = ReactorPool::start(PoolOptions::default())?;
    let listener = pool.listen(&url.parse()?, options, move |_| {
        (line.clone(), Ticker { line: line.clone(), ticks: 0, timer: None })
    })?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
