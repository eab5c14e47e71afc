//! I28: every error says which call, at whom, by which number, how far it had come, whether the peer can have seen it, and whether to
//! try again; and each code has a call that ends with it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rpc_core::{Channel, Code, Error, Phase, Sent};
use testee::idl::hello::{GreeterClient, HelloRequest};
use testee::idl::testee::{Blob, Fault, Hop, Millis, Size, TesteeClient};
use testee::{CODES, Testee, make, raw};

const BIN: &str = env!("CARGO_BIN_EXE_testee");

fn channel(url: &str, limits: &[(&str, &str)]) -> Channel {
    let builder = Channel::builder(url).connections(1);
    limits.iter().fold(builder, |builder, (name, value)| builder.set(name, value)).build().expect("a channel")
}

fn client(url: &str, limits: &[(&str, &str)]) -> TesteeClient {
    TesteeClient::new(channel(url, limits))
}

fn millis(ms: u32, kind: &str) -> Millis {
    Millis { ms, kind: kind.to_owned() }
}

/// A server by hand, for one connection at a time; each frame that it reads is answered by `reply`, until that is `None`.
fn peer(reply: impl Fn(raw::Frame) -> Option<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            while let Ok(Some(request)) = raw::read_frame(&mut socket) {
                let Some(bytes) = reply(request) else { break };
                let _ = socket.write_all(&bytes);
            }
        }
    });
    url
}

fn nobody() -> String {
    format!("tcp://{}", TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound"))
}

/// What a call's error must say.
struct Due {
    url: String,
    code: Code,
    sent: Sent,
    phase: Phase,
    retryable: bool,
    /// It had a number on its connection.
    numbered: bool,
}

fn check(what: &str, outcome: Result<impl std::fmt::Debug, Error>, due: &Due) {
    let error = outcome.expect_err(what);
    let said = (error.code(), error.sent(), error.phase(), error.is_retryable(), error.id().is_some());
    assert_eq!(said, (due.code, due.sent, Some(due.phase), due.retryable, due.numbered), "{what}: {error}");
    assert_eq!(error.peer().map(|peer| peer.as_str()), Some(due.url.as_str()), "{what}: {error}");
    assert!(error.method().contains('/'), "{what}: {error}");
    let line = error.to_string();
    let id = error.id().map_or_else(String::new, |id| format!("id {id}"));
    for part in [due.code.name(), &due.url, error.method(), &due.sent.to_string(), &due.phase.to_string(), &id] {
        assert!(line.contains(part), "{what}: no {part:?} in {line}");
    }
    assert_eq!(line.lines().count(), 1);
}

/// What a handler says arrives, whatever the code.
#[test]
fn each_code_arrives_with_everything_else() {
    let server = Testee::start(BIN, [] as [&str; 0]);
    let client = server.client();
    let mut ids = BTreeSet::new();
    for (number, code) in (1..).zip(CODES) {
        let fault = Fault { code: number, message: "as asked for".to_owned(), ..Fault::default() };
        let outcome = client.fail(fault).wait();
        ids.insert(outcome.as_ref().err().and_then(Error::id));
        let url = server.url().to_owned();
        // A handler has said it: so it was processed, and is not to be repeated blindly.
        let due = Due { url, code, sent: Sent::Maybe, phase: Phase::Wait, retryable: false, numbered: true };
        check(code.name(), outcome, &due);
    }
    assert_eq!(ids.len(), CODES.len(), "each call has a number of its own");
}

/// What the framework itself says of a call, on either side of the wire.
#[test]
fn each_way_to_fail_says_everything() {
    let server = Testee::start(BIN, ["--set", "max_inflight=1", "--set", "max_frame_size=1MiB"]);
    let url = server.url().to_owned();
    let at = |url: &str, code, sent, phase, retryable, numbered| Due {
        url: url.to_owned(),
        code,
        sent,
        phase,
        retryable,
        numbered,
    };
    let ok = client(&url, &[]);

    // The server refuses, or fails.
    check(
        "another service",
        GreeterClient::new(channel(&url, &[])).say_hello(HelloRequest::default()).wait(),
        &at(&url, Code::Unimplemented, Sent::No, Phase::Wait, false, true),
    );
    check(
        "a panic",
        ok.panic(millis(0, "now")).wait(),
        &at(&url, Code::Internal, Sent::Maybe, Phase::Wait, false, true),
    );
    check(
        "a business status",
        ok.fail(Fault { code: 1, business: true, ..Fault::default() }).wait(),
        &at(&url, Code::Unknown, Sent::Maybe, Phase::Wait, false, true),
    );
    check(
        "a reply over the server's limit",
        ok.give(Size { bytes: 2 << 20 }).wait(),
        &at(&url, Code::ResourceExhausted, Sent::Maybe, Phase::Wait, false, true),
    );
    thread::scope(|scope| {
        let mut busy = TcpStream::connect(server.addr()).expect("it listens");
        let held = raw::request(1, "Sleep", &raw::number(1_500));
        busy.write_all(&held).expect("sent");
        // Until that one runs, calls that do not wait are served.
        let refused = scope.spawn(|| {
            loop {
                if let Err(error) = ok.echo(Blob::default()).wait() {
                    return error;
                }
            }
        });
        let error = refused.join().expect("no panic");
        let due = at(&url, Code::ResourceExhausted, Sent::No, Phase::Wait, true, true);
        check("max_inflight", Err::<(), _>(error), &due);
        raw::read_frame(&mut busy).expect("a frame").expect("a reply");
    });

    // This side refuses.
    let small = client(&url, &[("max_frame_size", "64KiB")]);
    check(
        "a request over this side's limit",
        small.echo(Blob { payload: make(1, 70_000) }).wait(),
        &at(&url, Code::ResourceExhausted, Sent::No, Phase::Encode, false, false),
    );
    check(
        "a reserved key",
        ok.echo(Blob::default()).metadata("UPSTREAM_b", "1").wait(),
        &at(&url, Code::InvalidArgument, Sent::No, Phase::Encode, false, false),
    );
    check(
        "no time at all",
        ok.echo(Blob::default()).timeout(Duration::ZERO).wait(),
        &at(&url, Code::DeadlineExceeded, Sent::No, Phase::Queue, false, false),
    );
    let (tell, told) = mpsc::channel();
    let waiting = channel(&url, &[]);
    let on_reactor = TesteeClient::new(waiting.clone());
    waiting.reactors().next().expect("one").run(move || {
        let _ = tell.send(on_reactor.echo(Blob::default()).wait());
    });
    check(
        "waiting on a reactor",
        told.recv_timeout(Duration::from_secs(10)).expect("it does not hang"),
        &at(&url, Code::FailedPrecondition, Sent::No, Phase::Queue, false, false),
    );

    // The way there.
    let gone = nobody();
    let away = client(&gone, &[]);
    check(
        "nobody there",
        away.echo(Blob::default()).wait(),
        &at(&gone, Code::Unavailable, Sent::No, Phase::Connect, true, false),
    );
    check(
        "nobody there lately",
        away.echo(Blob::default()).wait(),
        &at(&gone, Code::Unavailable, Sent::No, Phase::Connect, true, false),
    );

    // The peer is no good.
    let silent = peer(|_| Some(Vec::new()));
    check(
        "no reply in time",
        client(&silent, &[]).sleep(millis(0, "")).timeout(Duration::from_millis(300)).wait(),
        &at(&silent, Code::DeadlineExceeded, Sent::Maybe, Phase::Wait, false, true),
    );
    let leaves = peer(|_| None);
    check(
        "it left",
        client(&leaves, &[]).echo(Blob::default()).wait(),
        &at(&leaves, Code::Unavailable, Sent::Maybe, Phase::Wait, false, true),
    );
    let junk = peer(|_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    check(
        "junk",
        client(&junk, &[]).echo(Blob::default()).wait(),
        &at(&junk, Code::Unavailable, Sent::Maybe, Phase::Wait, false, true),
    );
    let garbled = peer(|r| Some(raw::reply(r.seq, &r.method, &[0xff; 11])));
    check(
        "no message",
        client(&garbled, &[]).echo(Blob::default()).wait(),
        &at(&garbled, Code::Internal, Sent::Maybe, Phase::Decode, false, true),
    );
    let other = peer(|r| Some(raw::reply(r.seq, "Other", &r.body)));
    check(
        "another method",
        client(&other, &[]).echo(Blob::default()).wait(),
        &at(&other, Code::Unavailable, Sent::Maybe, Phase::Decode, false, true),
    );
    let bomb = peer(|r| {
        let info = raw::strings(&(0..1_000).map(|n| (n.to_string(), "")).collect::<Vec<_>>());
        Some(raw::ttheader(0, r.seq, &info, &raw::framed(raw::REPLY, &r.method, r.seq, b"")))
    });
    check(
        "a header bomb",
        client(&bomb, &[]).echo(Blob::default()).wait(),
        &at(&bomb, Code::ResourceExhausted, Sent::Maybe, Phase::Decode, false, true),
    );

    // A hop further: what failed there is said of the call there, in the words of the call here.
    let hop = Hop { url: nobody(), ms: 0, via: Vec::new() };
    check(
        "beyond the next hop",
        ok.relay(hop).wait(),
        &at(&url, Code::Unavailable, Sent::Maybe, Phase::Wait, false, true),
    );
}
