//! I13: work grows with the bytes, not with their square. Each family of bad input at one size and at twice that size.

use fuzz::{TARGETS, meter};

/// Bytes of the smaller input of a pair.
const SIZE: usize = 16 * 1024;
/// Twice the bytes may take this many times the processor time.
const FACTOR: f64 = 2.5;
/// A pair is measured again, up to this often, before it is called a finding: each time the fastest of several runs counts.
const ROUNDS: usize = 20;

/// Name, target, and how `n` bytes of the family are made.
#[allow(clippy::type_complexity, reason = "rows of a table")]
#[rustfmt::skip]
const FAMILIES: &[(&str, &str, fn(usize) -> Vec<u8>)] = &[
    ("empty frames",           "length_field", |n| repeat(&[0; 24], b"\0", n)),
    ("empty lines",            "line",         |n| repeat(b"\0\xff", b"\n", n)),
    ("empty delimited frames", "delimiter",    |n| repeat(b"ab.\x01\0\xff", b"ab", n)),
    ("almost delimiters",      "delimiter",    |n| repeat(b"aab\x02\0\xff", b"aac", n)),
    ("padding only",           "metadata",     |n| repeat(b"", b"\0", n)),
    ("empty string blocks",    "metadata",     |n| repeat(b"", b"\x01\0\0", n)),
    ("empty tokens",           "metadata",     |n| repeat(b"", b"\x11\0\0", n)),
    ("one key, many times",    "metadata",     |n| repeat(b"", b"\x01\0\x01\0\x0eRPC_TRANSIT_ab\0\x01v", n)),
    ("escapes",                "extras",       |n| repeat(b"{\"", b"\\u00e9", n)),
    ("one JSON key, repeated", "extras",       |n| repeat(b"{", b"\"k\":\"v\",", n)),
    ("empty children",         "protobuf",     |n| repeat(b"", b"\x0a\0", n)),
    ("unknown fields",         "protobuf",     |n| repeat(b"", b"\x7a\x01x", n)),
    ("one map key, repeated",  "protobuf",     |n| repeat(b"", b"\x22\x05\x0a\x01k\x10\x01", n)),
    ("smallest messages",      "detect",       |n| repeat(b"", b"\0\0\0\x0d\x90\x01\0\x01\0\0\0\x01M\0\0\0\x01", n)),
    ("a long host",            "url",          |n| repeat(b"tcp://", b"a", n)),
    ("colons",                 "url",          |n| repeat(b"tcp://[", b":", n)),
    ("a long number",          "limits",       |n| repeat(b"max_frame_size=", b"0", n)),
    ("unknown limits",         "limits",       |n| repeat(b"", b"x", n)),
    ("a long comment",         "idl",          |n| repeat(b"syntax = \"proto3\"; //", b"a", n)),
    ("empty messages",         "idl",          |n| numbered(b"syntax = \"proto3\";", "message M# {} ", n)),
    ("fields",                 "idl",          |n| numbered(b"syntax = \"proto3\"; message M { ", "bool a# = #; ", n)),
    ("small pieces",           "link_buffer",  |n| repeat(b"", &[0, 0, 0, 0, 7], n)),
    ("calls",                  "server_conn",  |n| repeat(b"", &calls(), n)),
    ("announced bytes",        "server_conn",  |n| repeat(b"\0\x01\0\0\x10\0\0\0\0\0\0\x01\0\x01\0\0\0\0", b"z", n)),
    ("replies to nobody",      "client_conn",  |n| repeat(b"", &replies(), n)),
    ("a hello in small records", "tls_server", |n| repeat(b"\x04\x16\x03\x01\0\x04\x01\0\xff\xff", b"\x16\x03\x01\0\x01\0", n)),
    ("a reply in small records", "tls_client", |n| repeat(b"\x04\x16\x03\x03\0\x04\x02\0\xff\xff", b"\x16\x03\x03\0\x01\0", n)),
    ("an exception's fields",  "payload",      |n| repeat(b"", b"\x12\x01x", n)),
];

fn repeat(start: &[u8], unit: &[u8], n: usize) -> Vec<u8> {
    start.iter().chain(unit.iter().cycle()).copied().take(n).collect()
}

/// So many bytes of lines, each with a number of its own.
fn numbered(start: &[u8], line: &str, n: usize) -> Vec<u8> {
    let lines = (1..).flat_map(|number: u32| line.replace('#', &number.to_string()).into_bytes());
    start.iter().copied().chain(lines).take(n).collect()
}

/// Calls of a method that nobody has, of a multiplexing client.
fn calls() -> Vec<u8> {
    [&b"\0\0\0\x1f\x10\0\0\x01\0\0\0\x07\0\x01\0\0\0\0"[..], &message(1, b"M")].concat()
}

/// Replies to an id that no call has.
fn replies() -> Vec<u8> {
    [&b"\0\0\0\x1f\x10\0\0\x01\0\0\0\x07\0\x01\0\0\0\0"[..], &message(2, b"M")].concat()
}

fn message(kind: u8, method: &[u8]) -> Vec<u8> {
    let length = 12 + method.len() as u8;
    [&[0, 0, 0, length, 0x90, 1, 0, kind, 0, 0, 0, method.len() as u8], method, b"\0\0\0\x07"].concat()
}

#[test]
fn twice_the_bytes_take_about_twice_the_time() {
    for (name, target, family) in FAMILIES {
        let (_, target) = TARGETS.iter().find(|(known, _)| known == target).expect("a target");
        let (one, two) = (family(SIZE), family(2 * SIZE));
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (short, long) = (meter::best_time(3, || target(&one)), meter::best_time(3, || target(&two)));
            least = least.min(long as f64 / short as f64);
            if least <= FACTOR {
                break;
            }
        }
        assert!(least <= FACTOR, "{name}: twice the bytes take {least:.1} times the time");
        println!("{name}: twice the bytes take {least:.2} times the time");
    }
}
