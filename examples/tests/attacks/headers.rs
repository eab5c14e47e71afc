//! Headers that are legal in their length and nothing else (T7).

use std::io::Write;
use std::time::Duration;

use testee::{Scene, raw};

use crate::attack;
use crate::cost::least;

fn pairs(n: usize, len: usize) -> Vec<(String, String)> {
    (0..n).map(|i| (format!("k{i}"), "v".repeat(len))).collect()
}

#[test]
fn t07_header_bombs_are_refused_to_the_call() {
    attack("T7").limits(&["max_header_size=4KiB", "max_header_entries=32"]).run(|scene| {
        let mut socket = scene.dial();
        let same: Vec<_> = (0..10_000).map(|_| ("k", "")).collect();
        let bombs = [
            raw::strings(&pairs(4, 60_000)),
            raw::strings(&pairs(33, 1)),
            raw::strings(&pairs(10_000, 0)),
            raw::strings(&same),
            vec![0; 100_000], // padding only
        ];
        for (seq, info) in (1..).zip(&bombs) {
            let reply = scene.ask(&mut socket, &raw::ttheader(1, seq, info, &raw::framed(1, "Echo", seq, b"")));
            let (type_id, text) = reply.exception().expect("an exception");
            assert_eq!((reply.seq, type_id), (seq, 6), "{text}");
            assert!(text.contains("max_header"), "it names the limit: {text}");
        }
        // Odd but legal: keys that are no text.
        let info = raw::strings(&[(&b"\xff\xfe"[..], &b"\x80"[..])]);
        let reply = scene.ask(&mut socket, &raw::ttheader(1, 99, &info, &raw::framed(1, "Echo", 99, b"")));
        assert_eq!((reply.kind, reply.seq), (raw::REPLY, 99));
        scene.still_works(&mut socket);
        assert_eq!(scene.stats().get("glitches"), bombs.len() as u64);
        format!("{} bombs, each refused to its call by the name of the limit; the connection stays", bombs.len())
    });
}

/// Requests a measurement makes, and how many are under way at a time.
const REQUESTS: usize = 300;
const BATCH: usize = 20;

/// Processor time of the server for requests with this header.
fn cost(scene: &Scene, info: &[u8]) -> Duration {
    let mut socket = scene.dial();
    let other = raw::strings(&[("x", "y")]);
    let one = |info: &[u8]| raw::ttheader(1, 1, info, &raw::framed(raw::CALL, "Echo", 1, b""));
    // A header that equals the last one is not read again.
    let batch = [one(info), one(&other)].concat().repeat(BATCH);
    let before = scene.server.cpu();
    for _ in 0..REQUESTS / BATCH {
        socket.write_all(&batch).expect("sent");
        for _ in 0..2 * BATCH {
            raw::read_bytes(&mut socket).expect("a frame").expect("a reply");
        }
    }
    scene.server.cpu() - before
}

/// I13: twice the header costs twice the work, not four times.
#[test]
fn t07_a_header_is_read_in_linear_time() {
    let limits = ["max_header_size=65532", "max_header_entries=100000"];
    attack("T7").limits(&limits).pace(Duration::from_millis(50)).run(|scene| {
        type Make = fn(usize) -> Vec<u8>;
        let families: [(&str, Make); 3] = [
            ("distinct keys", |n| raw::strings(&(0..n).map(|i| (format!("{i:05}"), "")).collect::<Vec<_>>())),
            ("one key", |n| raw::strings(&vec![("key-5", ""); n])),
            ("persistent keys", |n| raw::strings(&vec![("RPC_PERSIST_a", ""); n / 2])),
        ];
        let mut said = Vec::new();
        for (name, make) in families {
            let (short, long) = (make(3_500), make(7_000));
            let is_linear = |one: Duration, two: Duration| two <= one.mul_f64(2.5);
            let (one, two) = least(|| cost(scene, &short), || cost(scene, &long), is_linear);
            assert!(is_linear(one, two), "{name}: {one:?}, twice as long {two:?}");
            said.push(format!("{name} {one:?} and {two:?}"));
        }
        format!("processor time for {REQUESTS} headers of 3,500 and 7,000 entries: {}", said.join(", "))
    });
}
