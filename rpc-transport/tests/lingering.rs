//! Connections that have said their last words and wait for their peers to close, on a simulated network.

mod support;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rpc_transport::testing::{Knobs, Network, RawPeer, Received};
use rpc_transport::{CloseReason, ConnRef, ListenOptions, ListenerHandle, Message, ReactorPool};
use support::*;

const MS: Duration = Duration::from_millis(1);

/// A server whose connections answer one frame with 100,000 bytes, and close.
struct Parting {
    net: Network,
    pool: ReactorPool,
    listener: ListenerHandle,
    conns: Receiver<ConnRef>,
    /// What their handlers hear from when they close on.
    told: Receiver<String>,
}

const LAST_WORDS: usize = 100_000;

impl Parting {
    fn new(options: ListenOptions) -> Self {
        let net = Network::new(7, Knobs::default());
        let pool = net.pool("server", 1);
        let (tell_conn, conns) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
            let (conn, late, message, end) = (tell_conn.clone(), tell.clone(), tell.clone(), tell.clone());
            let parting = Script::new().frame(move |cx, _| {
                conn.send(cx.conn_ref()).unwrap();
                reply(cx, &[7; LAST_WORDS]);
                cx.arm(cx.now() + 20 * MS, 1);
                cx.arm(cx.now() + 3_600_000 * MS, 2);
                cx.close(CloseReason::Local("that was all"));
            });
            parting
                .deadline(move |_, key| late.send(format!("deadline {key}")).unwrap())
                .message(move |_, _| message.send("a message".to_owned()).unwrap())
                .close(move |cx, reason| {
                    reply(cx, b"too late");
                    cx.flush();
                    end.send(reason.to_string()).unwrap();
                })
        });
        Parting { net, pool, listener, conns, told }
    }

    fn dial(&self) -> RawPeer {
        let peer = self.net.connect_raw(self.listener.url());
        self.net.run_for(MS);
        assert!(peer.is_open());
        peer
    }

    /// A connection that lingers.
    fn lingering(&self) -> (RawPeer, ConnRef) {
        let mut peer = self.dial();
        assert_eq!(peer.write(&wire(b"anything")), 12);
        self.net.run_for(MS);
        assert_eq!(self.told.try_iter().collect::<Vec<_>>(), ["closed by this side: that was all"], "when it begins");
        (peer, self.conns.try_recv().unwrap())
    }

    fn connections(&self) -> usize {
        self.net.audit(0).expect("it runs").expect("all is well").connections
    }
}

/// All that came, and how it ended.
fn heard(peer: &mut RawPeer) -> (Vec<u8>, Received) {
    let mut bytes = Vec::new();
    loop {
        match peer.read(&mut bytes) {
            Received::Bytes(1..) => {}
            end => return (bytes, end),
        }
    }
}

struct Note(mpsc::Sender<&'static str>);

impl Message for Note {
    fn undelivered(self: Arc<Self>) {
        self.0.send("came back").unwrap();
    }
}

/// T17, I22: the handler has heard its last. What others send it comes back; its timers come for nobody.
#[test]
fn messages_to_a_lingering_connection_come_back() {
    let parting = Parting::new(ListenOptions::default());
    let (mut peer, conn) = parting.lingering();
    let (tell, notes) = mpsc::channel();
    conn.send(Arc::new(Note(tell)));
    parting.net.run_for(100 * MS);
    assert_eq!(notes.try_iter().collect::<Vec<_>>(), ["came back"]);
    assert_eq!(parting.connections(), 1, "it still lingers");
    parting.listener.shut_down_connections();
    parting.net.run_for(MS);
    assert_eq!((parting.connections(), parting.listener.connections()), (1, 1), "asked to finish, it goes on doing so");
    let (bytes, end) = heard(&mut peer);
    assert!(bytes == wire(&[7; LAST_WORDS]) && end == Received::End, "{} bytes, {end:?}", bytes.len());
    peer.finish();
    parting.net.run_for(MS);
    assert_eq!((parting.connections(), parting.listener.connections()), (0, 0), "its peer has closed, too");
    parting.net.run_for(3_600_000 * MS);
    assert_eq!(parting.told.try_iter().count(), 0, "nothing was heard after the end");
}

/// I23: what comes while the output is being written comes before the peer can know of the end, and is handed up.
#[test]
fn what_comes_before_the_output_is_written_is_handed_up() {
    let net = Network::new(7, Knobs { buffer: 1_000, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let (tell, told) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", ListenOptions::default(), move |_| {
        let (heard, end) = (tell.clone(), tell.clone());
        let script = Script::new().frame(move |cx, frame| {
            heard.send(format!("a frame of {}", frame.bytes().len())).unwrap();
            reply(cx, &[7; 20_000]);
            cx.close_when_read(CloseReason::Local("all is read"));
        });
        script.close(move |_, reason| end.send(reason.to_string()).unwrap())
    });
    let mut peer = net.connect_raw(listener.url());
    net.run_for(MS);
    let mut bytes = Vec::new();
    for len in [1, 2, 3] {
        assert_eq!(peer.write(&wire(&vec![0; len])), 4 + len);
        net.run_for(MS);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [format!("a frame of {len}")], "the output is not written");
        assert!(matches!(peer.read(&mut bytes), Received::Bytes(1..)));
    }
    let ends = (0..1_000).any(|_| {
        net.run_for(MS);
        peer.read(&mut bytes) == Received::End
    });
    assert!(ends && bytes == wire(&[7; 20_000]).repeat(3), "{} bytes", bytes.len());
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["closed by this side: all is read"]);
}

/// Whatever the peer does, it is over after a second, and nothing of what still comes is kept.
#[test]
fn lingering_ends() {
    let parting = Parting::new(ListenOptions::default());
    let (mut peer, _) = parting.lingering();
    let begun = parting.net.elapsed();
    let mut written = 0;
    while parting.connections() > 0 {
        written += peer.write(&[0; 1 << 20]);
        parting.net.run_for(MS);
        let audit = parting.net.audit(0).expect("it runs").expect("all is well");
        assert_eq!(audit.held, 0, "what comes is dropped");
        assert!(parting.net.elapsed() < begun + 1002 * MS, "it lingers for ever");
    }
    assert!(parting.net.elapsed() > begun + 990 * MS, "it took its time");
    assert!(written > 64 << 20, "the peer wrote all the while: {written} bytes");
    assert_eq!(parting.listener.connections(), 0);
}

/// Closed for good, it is not reset for what has arrived by then: the peer may not have read the last words yet.
#[test]
fn the_end_of_lingering_takes_nothing_back() {
    type End = fn(Parting) -> (Network, bool);
    let ends: [(&str, End); 2] = [
        ("cut", |parting| {
            parting.listener.abort_connections("no more time");
            parting.net.run_for(MS);
            assert_eq!(parting.connections(), 0);
            (parting.net, true)
        }),
        ("with its reactor", |parting| {
            drop(parting.pool);
            parting.net.run_for(MS);
            (parting.net.clone(), parting.net.audit(0).is_none())
        }),
    ];
    for (how, end) in ends {
        let parting = Parting::new(ListenOptions::default());
        let (mut peer, _) = parting.lingering();
        assert_eq!(peer.write(&[1; 10_000]), 10_000);
        parting.net.set_knobs(|knobs| knobs.late_event = 1000); // it has arrived, and no event has told of it
        parting.net.run_for(MS / 5);
        let (net, over) = end(parting);
        assert!(over, "{how}");
        net.run_for(MS);
        let (bytes, end) = heard(&mut peer);
        assert!(bytes == wire(&[7; LAST_WORDS]) && end == Received::End, "{how}: {} bytes, {end:?}", bytes.len());
    }
}

/// Its socket is a descriptor in use: it counts.
#[test]
fn lingering_connections_count_towards_max_connections() {
    let mut options = ListenOptions::default();
    options.listen.max_connections = 1;
    let parting = Parting::new(options);
    let (mut peer, _) = parting.lingering();
    let mut second = parting.dial();
    assert_eq!(heard(&mut second).1, Received::End, "accepted, and closed");
    heard(&mut peer);
    peer.finish();
    parting.net.run_for(MS);
    let mut third = parting.dial();
    assert_eq!(heard(&mut third).1, Received::Bytes(0), "there is room again");
}

/// A peer that takes a little now and then, which no stall is, does not keep a closing connection and its output for ever; a slow one
/// hears all of it.
#[test]
fn closing_ends() {
    for (pause, hears_all) in [(10_000 * MS, false), (20 * MS, true)] {
        let parting = Parting::new(ListenOptions::default());
        parting.net.set_knobs(|knobs| knobs.buffer = 4096);
        let mut peer = parting.dial();
        peer.write(&wire(b"anything"));
        let (begun, mut bytes) = (parting.net.elapsed(), Vec::new());
        let end = loop {
            parting.net.run_for(pause);
            match peer.read(&mut bytes) {
                Received::Bytes(_) => {}
                end => break end,
            }
        };
        let took = parting.net.elapsed() - begun;
        assert!(took < 60_000 * MS, "{took:?}");
        assert_eq!((bytes == wire(&[7; LAST_WORDS]), end == Received::End), (hears_all, hears_all), "after {took:?}");
        assert!(hears_all || took > 30_000 * MS, "{took:?}");
    }
}
