//! Connections of which one side has ended, on a simulated network: that they end in time, and that nothing is lost, whenever the sides end.

#[cfg(feature = "tls")]
#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_transport::testing::{Knobs, Network, Observer, RawPeer, Received, Step};
use rpc_transport::{
    CloseReason, ConnLimits, ConnRef, Connector, Cx, Frame, Handler, ListenOptions, ListenerHandle, MemoryBudget,
    NotWritten, ReactorPool, Url,
};
#[cfg(feature = "tls")]
use rpc_transport::{TlsClient, TlsServer};
use support::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A server that says nothing by itself and goes on when a peer has closed its side; and one such connection.
struct Silent {
    net: Network,
    _pool: ReactorPool,
    listener: ListenerHandle,
    peer: RawPeer,
    conn: ConnRef,
    told: Receiver<String>,
}

impl Silent {
    fn new(options: ListenOptions) -> Silent {
        let net = Network::new(7, Knobs { buffer: 4096, ..Knobs::default() });
        let pool = net.pool("server", 1);
        let ((tell_conn, conns), (tell, told)) = (mpsc::channel(), mpsc::channel());
        let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
            let (tell_conn, eof, end) = (tell_conn.clone(), tell.clone(), tell.clone());
            Script::new()
                .frame(move |cx, _| tell_conn.send(cx.conn_ref()).unwrap_or(()))
                .eof(move |_| eof.send("eof".to_owned()).is_ok())
                .close(move |_, reason| end.send(reason.to_string()).unwrap_or(()))
        });
        let mut peer = net.connect_raw(listener.url());
        net.run_for(MS);
        assert_eq!(peer.write(&wire(b"hello")), 9);
        net.run_for(MS);
        let conn = conns.try_recv().unwrap();
        Silent { net, _pool: pool, listener, peer, conn, told }
    }

    fn told(&self) -> Vec<String> {
        self.net.run_for(MS);
        self.net.audit(0).expect("it runs").expect("all is well");
        self.told.try_iter().collect()
    }

    fn peer_finishes(&mut self) {
        self.peer.finish();
        assert_eq!(self.told(), ["eof"]);
    }

    /// Runs for so long, while the peer reads all that has come once in ten seconds, if it does.
    fn wait(&mut self, time: Duration, reads: bool) -> Vec<String> {
        let end = self.net.elapsed() + time;
        while self.net.elapsed() < end {
            self.net.run_for(10 * SECOND);
            if reads {
                self.peer.read(&mut Vec::new());
            }
        }
        self.told()
    }
}

/// Which sides have ended, and whether output waits: what ends the connection, and when. Nothing of it lives for ever.
#[test]
#[rustfmt::skip]
fn every_half_closed_connection_has_a_time_limit() {
    const LARGE: usize = 400_000;
    let check = |what: &str, peer: bool, own: bool, output: usize, reads: bool, after: Duration, limit: &str| {
        let mut silent = Silent::new(ListenOptions::default());
        let (tell, written) = mpsc::channel();
        if output > 0 {
            silent.conn.write(vec![7; output].into(), move |result| tell.send(result).unwrap());
        }
        if peer {
            silent.peer_finishes();
        }
        if own {
            silent.conn.run(|cx| cx.finish());
        }
        assert_eq!(silent.wait(after - 15 * SECOND, reads), [""; 0], "{what}: not yet");
        assert_eq!(silent.wait(30 * SECOND, reads), [format!("the connection reached its limit {limit}")], "{what}");
        let told: Vec<_> = written.try_iter().collect();
        assert_eq!(told, vec![Err(NotWritten); usize::from(output > 0)], "{what}");
        silent.net.run_for(2 * SECOND); // the time that a server lingers
        assert_eq!(
            (silent.listener.connections(), silent.net.audit(0).unwrap().unwrap().connections),
            (0, 0),
            "{what}"
        );
    };
    let (stall, idle) = (30 * SECOND, 600 * SECOND);
    let closing = stall + Duration::from_millis(LARGE as u64 * 1000 / (64 << 10));
    //                                   peer   this   output reads  after    limit
    check("nothing follows",             true,  false, 0,     false, idle,    "idle_timeout");
    check("nobody answers the end",      false, true,  0,     false, idle,    "idle_timeout");
    check("nobody reads before the end", false, true,  LARGE, false, stall,   "write_stall_timeout");
    check("nobody reads",                true,  false, LARGE, false, stall,   "write_stall_timeout");
    check("nobody reads the rest",       true,  true,  LARGE, false, stall,   "write_stall_timeout");
    check("the rest is read too slowly", true,  true,  LARGE, true,  closing, "write_stall_timeout");
}

/// When memory is short it counts as any other.
#[test]
fn a_half_closed_connection_is_shed() {
    const BUDGET: usize = 4 << 20;
    for finishes in [false, true] {
        let memory = Arc::new(MemoryBudget::new(BUDGET));
        let mut silent = Silent::new(ListenOptions { memory: Arc::clone(&memory), ..ListenOptions::default() });
        let (tell, written) = mpsc::channel();
        silent.peer_finishes();
        silent.conn.write(vec![7; BUDGET - (64 << 10)].into(), move |result| tell.send(result).unwrap());
        if finishes {
            silent.conn.run(|cx| cx.finish());
        }
        assert_eq!(silent.told(), [""; 0]);
        assert!(memory.refuses_work(), "others' calls are refused: {} bytes", memory.used());
        silent.net.run_for(SECOND);
        assert_eq!(silent.told(), ["the connection reached its limit max_buffered_bytes"]);
        assert_eq!(written.try_recv(), Ok(Err(NotWritten)));
        assert_eq!(memory.used(), 0);
    }
}

/// A server lingers for a peer that may still write; not for one that has closed its side.
#[test]
fn closing_waits_for_no_side_that_has_ended() {
    for (peer_has_ended, connections) in [(false, 1), (true, 0)] {
        let mut silent = Silent::new(ListenOptions::default());
        silent.conn.write(vec![7; 1000].into(), |result| assert_eq!(result, Ok(())));
        if peer_has_ended {
            silent.peer_finishes();
        } else {
            silent.conn.run(|cx| cx.finish());
        }
        silent.net.run_for(MS);
        silent.conn.run(|cx| cx.close(CloseReason::Local("enough")));
        assert_eq!(silent.told(), ["closed by this side: enough"]);
        assert_eq!(silent.listener.connections(), connections, "the peer has ended: {peer_has_ended}");
        let mut bytes = Vec::new();
        assert_eq!(
            (silent.peer.read(&mut bytes), silent.peer.read(&mut bytes)),
            (Received::Bytes(1000), Received::End)
        );
        silent.net.run_for(SECOND);
        assert_eq!(silent.listener.connections(), 0);
    }
}

/// What both ends of a connection have said, heard and been told: the one that connects, and the one that accepts.
#[derive(Default)]
struct Book {
    said: [Vec<Vec<u8>>; 2],
    heard: [Vec<Vec<u8>>; 2],
    eofs: [usize; 2],
    ends: [Vec<String>; 2],
    told: [Vec<(usize, Result<(), NotWritten>)>; 2],
}

/// Bytes that the system has taken from each end, by the network's own count; and which end is whose.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    taken: HashMap<usize, u64>,
    of: [usize; 2],
}

impl Observer for Taken {
    fn paired(&mut self, client: usize, _: Option<usize>, server: usize, _: &Url) {
        self.0.lock().unwrap().of = [client, server];
    }

    fn wrote(&mut self, end: usize, bytes: &[u8]) {
        *self.0.lock().unwrap().taken.entry(end).or_default() += bytes.len() as u64;
    }
}

impl Taken {
    fn of(&self, side: usize) -> u64 {
        let ends = self.0.lock().unwrap();
        ends.taken.get(&ends.of[side]).copied().unwrap_or(0)
    }
}

/// Says some frames, one now and then, and ends its side; does not always listen.
struct Talker {
    side: usize,
    net: Network,
    book: Arc<Mutex<Book>>,
    /// Not of a connection that is cut: the system takes bytes for a peer that is gone.
    taken: Option<Taken>,
    left: u64,
}

const SAY: u64 = 0;
const LISTEN: u64 = 1;

impl Talker {
    fn later(&self, cx: &mut Cx<'_>, key: u64) {
        let at = cx.now() + Duration::from_micros(self.net.below(3000));
        cx.arm(at, key);
    }
}

impl Handler for Talker {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.later(cx, SAY);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        self.book.lock().unwrap().heard[self.side].push(frame.bytes().to_vec());
        if self.net.below(8) == 0 {
            cx.pause();
            self.later(cx, LISTEN);
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        if key == LISTEN {
            return cx.resume();
        }
        if self.left == 0 {
            return cx.finish();
        }
        self.left -= 1;
        let len = [10, 1000, 20_000][self.net.below(3) as usize];
        let said = vec![self.left as u8; self.net.below(len) as usize];
        reply(cx, &said);
        let (side, book, taken) = (self.side, Arc::clone(&self.book), self.taken.clone());
        let (n, end) = (book.lock().unwrap().said[side].len(), cx.written() + cx.output_len() as u64);
        self.book.lock().unwrap().said[side].push(said);
        cx.when_written(move |result| {
            if let Some(taken) = taken {
                assert!(result.is_err() || taken.of(side) >= end, "told at {} of {end} bytes", taken.of(side));
            }
            book.lock().unwrap().told[side].push((n, result));
        });
        match (self.left, self.net.below(2)) {
            (0, 0) => cx.finish(), // at once, with the last words still here
            _ => self.later(cx, SAY),
        }
    }

    fn on_eof(&mut self, _: &mut Cx<'_>) -> bool {
        self.book.lock().unwrap().eofs[self.side] += 1;
        true
    }

    fn on_close(&mut self, _: &mut Cx<'_>, reason: &CloseReason) {
        self.book.lock().unwrap().ends[self.side].push(reason.to_string());
    }
}

/// Two ends that speak at random and end their sides when they have spoken. `cut`: the connection is reset somewhere on the way.
fn talk(seed: u64, cut: bool, url: &str, how: (ListenOptions, Connector)) {
    let knobs = Knobs {
        latency: (20 * MS / 1000, 2 * MS),
        segment: 3000,
        buffer: 5000,
        short_write: 200,
        spurious: 50,
        stale: 50,
        late_event: 100,
        left_event: 100,
        late_wake: 100,
        ..Knobs::default()
    };
    let net = Network::new(seed, knobs);
    let (servers, clients) = (net.pool("server", 1), net.pool("client", 1));
    let (book, taken) = (Arc::new(Mutex::new(Book::default())), Taken::default());
    net.observe(taken.clone());
    let talker = |side: usize, net: &Network| Talker {
        side,
        net: net.clone(),
        book: Arc::clone(&book),
        taken: (!cut).then(|| taken.clone()),
        left: net.below(12),
    };
    let server = Mutex::new(Some(talker(1, &net)));
    let limits = ConnLimits { write_high: 8000, write_low: 2000, ..ConnLimits::default() };
    let (options, connector) = (ListenOptions { conn: limits, ..how.0 }, how.1);
    let accepting = servers.listen(&url.parse().unwrap(), options, move |_| {
        (framing(), server.lock().unwrap().take().expect("one connection"))
    });
    let (listener, client) = (accepting.unwrap(), talker(0, &net));
    let endpoint = listener.url().resolve().unwrap().remove(0);
    clients.handles()[0].run(move || _ = connector.connect(&endpoint, framing(), client));
    let mut cut_at = cut.then(|| net.below(400));
    for _ in 0..1_000_000 {
        if cut_at == Some(0) && net.cut_one() {
            cut_at = None;
        }
        cut_at = cut_at.map(|steps| steps.saturating_sub(1));
        match net.step() {
            Step::Turned(reactor) => {
                if let Some(audit) = net.audit(reactor) {
                    audit.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
                }
            }
            Step::Passed => {}
            Step::Idle => break,
        }
        if book.lock().unwrap().ends.iter().all(|ends| !ends.is_empty()) {
            break;
        }
    }
    let was_cut = cut && cut_at.is_none();
    net.run_for(100 * MS);
    let book = book.lock().unwrap();
    let what = format!("seed {seed}, cut: {was_cut}, ends: {:?}", book.ends);
    assert_eq!(book.ends.each_ref().map(Vec::len), [1, 1], "each end is told once; {what}");
    assert_eq!(net.sockets(), 0, "{what}");
    assert!(net.elapsed() < 60 * SECOND, "no limit was needed; {what}");
    for side in [0, 1] {
        let (said, heard, told) = (&book.said[side], &book.heard[1 - side], &book.told[side]);
        assert!(said.starts_with(heard), "in order; {what}");
        assert!(
            told.iter().map(|(n, _)| *n).eq(0..said.len()),
            "each write is told of once, in order; {what}: {told:?}"
        );
        if !was_cut {
            assert_eq!((heard.len(), book.eofs[side]), (said.len(), 1), "all of it; {what}");
            assert!(told.iter().all(|(_, result)| result.is_ok()), "{what}: {told:?}");
            assert_eq!(book.ends[side], ["the peer closed the connection"], "{what}");
        }
    }
}

/// Each run has a thread of its own, so that nothing that a thread keeps leaks into the next.
#[test]
fn all_that_is_said_is_heard_whenever_the_sides_end() {
    for seed in 0..400 {
        let how = (ListenOptions::default(), Connector::default());
        let run = std::thread::spawn(move || talk(seed, seed % 3 == 0, "tcp://10.0.0.1:9", how));
        run.join().unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

/// The end of a side waits for ciphertext that the system has not taken, and what is told of it has been taken as that.
#[cfg(feature = "tls")]
#[test]
fn all_that_is_said_under_tls_is_heard_whenever_the_sides_end() {
    let authority = certificates::Authority::new("tests");
    let server = TlsServer::builder(authority.issue("localhost").identity()).build().unwrap();
    let client = TlsClient::builder(authority.roots()).server_name("localhost").build().unwrap();
    for seed in 0..100 {
        let how = (
            ListenOptions { tls: Some(server.clone()), ..ListenOptions::default() },
            Connector { tls: Some(client.clone()), ..Connector::default() },
        );
        let run = std::thread::spawn(move || talk(seed, seed % 3 == 0, "tls://10.0.0.1:9", how));
        run.join().unwrap_or_else(|_| panic!("seed {seed}"));
    }
}
