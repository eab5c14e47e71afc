//! What Kitex and ours have said to each other in the cases of `interop`, as `cargo run -p interop -- --record` wrote it: each frame in words,
//! and what a client of ours makes of each reply of Kitex. `UPDATE_GOLDEN=1` writes the words anew.

mod support;
#[path = "../examples/decode/pcap.rs"]
mod pcap;
#[path = "../examples/decode/words.rs"]
mod words;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::codegen::MethodDescriptor;
use rpc_core::protocol::Payload;
use rpc_core::protocol::ttheader::TtFrame;
use rpc_core::{Call, Channel};
use support::{Blob, peer, read_raw};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/kitex_captures.txt");

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Replies, each of which answers the next call whatever it asked for.
struct Answers {
    left: Arc<Mutex<VecDeque<Vec<u8>>>>,
    channel: Channel,
}

impl Answers {
    fn new() -> Answers {
        let left = Arc::<Mutex<VecDeque<Vec<u8>>>>::default();
        let answers = Arc::clone(&left);
        let url = peer(move |_, mut socket| {
            while let Some(request) = read_raw(&mut socket) {
                let reply = answers.lock().unwrap().pop_front().expect("a reply for each call");
                socket.write_all(&with_seq(reply, request.seq)).expect("it reads");
            }
        });
        let channel = Channel::builder(url).connections(1).timeout(Duration::from_secs(20)).build().expect("a channel");
        Answers { left, channel }
    }

    /// What a caller gets for this reply.
    fn outcome(&self, reply: &[u8]) -> String {
        let frame = TtFrame::decode(reply).expect("a TTHeader");
        let name = String::from_utf8(Payload::decode(frame.payload).expect("a payload").method.to_vec()).unwrap();
        let name = if name.is_empty() { "Echo".to_owned() } else { name };
        let method = Box::leak(Box::new(MethodDescriptor::new("testee", "Testee", name.leak())));
        self.left.lock().unwrap().push_back(reply.to_vec());
        let call: Call<'_, (), Blob, ()> = self.channel.unary(method, Blob::default());
        match call.response().wait() {
            Ok(response) => response.metadata.iter().fold("a reply".to_owned(), |mut text, (key, value)| {
                let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
                write!(text, ", with {key:?} = {value:?}").unwrap();
                text
            }),
            Err(error) => match error.business_status() {
                Some(status) => {
                    let mut extra: Vec<_> = status.extra.iter().collect();
                    extra.sort(); // Go's maps have no order
                    format!("status {} of the business, {:?}, {extra:?}", status.status, status.message)
                }
                None => format!("{:?}, {:?}", error.code(), error.sent()),
            },
        }
    }
}

/// The same message for another call: its number stands in the header, and behind length, version and name of the payload.
fn with_seq(mut frame: Vec<u8>, seq: i32) -> Vec<u8> {
    let seq = seq.to_be_bytes();
    frame[8..12].copy_from_slice(&seq);
    let payload = frame.len() - TtFrame::decode(&frame).expect("a TTHeader").payload.len();
    let name = u32::from_be_bytes(*frame[payload + 8..].first_chunk().unwrap()) as usize;
    frame[payload + 12 + name..][..4].copy_from_slice(&seq);
    frame
}

#[test]
fn captures_are_what_they_say() {
    let golden = fs::read_to_string(FILE).expect("the captures");
    let (answers, mut calls_kitex, mut text, mut cases, mut frames) = (Answers::new(), false, String::new(), 0, 0);
    for line in golden.lines() {
        if let Some(case) = line.strip_prefix("== ") {
            calls_kitex = case.contains("ours → Kitex");
            cases += 1;
            writeln!(text, "{line}").unwrap();
        } else if let Some(hex) = line.strip_prefix("> ").or(line.strip_prefix("< ")) {
            let frame = bytes(hex);
            writeln!(text, "{line}").unwrap();
            words::frames(&frame, &mut text);
            let replies = line.starts_with('<') && TtFrame::decode(&frame).is_ok_and(|tt| tt.seq != 0);
            if calls_kitex && replies {
                writeln!(text, "  → to a caller: {}", answers.outcome(&frame)).unwrap();
            }
            frames += 1;
        }
    }
    assert!(cases > 100 && frames > 350, "{cases} cases, {frames} frames");
    assert!(!text.contains("malformed") && !text.contains("no frame"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(FILE, &text).expect("the captures can be written");
    }
    for (number, (is, due)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, due, "line {}; UPDATE_GOLDEN=1 writes it anew", number + 1);
    }
    assert_eq!(text.len(), golden.len());
}

/// An option that had no effect would make a case claim more than it shows.
#[test]
fn options_of_kitex_are_seen_on_the_wire() {
    let golden = fs::read_to_string(FILE).expect("the captures");
    let (mut case, mut seen) = ("", [0; 4]);
    for line in golden.lines() {
        case = line.strip_prefix("== ").unwrap_or(case);
        let Some(request) = line.strip_prefix("> ").filter(|_| case.contains("Kitex → ours")) else { continue };
        let (request, options) = (bytes(request), case.rsplit(" | ").next().unwrap());
        let tt = TtFrame::decode(&request).expect("a TTHeader");
        let has = |word: &str| options.contains(word);
        let names = |key: &str| tt.info.windows(key.len()).any(|at| at == key.as_bytes());
        let pairs = [
            (has("mux"), tt.flags == 1),
            (has("crc"), names("crc32c")),
            (has("handlers"), names("isn")),
            (!has("handlers") && !has("crc") && !case.contains("metainfo"), tt.info.iter().all(|byte| *byte == 0)),
        ];
        for (count, (option, effect)) in seen.iter_mut().zip(pairs) {
            assert_eq!(option, effect, "{case}: {}", request.escape_ascii());
            *count += usize::from(option);
        }
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}

/// A capture of Ethernet frames with these segments: sequence number and bytes of what port 1 sends to port 2.
fn capture(segments: &[(u32, &[u8])]) -> Vec<u8> {
    let mut file = [&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..], &[0; 8], &[0xff, 0xff, 0, 0, 1, 0, 0, 0]].concat();
    for (seq, bytes) in segments {
        let len = (40 + bytes.len()) as u16;
        let ip = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]].concat();
        let tcp = [&[0, 1, 0, 2][..], &seq.to_be_bytes(), &[0, 0, 0, 0, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]].concat();
        let packet = [&[0; 14][..], &ip, &tcp, bytes].concat();
        file.extend([&[0; 8][..], &(packet.len() as u32).to_le_bytes(), &(packet.len() as u32).to_le_bytes()].concat());
        file.extend(packet);
    }
    file
}

#[test]
#[rustfmt::skip]
fn streams_are_put_together_from_segments() {
    let check = |segments: &[(u32, &[u8])], due: &str| {
        let streams = pcap::streams(&capture(segments)).expect("a capture");
        assert_eq!(streams["127.0.0.1:1 → 127.0.0.1:2"], due.as_bytes(), "{segments:?}");
    };
    check(&[(10, b"ab"), (12, b"cd")],                          "abcd");
    check(&[(9, b""), (10, b"ab"), (12, b"cd")],                "abcd"); // the SYN
    check(&[(12, b"cd"), (10, b"ab"), (14, b"ef")],             "abcdef"); // in any order
    check(&[(10, b"ab"), (10, b"abcd"), (12, b"cd")],           "abcd"); // sent anew, and more
    check(&[(u32::MAX - 1, b"ab"), (0, b"cd"), (2, b"ef")],     "abcdef"); // numbers begin anew
    check(&[(10, b"ab"), (13, b"de")],                          "ab"); // a byte is missing
    assert!(pcap::streams(b"no capture").is_err());
}
