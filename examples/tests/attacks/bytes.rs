//! Bytes that are no frames, or not yet: lengths that lie (T1, T3), frames announced and withheld (T2, T4), other protocols (T39).

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use testee::{GONE, eventually, raw, resident};

use crate::attack;

#[test]
fn t01_lengths_over_the_limit_close_and_cost_nothing() {
    attack("T1").limits(&["max_frame_size=1MiB"]).run(|scene| {
        scene.refused(&[0xff; 8]);
        let (before, mut slowest) = (scene.server.rss(), Duration::ZERO);
        for round in 0..1000 {
            let length = [0xffff_ffff_u32, 0x7fff_ffff, (1 << 20) + 1][round % 3];
            let mut frame = raw::request(1, "Echo", b"");
            frame[..4].copy_from_slice(&length.to_be_bytes());
            slowest = slowest.max(scene.refused(&frame));
        }
        let grown = scene.server.rss().saturating_sub(before);
        assert!(grown < resident(1 << 20), "{grown} bytes");
        format!(
            "1,000 lengths over the limit, each closed, the slowest after {slowest:?}; they cost {} KiB",
            grown / 1024
        )
    });
}

#[test]
fn t02_an_announced_frame_takes_no_memory_before_it_comes() {
    const PEERS: usize = 500;
    attack("T2").limits(&["frame_progress=1s"]).growth((PEERS as u64) << 16).run(|scene| {
        let (before, start) = (scene.server.rss(), Instant::now());
        // The longest legal frame; with its head, so that a place for all of it is looked for.
        let mut frame = raw::request(1, "Echo", b"");
        frame[..4].copy_from_slice(&(16_u32 << 20).to_be_bytes());
        frame.push(0x0a);
        let mut sockets: Vec<_> = (0..PEERS).map(|_| scene.dial()).collect();
        for socket in &mut sockets {
            socket.write_all(&frame).expect("sent");
        }
        // The last of them has arrived when a call after it is answered; the first may be closed already.
        let stats = scene.stats();
        let grown = scene.server.rss().saturating_sub(before);
        let bound = PEERS * ((64 << 10) + 2 * frame.len());
        assert!(grown <= resident(bound as u64), "{grown} bytes resident, bound {bound}");
        let buffered = stats.get("buffered_bytes") as usize;
        assert!(buffered <= bound, "{buffered} bytes accounted, bound {bound}");
        assert!(sockets.iter_mut().all(|socket| scene.closes(socket)), "closed after frame_progress");
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(1), "not before frame_progress: {took:?}");
        format!(
            "{PEERS} announced 16 MiB and sent {} bytes, closed within {took:?}; held {} KiB",
            frame.len(),
            grown / 1024
        )
    });
}

#[test]
fn t03_impossible_lengths_close() {
    attack("T3").run(|scene| {
        let good = raw::request(1, "Echo", &raw::blob(b"x"));
        let mut frames = Vec::new();
        for length in 0..=13_u32 {
            let mut frame = good.clone();
            frame[..4].copy_from_slice(&length.to_be_bytes());
            frames.push(frame);
        }
        for header_size in [0_u16, 0xffff, 100] {
            let mut frame = good.clone();
            frame[12..14].copy_from_slice(&header_size.to_be_bytes());
            frames.push(frame);
        }
        let slowest = frames.iter().map(|frame| scene.refused(frame)).max().unwrap_or_default();
        format!("{} impossible lengths, each closed, the slowest after {slowest:?}", frames.len())
    });
}

/// One byte each half second: in the length, in the fixed part, in the header, in the body.
#[test]
fn t04_slow_lorises_are_closed() {
    const PEERS: usize = 2_000;
    const PROGRESS: Duration = Duration::from_secs(2);
    attack("T4").limits(&["frame_progress=2s", "first_frame_timeout=1min"]).run(|scene| {
        let info = raw::strings(&[("k", "v".repeat(50))]);
        let frame = raw::ttheader(1, 1, &info, &raw::framed(raw::CALL, "Echo", 1, &raw::blob(&[7; 200])));
        let cuts = [1, 3, 7, 12, 15, 40, 80, 120, 200, frame.len() - 40];
        let whole = raw::request(1, "Echo", b"");
        let mut peers: Vec<_> = (0..PEERS)
            .map(|n| {
                let mut socket = scene.dial();
                let cut = cuts[n % cuts.len()];
                // After a whole frame, so that it is not first_frame_timeout that acts.
                socket.write_all(&[&whole, &frame[..cut]].concat()).expect("sent");
                raw::read_frame(&mut socket).expect("a frame").expect("a reply");
                socket.set_nonblocking(true).expect("non-blocking");
                (socket, cut, Instant::now())
            })
            .collect();
        let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
        let mut next = Instant::now();
        let all = eventually(PROGRESS + 5 * GONE, || {
            let drip = Instant::now() >= next;
            if drip {
                next += Duration::from_millis(500);
            }
            peers.retain_mut(|(socket, sent, start)| {
                let open = match socket.read(&mut [0; 8]) {
                    Ok(n) => n > 0,
                    Err(e) => e.kind() == ErrorKind::WouldBlock,
                };
                if !open {
                    (first, last) = (first.min(start.elapsed()), last.max(start.elapsed()));
                } else if drip && *sent + 1 < frame.len() && socket.write(&frame[*sent..=*sent]).is_ok() {
                    *sent += 1;
                }
                open
            });
            peers.is_empty()
        });
        assert!(all, "{} are still open", peers.len());
        assert!(first >= PROGRESS - Duration::from_millis(100), "the first was closed after {first:?}");
        format!(
            "{PEERS} sent a byte each half second, closed {first:?} to {last:?} after they began (limit {PROGRESS:?})"
        )
    });
}

const JUNK: [&[u8]; 9] = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaa",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b"stats\r\nstats\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xde\xad\xbe\xef\xde\xad\xbe\xef\xde\xad\xbe\xef",
    // Framed like a request, and none: this is what is logged as junk.
    b"\0\0\0\x10\x90\x01\0\x09\0\0\0\x04Echo\0\0\0\x01",
];

/// The log is no amplifier (I29): at level info, with a line for who has sent junk, it grows by ten lines a second at most.
#[test]
fn t39_other_protocols_are_closed_at_once_and_do_not_flood_the_log() {
    const ROUNDS: usize = 100;
    attack("T39").args(&["--verbose"]).run(|scene| {
        let start = Instant::now();
        let slowest = (0..ROUNDS).flat_map(|_| JUNK).map(|bytes| scene.refused(bytes)).max().unwrap_or_default();
        let took = start.elapsed();
        let log = scene.server.errors();
        let lines = log.lines().filter(|line| line.contains("not requests")).count();
        assert!(lines > 0, "the first are told of: {log}");
        assert!(lines as u64 <= 10 * (1 + took.as_secs()), "{lines} lines in {took:?}");
        assert!(log.lines().count() < lines + 10, "and nothing else floods it: {log}");
        let peers = ROUNDS * JUNK.len();
        format!("{peers} peers of other protocols in {took:?}, each closed, the slowest after {slowest:?}; {lines} lines of log")
    });
}
