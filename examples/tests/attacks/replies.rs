//! Peers that do not take their replies: never reading (T11), or gone before they are written (T33).

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use socket2::SockRef;
use testee::{eventually, raw, reset};

use crate::attack;

#[test]
fn t11_peers_that_never_read_are_bounded_then_reset() {
    const PEERS: usize = 64;
    const REPLY: usize = 8 << 10;
    const HARD: usize = 128 << 10;
    let limits =
        ["max_frame_size=64KiB", "write_low=16KiB", "write_high=64KiB", "write_hard=128KiB", "write_stall_timeout=1s"];
    // Resident is more than accounted: blocks are taken whole, and kept for the next.
    attack("T11").limits(&limits).growth(2 * (PEERS * (HARD + REPLY)) as u64 + (8 << 20)).run(|scene| {
        let flood: Vec<u8> = (1..200).flat_map(|seq| raw::request(seq, "Give", &raw::number(REPLY as u64))).collect();
        let mut peers: Vec<_> = (0..PEERS)
            .map(|_| {
                let socket = scene.dial();
                SockRef::from(&socket).set_recv_buffer_size(4096).expect("a small buffer");
                socket.set_nonblocking(true).expect("non-blocking");
                (socket, 0_usize, true)
            })
            .collect();
        let (mut most, start) = (0, Instant::now());
        let all_reset = eventually(Duration::from_secs(20), || {
            for (socket, sent, open) in &mut peers {
                while *open {
                    match socket.write(&flood[*sent % flood.len()..]) {
                        Ok(n) => *sent += n,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => *open = false,
                    }
                }
            }
            most = most.max(scene.stats().get("buffered_bytes") as usize);
            peers.iter().all(|(_, _, open)| !open)
        });
        assert!(all_reset, "reset after write_stall_timeout");
        let bound = PEERS * (HARD + REPLY);
        assert!(most <= bound, "{most} bytes buffered, bound {bound}");
        let sent: usize = peers.iter().map(|(_, sent, _)| sent).sum();
        format!(
            "{PEERS} wrote {} KiB of requests and read nothing, reset after {:?}; at most {} KiB held for them, allowed {} KiB",
            sent / 1024,
            start.elapsed(),
            most / 1024,
            bound / 1024
        )
    });
}

/// With SIGPIPE as it is for other programs: ending the process.
#[test]
fn t33_writing_to_a_closed_peer_kills_nobody() {
    const PEERS: usize = 500;
    attack("T33").args(&["--sigpipe"]).growth(64 << 20).run(|scene| {
        let frames: Vec<_> = (1..20).flat_map(|seq| raw::request(seq, "Give", &raw::number(1_000))).collect();
        // Replies of later: they are written when the peer is long gone.
        let late: Vec<_> = (1..20).flat_map(|seq| raw::request(seq, "Sleep", &raw::number(5))).collect();
        for round in 0..PEERS {
            let mut socket = scene.dial();
            socket.write_all(if round % 3 == 0 { &late } else { &frames }).expect("sent");
            if round % 2 == 0 { reset(socket) } else { drop(socket) }
        }
        format!("{PEERS} left without their replies, half of them with a reset; SIGPIPE would have ended the server")
    });
}
