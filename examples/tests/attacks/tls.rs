//! Peers of a tls:// address (T25): in a handshake, instead of one, and after it with the keys of a peer that was let in.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rpc_transport::rustls::{ClientConnection, StreamOwned, version};
use rpc_transport::{TlsClient, TlsRoots};
use testee::idl::testee::TesteeClient;
use testee::{Attack, GONE, Scene, Testee, eventually, raw, resident, scratch};

use crate::attack;
use certificates::Authority;
use forger::Forger;

#[path = "../../../rpc-transport/tests/support/certificates.rs"]
mod certificates;
#[path = "../../../rpc-transport/tests/support/forger.rs"]
mod forger;

/// What a server says to bytes that are no TLS: an alert, unexpected_message.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("attacks"))
}

/// The chain and the key of the server, in a file.
fn identity() -> &'static str {
    static FILE: OnceLock<String> = OnceLock::new();
    FILE.get_or_init(|| {
        let (path, issued) = (scratch("identity"), authority().issue("localhost"));
        fs::write(&path, issued.chain + &issued.key).expect("a file");
        path.into_os_string().into_string().expect("text")
    })
}

fn client(server: &Testee) -> TesteeClient {
    let roots = TlsRoots::from_pem(authority().pem.as_bytes()).expect("a root");
    let tls = TlsClient::builder(roots).server_name("localhost").build().expect("correct settings");
    TesteeClient::new(server.channel().tls(tls).build().expect("its URL is well-formed"))
}

/// An attack on a tls:// address, where the polite client is, too.
fn secure_attack() -> Attack<'static> {
    attack("T25").at("tls://127.0.0.1:0", client).args(&["--identity", identity()])
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A peer with rustls and without the framework, which has not shaken hands.
fn dial(scene: &Scene) -> Secure {
    StreamOwned::new(authority().foreign(&[&version::TLS13]), scene.dial())
}

fn still_works(peer: &mut Secure) {
    peer.write_all(&raw::request(77, "Echo", &raw::blob(b"still here"))).expect("sent");
    let reply = raw::read_frame(peer).expect("a frame").expect("a reply");
    assert_eq!((reply.seq, reply.blob()), (77, Some(&b"still here"[..])));
}

/// What a client says first.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    authority().foreign(&[&version::TLS13]).write_tls(&mut bytes).expect("into memory");
    bytes
}

#[test]
fn t25_who_does_not_go_on_with_a_handshake_is_closed() {
    const PEERS: usize = 500;
    const TIMEOUT: Duration = Duration::from_secs(2);
    let hello = hello();
    let handshake_timeout = ["handshake_timeout=2s", "max_handshakes=5000"];
    //            what they send, and how much memory each may take
    let table = [
        ("nothing", &b""[..], 2 << 10),
        ("half a hello", &hello[..hello.len() / 2], 6 << 10),
        ("a hello", &hello, 24 << 10),
    ];
    secure_attack().limits(&handshake_timeout).growth(64 << 20).run(|scene| {
        let mut said = Vec::new();
        for (what, bytes, each) in table {
            let before = scene.server.rss();
            let mut peers: Vec<_> = (0..PEERS)
                .map(|_| {
                    let mut socket = scene.dial();
                    let came = Instant::now();
                    socket.write_all(bytes).expect("sent");
                    (socket, came)
                })
                .collect();
            let held = scene.server.rss().saturating_sub(before);
            assert!(held <= resident((each * PEERS) as u64), "{what}: {} bytes each", held / PEERS as u64);
            let cpu = scene.server.cpu();
            // To what it answers nobody listens: the answer fits into what the system holds.
            let mut first = Duration::MAX;
            for (socket, came) in &mut peers {
                let mut rest = Vec::new();
                let end = socket.read_to_end(&mut rest);
                first = first.min(came.elapsed());
                assert!(end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{what}: closed with a reset");
            }
            let (last, used) = (peers[0].1.elapsed(), scene.server.cpu() - cpu);
            assert!(first >= TIMEOUT - Duration::from_millis(100), "{what}: the first was closed after {first:?}");
            assert!(last < TIMEOUT + GONE, "{what}: {last:?}");
            said.push(format!(
                "{what}: {} B each, closed {first:?} to {last:?} after, {used:?} of processor",
                held / PEERS as u64
            ));
        }
        format!("{PEERS} each said {} (limit {TIMEOUT:?})", said.join("; "))
    });
}

/// Also the plain RPC that somebody says by mistake.
#[test]
fn t25_bytes_that_are_no_tls_are_told_so() {
    const ROUNDS: usize = 100;
    secure_attack().run(|scene| {
        let plain = [
            ("a plain request", raw::request(1, "Echo", &raw::blob(b"x"))),
            ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ("application data", [&[23, 3, 3, 0, 5][..], b"hello"].concat()),
            ("zeros", vec![0; 4096]),
        ];
        let broken = [
            ("a record too long", [&[22, 3, 1, 0xff, 0xff][..], &[1; 100]].concat()),
            ("no hello", [&[22, 3, 1, 0, 8][..], &[2, 0, 0, 4, 1, 2, 3, 4]].concat()),
            ("a hello of nothing", [&[22, 3, 1, 0, 4][..], &[1, 0, 0, 0]].concat()),
            ("a version of nobody", [&[22, 9, 9, 0, 4][..], &[1, 0, 0, 0]].concat()),
            ("an end before the beginning", vec![21, 3, 1, 0, 2, 1, 0]),
            ("an end straight after a hello", [&hello()[..], &[21, 3, 3, 0, 2, 1, 0]].concat()),
            ("an alert", vec![21, 3, 1, 0, 2, 2, 80]),
        ];
        let mut slowest = Duration::ZERO;
        for _ in 0..ROUNDS {
            for (what, bytes) in &plain {
                let (mut socket, start) = (scene.dial(), Instant::now());
                let (heard, _) = raw::say(&mut socket, bytes);
                slowest = slowest.max(start.elapsed());
                // What it has not read may make the system reset, and take the alert back.
                assert!(heard == ALERT || heard.is_empty() && bytes.len() > 1000, "{what}: {heard:02x?}");
            }
            for (what, bytes) in &broken {
                let (mut socket, start) = (scene.dial(), Instant::now());
                socket.write_all(bytes).expect("sent");
                socket.shutdown(std::net::Shutdown::Write).expect("open"); // some of it may be the beginning of more
                let mut heard = Vec::new();
                _ = socket.read_to_end(&mut heard);
                slowest = slowest.max(start.elapsed());
                assert!(heard.is_empty() || [21, 22].contains(&heard[0]), "{what}: {heard:02x?}");
            }
        }
        assert!(slowest < GONE, "{slowest:?}");
        let count = ROUNDS * (plain.len() + broken.len());
        format!("{count} times bytes that are no TLS or a broken one, each told so by an alert or closed, the slowest after {slowest:?}")
    });
}

/// Handshakes begun and left, within the ration and beyond it: the oldest makes room. Who goes on with one is let in meanwhile.
#[test]
fn t25_a_flood_of_begun_handshakes_keeps_nobody_out() {
    const MOST: usize = 64;
    const FLOOD: Duration = Duration::from_secs(3);
    let hello = hello();
    secure_attack().limits(&["max_handshakes=64"]).args(&["--reactors", "1"]).run(|scene| {
        let (fds, calls, start) = (scene.server.fds(), scene.polite_calls(), Instant::now());
        let (mut begun, mut most, mut let_in) = (0, 0, 0);
        let mut half_open = std::collections::VecDeque::new();
        while start.elapsed() < FLOOD {
            for _ in 0..50 {
                let mut socket = scene.dial();
                socket.write_all(&hello).expect("sent");
                half_open.push_back(socket);
                begun += 1;
            }
            half_open.drain(..half_open.len().saturating_sub(1000));
            most = most.max(scene.server.fds().saturating_sub(fds));
            still_works(&mut dial(scene));
            let_in += 1;
        }
        // Beside those in a handshake: one that was let in, those that linger, and those that are accepted and not looked at yet.
        assert!(most <= 4 * MOST, "{most} at a time");
        let polite = scene.polite_calls() - calls;
        assert!(polite > 100, "{polite} polite calls in {FLOOD:?}");
        format!("{begun} handshakes begun in {FLOOD:?} and left, at most {most} open at a time (limit {MOST}); {let_in} others let in meanwhile, {polite} polite calls")
    });
}

/// A peer that was let in, and from then on makes its records by itself.
fn authenticated(scene: &Scene) -> (Forger, TcpStream) {
    let mut peer = dial(scene);
    still_works(&mut peer);
    let StreamOwned { conn, sock } = peer;
    (Forger::of(conn.into()).expect("TLS 1.3"), sock)
}

/// Half a message and junk was a panic of the reactor.
#[test]
fn t25_records_that_nobody_may_send_end_their_connection_alone() {
    const ROUNDS: usize = 20;
    type Records = fn(&mut Forger) -> Vec<u8>;
    let table: [(&str, Records); 8] = [
        ("a record over 16 KiB", |forger| forger.record(23, &[0; (16 << 10) + 1])),
        ("a length of 65,535", |_| vec![23, 3, 3, 0xff, 0xff, 0]),
        ("a hello, again", |forger| forger.record(22, &hello()[5..])),
        ("new keys, and again", |forger| {
            let mut records = Vec::new();
            (0..100).for_each(|_| records.extend(forger.record(22, &[24, 0, 0, 1, 1])));
            records
        }),
        ("half a message, and junk", |forger| {
            [forger.record(22, &[24, 0, 60, 0, 7, 7]), vec![23, 3, 3, 0, 20], vec![7; 20]].concat()
        }),
        ("a message of 64 KiB", |forger| {
            let begun = forger.record(22, &[&[4, 0, 0xff, 0xff][..], &[0; 16_000]].concat());
            let more = (0..6).flat_map(|_| forger.record(22, &[0; 16_000]));
            begun.into_iter().chain(more.collect::<Vec<_>>()).collect()
        }),
        ("a kind of record of nobody", |forger| forger.record(99, b"hello")),
        ("a warning", |forger| forger.record(21, &[1, 80])),
    ];
    secure_attack().run(|scene| {
        let mut slowest = Duration::ZERO;
        for _ in 0..ROUNDS {
            for (what, records) in &table {
                let (mut forger, mut socket) = authenticated(scene);
                let (bytes, start) = (records(&mut forger), Instant::now());
                _ = socket.write_all(&bytes); // it may close in the midst of it
                let mut heard = Vec::new();
                let end = socket.read_to_end(&mut heard);
                let took = start.elapsed();
                slowest = slowest.max(took);
                assert!(took < GONE, "{what}: {took:?}, {end:?}");
            }
        }
        format!(
            "{} times a record that nobody may send, each of {} kinds, closed after {slowest:?} at most; the others stay",
            ROUNDS * table.len(),
            table.len()
        )
    });
}

#[test]
fn t25_byte_by_byte_is_slow_and_not_wrong() {
    const PEERS: usize = 20;
    secure_attack().run(|scene| {
        let before = scene.server.cpu();
        let mut bytes = 0;
        for _ in 0..PEERS {
            let mut conn = authority().foreign(&[&version::TLS13]);
            let mut socket = scene.dial();
            socket.set_nodelay(true).expect("it is TCP");
            let mut said = false;
            let mut heard = Vec::new();
            while heard.len() < 4 {
                if !conn.is_handshaking() && !said {
                    conn.writer().write_all(&raw::request(1, "Echo", &raw::blob(&[7; 500]))).expect("into memory");
                    said = true;
                }
                let mut out = Vec::new();
                while conn.wants_write() {
                    conn.write_tls(&mut out).expect("into memory");
                }
                for byte in &out {
                    socket.write_all(&[*byte]).expect("sent");
                }
                bytes += out.len();
                if conn.is_handshaking() || said {
                    assert_ne!(conn.read_tls(&mut socket).expect("it answers"), 0, "it has closed");
                    conn.process_new_packets().expect("it understands");
                    _ = conn.reader().read_to_end(&mut heard); // no end: there is nothing more
                }
            }
        }
        // A hello of which each byte has a record of its own is one all the same.
        let mut socket = scene.dial();
        let pieces: Vec<u8> = hello()[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
        socket.write_all(&pieces).expect("sent");
        let mut kind = [0];
        socket.read_exact(&mut kind).expect("it answers");
        assert_eq!(kind, [22], "a hello of its own");
        let each = (scene.server.cpu() - before) / bytes as u32;
        assert!(each < Duration::from_millis(1), "{each:?} of processor for a byte");
        format!("{PEERS} handshakes and calls, {bytes} bytes one by one, each answered; {each:?} of processor for a byte and the polite calls beside it")
    });
}

/// Records of nothing are work for nothing. Too many of them are a broken protocol; fewer, with a byte between them, are a peer that is slow.
#[test]
fn t25_empty_records_are_nothing_said() {
    const BETWEEN: usize = 30;
    secure_attack().args(&["--reactors", "1"]).run(|scene| {
        let (mut forger, mut socket) = authenticated(scene);
        let mut nothing = 0_u64;
        let end = loop {
            if let Err(e) = socket.write_all(&forger.record(23, b"")) {
                break e;
            }
            nothing += 1;
        };
        assert!(eventually(GONE, || scene.stats().get("connections") == 1), "after {nothing}: {end}");

        let (mut forger, mut socket) = authenticated(scene);
        let (cpu, before) = (scene.server.cpu(), scene.server.rss());
        let request = raw::request(1, "Echo", &raw::blob(&[7; 500]));
        let mut records = Vec::new();
        for byte in &request {
            (0..BETWEEN).for_each(|_| records.extend(forger.record(23, b"")));
            records.extend(forger.record(23, &[*byte]));
        }
        socket.write_all(&records).expect("sent");
        // Encrypted, for nobody: what came before it has been read.
        let mut heard = [0; 500];
        socket.read_exact(&mut heard).expect("an answer");
        let count = request.len() * (BETWEEN + 1);
        let (each, most) = ((scene.server.cpu() - cpu) / count as u32, scene.server.rss().saturating_sub(before));
        assert!(each < Duration::from_micros(100), "{each:?} for a record");
        assert!(most <= resident(4 << 20), "{most} bytes");
        format!(
            "closed, with {nothing} empty records on their way by then; {count} of which {BETWEEN} of {} were empty made a call, {each:?} of processor for each with the polite calls beside it",
            BETWEEN + 1
        )
    });
}

/// A peer that takes no answer: at first of a handshake, then of its calls.
#[test]
fn t25_who_takes_no_answer_is_closed() {
    const PEERS: usize = 8;
    let limits = ["write_stall_timeout=2s", "write_high=256KiB", "write_low=64KiB"];
    secure_attack().limits(&limits).growth(64 << 20).run(|scene| {
        let start = Instant::now();
        let stuff = || {
            let mut peer = dial(scene);
            still_works(&mut peer);
            peer.sock.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
            let request = raw::request(1, "Echo", &raw::blob(&[7; 60_000]));
            while peer.write_all(&request).is_ok() {}
            peer
        };
        let mut peers = std::thread::scope(|scope| {
            let stuffing: Vec<_> = (0..PEERS).map(|_| scope.spawn(stuff)).collect();
            stuffing.into_iter().map(|one| one.join().expect("it stops when nothing is taken")).collect::<Vec<_>>()
        });
        let buffered = scene.stats().get("buffered_bytes");
        // Output up to the limit with the reply that goes beyond it, an unfinished request, and what is encrypted of it.
        let each = (256 << 10) + 4 * (64 << 10) + (80 << 10);
        assert!(buffered <= (PEERS * each) as u64, "{buffered} bytes for {PEERS} peers");
        assert!(eventually(GONE, || scene.stats().get("connections") == 1), "{:?}", scene.stats());
        let took = start.elapsed();
        peers.clear();
        format!(
            "{PEERS} took no answer, {} KiB held at most, all closed within {took:?} (write_stall_timeout 2 s)",
            buffered / 1024
        )
    });
}

/// The testee's own client, at a server whose certificate comes from the same place, and at one of somebody else.
#[test]
fn the_testee_calls_itself_under_tls() {
    let roots = scratch("roots");
    fs::write(&roots, &authority().pem).expect("a file");
    let other = scratch("other");
    fs::write(&other, &Authority::new("others").pem).expect("a file");
    let server = Testee::listen(crate::BIN, &["tls://127.0.0.1:0"], ["--identity", identity()]);
    let run = |roots: &std::path::Path| {
        let mut command = std::process::Command::new(crate::BIN);
        command.args([
            "client",
            "--connect",
            server.url(),
            "--calls",
            "200",
            "--in-flight",
            "8",
            "--method",
            "mix",
            "--strict",
        ]);
        command.args(["--server-name", "localhost", "--roots"]).arg(roots);
        command.output().expect("it runs")
    };
    let output = run(&roots);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!run(&other).status.success(), "it trusts anybody");
}
