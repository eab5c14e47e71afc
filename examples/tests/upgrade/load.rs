//! Calls without a pause, and connections that are made for one call each.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rpc_core::{Channel, ChannelBuilder};
use testee::idl::testee::{Blob, TesteeClient};
use testee::raw;

use crate::chain::LIMIT;

/// Between two connections for one call: 200 a second.
const PACE: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    calls: AtomicU64,
    short: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// A load that goes on until it is ended.
pub(crate) struct Load {
    counts: Arc<Counts>,
    begun: Instant,
    lanes: mpsc::Receiver<()>,
    short: JoinHandle<()>,
    channel: Channel,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) calls: u64,
    pub(crate) short: u64,
    pub(crate) took: Duration,
    pub(crate) connects: u64,
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// So many calls at a time over two connections, and connections for one call each, 200 a second.
    pub(crate) fn begin(url: &str, lanes: usize) -> Load {
        let at = url.to_owned();
        Load::by(Channel::builder(url), lanes, move |number| short_connection(&at, number))
    }

    /// The same by a channel as it is set up there, and by connections that are made by `short`, each for the call of this number.
    pub(crate) fn by(
        channel: ChannelBuilder,
        lanes: usize,
        short: impl Fn(i32) -> io::Result<()> + Send + 'static,
    ) -> Load {
        let counts = Arc::new(Counts::default());
        let channel = channel.connections(2).timeout(LIMIT).build().expect("a channel");
        let (ended, all) = mpsc::channel::<()>();
        for (lane, reactor) in (0..lanes).zip(channel.reactors().collect::<Vec<_>>().into_iter().cycle()) {
            let (counts, ended) = (Arc::clone(&counts), ended.clone());
            let client = TesteeClient::new(channel.clone());
            reactor.spawn(async move {
                calls(&counts, &client, lane as u64).await;
                drop(ended);
            });
        }
        let shared = Arc::clone(&counts);
        let short = thread::spawn(move || short_connections(&shared, short));
        Load { counts, begun: Instant::now(), lanes: all, short, channel }
    }

    /// Waits until so many more calls have come back, of each kind.
    pub(crate) fn goes_on(&self) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (calls, short) = (read(&self.counts.calls), read(&self.counts.short));
        let more = || read(&self.counts.calls) > calls + 200 && read(&self.counts.short) > short + 5;
        assert!(testee::eventually(LIMIT, || more() || self.has_failed()), "nobody is served: {:?}", self.failures());
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures().is_empty()
    }

    fn failures(&self) -> Vec<String> {
        self.counts.failures.lock().expect("no panic").clone()
    }

    pub(crate) fn end(self) -> Report {
        self.counts.stop.store(true, Ordering::Release);
        let _ = self.lanes.recv_timeout(LIMIT); // an error when the last lane has dropped its half
        self.short.join().expect("no panic");
        Report {
            calls: self.counts.calls.load(Ordering::Relaxed),
            short: self.counts.short.load(Ordering::Relaxed),
            took: self.begun.elapsed(),
            connects: self.channel.stats().connects.get(),
            failures: self.counts.failures.lock().expect("no panic").clone(),
        }
    }
}

impl Counts {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    fn failed(&self, what: String) {
        let mut failures = self.failures.lock().expect("no panic");
        if failures.len() < 20 {
            failures.push(what);
        }
        self.stop.store(true, Ordering::Release); // one is too many, and those that follow say no more
    }
}

async fn calls(counts: &Counts, client: &TesteeClient, lane: u64) {
    for number in 0_u64.. {
        if !counts.goes_on() {
            return;
        }
        let payload = [lane.to_be_bytes(), number.to_be_bytes()].concat();
        match client.echo(Blob { payload: payload.clone().into() }).await {
            Ok(reply) if reply.payload == payload => counts.calls.fetch_add(1, Ordering::Relaxed),
            Ok(_) => return counts.failed(format!("call {number} of {lane} has the reply of another")),
            Err(error) => return counts.failed(format!("call {number} of {lane}: {error}")),
        };
    }
}

/// In turn as multiplexing clients speak, and as others do.
fn short_connections(counts: &Counts, short: impl Fn(i32) -> io::Result<()>) {
    let mut next = Instant::now();
    for number in 1.. {
        if !counts.goes_on() {
            return;
        }
        if let Err(error) = short(number) {
            return counts.failed(format!("short connection {number}: {error}"));
        }
        counts.short.fetch_add(1, Ordering::Relaxed);
        next += PACE;
        // So many a second, and no more.
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn short_connection(url: &str, number: i32) -> io::Result<()> {
    match url.strip_prefix("unix:") {
        Some(path) => {
            let socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(LIMIT))?;
            one_call(socket, number)
        }
        None => {
            let socket = TcpStream::connect(url.trim_start_matches("tcp://"))?;
            socket.set_read_timeout(Some(LIMIT))?;
            one_call(socket, number)
        }
    }
}

pub(crate) fn one_call(mut socket: impl Read + Write, number: i32) -> io::Result<()> {
    let body = raw::blob(&number.to_be_bytes());
    let request = match number % 2 {
        0 => raw::request(number, "Echo", &body),
        _ => raw::ttheader(0, number, b"", &raw::framed(raw::CALL, "Echo", number, &body)),
    };
    socket.write_all(&request)?;
    match raw::read_frame(&mut socket)? {
        Some(frame) if frame.kind == raw::REPLY && frame.blob() == Some(&number.to_be_bytes()) => Ok(()),
        other => Err(io::Error::other(format!("{other:?} instead of its reply"))),
    }
}
