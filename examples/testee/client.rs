//! `testee client`: a number of calls, some at a time, each verified.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rpc_core::{Channel, Code, Error, Result, Sent, sleep};
use testee::idl::testee::TesteeClient;

use crate::plan::{Method, Plan, Settings};
use crate::summary::Summary;

/// Makes calls, verifies every reply, and prints a summary as JSON.
///
/// Exits with 1 if a call had no outcome, two, or a reply that is not its own.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server: tcp://HOST:PORT, tls://HOST:PORT or unix:PATH
    #[arg(long, value_name = "URL")]
    connect: String,
    /// Calls in all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    calls: u64,
    /// Calls at a time, for each connection
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// Connections
    #[arg(long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// What to call
    #[arg(long, value_enum, default_value_t = Method::Echo, ignore_case = true)]
    method: Method,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=1 << 30))]
    size: u32,
    /// Milliseconds that the server waits
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay: u32,
    /// The servers that a Relay passes; may be repeated
    #[arg(long, value_name = "URL")]
    via: Vec<String>,
    /// Milliseconds that a call may take [default: the limit default_timeout]
    #[arg(long, value_name = "MS")]
    timeout: Option<u64>,
    /// Where to write one line a call: number, outcome, whether it was sent, microseconds
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Sets a limit, such as client_max_inflight=64; may be repeated
    #[arg(long = "set", value_name = "LIMIT=VALUE", value_parser = crate::pair)]
    limits: Vec<(String, String)>,
    /// Milliseconds to wait after a call that could not be sent, before the next one in its place
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause: u64,
    /// One call at a time on a connection
    #[arg(long)]
    ping_pong: bool,
    /// Checksums of payloads, CRC-32C: sent, and compared where the server sends them
    #[arg(long)]
    checksum: bool,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: crate::tls::Calling,
    /// Who makes the calls
    #[arg(long, value_enum, default_value_t = Kind::Reactor)]
    client: Kind,
    /// Chooses the random numbers of a mixture
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Exits with 1, too, if a call ended otherwise than planned
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// Tasks on the reactors of the connections
    Reactor,
    /// A thread for each call at a time, which blocks
    Blocking,
    /// One thread that polls all calls, on an executor of its own
    Foreign,
}

/// What the lanes share: each takes the next number until none is left.
struct Run {
    settings: Settings,
    client: TesteeClient,
    calls: u64,
    blocks: bool,
    pause: Duration,
    next: AtomicU64,
    summary: Mutex<Summary>,
}

impl Run {
    fn next(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.calls).then_some(number)
    }

    /// One call at a time until none is left.
    async fn lane(self: Arc<Self>) {
        while let Some(number) = self.next() {
            let plan = Plan::new(&self.settings, number);
            let start = Instant::now();
            let outcome = {
                let mut call = std::pin::pin!(plan.call(&self.client, self.blocks));
                if plan.dropped { poll_once(call.as_mut()).await } else { call.await }
            };
            let took = start.elapsed();
            let unsent = outcome.as_ref().is_err_and(|error| error.sent() == Sent::No);
            self.summary.lock().unwrap_or_else(PoisonError::into_inner).add(number, &plan, &outcome, took);
            if unsent && !self.pause.is_zero() {
                sleep(self.pause).await; // as --pause says
            }
        }
    }
}

/// Polls a call once; the caller drops it then, and so gives up.
async fn poll_once<T>(mut call: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
    std::future::poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Pending => Poll::Ready(Err(Error::cancelled())),
        ready => ready,
    })
    .await
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    if args.method == Method::Relay && args.via.is_empty() {
        return Err(Error::new(Code::InvalidArgument, "--method relay needs --via URL, the server to relay to"));
    }
    let log = args.log.map(|path| {
        let wrong =
            |e| Error::new(Code::InvalidArgument, format!("--log {}: {e}; name a writable file", path.display()));
        File::create(&path).map_err(wrong)
    });
    let summary = Mutex::new(Summary::new(args.calls, log.transpose()?));
    let mut builder = Channel::builder(&args.connect).connections(args.connections.into()).checksum(args.checksum);
    for (name, value) in &args.limits {
        builder = builder.set(name, value);
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = args.tls.client()? {
        builder = builder.tls(tls);
    }
    if args.ping_pong {
        builder = builder.ping_pong();
    }
    let channel = builder.build()?;
    let settings = Settings {
        method: args.method,
        size: args.size as usize,
        delay: args.delay,
        via: args.via,
        timeout: args.timeout.map(Duration::from_millis),
        seed: args.seed,
    };
    let fds_before = testee::Descriptors::of(std::process::id()).count();
    let client = TesteeClient::new(channel.clone());
    let blocks = matches!(args.client, Kind::Blocking);
    let pause = Duration::from_millis(args.pause);
    let run = Arc::new(Run { settings, client, calls: args.calls, blocks, pause, next: AtomicU64::new(0), summary });
    let lanes = u64::from(args.in_flight).saturating_mul(args.connections.into()).min(args.calls) as usize;

    let start = Instant::now();
    match args.client {
        Kind::Reactor => on_reactors(&run, &channel, lanes),
        Kind::Blocking => on_threads(&run, lanes)?,
        Kind::Foreign => block_on_all((0..lanes).map(|_| Arc::clone(&run).lane())),
    }
    let took = start.elapsed();

    let stats = channel.stats();
    let (connects, glitches) = (stats.connects.get(), stats.glitches.get());
    let late_replies = stats.late_replies.get();
    drop(channel);
    let Some(Run { client, summary, .. }) = Arc::into_inner(run) else {
        return Err(Error::new(Code::Internal, "a lane still holds the run after its end"));
    };
    drop(client);
    // The connections end on their reactors.
    testee::eventually(Duration::from_secs(2), || testee::Descriptors::of(std::process::id()).count() <= fds_before);
    let fds_after = testee::Descriptors::of(std::process::id()).count();

    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.flush()?;
    let more = [
        ("connects", connects),
        ("late_replies", late_replies),
        ("glitches", glitches),
        ("fds_before", fds_before as u64),
        ("fds_after", fds_after as u64),
        ("rss", testee::rss_of(std::process::id())),
    ];
    println!("{}", summary.json(took, &more));
    for example in summary.examples() {
        eprintln!("{example}");
    }
    let good = if args.strict { summary.is_as_expected() } else { summary.is_sound() };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lanes as tasks, on the reactors of the connections in turn.
fn on_reactors(run: &Arc<Run>, channel: &Channel, lanes: usize) {
    let (ended, all) = mpsc::channel::<()>();
    for (_, reactor) in (0..lanes).zip(channel.reactors().collect::<Vec<_>>().into_iter().cycle()) {
        let (lane, ended) = (Arc::clone(run).lane(), ended.clone());
        reactor.spawn(async move {
            lane.await;
            drop(ended);
        });
    }
    drop(ended);
    // Ends when the last lane has dropped its half.
    let _ = all.recv();
}

/// Lanes as threads.
fn on_threads(run: &Arc<Run>, lanes: usize) -> Result<()> {
    if lanes > 4096 {
        return Err(Error::new(
            Code::InvalidArgument,
            format!("--client blocking would need {lanes} threads, at most 4096"),
        ));
    }
    thread::scope(|scope| {
        for _ in 0..lanes {
            let lane = Arc::clone(run).lane();
            scope.spawn(|| block_on_all([lane]));
        }
    });
    Ok(())
}

/// An executor: polls futures on this thread, each when it is woken, and parks when none is.
fn block_on_all<F: Future<Output = ()>>(futures: impl IntoIterator<Item = F>) {
    struct Woken {
        index: usize,
        ready: Arc<Mutex<Vec<usize>>>,
        thread: Thread,
    }
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
            self.thread.unpark();
        }
    }
    let ready = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for (index, future) in futures.into_iter().enumerate() {
        let woken = Woken { index, ready: Arc::clone(&ready), thread: thread::current() };
        tasks.push(Some((Box::pin(future), Waker::from(Arc::new(woken)))));
        ready.lock().unwrap_or_else(PoisonError::into_inner).push(index);
    }
    let mut left = tasks.len();
    while left > 0 {
        let batch = std::mem::take(&mut *ready.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            thread::park();
        }
        for index in batch {
            let Some((future, waker)) = &mut tasks[index] else { continue };
            if future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                tasks[index] = None;
                left -= 1;
            }
        }
    }
}
