//! What each method of the service does.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::{Channel, Code, Context, Error, Metadata, Monitor, Result, sleep};
use testee::CODES;
use testee::idl::testee::{
    Blob, Empty, Fault, Heard, Hop, Millis, Mixed, Nonce, Report, Second, Size, Testee, TesteeClient, Tree,
};

/// Peers that Relay keeps channels to; callers choose the addresses, so that there must be a bound.
const MAX_PEERS: usize = 64;

/// Servers that one Relay may pass.
const MAX_HOPS: usize = 16;

/// Bytes that Give gives at most.
const MAX_GIVE: usize = 64 << 20;

pub(crate) struct Service {
    exec_log: Option<Mutex<File>>,
    monitor: OnceLock<Monitor>,
    peers: Mutex<HashMap<String, Channel>>,
}

impl Service {
    pub(crate) fn new(exec_log: Option<File>) -> Service {
        Service { exec_log: exec_log.map(Mutex::new), monitor: OnceLock::new(), peers: Mutex::default() }
    }

    /// Tells it which server Stats is about: that of its own.
    pub(crate) fn watch(&self, monitor: Monitor) {
        let _ = self.monitor.set(monitor);
    }

    /// The channel to a peer, which stays, and its connections with it.
    fn peer(&self, url: &str) -> Result<Channel> {
        let mut peers = lock(&self.peers);
        if let Some(channel) = peers.get(url) {
            return Ok(channel.clone());
        }
        if peers.len() >= MAX_PEERS {
            return Err(Error::new(Code::ResourceExhausted, format!("{MAX_PEERS} peers are known already")));
        }
        let channel = Channel::connect(url)?;
        peers.insert(url.to_owned(), channel.clone());
        Ok(channel)
    }

    fn report(&self) -> String {
        let Some(monitor) = self.monitor.get() else { return "{}".to_owned() };
        let stats = monitor.stats();
        let late: u64 = lock(&self.peers).values().map(|channel| channel.stats().late_replies.get()).sum();
        let mut json = format!(
            r#"{{"connections":{},"in_flight":{},"accepted":{},"replied":{},"buffered_bytes":{},"glitches":{},"late_replies":{late}"#,
            stats.connections, stats.in_flight, stats.accepted, stats.replied, stats.buffered_bytes, stats.glitches,
        );
        json.push_str(r#","reactors":["#);
        for (index, reactor) in monitor.reactors().iter().flat_map(|pool| pool.handles()).enumerate() {
            let s = reactor.stats();
            json.push_str(if index == 0 { "{" } else { ",{" });
            let figures = [
                ("polls", &s.polls),
                ("reads", &s.reads),
                ("short_reads", &s.short_reads),
                ("empty_reads", &s.empty_reads),
                ("writes", &s.writes),
                ("iovecs", &s.iovecs),
                ("bytes_in", &s.bytes_in),
                ("bytes_out", &s.bytes_out),
                ("moved_bytes", &s.moved_bytes),
                ("wakes", &s.wakes),
                ("frames", &s.frames),
                ("open", &s.connections),
                ("accepts", &s.accepted),
                ("accept_errors", &s.accept_errors),
                ("refused_connections", &s.refused_connections),
                ("task_polls", &s.task_polls),
                ("stalls", &s.stalls),
            ];
            for (at, (name, counter)) in figures.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let _ = write!(json, r#"{comma}"{name}":{}"#, counter.get());
            }
            json.push('}');
        }
        json.push_str("]}");
        json
    }
}

impl Testee for Service {
    async fn echo(&self, _: &Context, req: Blob) -> Result<Blob> {
        Ok(req)
    }

    async fn echo_mixed(&self, _: &Context, req: Mixed) -> Result<Mixed> {
        Ok(req)
    }

    /// `kind` is empty, or `hold` to do what no handler on a reactor should.
    async fn sleep(&self, _: &Context, req: Millis) -> Result<Empty> {
        let duration = Duration::from_millis(req.ms.into());
        match req.kind.as_str() {
            "" => sleep(duration).await,            // the caller says how long, here and below
            "hold" => std::thread::sleep(duration), // holds the reactor, on purpose
            other => return Err(unknown("Sleep", other, "`` or `hold`")),
        }
        Ok(Empty {})
    }

    /// `kind` is empty, or `burn` to keep the processor busy meanwhile.
    async fn spin(&self, _: &Context, req: Millis) -> Result<Empty> {
        let duration = Duration::from_millis(req.ms.into());
        match req.kind.as_str() {
            "" => std::thread::sleep(duration), // on a worker
            "burn" => {
                let start = Instant::now();
                while start.elapsed() < duration {
                    std::hint::spin_loop();
                }
            }
            other => return Err(unknown("Spin", other, "`` or `burn`")),
        }
        Ok(Empty {})
    }

    async fn panic(&self, _: &Context, req: Millis) -> Result<Empty> {
        match req.kind.as_str() {
            "" | "now" => {}
            "later" => sleep(Duration::from_millis(req.ms.into())).await, // as the caller says
            "drop" => {
                let _bomb = Bomb;
                sleep(Duration::from_millis(req.ms.into())).await; // as the caller says
                return Ok(Empty {});
            }
            "lock" => {
                let _held = lock(&self.peers);
                panic!("the caller asked for a panic under a lock, secret 4711");
            }
            other => return Err(unknown("Panic", other, "`now`, `later`, `drop` or `lock`")),
        }
        panic!("the caller asked for a panic, secret 4711")
    }

    /// A business status; or the code of that number, 1 to 16; or an exception of that type id.
    async fn fail(&self, _: &Context, req: Fault) -> Result<Empty> {
        if req.business {
            let error = Error::business(req.code, req.message);
            return Err(req.extra.into_iter().fold(error, |error, (key, value)| error.with_extra(key, value)));
        }
        let code = usize::try_from(req.code).ok().and_then(|code| CODES.get(code.checked_sub(1)?));
        Err(match code {
            Some(code) => Error::new(*code, req.message),
            None => Error::exception(req.code, req.message),
        })
    }

    async fn give(&self, _: &Context, req: Size) -> Result<Blob> {
        match usize::try_from(req.bytes) {
            Ok(len) if len <= MAX_GIVE => Ok(Blob { payload: testee::make(len as u64, len) }),
            _ => Err(Error::new(Code::OutOfRange, format!("{} bytes, at most {MAX_GIVE} are given", req.bytes))),
        }
    }

    /// The generated types are dropped by recursion; how deep they are is bounded by the decoder.
    async fn count(&self, _: &Context, req: Tree) -> Result<Size> {
        fn branches(tree: &Tree) -> u32 {
            tree.branches.iter().map(|branch| 1 + branches(branch)).sum()
        }
        Ok(Size { bytes: branches(&req) })
    }

    async fn sink(&self, _: &Context, req: Blob) -> Result<Size> {
        Ok(Size { bytes: u32::try_from(req.payload.len()).unwrap_or(u32::MAX) })
    }

    /// The write goes to the page cache: it does not wait for a disk.
    async fn once(&self, _: &Context, req: Nonce) -> Result<Empty> {
        let Some(log) = &self.exec_log else {
            return Err(Error::new(Code::FailedPrecondition, "there is no --exec-log; start the server with one"));
        };
        if req.value.is_empty() || req.value.contains(char::is_control) {
            return Err(Error::new(Code::InvalidArgument, "a nonce is printable and not empty"));
        }
        let line = format!("{}\n", req.value);
        lock(log).write_all(line.as_bytes()).map_err(|e| Error::other(Code::Internal, e))?;
        Ok(Empty {})
    }

    async fn relay(&self, cx: &Context, req: Hop) -> Result<Empty> {
        bounded(&req)?;
        let next = TesteeClient::new(self.peer(&req.url)?);
        let mut via = req.via.into_iter();
        match via.next() {
            None => pass_on(cx, next.sleep(Millis { ms: req.ms, kind: String::new() })).await,
            Some(url) => pass_on(cx, next.relay(Hop { url, ms: req.ms, via: via.collect() })).await,
        }
    }

    async fn beside(&self, cx: &Context, req: Hop) -> Result<Heard> {
        cx.set_backward("SERVED_BY", "testee");
        sleep(Duration::from_millis(req.ms.into())).await; // what the caller asks for
        if req.url.is_empty() {
            let left_ms = cx.remaining().map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
            return Ok(Heard { persistent: pairs(cx.persistent()), transient: pairs(cx.transient()), left_ms });
        }
        bounded(&req)?;
        let next = TesteeClient::new(self.peer(&req.url)?);
        let mut via = req.via.into_iter();
        next.beside(Hop { url: via.next().unwrap_or_default(), ms: req.ms, via: via.collect() }).await
    }

    async fn stats(&self, _: &Context, _: Empty) -> Result<Report> {
        Ok(Report { json: self.report() })
    }
}

/// The other service on the port.
pub(crate) struct Other;

impl Second for Other {
    async fn measure(&self, _: &Context, req: Blob) -> Result<Size> {
        Ok(Size { bytes: u32::try_from(req.payload.len()).unwrap_or(u32::MAX) })
    }

    async fn stats(&self, _: &Context, _: Empty) -> Result<Report> {
        Ok(Report { json: r#"{"service":"Second"}"#.to_owned() })
    }
}

/// Gives a call what is left of the time of the call it serves, and the metadata that travels through every hop.
fn pass_on<'a, Req, Resp>(cx: &Context, call: rpc_core::Call<'a, (), Req, Resp>) -> rpc_core::Call<'a, (), Req, Resp> {
    let call = match cx.remaining() {
        Some(left) => call.timeout(left),
        None => call,
    };
    let pairs = cx.persistent().iter();
    pairs.fold(call, |call, (key, value)| call.persistent(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
}

fn bounded(hop: &Hop) -> Result<()> {
    match hop.via.len() {
        0..=MAX_HOPS => Ok(()),
        hops => Err(Error::new(Code::InvalidArgument, format!("{hops} hops, at most {MAX_HOPS}"))),
    }
}

fn pairs(of: &Metadata) -> HashMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    of.iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the caller asked for a panic in a destructor, secret 4711");
    }
}

fn unknown(method: &str, kind: &str, known: &str) -> Error {
    Error::new(Code::InvalidArgument, format!("{method} knows no kind `{kind}`; use {known}"))
}

/// A panic elsewhere does not matter here: each section leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
