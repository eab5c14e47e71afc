//! Peers that do not take their replies: never reading (T11), or gone before they are written (T33).

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, iter};

use socket2::SockRef;
use testee::{GONE, Scene, eventually, raw, reset, scratch};

use crate::attack;

/// Peers that write and never read, at once.
const PEERS: usize = 64;

const REPLY: usize = 8 << 10;

/// `write_hard`, in bytes.
const HARD: usize = 128 << 10;

/// What may be held for one of them.
const BOUND: usize = HARD + REPLY;

const LIMITS: [&str; 4] = ["max_frame_size=64KiB", "write_low=16KiB", "write_high=64KiB", "write_hard=128KiB"];

/// Resident memory of it all. For each peer what is counted, and a block of 64 KiB: output is rounded up to whole ones, and what has left
/// the one in front is no longer counted. And 2 MiB for the code, stacks and small things that are touched for the first time.
const GROWTH: usize = PEERS * (BOUND + (64 << 10)) + (2 << 20);

/// A slow machine takes long to fill what the kernel buffers for each; only then does it stall.
const FILLED: Duration = Duration::from_secs(180);

/// A peer that floods.
struct Flooder {
    socket: TcpStream,
    requests: Arc<Vec<u8>>,
    sent: usize,
    open: bool,
}

impl Flooder {
    fn all(scene: &Scene) -> Vec<Flooder> {
        let requests = (1..200).flat_map(|seq| raw::request(seq, "Give", &raw::number(REPLY as u64))).collect();
        let requests = Arc::new(requests);
        let one = || {
            let (socket, requests) = (scene.dial(), Arc::clone(&requests));
            SockRef::from(&socket).set_recv_buffer_size(4096).expect("a small buffer");
            socket.set_nonblocking(true).expect("non-blocking");
            Flooder { socket, requests, sent: 0, open: true }
        };
        iter::repeat_with(one).take(PEERS).collect()
    }

    /// Writes what the kernel takes; whether that was something.
    fn push(&mut self) -> bool {
        let before = self.sent;
        while self.open {
            match self.socket.write(&self.requests[self.sent % self.requests.len()..]) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}");
                    self.open = false;
                }
            }
        }
        self.sent > before
    }
}

#[test]
fn t11_peers_that_never_read_are_bounded_then_reset() {
    attack("T11").limits(&LIMITS).limits(&["write_stall_timeout=1s"]).growth(GROWTH as u64).run(|scene| {
        let mut peers = Flooder::all(scene);
        let (mut most, start) = (0, Instant::now());
        let all_reset = eventually(FILLED, || {
            peers.iter_mut().for_each(|peer| _ = peer.push());
            most = most.max(scene.stats().get("buffered_bytes") as usize);
            peers.iter().all(|peer| !peer.open)
        });
        assert!(all_reset, "reset after write_stall_timeout");
        assert!(most <= PEERS * BOUND, "{most} bytes buffered, bound {}", PEERS * BOUND);
        format!(
            "{PEERS} wrote {} KiB of requests and read nothing, reset after {:?}; at most {} KiB held for them, allowed {} KiB",
            peers.iter().map(|peer| peer.sent).sum::<usize>() / 1024,
            start.elapsed(),
            most / 1024,
            PEERS * BOUND / 1024
        )
    });
}

/// The bound is one for each of them, and not for all together: what goes when a peer leaves is what was held for it.
#[test]
fn t11_no_peer_has_more_held_for_it_than_its_bound() {
    const STILL: Duration = Duration::from_secs(1);
    attack("T11").limits(&LIMITS).limits(&["write_stall_timeout=10min"]).growth(GROWTH as u64).run(|scene| {
        let held = || scene.stats().get("buffered_bytes") as usize;
        let others = scene.stats().get("connections");
        let mut peers = Flooder::all(scene);
        // Each is stuck: none of them can write, and nothing has changed for a while.
        let (mut since, mut last) = (Instant::now(), 0);
        let all_stuck = eventually(FILLED, || {
            let wrote = peers.iter_mut().filter_map(|peer| peer.push().then_some(())).count() > 0;
            let now = held();
            if wrote || std::mem::replace(&mut last, now) != now {
                since = Instant::now();
            }
            since.elapsed() > STILL
        });
        assert!(all_stuck, "{:?}", scene.stats());
        let mut shares = Vec::new();
        while let Some(peer) = peers.pop() {
            let (before, left) = (held(), others + peers.len() as u64);
            reset(peer.socket);
            let is_gone = || scene.stats().get("connections") == left && held() < before;
            assert!(
                eventually(GONE, is_gone),
                "{left} are to be left, and less than {before} bytes: {:?}",
                scene.stats()
            );
            shares.push(before - held());
        }
        let (least, most) = (shares.iter().min().expect("some"), shares.iter().max().expect("some"));
        assert!(*most <= BOUND, "{most} bytes held for one of them, bound {BOUND}: {shares:?}");
        // More than the mark below which it would be read again: it was stuck for its output.
        assert!(*least > 16 << 10, "{least} bytes held for one of them: {shares:?}");
        format!(
            "{PEERS} read nothing, and left one by one: {} to {} KiB were held for each, allowed {} KiB",
            least / 1024,
            most / 1024,
            BOUND / 1024
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
