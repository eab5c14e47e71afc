//! Frames in words.

use std::fmt::Write as _;

use rpc_core::protocol::ttheader::layout::{FLAG_OUT_OF_ORDER, int_key};
use rpc_core::protocol::ttheader::{ControlFrame, Entry, InfoEntries, TtFrame};
use rpc_core::protocol::{Exception, Form, KitexFraming, MessageType, Payload, form_of};
use rpc_core::transport::Next;

/// Each frame of a stream, then what is left of it.
pub(crate) fn frames(mut stream: &[u8], text: &mut String) {
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
                let order = if tt.flags & FLAG_OUT_OF_ORDER == 0 { "" } else { ": replies in any order" };
                say(format!("TTHeader, {} bytes, seq {}, flags {:#06x}{order}", frame.len(), tt.seq, tt.flags));
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
