//! The transport alone: handlers that do anything at any moment, and must hear of everything exactly once.
//!
//! Both ends of each connection belong to a handler that, in every callback, draws what to do next: write, flush, pause, resume,
//! arm timers, close, abort. Others send messages, close and shut down the listener meanwhile. The order of what a handler hears
//! is checked as it hears it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use fastrand::Rng;
use parking_lot::Mutex;
use rpc_transport::testing::tls::{self, Kind};
use rpc_transport::testing::{Network, Step, audit};
use rpc_transport::{
    CloseReason, ConnId, ConnLimits, ConnRef, Connector, Cx, Frame, Handler, LengthField, LengthWidth, ListenLimits,
    ListenOptions, ListenerHandle, Message, ReactorPool, TimerId, TlsErrorKind, TlsServer, Url, local,
};

use crate::Violation;
use crate::plan::{self, knobs};

/// What all handlers of a run report to.
#[derive(Default)]
struct Book {
    opened: u64,
    closed: u64,
    alive: u64,
    messages: u64,
    came_back: u64,
    sent: u64,
    wrong: Option<String>,
    /// Both ends of each connection, by the number that the client gave it.
    pairs: Vec<Pair>,
    /// Connections that others know.
    known: Vec<ConnRef>,
}

/// What the ends of a connection said and heard, the client first, by the time each heard of its end.
#[derive(Default)]
struct Pair([Option<Half>; 2]);

#[derive(Clone, Copy)]
struct Half {
    said: u32,
    heard: u32,
    end: End,
}

/// How an end of a connection came about, for who was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It closed the connection, and what it had said goes out first.
    Closed,
    /// The other side did: end of file, between frames.
    Whole,
    /// In the middle of a frame.
    CutShort,
    /// Under TLS, and without a word of it.
    Truncated,
    Otherwise,
}

type Shared = Arc<Mutex<Book>>;

/// A handler without manners.
struct Wild {
    book: Shared,
    rng: Rng,
    phase: Heard,
    /// Its socket is gone, and it has something to do still.
    stays: bool,
    timers: Vec<TimerId>,
    /// Bytes of frames that were sent and not yet heard of; frames come whole and in order, so each says its number.
    next_out: u32,
    next_in: u32,
    batch: bool,
    /// Its connection's number; an accepting end learns it with the first frame.
    pair: Option<u32>,
    accepts: bool,
    last_note: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Open,
    Close,
}

impl Wild {
    fn new(book: &Shared, seed: u64, accepts: bool) -> Wild {
        let pair = {
            let mut book = book.lock();
            book.alive += 1;
            let pair = book.pairs.len() as u32;
            if !accepts {
                book.pairs.push(Pair::default());
            }
            (!accepts).then_some(pair)
        };
        let rng = Rng::with_seed(seed);
        Wild {
            book: Arc::clone(book),
            rng,
            phase: Heard::Nothing,
            stays: false,
            timers: Vec::new(),
            next_out: 0,
            next_in: 0,
            batch: false,
            pair,
            accepts,
            last_note: 0,
        }
    }

    fn wrong(&self, what: &str) {
        self.book.lock().wrong.get_or_insert_with(|| format!("I22: {what}"));
    }

    /// Something was heard: not after the end, and not before the beginning.
    fn hear(&self, what: &str, before_open: bool) {
        match self.phase {
            Heard::Close => self.wrong(&format!("{what} after on_close")),
            Heard::Nothing if !before_open => self.wrong(&format!("{what} before on_open")),
            _ => {}
        }
    }

    /// Sends a frame with its number and that of the connection. What is said to a connection that closes may be too late.
    fn say(&mut self, cx: &mut Cx<'_>) {
        if cx.is_closing() {
            return;
        }
        let len = if self.rng.u32(0..30) == 0 { self.rng.usize(0..9_000) } else { self.rng.usize(0..60) };
        let mut frame = (len as u32 + 8).to_be_bytes().to_vec();
        frame.extend(self.next_out.to_be_bytes());
        frame.extend(self.pair.unwrap_or(u32::MAX).to_be_bytes());
        frame.resize(frame.len() + len, self.next_out as u8);
        self.next_out += 1;
        cx.output().put_slice(&frame);
    }

    fn act(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..self.rng.u32(0..3) {
            match self.rng.u32(0..400) {
                0..=139 => self.say(cx),
                140..=189 => cx.flush(),
                190..=200 => {
                    cx.pause();
                    // Somebody must end it.
                    let at = cx.now() + Duration::from_micros(self.rng.u64(0..5_000));
                    self.timers.push(cx.arm(at, 1));
                }
                201..=240 => cx.resume(),
                241..=270 => {
                    let at = cx.now() + Duration::from_micros(self.rng.u64(0..3_000));
                    let timer = cx.arm(at, 0);
                    self.timers.push(timer);
                }
                271..=300 => {
                    if let Some(timer) = self.rng.choice(self.timers.clone()) {
                        cx.disarm(timer);
                        cx.disarm(timer);
                    }
                }
                301 => {
                    cx.close(CloseReason::Local(BY_ITSELF));
                    cx.close(CloseReason::Local("and again"));
                }
                302 if self.rng.bool() => cx.abort(CloseReason::Local("it had enough")),
                303 if self.rng.u32(0..4) == 0 => panic!("as it was asked for"),
                // Its own connection is running: nobody may reach it a second time.
                304..=320 if local::visit::<Wild, _>(&cx.reactor().clone(), cx.id(), |_, _| ()).is_some() => {
                    self.wrong("a handler was entered while it ran");
                }
                _ => {}
            }
        }
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        if self.phase != Heard::Close {
            self.wrong("a handler was dropped that never heard on_close");
        }
        self.book.lock().alive -= 1;
    }
}

impl Handler for Wild {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        if self.phase != Heard::Nothing {
            self.wrong("on_open twice, or after on_close");
        }
        self.phase = Heard::Open;
        let mut book = self.book.lock();
        book.opened += 1;
        book.known.push(cx.conn_ref());
        drop(book);
        self.say(cx);
        self.act(cx);
    }

    fn on_batch(&mut self, cx: &mut Cx<'_>) {
        self.hear("on_batch", false);
        if std::mem::replace(&mut self.batch, true) {
            self.wrong("a batch within a batch");
        }
        self.act(cx);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        self.hear("on_frame", false);
        if self.stays {
            self.wrong("a frame without a socket");
        }
        let bytes = frame.bytes();
        let number = bytes.first_chunk().map(|first| u32::from_be_bytes(*first));
        let rest = bytes.get(8..).unwrap_or_default();
        if number != Some(self.next_in) || rest.iter().any(|byte| *byte != self.next_in as u8) {
            self.wrong(&format!("frame {number:?} where {} was due, or not as it was sent", self.next_in));
        }
        if self.accepts && self.pair.is_none() {
            self.pair = bytes.get(4..).and_then(<[u8]>::first_chunk).map(|pair| u32::from_be_bytes(*pair));
        }
        self.next_in += 1;
        self.act(cx);
    }

    fn on_batch_end(&mut self, cx: &mut Cx<'_>) {
        self.hear("on_batch_end", false);
        self.batch = false;
        self.act(cx);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        self.hear("on_message", true);
        self.book.lock().messages += 1;
        if let Ok(note) = message.downcast::<Note>() {
            if note.number <= self.last_note {
                self.wrong(&format!("message {} after message {}", note.number, self.last_note));
            }
            self.last_note = note.number;
            if note.closes {
                cx.close(CloseReason::Local(BY_MESSAGE));
            }
        }
        self.act(cx);
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        self.hear("on_deadline", true);
        match key {
            1 => cx.resume(),
            2 => self.stays = false,
            _ => {}
        }
        self.act(cx);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>) {
        self.hear("on_drained", true);
        self.act(cx);
    }

    fn on_shutdown(&mut self, cx: &mut Cx<'_>) {
        self.hear("on_shutdown", true);
        cx.close(CloseReason::Local(BY_SHUTDOWN));
    }

    fn outlasts(&mut self, cx: &mut Cx<'_>, _: &CloseReason) -> bool {
        self.hear("outlasts", true);
        if std::mem::replace(&mut self.stays, self.rng.bool()) {
            self.wrong("its socket ended twice");
        }
        if self.stays {
            cx.arm(cx.now() + Duration::from_micros(self.rng.u64(0..5_000)), 2);
        }
        self.act(cx);
        self.stays
    }

    fn is_idle(&self) -> bool {
        !self.stays
    }

    fn on_close(&mut self, _: &mut Cx<'_>, reason: &CloseReason) {
        if std::mem::replace(&mut self.phase, Heard::Close) == Heard::Close {
            self.wrong("on_close twice");
        }
        let end = match reason {
            CloseReason::PeerClosed => End::Whole,
            CloseReason::CutShort { .. } => End::CutShort,
            CloseReason::Tls(error) if error.kind() == TlsErrorKind::Truncated => End::Truncated,
            CloseReason::Local(BY_ITSELF | BY_MESSAGE | BY_SHUTDOWN) => End::Closed,
            _ => End::Otherwise,
        };
        let half = Half { said: self.next_out, heard: self.next_in, end };
        let mut book = self.book.lock();
        book.closed += 1;
        if let Some(Pair(halves)) = self.pair.and_then(|pair| book.pairs.get_mut(pair as usize)) {
            halves[usize::from(self.accepts)] = Some(half);
        }
    }
}

const BY_ITSELF: &str = "it felt like it";
const BY_MESSAGE: &str = "somebody asked for it";
const BY_SHUTDOWN: &str = "as it was told to";

/// A message that counts what becomes of it; of those to one connection the later has the greater number.
struct Note {
    book: Shared,
    number: u64,
    closes: bool,
}

impl Message for Note {
    fn undelivered(self: Arc<Self>) {
        self.book.lock().came_back += 1;
    }
}

/// Runs a seed of the transport alone; the hash of its trace.
///
/// # Errors
/// The first invariant that did not hold.
pub(crate) fn run(seed: u64, prints: bool) -> Result<u64, Violation> {
    let rng = &mut Rng::with_seed(seed ^ 0xba5e_ba5e);
    let net = Network::new(seed, knobs(rng));
    if prints {
        net.print_trace();
    }
    tls::seed(seed);
    let book = Shared::default();
    let mut steps = 0;
    let result = play(&net, rng, plan::tls(seed), &book, &mut steps);
    result.map(|()| net.trace_hash()).map_err(|what| Violation {
        seed,
        what,
        at: net.elapsed(),
        step: steps,
        bare: true,
    })
}

fn limits(rng: &mut Rng, secure: bool) -> ConnLimits {
    let small = |rng: &mut Rng, small: usize, usual: usize| if rng.u32(0..4) == 0 { small } else { usual };
    let short = |rng: &mut Rng, usual: u64| Duration::from_millis(if rng.u32(0..4) == 0 { 5 } else { usual });
    let write_high = small(rng, 200, 1 << 20);
    ConnLimits {
        first_frame_timeout: short(rng, 500),
        frame_progress: short(rng, 1_000),
        idle_timeout: short(rng, 300),
        handshake_timeout: if secure { short(rng, 500) } else { Duration::from_secs(10) },
        connect_timeout: short(rng, 300),
        write_high,
        write_low: small(rng, 10, 100).min(write_high),
        write_hard: 4 << 20,
        write_stall_timeout: short(rng, 500),
        turn_frames: small(rng, 1, 64),
        turn_bytes: small(rng, 10, 256 << 10),
    }
}

fn play(net: &Network, rng: &mut Rng, kind: Option<Kind>, book: &Shared, steps: &mut u64) -> Result<(), String> {
    let server = Arc::new(net.pool("server", rng.usize(1..=2)));
    let client = Arc::new(net.pool("client", 1));
    let url: Url =
        if rng.bool() { "tcp://10.0.0.1:9" } else { "unix:/simulated/bare" }.parse().map_err(|e| format!("{e}"))?;
    let kind = kind.filter(|_| matches!(url, Url::Tcp { .. }));
    let url = if kind.is_some() { "tls://10.0.0.1:9".parse().map_err(|e| format!("{e}"))? } else { url };
    let serve = kind.map(tls::server);
    let mut listener = listen(&server, &url, rng, serve.clone(), book);
    let limits = Arc::new(limits(rng, kind.is_some()));
    let connector = Connector { limits, tls: kind.map(tls::client), ..Connector::default() };
    // An end of file that nobody meant makes who spoke look like a liar: not in every run.
    let forges = rng.u32(0..3) == 0;
    for _ in 0..rng.usize(10..80) {
        for _ in 0..rng.usize(0..40) {
            step(net, book, steps)?;
        }
        match rng.u32(0..20) {
            0..=6 => {
                let (framing, handler) = (framing(), Wild::new(book, rng.u64(..), false));
                let (connector, url) = (connector.clone(), url.clone());
                let slot: Arc<Mutex<Option<ConnId>>> = Arc::default();
                let told = Arc::clone(&slot);
                client.handles()[0].run(move || {
                    let endpoint = url.resolve().ok().and_then(|all| all.into_iter().next());
                    if let Some(endpoint) = endpoint {
                        *told.lock() = connector.connect(&endpoint, framing, handler);
                    }
                });
                while slot.lock().is_none() {
                    step(net, book, steps)?;
                }
            }
            7..=14 => {
                let known = book.lock().known.clone();
                if let Some(conn) = rng.choice(&known) {
                    book.lock().sent += 1;
                    let (number, closes) = (book.lock().sent, rng.u32(0..20) == 0);
                    conn.send(Arc::new(Note { book: Arc::clone(book), number, closes }));
                }
            }
            15 => _ = net.cut_one(),
            16 if forges => _ = net.finish_one(),
            16 => {}
            17 => _ = net.stall_one(Duration::from_micros(rng.u64(0..50_000))),
            18 => net.starve_of_descriptors(Duration::from_micros(rng.u64(0..50_000))),
            _ => {
                listener.close();
                listener.close();
                match rng.bool() {
                    true => listener.shut_down_connections(),
                    false => listener.abort_connections("in a hurry"),
                }
                while net.is_taken(&url) {
                    step(net, book, steps)?;
                }
                listener = listen(&server, &url, rng, serve.clone(), book);
            }
        }
    }
    listener.close();
    listener.shut_down_connections();
    let (server_ends_early, client_ends_early) = (rng.u32(0..4) == 0, rng.u32(0..4) == 0);
    let pools = [(server, server_ends_early), (client, client_ends_early)];
    let mut kept = Vec::new();
    for (pool, early) in pools {
        // A reactor that ends takes its connections with it, and they hear of it.
        if !early {
            kept.push(pool);
        }
    }
    net.alarm(net.elapsed() + Duration::from_secs(10));
    let until = net.elapsed() + Duration::from_secs(10);
    while net.elapsed() < until && step(net, book, steps)? != Step::Idle {}
    for reactor in kept.iter().flat_map(|pool| pool.handles()) {
        let left = audit(reactor).ok_or("I25: a reactor stopped by itself")??;
        if left.connections + left.listeners + left.tasks + left.held > 0 {
            return Err(format!("I14: {reactor:?} still has {left:?}"));
        }
    }
    drop(kept);
    drop(listener);
    let refs = std::mem::take(&mut book.lock().known);
    drop(refs);
    let book = book.lock();
    check_pairs(&book.pairs, net.faults().finishes > 0, kind.is_some())?;
    if let Some(wrong) = &book.wrong {
        return Err(wrong.clone());
    }
    if book.alive > 0 {
        return Err(format!("I14: {} handlers were not dropped", book.alive));
    }
    if book.messages + book.came_back != book.sent {
        return Err(format!("I5: {} messages sent, {} heard, {} came back", book.sent, book.messages, book.came_back));
    }
    if net.sockets() + net.listeners() > 0 {
        return Err(format!("I14: {} sockets and {} listeners are open", net.sockets(), net.listeners()));
    }
    Ok(())
}

/// Whoever reads to the end of what an orderly close leaves has all that was said, and whole. Under TLS an end of file that the network has
/// forged is no such end.
fn check_pairs(pairs: &[Pair], forged: bool, secure: bool) -> Result<(), String> {
    if forged && !secure {
        return Ok(()); // some of those ends of file were the network's own
    }
    for (number, Pair(halves)) in pairs.iter().enumerate() {
        let [Some(one), Some(other)] = halves else { continue };
        for (speaker, hearer) in [(one, other), (other, one)] {
            let missing = hearer.end == End::Whole && hearer.heard != speaker.said;
            let cut = matches!(hearer.end, End::CutShort | End::Truncated) && speaker.end == End::Closed;
            if missing || cut && !forged {
                let Half { said, end, .. } = speaker;
                let heard = (hearer.heard, hearer.end);
                return Err(format!(
                    "I5: connection {number}: {said} frames said ({end:?}), heard and ended: {heard:?}"
                ));
            }
        }
    }
    Ok(())
}

fn framing() -> LengthField {
    LengthField::new(LengthWidth::U32).max_frame_size(64 << 10)
}

fn listen(pool: &ReactorPool, url: &Url, rng: &mut Rng, tls: Option<TlsServer>, book: &Shared) -> ListenerHandle {
    let mut listen = ListenLimits::default();
    if tls.is_some() && rng.u32(0..4) == 0 {
        listen.max_handshakes = rng.usize(1..3);
    }
    let options = ListenOptions { conn: limits(rng, tls.is_some()), listen, tls, ..ListenOptions::default() };
    let (book, seeds) = (Arc::clone(book), Mutex::new(Rng::with_seed(rng.u64(..))));
    let listener = pool.listen(url, options, move |_| (framing(), Wild::new(&book, seeds.lock().u64(..), true)));
    listener.expect("nobody else listens there")
}

fn step(net: &Network, book: &Shared, steps: &mut u64) -> Result<Step, String> {
    *steps += 1;
    let step = net.step();
    if let Step::Turned(index) = step
        && let Some(looked) = net.audit(index)
    {
        looked.map_err(|broken| format!("I11, I14 or I18: {broken}"))?;
    }
    match book.lock().wrong.clone() {
        Some(wrong) => Err(wrong),
        None => Ok(step),
    }
}
