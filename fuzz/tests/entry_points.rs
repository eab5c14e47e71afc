//! Every function that takes bytes or text from outside has a target, and its corpus reaches it. The list of functions is read from the
//! code, so a new one is noticed; what reaches it is written here, and shown by a replay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::reach::{self, Reached};
use fuzz::{TARGETS, Target};

/// Where every function counts that others can call with bytes or text, whatever it makes of them.
const WIRE: &[&str] = &["rpc-core/src/protocol/", "rpc-transport/src/framing/"];

/// Everywhere functions of these names count, if they take bytes, text or a frame.
#[rustfmt::skip]
const PARSERS: &[&str] = &["decode", "find", "from_str", "from_text", "from_wire_name", "generate", "next", "on_frame", "parse", "read",
                           "receive", "set", "takes"];

/// What is bytes, text or a frame.
const INPUT: &[&str] = &["[u8", "&str", "Bytes", "FrameBuf", "LinkBuffer", "Frame<", "impl Buf", "impl Files"];

const CRATES: &[&str] = &["rpc-transport/src", "rpc-core/src", "rpc-codegen/src"];

/// File, function, and the targets that reach it.
#[rustfmt::skip]
const REACHED: &[(&str, &str, &[&str])] = &[
    ("rpc-codegen/src/lib.rs",                   "generate",       &["idl"]),
    ("rpc-core/src/client/handler.rs",           "on_frame",       &["client_conn"]),
    ("rpc-core/src/server/handler.rs",           "on_frame",       &["server_conn"]),
    ("rpc-core/src/limits.rs",                   "from_text",      &["limits"]),
    ("rpc-core/src/limits.rs",                   "set",            &["limits"]),
    ("rpc-core/src/protocol/checksum.rs",        "check",          &["ttheader"]),
    ("rpc-core/src/protocol/detect.rs",          "find",           &["detect", "ttheader_write"]),
    ("rpc-core/src/protocol/detect.rs",          "next",           &["detect"]),
    ("rpc-core/src/protocol/exception.rs",       "decode",         &["payload"]),
    ("rpc-core/src/protocol/header.rs",          "form_of",        &["ttheader", "detect"]),
    ("rpc-core/src/protocol/payload.rs",         "decode",         &["payload", "ttheader_write"]),
    ("rpc-core/src/protocol/ttheader/control.rs", "decode",        &["control", "ttheader"]),
    ("rpc-core/src/protocol/ttheader/control.rs", "is",            &["ttheader"]),
    ("rpc-core/src/protocol/ttheader/decode.rs", "decode",         &["ttheader"]),
    ("rpc-core/src/protocol/ttheader/encode.rs", "new",            &["ttheader_write"]),
    ("rpc-core/src/protocol/ttheader/info.rs",   "parse",          &["metadata"]),
    ("rpc-core/src/protocol/ttheader/info.rs",   "update",         &["metadata"]),
    ("rpc-core/src/protocol/ttheader/json.rs",   "read",           &["extras"]),
    ("rpc-core/src/protocol/ttheader/known.rs",  "learn",          &["ttheader"]),
    ("rpc-core/src/protocol/ttheader/known.rs",  "matches",        &["ttheader"]),
    ("rpc-core/src/protocol/ttheader/pairs.rs",  "new",            &["ttheader"]),
    ("rpc-core/src/protocol/ttheader/pairs.rs",  "push",           &["ttheader_write", "extras"]),
    ("rpc-core/src/protocol/ttheader/pairs.rs",  "push_backward",  &["ttheader_write"]),
    ("rpc-core/src/status.rs",                   "from_wire_name", &["metadata"]),
    ("rpc-transport/src/framing/delimiter.rs",   "next",           &["delimiter", "line"]),
    ("rpc-transport/src/framing/fixed_length.rs", "next",          &["fixed_length"]),
    ("rpc-transport/src/framing/length_field.rs", "next",          &["length_field"]),
    ("rpc-transport/src/tls/session.rs",         "receive",        &["tls_client", "tls_server"]),
    ("rpc-transport/src/upgrade/message.rs",     "decode",         &["hand_over"]),
    ("rpc-transport/src/url.rs",                 "from_str",       &["url"]),
];

/// What can be made of control frames, and of TLS, and by which side: a corpus that does not bring it about says nothing about it.
#[rustfmt::skip]
const EVENTS: &[(&str, &str, &[&str])] = &[
    ("server_conn", "server", &["announced", "confirmed", "not agreed", "ping", "says pong", "too many pings", "pong", "pong unasked",
                                "cancel", "cancel of no call", "more cancels than calls", "cancel budget", "goaway",
                                "refused after goaway", "left", "checksum right", "checksum wrong"]),
    ("client_conn", "client", &["agreed", "not agreed", "ping", "says pong", "too many pings", "pong unasked", "cancel", "says cancel",
                                "goaway", "goaway again", "goodbye", "no goodbye", "closing", "a reply to no call",
                                "checksum right", "checksum wrong"]),
    ("tls_server",  "tls",    &["the end", "all arrived", "forged"]),
    ("tls_client",  "tls",    &["the end", "all arrived", "forged"]),
];

/// What these refuse no input of this target has, and why.
#[rustfmt::skip]
const REFUSES_NOTHING: &[(&str, &str, &str, &str)] = &[
    ("extras",         "rpc-core/src/protocol/ttheader/pairs.rs", "push",   "a text over 64 KiB"),
    ("ttheader_write", "rpc-core/src/protocol/ttheader/pairs.rs", "push",   "a text over 64 KiB"),
    ("ttheader_write", "rpc-core/src/protocol/detect.rs",         "find",   "it reads what was written: to refuse it is a finding"),
    ("ttheader_write", "rpc-core/src/protocol/payload.rs",        "decode", "as above"),
    ("fixed_length",   "rpc-transport/src/framing/fixed_length.rs", "next", "any bytes are a frame"),
    ("ttheader",       "rpc-core/src/protocol/ttheader/known.rs", "learn",  "what it learns has been taken apart"),
];

/// What refuses nothing, and which of the above hands its input on to it: what reaches that one reaches both.
#[rustfmt::skip]
const WITHIN: &[(&str, &str, &str, &str)] = &[
    ("rpc-core/src/protocol/checksum.rs",        "of",              "rpc-core/src/protocol/checksum.rs",         "check"),
    ("rpc-core/src/protocol/error.rs",           "into_frame_error", "rpc-core/src/protocol/detect.rs",          "next"),
    ("rpc-core/src/protocol/error.rs",           "of",              "rpc-core/src/protocol/ttheader/decode.rs",  "decode"),
    ("rpc-core/src/protocol/ttheader/layout.rs", "is_reserved",     "rpc-core/src/protocol/ttheader/pairs.rs",   "push_backward"),
    ("rpc-transport/src/framing/mod.rs",         "invalid",         "rpc-transport/src/framing/length_field.rs", "next"),
];

/// Functions that take bytes or text, and why no target is for them.
#[rustfmt::skip]
const OURS: &[(&str, &str, &str)] = &[
    ("rpc-core/src/client/builder.rs",        "set",    "passes on to Limits::set"),
    ("rpc-core/src/server/address.rs",        "parse",  "passes on to Url::from_str: target url"),
    ("rpc-core/src/server/builder.rs",        "set",    "passes on to Limits::set"),
    ("rpc-core/src/middleware/mod.rs",        "decode", "the message of the user's, by prost: target protobuf"),
    ("rpc-core/src/protocol/checksum.rs",     "of_message", "of a message that this side sends"),
    ("rpc-core/src/server/handler.rs",        "find",   "compares with the name before, then asks the router"),
    ("rpc-core/src/server/handler.rs",        "takes",  "asks ControlFrame::is: target ttheader"),
    ("rpc-core/src/server/router.rs",         "find",   "compares with names that are known"),
    ("rpc-transport/src/conn/framed.rs",      "next",   "asks the framing of the connection"),
    ("rpc-transport/src/conn/linger.rs",      "next",   "counts what it gets, and asks for more: the connection is over"),
    ("rpc-transport/src/conn/linger.rs",      "on_frame", "drops what it gets, likewise"),
    ("rpc-transport/src/driver/sim/state.rs", "read",   "the simulated network itself"),
    ("rpc-transport/src/framing/arrival.rs",  "run",    "of tests only"),
    ("rpc-transport/src/framing/codec.rs",    "decode", "asks a Framing: targets length_field and detect"),
    ("rpc-transport/src/framing/delimiter.rs", "new",   "the user's own delimiter"),
    ("rpc-transport/src/framing/mod.rs",      "next",   "the trait"),
    ("rpc-transport/src/framing/unframed.rs", "next",   "takes whatever has come"),
    ("rpc-transport/src/handler.rs",          "on_frame", "the trait"),
    ("rpc-transport/src/handler.rs",          "takes",  "the trait"),
    ("rpc-transport/src/tls/by_hand.rs",      "receive", "hands on to Session::receive, for targets"),
    ("rpc-transport/src/tls/identity.rs",     "parse",  "the user's own files, by rustls"),
];

#[test]
fn every_entry_point_has_a_target() {
    let found = entry_points();
    let reached = REACHED.iter().map(|(file, name, _)| (*file, *name));
    let within = WITHIN.iter().map(|(file, name, ..)| (*file, *name));
    let listed = reached.clone().chain(within).chain(OURS.iter().map(|(file, name, _)| (*file, *name)));
    let listed: BTreeSet<(String, String)> = listed.map(|(file, name)| (file.to_owned(), name.to_owned())).collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    assert!(missing.is_empty(), "without a target: write one, and name it in REACHED: {missing:#?}");
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(gone.is_empty(), "listed, and not in the code any more: {gone:#?}");
    for (file, name, targets) in REACHED {
        assert!(!targets.is_empty(), "{file}: {name}");
        for target in *targets {
            assert!(TARGETS.iter().any(|(known, _)| known == target), "{file}: {name}: there is no target {target}");
        }
    }
    for (file, name, caller, called_by) in WITHIN {
        let is_reached = reached.clone().any(|known| known == (*caller, *called_by));
        let calls = fs::read_to_string(root().join(caller)).expect("a file").contains(&format!("{name}("));
        assert!(is_reached && calls, "{file}: {name} within {caller}: {called_by}");
    }
    println!("{} entry points, {} within them, {} targets", REACHED.len(), WITHIN.len(), TARGETS.len());
}

/// What the files of a target's corpus reach.
fn reached(name: &str, target: Target) -> BTreeMap<(&'static str, &'static str), Reached> {
    reach::take();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)).expect("a corpus") {
        target(&fs::read(entry.expect("readable").path()).expect("readable"));
    }
    reach::take()
}

#[test]
fn every_entry_point_is_reached_and_takes_some_and_refuses_some() {
    let mut missing = Vec::new();
    for (name, target) in TARGETS {
        let reached = reached(name, *target);
        for (file, function, targets) in REACHED {
            if !targets.contains(name) {
                continue;
            }
            let found = reached.get(&(*file, *function)).copied().unwrap_or_default();
            println!("{name}: {file}: {function}: taken {}, refused {}", found.taken, found.refused);
            let one_sided = REFUSES_NOTHING.iter().any(|(t, f, n, _)| (t, f, n) == (name, file, function));
            if found.taken == 0 || (found.refused == 0) != one_sided {
                missing.push(format!("{name}: {file}: {function}: {found:?}"));
            }
        }
        for (_, side, events) in EVENTS.iter().filter(|(target, ..)| target == name) {
            for event in *events {
                let found = reached.get(&(*side, *event)).copied().unwrap_or_default();
                println!("{name}: {side}: {event}: {}", found.taken);
                if found.taken == 0 {
                    missing.push(format!("{name}: {side}: {event}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no input of the corpus reaches: {missing:#?}");
}

#[test]
fn the_rule_finds_what_it_is_meant_to_find() {
    let found = |path: &str, text: &str| parsers(path, text);
    let wire = "rpc-core/src/protocol/new.rs";
    assert_eq!(found(wire, "pub fn peel<'a>(\n    bytes: &'a [u8],\n) -> Result<X<'a>, E> {"), ["peel"]);
    assert_eq!(found(wire, "fn next(&mut self, input: &[u8]) -> Result<Next, E>;"), ["next"]);
    assert_eq!(found(wire, "pub(super) fn look(text: &str) -> Option<u8> {"), ["look"]);
    assert_eq!(found(wire, "pub fn write(out: &mut impl BufMut, body: &[u8]) -> Result<(), E> {"), [""; 0]);
    assert_eq!(found(wire, "fn len(bytes: &[u8]) -> usize {"), [""; 0]);
    assert_eq!(found(wire, "pub fn is(frame: &[u8]) -> bool {"), ["is"]);
    assert_eq!(found(wire, "pub(crate) fn of(first: [u8; 8]) -> FirstBytes {"), ["of"]);
    assert_eq!(found("rpc-transport/src/new.rs", "fn next(&mut self, input: &[u8]) -> Result<Next, E> {"), ["next"]);
    assert_eq!(found("rpc-transport/src/new.rs", "fn next(&mut self) -> Option<&[u8]> {"), [""; 0]);
    assert_eq!(found(wire, "#[cfg(test)]\nmod tests {\n fn look(text: &str) -> Option<u8> {"), [""; 0]);
    assert_eq!(found("rpc-core/src/new.rs", "pub fn parse(text: &str) -> Self {"), ["parse"]);
    assert_eq!(found("rpc-core/src/new.rs", "pub fn name(text: &str) -> Option<Self> {"), [""; 0]);
}

fn entry_points() -> BTreeSet<(String, String)> {
    let root = root();
    let mut directories: Vec<PathBuf> = CRATES.iter().map(|name| root.join(name)).collect();
    let mut found = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let file = path.strip_prefix(&root).expect("it is inside").to_string_lossy().into_owned();
                found.extend(parsers(&file, &text).into_iter().map(|name| (file.clone(), name)));
            }
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// Names of the functions of a file that take bytes or text from outside.
fn parsers(file: &str, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let signature = code[at + 3..].split(['{', ';']).next().unwrap_or_default();
        let name: String = signature.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let arguments = signature.split("->").next().unwrap_or_default();
        let arguments = arguments.split_once('(').map_or("", |(_, arguments)| arguments);
        let takes = INPUT.iter().any(|kind| arguments.contains(kind));
        let writes = arguments.contains("out: ") || arguments.contains("BufMut");
        let line = code[..at].rsplit('\n').next().unwrap_or_default();
        let wire = WIRE.iter().any(|place| file.starts_with(place)) && line.contains("pub") && !writes;
        if takes && (wire || PARSERS.contains(&name.as_str())) {
            found.push(name);
        }
    }
    found
}
