//! Prints frames in words: what a capture of a connection with Kitex, or with a peer of ours, says.
//!
//! ```text
//! cargo run -p rpc-core --example decode -- 0000001e1000000100000001…      hex, as a test vector has it
//! cargo run -p rpc-core --example decode < frames.hex                      hex, white space between
//! tcpdump -i lo -w calls.pcap tcp port 7000; cargo run -p rpc-core --example decode -- calls.pcap
//! ```
//!
//! Of a pcap file it reads TCP over IPv4 on Ethernet, loopback and `any` devices, each direction by itself, without what was lost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::process::ExitCode;

use rpc_core::protocol::ttheader::layout::{FLAG_OUT_OF_ORDER, int_key};
use rpc_core::protocol::ttheader::{ControlFrame, Entry, InfoEntries, TtFrame};
use rpc_core::protocol::{Exception, Form, KitexFraming, MessageType, Payload, form_of};
use rpc_core::transport::Next;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!(
            "decode [HEX | FILE.pcap]: prints the frames of a connection in words; without a word, of hex from standard input"
        );
        return ExitCode::SUCCESS;
    }
    match decode(&words) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("decode: {error}");
            ExitCode::FAILURE
        }
    }
}

fn decode(words: &[String]) -> Result<String, String> {
    let mut text = String::new();
    match words {
        [file] if file.ends_with(".pcap") => {
            let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
            for (direction, stream) in streams(&bytes)? {
                let _ = writeln!(text, "{direction}, {} bytes", stream.len());
                frames(&stream, &mut text);
            }
        }
        [] => {
            let mut hex = String::new();
            std::io::stdin().read_to_string(&mut hex).map_err(|e| e.to_string())?;
            frames(&bytes_of(&hex)?, &mut text);
        }
        _ => frames(&bytes_of(&words.concat())?, &mut text),
    }
    Ok(text)
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if digits.is_empty() || digits.len() % 2 == 1 {
        return Err(format!(
            "{} hex digits are no bytes; give an even number of them, or a file NAME.pcap",
            digits.len()
        ));
    }
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits
        .chunks(2)
        .map(|pair| byte(pair).ok_or_else(|| format!("{:?} is not hex", String::from_utf8_lossy(pair))))
        .collect()
}

/// Each frame of a stream, then what is left of it.
fn frames(mut stream: &[u8], text: &mut String) {
    let mut framing = KitexFraming::default();
    while !stream.is_empty() {
        match framing.find(stream) {
            Ok(Next::Frame(span)) => {
                let (frame, rest) = stream.split_at(span.consumed());
                frame_in_words(frame, text);
                stream = rest;
            }
            Ok(Next::More { need }) => {
                let _ = writeln!(text, "  {} bytes of a frame of {need} or more", stream.len());
                return;
            }
            Err(error) => {
                let _ = writeln!(text, "  no frame: {error}");
                return;
            }
        }
    }
}

fn frame_in_words(frame: &[u8], text: &mut String) {
    let mut say = |line: String| _ = writeln!(text, "  {line}");
    match form_of(frame) {
        Ok(Form::TtHeader) => match TtFrame::decode(frame) {
            Ok(tt) => {
                let order = if tt.flags & FLAG_OUT_OF_ORDER == 0 { "in order" } else { "in any order" };
                say(format!(
                    "TTHeader, {} bytes, seq {}, replies {order} (flags {:#06x})",
                    frame.len(),
                    tt.seq,
                    tt.flags
                ));
                for entry in InfoEntries::new(tt.info) {
                    say(match entry {
                        Ok(Entry::Str { key, value }) => format!("  {} = {}", shown(key), shown(value)),
                        Ok(Entry::Int { key, value }) => format!("  {} = {}", key_in_words(key), shown(value)),
                        Ok(Entry::Acl(token)) => format!("  ACL token {}", shown(token)),
                        Err(error) => format!("  malformed: {error}"),
                    });
                }
                match ControlFrame::decode(&tt) {
                    Ok(Some(control)) if tt.seq == 0 => say(format!("  control frame: {control:?}")),
                    _ if tt.seq == 0 => {
                        say(format!("  Kitex's control frame, with {} bytes behind it", tt.payload.len()))
                    }
                    _ => say(payload_in_words(tt.payload)),
                }
            }
            Err(error) => say(format!("malformed: {error}")),
        },
        Ok(Form::Framed) => {
            say(format!("bare frame, {} bytes", frame.len()));
            say(payload_in_words(frame));
        }
        Err(error) => say(format!("malformed: {error}")),
    }
}

fn payload_in_words(payload: &[u8]) -> String {
    let payload = match Payload::decode(payload) {
        Ok(payload) => payload,
        Err(error) => return format!("  malformed payload: {error}"),
    };
    let head = format!(
        "  {:?} of {}, seq {}, a message of {} bytes",
        payload.kind,
        shown(payload.method),
        payload.seq,
        payload.body.len()
    );
    match payload.kind {
        MessageType::Exception => match Exception::decode(payload.body) {
            Ok(exception) => format!("{head}: {exception:?}"),
            Err(error) => format!("{head}, malformed: {error}"),
        },
        _ => format!("{head}: {}", hex(payload.body)),
    }
}

fn key_in_words(key: u16) -> String {
    let name = match key {
        int_key::TRANSPORT_TYPE => "transport type",
        int_key::FROM_SERVICE => "from service",
        int_key::TO_SERVICE => "to service",
        int_key::TO_METHOD => "to method",
        int_key::RPC_TIMEOUT => "timeout, ms",
        int_key::CONNECT_TIMEOUT => "connect timeout, ms",
        int_key::FROM_METHOD => "from method",
        int_key::MSG_TYPE => "message type",
        int_key::CAPABILITIES => "capabilities",
        int_key::CONTROL => "control",
        int_key::CONTROL_NUMBER => "number",
        _ => return format!("key {key}"),
    };
    format!("{name} ({key})")
}

/// Bytes as text, if they are; controls are escaped.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => hex(bytes),
    }
}

/// The first bytes.
fn hex(bytes: &[u8]) -> String {
    const MOST: usize = 32;
    let mut text: String = bytes.iter().take(MOST).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > MOST {
        text.push('…');
    }
    text
}

/// What each side of each connection sent, in the order of sequence numbers. Source of the formats: the pcap file format of libpcap,
/// RFC 791 and RFC 9293.
fn streams(pcap: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let malformed = || "this is no pcap file with microseconds or nanoseconds; write one with tcpdump -w".to_owned();
    let head = pcap.get(..24).ok_or_else(malformed)?;
    let little = match head[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        _ => return Err(malformed()),
    };
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    let link_head = match number(&head[20..24]) {
        0 => 4,    // BSD loopback
        1 => 14,   // Ethernet
        113 => 16, // Linux "any"
        276 => 20, // Linux "any", version 2
        101 => 0,  // bare IP
        other => return Err(format!("captures of link type {other} are not known here; capture on lo or eth0")),
    };
    let mut segments: BTreeMap<String, BTreeMap<u32, &[u8]>> = BTreeMap::new();
    let mut rest = &pcap[24..];
    while let Some((record, behind)) = rest.split_at_checked(16) {
        let Some((packet, behind)) = behind.split_at_checked(number(&record[8..12]) as usize) else { break };
        rest = behind;
        if let Some((direction, seq, bytes)) =
            packet.get(link_head..).and_then(segment).filter(|(.., bytes)| !bytes.is_empty())
        {
            segments.entry(direction).or_default().entry(seq).or_insert(bytes);
        }
    }
    Ok(segments.into_iter().map(|(direction, parts)| (direction, joined(&parts))).collect())
}

/// The direction, sequence number and bytes of a TCP segment over IPv4.
fn segment(packet: &[u8]) -> Option<(String, u32, &[u8])> {
    let first = *packet.first()?;
    let ip = packet.get(..usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?])))?;
    let tcp = ip.get(usize::from(first & 0x0f) * 4..)?;
    let [.., protocol, _, _, a, b, c, d, e, f, g, h] = ip.first_chunk::<20>()?;
    if first >> 4 != 4 || *protocol != 6 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let seq = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
    let bytes = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
    Some((format!("{a}.{b}.{c}.{d}:{} → {e}.{f}.{g}.{h}:{}", port(0)?, port(2)?), seq, bytes))
}

/// Parts of a stream by sequence number; a part that was sent twice counts once, and one behind a gap not at all.
fn joined(parts: &BTreeMap<u32, &[u8]>) -> Vec<u8> {
    let mut stream = Vec::new();
    let Some(first) = parts.keys().next() else { return stream };
    for (seq, part) in parts {
        let at = seq.wrapping_sub(*first) as usize;
        match stream.len().checked_sub(at) {
            Some(known) if known < part.len() => stream.extend_from_slice(&part[known..]),
            Some(_) => {}
            None => break,
        }
    }
    stream
}
