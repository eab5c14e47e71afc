//! Too many connections, and what becomes of them: half-open (T5), without descriptors (T13), reset at once (T14), over the limit.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use testee::{GONE, eventually, raw, reset, resident};

use crate::attack;

#[test]
fn t05_silent_connections_are_closed() {
    const PEERS: usize = 5_000;
    const TIMEOUT: Duration = Duration::from_secs(2);
    attack("T5").limits(&["first_frame_timeout=2s"]).run(|scene| {
        let (before, fds) = (scene.server.rss(), scene.server.fds());
        let mut peers: Vec<_> = (0..PEERS)
            .map(|_| {
                let socket = scene.dial();
                socket.set_nonblocking(true).expect("non-blocking");
                (socket, Instant::now())
            })
            .collect();
        // Accepting them all may take longer than the first of them live.
        let (mut most, mut held, mut first, mut last) = (0, 0, Duration::MAX, Duration::ZERO);
        let all = eventually(TIMEOUT + 5 * GONE, || {
            let open = scene.server.fds().saturating_sub(fds);
            if open > most {
                (most, held) = (open, scene.server.rss().saturating_sub(before));
            }
            peers.retain_mut(|(socket, start)| {
                let open = socket.read(&mut [0; 8]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
                if !open {
                    (first, last) = (first.min(start.elapsed()), last.max(start.elapsed()));
                }
                open
            });
            peers.is_empty()
        });
        assert!(all, "{} are still open", peers.len());
        assert!(first >= TIMEOUT - Duration::from_millis(100), "the first was closed after {first:?}");
        let each = held / most.max(1) as u64;
        assert!(held <= resident((2 << 10) * most as u64), "{each} bytes for each of {most} connections");
        format!("{PEERS} said nothing, closed {first:?} to {last:?} after they came (limit {TIMEOUT:?}); {most} at a time, {each} B each")
    });
}

/// The polite client is slow here: the processor time is to be the pause's own.
#[test]
fn t13_without_descriptors_accepting_pauses() {
    const PEERS: usize = 500;
    let row = attack("T13").args(&["--reactors", "2", "--verbose"]).pace(Duration::from_millis(50));
    row.run(|scene| {
        let start = Instant::now();
        let mut alive = scene.dial();
        scene.still_works(&mut alive);
        let fds = scene.server.fds();
        // 64 as the table says, or a few more than there are.
        scene.server.limit_files(64.max(fds as u64 + 3));
        let mut sockets: Vec<_> = (0..PEERS).map(|_| scene.dial()).collect();
        let errors = || scene.stats().sum("accept_errors");
        assert!(eventually(GONE, || errors() > 0), "accepting fails");
        let (cpu, before) = (scene.server.cpu(), errors());
        thread::sleep(Duration::from_secs(1)); // the span that is measured
        let (used, failed) = (scene.server.cpu() - cpu, errors() - before);
        assert!(used <= Duration::from_millis(80), "5 % of a second and the polite client, used {used:?}");
        scene.still_works(&mut alive);

        scene.server.limit_files(4096);
        let freed = Instant::now();
        for socket in &mut sockets {
            scene.still_works(socket);
        }
        let served = freed.elapsed();
        assert!(served < Duration::from_secs(1) + 2 * GONE, "all are served after {served:?}");
        let log = scene.server.errors();
        let lines = log.lines().filter(|line| line.contains("cannot accept")).count() as u64;
        assert!(lines > 0 && lines <= 10 * (1 + start.elapsed().as_secs()), "{lines} lines of log in {:?}", start.elapsed());
        format!(
            "{PEERS} came, a second without descriptors took {failed} attempts and {used:?}, all served {served:?} after there were some; \
             {lines} lines of log"
        )
    });
}

#[test]
fn t14_connect_and_reset_storm() {
    const PEERS: usize = 50_000;
    attack("T14").run(|scene| {
        let start = Instant::now();
        let frame = raw::request(1, "Echo", b"");
        let storm = |from: usize| {
            for round in (from..PEERS).step_by(2) {
                let mut socket = scene.dial();
                if round % 3 == 0 {
                    let _ = socket.write_all(&frame[..round % frame.len()]);
                }
                reset(socket);
            }
        };
        let warm = scene.server.rss();
        thread::scope(|scope| {
            scope.spawn(|| storm(0));
            storm(1);
        });
        let (took, stats) = (start.elapsed(), scene.stats());
        let grown = scene.server.rss().saturating_sub(warm);
        // How many are open at a time is up to the machine: as many as the backlog has, 4,096. 1 KiB lost of each would be 50 MiB.
        assert!(grown < resident(16 << 20), "{grown} bytes more");
        let (accepted, lost) = (stats.sum("accepts"), stats.sum("accept_errors"));
        format!(
            "{PEERS} connected and reset in {took:?}: {accepted} accepted, {lost} accept errors; {} KiB",
            grown / 1024
        )
    });
}

/// `max_connections`: more are accepted, closed, counted.
#[test]
fn connections_are_bounded() {
    attack("I9").limits(&["max_connections=6"]).run(|scene| {
        let mut sockets: Vec<_> = (0..5).map(|_| scene.dial()).collect();
        sockets.iter_mut().for_each(|socket| scene.still_works(socket));
        for _ in 0..200 {
            assert!(scene.closes(&mut scene.dial()));
        }
        assert_eq!(scene.stats().sum("refused_connections"), 200);
        sockets.iter_mut().for_each(|socket| scene.still_works(socket));
        drop(sockets);
        let served = |mut socket: TcpStream| {
            let sent = socket.write_all(&raw::request(1, "Echo", b""));
            sent.is_ok() && matches!(raw::read_frame(&mut socket), Ok(Some(_)))
        };
        assert!(eventually(GONE, || served(scene.dial())), "there is room again");
        "200 over the limit of 6 connections, each closed and counted".to_owned()
    });
}
