//! Against the independent oracle of the wire protocol, in both directions: `rpc-core/tests/wire/wire_examples.py`.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rpc_core::{Cause, Channel, Code, Context, Error, MethodDescriptor, Result, Sent, Server, ServerHandle};
use testee::idl::demo::{EchoRequest, EchoResponse, EchoService, EchoServiceClient, EchoServiceServer};
use testee::{output_of, raw};

const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rpc-core/tests/wire/wire_examples.py");
const VECTORS: &str = include_str!("../../rpc-core/tests/wire/wire_vectors.tsv");

/// Echo; a text of `biz` or `fail` is answered with an error, and metadata comes back.
struct Echo;

impl EchoService for Echo {
    async fn echo(&self, cx: &Context, req: EchoRequest) -> Result<EchoResponse> {
        match req.message.as_str() {
            "biz" => return Err(Error::business(404, "not found").with_extra("id", "42")),
            "fail" => return Err(Error::new(Code::Internal, "disk full")),
            _ => {}
        }
        for (key, value) in cx.transient().iter().chain(cx.persistent().iter()) {
            cx.set_backward(key.to_vec(), value.to_vec());
        }
        Ok(EchoResponse { message: req.message })
    }
}

fn serve() -> ServerHandle {
    Server::builder().reactors(1).add(EchoServiceServer::new(Echo)).bind("tcp://127.0.0.1:0").expect("a free port")
}

fn dial(server: &ServerHandle) -> TcpStream {
    let url = server.url().to_string();
    let socket = TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout can be set");
    socket
}

fn vector(name: &str) -> Vec<u8> {
    let line = VECTORS.lines().find(|line| line.split('\t').next() == Some(name));
    let hex = line.and_then(|line| line.split('\t').nth(2)).unwrap_or_else(|| panic!("no vector {name}"));
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

/// The oracle as a server.
struct Oracle(Child, String);

impl Oracle {
    fn start() -> Oracle {
        let mut command = Command::new("python3");
        command.args([ORACLE, "serve", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("it says where it listens");
        let addr = line.trim().strip_prefix("listening on ").expect("its first line");
        let url = format!("tcp://{addr}");
        Oracle(child, url)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Methods that the oracle's server has beyond the IDL.
static BIZ_FAIL: MethodDescriptor = MethodDescriptor::new("demo", "EchoService", "BizFail");
static FAIL: MethodDescriptor = MethodDescriptor::new("demo", "EchoService", "Fail");
static SLOW: MethodDescriptor = MethodDescriptor::new("demo", "EchoService", "Slow");
static NOPE: MethodDescriptor = MethodDescriptor::new("demo", "EchoService", "Nope");
static ELSEWHERE: MethodDescriptor = MethodDescriptor::new("demo", "OtherService", "Nope");

fn hello() -> EchoRequest {
    EchoRequest { message: "hello".into() }
}

#[test]
fn our_client_calls_the_oracle() {
    let oracle = Oracle::start();
    for ping_pong in [false, true] {
        let builder = Channel::builder(&oracle.1).connections(2).from_service("caller.svc").to_service("demo.echo");
        let channel = if ping_pong { builder.ping_pong() } else { builder }.build().expect("a channel");
        let call = |method| channel.unary::<EchoRequest, EchoResponse>(method, hello()).wait();
        let client = EchoServiceClient::new(channel.clone());
        for n in 0..50 {
            let text = format!("{n} {}", "é".repeat(n * 100));
            assert_eq!(client.echo(EchoRequest { message: text.clone() }).wait().expect("an echo").message, text);
        }

        // Transient pairs come back as backward ones; persistent ones only travel.
        let call_with = client.echo(hello()).metadata("HOP", "1").persistent("TENANT", "acme").response();
        let reply = call_with.wait().expect("an echo");
        assert_eq!((reply.metadata.text("HOP"), reply.metadata.text("TENANT")), (Some("1"), None));

        let error = call(&BIZ_FAIL).expect_err("a business status");
        let status = error.business_status().expect("a business status");
        assert_eq!((status.status, status.message.as_str()), (404, "not found"));
        assert_eq!(status.extra.get("id").map(String::as_str), Some("42"));

        let error = call(&FAIL).expect_err("an exception");
        assert_eq!(error.code(), Code::Internal);
        assert!(
            matches!(error.cause(), Cause::Remote { type_id: 6, message } if message.contains("disk full")),
            "{error}"
        );

        // These two close the connection afterwards; the next call goes on another.
        for (method, type_id) in [(&NOPE, 1), (&ELSEWHERE, 20)] {
            let error = call(method).expect_err("unknown");
            assert_eq!(error.code(), Code::Unimplemented, "{error}");
            assert!(matches!(error.cause(), Cause::Remote { type_id: id, .. } if *id == type_id), "{error}");
            assert_eq!(client.echo(hello()).wait().expect("another connection").message, "hello");
        }

        let late = channel.unary::<EchoRequest, EchoResponse>(&SLOW, hello()).timeout(Duration::from_millis(20)).wait();
        let error = late.expect_err("its 200 ms are more than 20");
        assert_eq!((error.code(), error.sent()), (Code::DeadlineExceeded, Sent::Maybe));
        assert_eq!(client.echo(hello()).wait().expect("the late reply hurts nobody").message, "hello");
    }
}

#[test]
fn the_oracle_calls_our_server() {
    let server = serve();
    let url = server.url().to_string();
    let (host, port) = url.strip_prefix("tcp://").and_then(|addr| addr.rsplit_once(':')).expect("tcp://host:port");
    let check = |method: &str, text: &str, due: &[&str]| {
        let output = output_of("python3", [ORACLE, "call", host, port, method, text], Duration::from_secs(10));
        let said = String::from_utf8_lossy(&output.stdout);
        for part in due {
            assert!(
                said.contains(part),
                "{method} {text:?}: no {part:?} in {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    };
    check(
        "Echo",
        "hello",
        &[
            "PROTOCOL=0x00",
            "FLAGS=0000",
            "SEQ=1",
            "int  22(MsgType) = '2'",
            "type=2 method=Echo seq=1 body=0a0568656c6c6f",
        ],
    );
    check("Echo", "", &["type=2 method=Echo seq=1 body=(empty)"]);
    check("Echo", "biz", &["str  biz-status = '404'", "str  biz-message = 'not found'", "biz-extra", "body=(empty)"]);
    check("Echo", "fail", &["int  22(MsgType) = '3'", "type=3 method=Echo"]);
    check("Nope", "x", &["type=3 method=Nope", "body=08011229"]); // type id 1, then 41 bytes of text
}

/// Every request of the worked examples, raw: a legal answer each, in the framing of the request.
#[test]
fn every_example_request_gets_its_answer() {
    let server = serve();
    #[rustfmt::skip]
    let table: &[(&str, Option<&str>)] = &[
        // request                     the whole reply, or none for oneway
        ("E1-call-minimal",            Some("E3-reply")),
        ("E2-call-full",               Some("E3-reply")),
        ("E11-call-proto4",            Some("E3-reply")),
        ("E8-framed-call",             Some("E8b-framed-reply")),
        ("E6-oneway",                  None),
        ("E5-call-metainfo-timeout",   Some("")),
        ("E9-mux-call",                Some("")),
        ("E10-call-crc32c",            Some("")),
        ("E12-empty-message",          Some("")),
    ];
    for (name, due) in table {
        let mut socket = dial(&server);
        let request = vector(name);
        socket.write_all(&request).expect("sent");
        if let Some(due) = due {
            let bytes = raw::read_bytes(&mut socket).expect(name).expect("a reply");
            let (reply, sent) = (raw::parse(&bytes).expect("a frame"), raw::parse(&request).expect("a frame"));
            assert_eq!(
                (reply.kind, reply.seq, &reply.method, &reply.body),
                (raw::REPLY, sent.seq, &sent.method, &sent.body),
                "{name}"
            );
            assert_eq!((reply.flags, reply.ttheader), (0, sent.ttheader), "{name}");
            if !due.is_empty() {
                assert_eq!(bytes, vector(due), "{name}");
            }
            if *name == "E5-call-metainfo-timeout" {
                assert_eq!(
                    (reply.get("HOP"), reply.get("TENANT")),
                    (Some("1"), Some("acme")),
                    "backward keys have no prefix"
                );
            }
        }
        // Nothing else comes, and the connection stays until we leave; after a oneway call, too.
        socket.write_all(&vector("E8-framed-call")).expect("sent");
        assert_eq!(raw::read_bytes(&mut socket).expect(name).expect("a reply"), vector("E8b-framed-reply"), "{name}");
        socket.shutdown(Shutdown::Write).expect("still open");
        assert_eq!(raw::read_bytes(&mut socket).expect(name), None, "{name}");
    }
}

/// Every frame that must be refused: closed without an answer; and a truncated one is waited for.
#[test]
fn every_bad_example_is_refused() {
    let server = serve();
    let mut seen = 0;
    for line in VECTORS.lines() {
        let name = line.split('\t').next().unwrap_or_default();
        if !name.starts_with('N') {
            continue;
        }
        let mut socket = dial(&server);
        socket.write_all(&vector(name)).expect("sent");
        if name == "N11-truncated" {
            socket.shutdown(Shutdown::Write).expect("it is waited for");
        }
        // Orderly or by a reset, but at once and without a byte.
        let (heard, closed) = raw::say(&mut socket, b"");
        assert_eq!(heard, b"", "{name}");
        assert!(!closed.is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "{name}: still open");
        seen += 1;
    }
    assert_eq!(seen, 18);
    let mut socket = dial(&server);
    socket.write_all(&vector("E1-call-minimal")).expect("sent");
    assert!(raw::read_frame(&mut socket).expect("it still serves").is_some());
}

/// One connection may speak both framings, frame by frame, and pipelined requests are answered in order.
#[test]
fn framings_mix_on_one_connection() {
    let server = serve();
    let mut socket = dial(&server);
    let (bare, full) = (vector("E8-framed-call"), vector("E2-call-full"));
    socket.write_all(&[&bare[..], &full, &bare, &full].concat()).expect("sent");
    for due in ["E8b-framed-reply", "E3-reply", "E8b-framed-reply", "E3-reply"] {
        assert_eq!(raw::read_bytes(&mut socket).expect("a frame").expect("a reply"), vector(due));
    }
}

#[test]
fn unknown_names_are_told_apart() {
    let server = serve();
    let mut socket = dial(&server);
    #[rustfmt::skip]
    let table = [
        //   isn                    method   type id
        (Some("EchoService"),       "Nope",  1),
        (Some("OtherService"),      "Nope",  20),
        (Some("OtherService"),      "Echo",  20),
        (None,                      "Nope",  20),
    ];
    for (seq, (isn, method, type_id)) in (1..).zip(table) {
        let info = isn.map(|isn| raw::strings(&[("isn", isn)])).unwrap_or_default();
        socket.write_all(&raw::ttheader(0, seq, &info, &raw::framed(raw::CALL, method, seq, b""))).expect("sent");
        let reply = raw::read_frame(&mut socket).expect("a frame").expect("the connection stays");
        assert_eq!(reply.exception().map(|(id, _)| id), Some(type_id), "{isn:?} {method}");
        assert_eq!((reply.seq, reply.get("#22")), (seq, Some("3")));
    }
    // No service, and a method that only one has: that one.
    socket.write_all(&raw::ttheader(0, 9, &[], &raw::framed(raw::CALL, "Echo", 9, b""))).expect("sent");
    assert_eq!(raw::read_frame(&mut socket).expect("a frame").expect("a reply").kind, raw::REPLY);
}
