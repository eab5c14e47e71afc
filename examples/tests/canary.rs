//! No byte of one call's payload shows up anywhere else (T40): not in the reply of another, not in an error's text, not in padding,
//! though all of them go through the same pooled blocks.
//!
//! ```text
//!  secret client ──► canaries in payloads, metadata, error texts ──► one reactor ◄── curious peer: reads every byte it is sent
//! ```
//!
//! With `--features rpc-transport/testing` released memory is poisoned, and no poison may show up either: `.ci/run` does that, too.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rpc_core::Channel;
use rpc_transport::{PoolOptions, ReactorPool};
use testee::idl::testee::{Blob, Fault, Millis, TesteeClient};
use testee::{Attack, make, raw, size};

const BIN: &str = env!("CARGO_BIN_EXE_testee");

/// Stands in every secret, over and over, so that any eight bytes in a row of it are told.
const CANARY: &[u8; 8] = b"\xC5anary\xA7\x5E";

/// A payload that is nothing but canaries.
fn secret(len: usize) -> Vec<u8> {
    CANARY.iter().copied().cycle().take(len).collect()
}

/// What released memory is overwritten with where rpc-transport is built with its feature `testing`: any of it that is seen was read
/// after its release.
const POISON: [u8; 7] = [0xDD; 7];

/// Whether bytes have a piece of a secret in them, at any offset: seven bytes in a row of the repeated canary; or of poison.
fn has_secret(bytes: &[u8]) -> bool {
    let doubled = [&CANARY[..], &CANARY[..]].concat();
    bytes.windows(7).any(|window| window == POISON || doubled.windows(7).any(|piece| piece == window))
}

/// Keeps the server's blocks full of secrets: payloads of every size, metadata, business statuses, errors, calls that are given up.
fn keep_secrets(client: &TesteeClient, over: &AtomicBool) -> u64 {
    let mut calls = 0;
    while !over.load(Ordering::Acquire) {
        for len in [1, 100, 1_000, 10_000, 60_000, 70_000, 300_000] {
            let payload = secret(len);
            let text = String::from_utf8_lossy(CANARY).into_owned();
            let call = client.echo(Blob { payload: payload.clone().into() });
            let reply = call.metadata("key", secret(50)).wait().expect("an echo");
            assert_eq!(reply.payload, payload);
            let fault =
                Fault { code: 5, message: text.clone(), business: len % 2 == 0, extra: [(text.clone(), text)].into() };
            client.fail(fault).wait().expect_err("as asked");
            let given_up = client.sleep(Millis { ms: 3, kind: String::from_utf8_lossy(&secret(len)).into_owned() });
            drop(given_up.timeout(Duration::from_millis(1)).wait());
            calls += 3;
        }
    }
    calls
}

/// What the curious peer says: all that is answered, and all that is answered with an error.
fn questions(n: i32) -> Vec<Vec<u8>> {
    let odd = raw::strings(&[("k", "v".repeat(n as usize % 7))]); // so that the header needs padding of every length
    let with = |body: &[u8], method: &str| raw::ttheader(1, n, &odd, &raw::framed(raw::CALL, method, n, body));
    vec![
        with(&raw::blob(&make(n as u64, n as usize % 3000)), "Echo"),
        with(&[0x0e, 0x01, 0x02], "Echo"),       // does not parse
        with(&[0x0a, 0xff, 0xff, 0x03], "Echo"), // a length past the end
        with(b"", "NoSuchMethod"),
        with(b"", "Panic"),
        with(&raw::number(u64::from(u32::MAX)), "Give"), // more than is given
        with(&raw::number(n as u64 % 5_000), "Give"),
        with(b"", "Stats"),
        with(b"", "Once"), // there is no log
        with(&[0x08, 0x05], "Fail"),
        with(&raw::number(0), "Sleep"),
        raw::ttheader(1, n, &raw::ints(&[(12, "1")]), &raw::framed(raw::CALL, "Sleep", n, &raw::number(20))),
        raw::ttheader(1, n, &raw::strings(&vec![("k", "v"); 300]), &raw::framed(raw::CALL, "Echo", n, b"")),
    ]
}

#[test]
fn t40_a_peer_never_sees_anothers_bytes() {
    let rounds = size(150, 4_000) as i32;
    let limits = ["max_glitches=1000000"];
    Attack::new(BIN, "T40").args(&["--reactors", "1"]).limits(&limits).run(|scene| {
        let client = scene.server.client();
        let (over, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        let secrets = thread::scope(|scope| {
            let secrets = scope.spawn(|| keep_secrets(&client, &over));
            let curious = scope.spawn(|| {
                for n in 1..=rounds {
                    let heard = hear_all(scene.dial(), n);
                    assert!(!heard.is_empty() && !has_secret(&heard), "round {n}: {:?}", String::from_utf8_lossy(&heard));
                    bytes.fetch_add(heard.len() as u64, Ordering::Relaxed);
                }
            });
            let outcome = curious.join();
            over.store(true, Ordering::Release);
            let secrets = secrets.join().expect("the secret client has its own replies");
            outcome.expect("no byte of another's");
            secrets
        });
        format!(
            "{secrets} calls full of canaries; a curious peer read {} bytes of {} replies on the same reactor, none of them a canary's",
            bytes.into_inner(),
            rounds as usize * questions(1).len()
        )
    });
}

/// Asks everything, and reads what comes until the end.
fn hear_all(mut socket: TcpStream, n: i32) -> Vec<u8> {
    let questions = questions(n);
    socket.write_all(&questions.concat()).expect("sent");
    if n % 2 == 0 {
        // And a last one that is cut short, or that is no frame at all.
        let _ = socket.write_all(if n % 4 == 0 { &questions[0][..20] } else { b"\x00\x00\x00\x40junk, and no frame" });
    }
    let _ = socket.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    let _ = socket.read_to_end(&mut heard);
    heard
}

/// The same at the client: what it sends to one server has nothing of what it sent to another, nor of what that one answered.
#[test]
fn t40_a_server_never_sees_what_went_to_another() {
    let calls = size(300, 5_000);
    Attack::new(BIN, "T40").args(&["--reactors", "1"]).run(|scene| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        let curious = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut heard = 0_u64;
            while let Ok(Some(bytes)) = raw::read_bytes(&mut socket) {
                assert!(!has_secret(&bytes), "{:?}", String::from_utf8_lossy(&bytes));
                heard += bytes.len() as u64;
                let request = raw::parse(&bytes).expect("a frame");
                socket.write_all(&raw::reply(request.seq, &request.method, &request.body)).expect("sent");
            }
            heard
        });
        // Both channels are on one reactor, whose blocks they share.
        let pool = Arc::new(ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() }).expect("a reactor"));
        let channel = |url: &str| {
            let builder = Channel::builder(url).connections(1).pool(Arc::clone(&pool));
            TesteeClient::new(builder.build().expect("a channel"))
        };
        let (secret_client, other) = (channel(scene.server.url()), channel(&url));
        for n in 0..calls {
            let len = [1, 100, 1_000, 10_000, 70_000][n % 5];
            let echo = secret_client.echo(Blob { payload: secret(len).into() }).metadata("key", secret(n % 60));
            assert_eq!(echo.wait().expect("an echo").payload, secret(len));
            let payload = make(n as u64, n % 2000);
            let echo = other.echo(Blob { payload: payload.clone() }).metadata("k", "v".repeat(n % 9));
            assert_eq!(echo.wait().expect("an echo").payload, payload);
        }
        drop(other);
        let heard = curious.join().expect("no byte of another's");
        format!("{calls} calls full of canaries to one server; another one, called by the same reactor, read {heard} bytes, none of them a canary's")
    });
}
