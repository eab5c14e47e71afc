//! What Kitex's clients have asked, byte by byte as `cargo run -p interop -- --record` took it down, is asked again: the server answers as it did.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use testee::{Testee, scratch};

const CAPTURES: &str = include_str!("../../rpc-core/tests/wire/kitex_captures.txt");

/// Cases whose answers say what was so at that time: addresses, counters, that time was over, who was first.
const OF_THE_MOMENT: [&str; 5] = ["chain", "services", "timeouts", "stopped", "limited"];

/// The name of the method that takes messages without a reply, as it stands in a request.
const ONCE: &str = "4f6e6365";

/// Cases whose answers have maps, whose entries come in any order.
const WITH_MAPS: [&str; 2] = ["metainfo", "business"];

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// What answers on a connection of its own, with the length first; nothing if nothing does.
fn ask(server: &Testee, request: &[u8], answered: bool) -> Vec<u8> {
    let mut socket = TcpStream::connect(server.addr()).expect("it listens");
    let patience = if answered { 20_000 } else { 50 };
    socket.set_read_timeout(Some(Duration::from_millis(patience))).expect("a timeout");
    socket.write_all(request).expect("it reads");
    let mut reply = vec![0; 4];
    match socket.read_exact(&mut reply) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Vec::new(),
        read => read.expect("a reply"),
    }
    let len = u32::from_be_bytes([reply[0], reply[1], reply[2], reply[3]]) as usize;
    reply.resize(4 + len, 0);
    socket.read_exact(&mut reply[4..]).expect("all of it");
    reply
}

#[test]
fn kitex_is_answered_as_it_was() {
    let log = scratch("exec-log");
    let log_args = ["--exec-log", log.to_str().expect("a path of text")];
    let start = |args: &[&str]| Testee::start(env!("CARGO_BIN_EXE_testee"), [&log_args, args].concat());
    let (plain, checks) = (start(&[]), start(&["--checksum"]));
    let mut lines = CAPTURES.lines().filter(|line| !line.starts_with(' ')).peekable();
    let (mut case, mut asked) = ("", 0);
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("== ") {
            case = name;
        }
        let Some(request) = line.strip_prefix("> ") else { continue };
        let played = case.split(" | ").nth(1).unwrap_or_default();
        if !case.contains("Kitex → ours") || OF_THE_MOMENT.contains(&played) {
            continue;
        }
        let due = lines.peek().and_then(|line| line.strip_prefix("< ")).map(bytes).unwrap_or_default();
        if due.is_empty() && !request.contains(ONCE) {
            continue; // the connection ended, or the time of the call
        }
        let server = if case.contains("--checksum") { &checks } else { &plain };
        let reply = ask(server, &bytes(request), !due.is_empty());
        let shown = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if WITH_MAPS.contains(&played) {
                bytes.sort();
            }
            bytes.escape_ascii().to_string()
        };
        assert_eq!(shown(&reply), shown(&due), "{case}\n{request}");
        asked += 1;
    }
    assert!(asked > 50, "{asked} requests");
    let begun = std::fs::read_to_string(&log).expect("its log").lines().filter(|line| line.contains("oneway")).count();
    std::fs::remove_file(&log).expect("its log");
    assert_eq!(begun, 4, "of those without a reply");
}
