//! Who is ended when the process holds too much, and who is not, on a simulated network.

mod support;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rpc_transport::testing::{Knobs, Network, RawPeer, Received};
use rpc_transport::{ConnLimits, Connector, ListenOptions, MemoryBudget, Url};
use support::*;

const MS: Duration = Duration::from_millis(1);
const BUDGET: usize = 4 << 20;

/// Runs a server with all its budget in the output of one connection, whose peer reads `step` bytes every 10 ms. What it read, and why
/// the connection ended, if it has.
fn drain(step: usize) -> (usize, Option<String>) {
    let net = Network::new(7, Knobs { buffer: 64 << 10, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let memory = Arc::new(MemoryBudget::new(BUDGET));
    let options = ListenOptions { memory: Arc::clone(&memory), ..ListenOptions::default() };
    let (tell, ends) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
        Script::new().frame(|cx, _| cx.output().write_bytes(vec![7; BUDGET - (64 << 10)].into())).end_to(tell.clone())
    });
    let mut peer = net.connect_raw(listener.url());
    net.run_for(MS);
    assert_eq!(peer.write(&wire(b"all of it")), 13);
    net.run_for(MS);
    assert!(memory.refuses_work(), "others' calls are refused: {} bytes", memory.used());
    let mut read = Vec::new();
    let mut may_read = 0;
    for _ in 0..100_000 {
        may_read += step;
        // It takes all there is, and then waits until it may have had so much.
        while may_read > read.len() {
            match peer.read(&mut read) {
                Received::Bytes(0) => break,
                Received::Bytes(_) => {}
                Received::End | Received::Reset => return (read.len(), ends.try_recv().ok()),
            }
        }
        if read.len() == BUDGET - (64 << 10) {
            break;
        }
        net.run_for(10 * MS);
        net.audit(0).expect("it runs").expect("all is well");
    }
    (read.len(), ends.try_recv().ok())
}

/// A connection that holds the most, and becomes smaller by an eighth in a quarter of a second, is left to that. It was ended by the
/// very write that made it smaller.
#[test]
fn a_connection_that_drains_is_not_shed() {
    let check = |step: usize, whole: bool| {
        let (read, end) = drain(step);
        let expected = (!whole).then(|| "the connection reached its limit max_buffered_bytes".to_owned());
        assert_eq!((read == BUDGET - (64 << 10), end), (whole, expected), "{step} bytes in 10 ms: {read} read");
    };
    check(1 << 20, true);
    check(64 << 10, true);
    check(4 << 10, false);
    check(0, false);
}

/// Whole frames that hold most of the memory are handed up though the connection is not read for it: that is what gives it back. They
/// waited for ever.
#[test]
fn frames_that_hold_the_memory_are_handed_up() {
    const FRAMES: usize = 60;
    let net = Network::new(7, Knobs { buffer: 128 << 10, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let memory = Arc::new(MemoryBudget::new(80 << 10));
    let limits = ConnLimits { turn_frames: 1, ..ConnLimits::default() };
    let options = ListenOptions { memory: Arc::clone(&memory), conn: limits, ..ListenOptions::default() };
    let (tell, frames) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
        let (tell, memory) = (tell.clone(), Arc::clone(&memory));
        Script::new().frame(move |_, _| tell.send(memory.used()).expect("it is counted"))
    });
    let mut peer = net.connect_raw(listener.url());
    let _quiet = net.connect_raw(listener.url()); // or a turn would take all that is there
    net.run_for(MS);
    let sent: Vec<u8> = (0..FRAMES).flat_map(|_| wire(&[7; 1000])).collect();
    assert_eq!(peer.write(&sent), sent.len());
    net.run_for(FRAMES as u32 * MS);
    net.audit(0).expect("it runs").expect("all is well");
    let used: Vec<usize> = frames.try_iter().collect();
    assert_eq!(used.len(), FRAMES);
    assert!(used.iter().any(|used| *used > 60 << 10), "memory was short: {used:?}");
}

/// A block with one byte in it keeps 64 KiB from others, and is counted so; not for longer than its peer is quiet. Else a byte each from some
/// hundred peers would have everybody else take turns.
#[test]
fn the_block_of_a_quiet_peer_is_given_back() {
    const PEERS: usize = 200;
    let net = Network::new(7, Knobs::default());
    let pool = net.pool("server", 1);
    let memory = Arc::new(MemoryBudget::new(16 << 20));
    let options = ListenOptions { memory: Arc::clone(&memory), ..ListenOptions::default() };
    let (tell, frames) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
        let tell = tell.clone();
        Script::new().frame(move |_, frame| tell.send(frame.bytes().to_vec()).expect("it is counted"))
    });
    let frame = wire(b"begun with one byte");
    let mut peers: Vec<_> = (0..PEERS).map(|_| net.connect_raw(listener.url())).collect();
    net.run_for(MS);
    peers.iter_mut().for_each(|peer| assert_eq!(peer.write(&frame[..1]), 1));
    net.run_for(5 * MS);
    assert!(memory.used() >= PEERS * (60 << 10), "{} bytes", memory.used());
    net.run_for(60 * MS);
    assert!(memory.used() <= PEERS, "{} bytes", memory.used());
    peers.iter_mut().for_each(|peer| assert_eq!(peer.write(&frame[1..]), frame.len() - 1));
    net.run_for(5 * MS);
    assert_eq!(frames.try_iter().filter(|frame| frame == b"begun with one byte").count(), PEERS);
    net.audit(0).expect("it runs").expect("all is well");
    assert_eq!(memory.used(), 0);
}

/// Unfinished frames hold so much that none of them is read: each waits for what the others would give back. They are read on, a turn's bytes
/// now and then, while there is room for that, and where there is none the first of them end. They waited for their time limit.
#[test]
fn unfinished_frames_that_hold_the_memory_do_not_wait_for_each_other() {
    const PEERS: usize = 58;
    let check = |budget: usize, first: usize, frame: usize, turn_bytes: usize, least: usize, most: u32| {
        let net = Network::new(7, Knobs { buffer: 64 << 10, ..Knobs::default() });
        let pool = net.pool("server", 1);
        let memory = Arc::new(MemoryBudget::new(budget));
        let conn = ConnLimits { turn_bytes, ..ConnLimits::default() };
        let options = ListenOptions { memory: Arc::clone(&memory), conn, ..ListenOptions::default() };
        let (tell, frames) = mpsc::channel();
        let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
            let tell = tell.clone();
            Script::new().frame(move |_, _| tell.send(()).expect("it is counted"))
        });
        let mut peers: Vec<_> = (0..PEERS).map(|_| (net.connect_raw(listener.url()), 0)).collect();
        let sent = wire(&vec![7; frame]);
        let mut refused = 0;
        let mut send = |until: usize, times: usize, span: Duration| {
            for _ in 0..times {
                for (peer, written) in &mut peers {
                    *written += peer.write(&sent[*written..until]);
                }
                net.run_for(span);
                net.audit(0).expect("it runs").expect("all is well");
                refused += u32::from(memory.refuses_work());
            }
        };
        send(first, 20, MS);
        send(first, 10, 10 * MS); // what is there is made to fit
        assert!(memory.used() >= budget / 4 * 3, "memory is short: {} bytes", memory.used());
        send(sent.len(), 1000, 10 * MS);
        let whole = frames.try_iter().count();
        assert!(whole >= least && refused <= most, "{whole} of {PEERS} frames; work was refused at {refused} looks");

        assert_eq!(memory.used(), 0);
    };
    //    budget   first      frame      turn_bytes  whole, looks at which work is refused
    check(4 << 20, 56 << 10, 60 << 10, 256 << 10, 58, 0);
    check(4 << 20, 56 << 10, 60 << 10, 1 << 20, 58, 0);
    check(17 << 19, 120 << 10, 400 << 10, 64 << 10, 30, 5);
}

/// It is for unfinished frames: who holds output that nobody takes would only hold more of it.
#[test]
fn a_peer_that_does_not_read_gets_no_more_for_that() {
    let net = Network::new(7, Knobs { buffer: 16 << 10, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let memory = Arc::new(MemoryBudget::new(BUDGET));
    let conn = ConnLimits { turn_frames: 1, ..ConnLimits::default() };
    let options = ListenOptions { memory: Arc::clone(&memory), conn, ..ListenOptions::default() };
    let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| {
        Script::new().frame(|cx, _| cx.output().write_bytes(vec![7; 30 << 10].into()))
    });
    let mut peers: Vec<_> = (0..20).map(|_| net.connect_raw(listener.url())).collect();
    net.run_for(MS);
    let ask = |peers: &mut Vec<RawPeer>| peers.iter_mut().for_each(|peer| _ = peer.write(&wire(b"more")));
    while memory.used() < BUDGET / 4 * 3 {
        ask(&mut peers);
        net.run_for(MS);
    }
    net.run_for(100 * MS); // each has written what it had read
    let before = memory.used();
    for _ in 0..200 {
        ask(&mut peers);
        net.run_for(10 * MS);
        assert!(memory.used() <= before, "{} bytes, and {before} before", memory.used());
    }
    assert_eq!(listener.connections(), 20);
}

/// Each that comes holds a little less than is large among those that hold something by then. Those who came first are large when others
/// have come, and were never looked at again: together they held more than the limit, and others' calls were refused for it.
#[test]
fn many_that_hold_little_are_shed_when_they_hold_too_much_together() {
    let net = Network::new(7, Knobs { buffer: 1 << 20, ..Knobs::default() });
    let pool = net.pool("server", 1);
    let memory = Arc::new(MemoryBudget::new(BUDGET));
    let options = ListenOptions { memory: Arc::clone(&memory), ..ListenOptions::default() };
    let (tell, ends) = mpsc::channel();
    let listener = listen(&pool, "tcp://10.0.0.1:9", options, move |_| Script::new().end_to(tell.clone()));
    let frame = wire(&vec![7; BUDGET]);
    let mut most = 0;
    let mut come = |n: usize| {
        let mut peer = net.connect_raw(listener.url());
        net.run_for(MS);
        let little = BUDGET / n.max(4) / 2 - 200;
        assert_eq!(peer.write(&frame[..little]), little);
        net.run_for(2 * MS);
        most = most.max(memory.used());
        peer
    };
    let peers: Vec<_> = (1..=400).map(&mut come).collect();
    net.run_for(1000 * MS);
    net.audit(0).expect("it runs").expect("all is well");
    assert!(!memory.refuses_work(), "{} bytes, once {most}", memory.used());
    assert!(most < BUDGET / 2 * 3, "{most} bytes");
    let ended = ends.try_iter().count();
    assert!((1..peers.len() / 2).contains(&ended), "{ended} of {} ended", peers.len());
}

/// What a client reads makes no output, and its server may take its output only when the replies have been read: a client whose output is most
/// of what it holds is read on, in a budget of less than a turn's bytes, too. Both waited until a call's time was over.
#[test]
fn a_client_reads_whatever_its_output_holds() {
    const LIMIT: usize = 20 << 10;
    let net = Network::new(7, Knobs { buffer: 600, ..Knobs::default() });
    let pool = net.pool("client", 1);
    let memory = Arc::new(MemoryBudget::new(LIMIT));
    let connector = Connector { memory: Arc::clone(&memory), ..Connector::default() };
    let (tell, frames) = mpsc::channel();
    let handler = Script::new()
        .open(|cx| cx.output().write_bytes(vec![7; 16 << 10].into()))
        .frame(move |_, _| tell.send(()).expect("it is counted"));
    let url: Url = "tcp://10.0.0.1:9".parse().expect("a URL");
    let mut listener = net.listen_raw(&url);
    let endpoint = url.resolve().expect("numeric").remove(0);
    pool.handles()[0].run(move || _ = connector.connect(&endpoint, framing(), handler));
    net.run_for(100 * MS);
    let mut server = listener.accept().expect("it connects");
    assert!((LIMIT / 4 * 3..LIMIT / 100 * 95).contains(&memory.used()), "memory is short: {} bytes", memory.used());
    let replies = wire(&[7; 100]).repeat(100);
    let mut written = 0;
    for _ in 0..200 {
        written += server.write(&replies[written..]);
        net.run_for(10 * MS);
        net.audit(0).expect("it runs").expect("all is well");
    }
    assert_eq!(frames.try_iter().count(), 100);
}
