//! Peers that do not take their replies: never reading (T11), or gone before they are written (T33).

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::SockRef;
use testee::{GONE, eventually, raw, reset, scratch};

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
        // A slow machine takes long to fill what the kernel buffers for each; only then does it stall.
        let all_reset = eventually(Duration::from_secs(180), || {
            for (socket, sent, open) in &mut peers {
                while *open {
                    match socket.write(&flood[*sent % flood.len()..]) {
                        Ok(n) => *sent += n,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}");
                            *open = false;
                        }
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

/// With SIGPIPE as it is for other programs: ending the process. It comes when a write finds that the peer, having said that it is
/// done, has reset the connection. A reactor that waits for events hears of that before it writes; one that is held does not.
#[test]
fn t33_writing_to_a_closed_peer_kills_nobody() {
    const ROUNDS: usize = 20;
    const PEERS: usize = 500;
    let nonces = scratch("nonces");
    let args = ["--sigpipe", "--exec-log", nonces.to_str().expect("a plain path")];
    attack("T33").args(&args).run(|scene| {
        for round in 0..ROUNDS {
            let mut socket = scene.dial();
            let once = raw::request(1, "Once", &raw::blob(format!("{round}").as_bytes()));
            let hold = raw::request(2, "Sleep", &[&raw::number(50)[..], b"\x12\x04hold"].concat());
            socket.write_all(&[once, hold].concat()).expect("sent");
            let begun = || fs::read_to_string(&nonces).is_ok_and(|text| text.lines().count() == round + 1);
            assert!(eventually(GONE, begun), "the handlers have begun");
            socket.shutdown(Shutdown::Write).expect("open");
            reset(socket);
        }
        // And many that just leave, half of them with a reset.
        let frames: Vec<_> = (1..20).flat_map(|seq| raw::request(seq, "Give", &raw::number(1_000))).collect();
        for round in 0..PEERS {
            let mut socket = scene.dial();
            socket.write_all(&frames).expect("sent");
            if round % 2 == 0 { reset(socket) } else { drop(socket) }
        }
        format!("{ROUNDS} reset while their replies were made, {PEERS} left without theirs; SIGPIPE would have ended the server")
    });
    let _ = fs::remove_file(nonces);
}
