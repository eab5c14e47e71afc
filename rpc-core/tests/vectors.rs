//! The vectors of `wire/wire_vectors.tsv`, made by the independent `wire/wire_examples.py`: each is decoded the way a
//! connection would, and written again where the order of its pairs is fixed.

use std::time::Duration;

use proptest::prelude::*;
use rpc_core::protocol::ttheader::{
    CONFIRMATION, ControlFrame, Entry, HeaderLimits, InfoEntries, ReplyHead, ReplyInfo, ReplyKind, RequestHead,
    RequestHeadSpec, RequestInfo, StringBlock, TtFrame, request_metadata, write_frame_head,
};
use rpc_core::protocol::{Checksum, Exception, Form, KitexFraming, MessageType, Payload, form_of};
use rpc_core::{BizStatus, Metadata, ProtocolError};
use rpc_transport::{Next, Span};

const MAX_FRAME: u32 = 16 << 20;
const HELLO: &[u8] = b"\x0a\x05hello";

struct Vector {
    name: &'static str,
    kind: &'static str,
    bytes: Vec<u8>,
}

/// Bytes from hex digits; blanks between them are for readers.
fn hex(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn vectors() -> Vec<Vector> {
    include_str!("wire/wire_vectors.tsv")
        .lines()
        .map(|line| {
            let mut columns = line.split('\t');
            let mut column = || columns.next().expect("three columns");
            Vector { name: column(), kind: column(), bytes: hex(column()) }
        })
        .collect()
}

fn vector(name: &str) -> Vec<u8> {
    let found = vectors().into_iter().find(|vector| vector.name == name);
    found.unwrap_or_else(|| panic!("no vector {name}")).bytes
}

/// What a connection makes of its first bytes: one line of facts, or the kind of the error.
fn receive(input: &[u8]) -> Result<String, &'static str> {
    let facts = match KitexFraming::new(MAX_FRAME).find(input) {
        Ok(Next::More { need }) => {
            assert!(need > input.len(), "asks for {need} bytes and has {}", input.len());
            return Err("short");
        }
        Ok(Next::Frame(span)) => {
            assert_eq!(span.skip, 0);
            message(&input[..span.len])
        }
        Err(error) => Err(error),
    };
    facts.map_err(|error| {
        let text = error.to_string();
        assert!(text.starts_with(error.kind()) && !text.contains(char::is_control), "{text}");
        error.kind()
    })
}

fn message(frame: &[u8]) -> Result<String, ProtocolError> {
    let mut facts = Vec::new();
    let payload = match form_of(frame)? {
        Form::TtHeader => {
            let header = TtFrame::decode(frame)?;
            facts.push(format!("flags={:x} seq={}", header.flags, header.seq));
            for entry in InfoEntries::new(header.info) {
                facts.push(match entry? {
                    Entry::Str { key, value } => {
                        format!("{}={}", key.escape_ascii(), value.escape_ascii())
                    }
                    Entry::Int { key, value } => format!("{key}={}", value.escape_ascii()),
                    Entry::Acl(token) => format!("acl={}", token.escape_ascii()),
                });
            }
            if header.seq == 0 {
                facts.push("control".into());
                return Ok(facts.join(" "));
            }
            header.payload
        }
        Form::Framed => frame,
    };
    let payload = Payload::decode(payload)?;
    let body = match payload.kind {
        MessageType::Exception => {
            let exception = Exception::decode(payload.body).expect("an exception");
            format!("{}:{}", exception.type_id, exception.message)
        }
        _ => payload.body.escape_ascii().to_string(),
    };
    facts.push(format!("{:?} {} {} {body}", payload.kind, payload.method.escape_ascii(), payload.seq));
    Ok(facts.join(" "))
}

/// How a vector comes about again.
enum Rewrite {
    /// A header with the same info section.
    Info,
    /// A header with the payload's checksum, made anew.
    Checksum,
    /// A request of this method.
    Request(RequestHeadSpec<'static>),
    /// A reply with these string pairs.
    Reply(&'static [(&'static str, &'static str)]),
    /// Not at all, and why.
    Never(&'static str),
}

const SPEC: RequestHeadSpec<'static> = RequestHeadSpec {
    service: "EchoService",
    method: "Echo",
    from_service: Some("caller.svc"),
    to_service: "demo.echo",
    from_method: Some(""),
    multiplexed: false,
    oneway: false,
    announce: false,
    connect_timeout_ms: None,
    usual_timeout_ms: 0,
};
const ONEWAY: RequestHeadSpec<'static> = RequestHeadSpec { oneway: true, ..SPEC };
const MUX: RequestHeadSpec<'static> = RequestHeadSpec { multiplexed: true, ..SPEC };
const CLOSING: &[(&str, &str)] = &[("crrst", "1")];
const ZONE: &[(&str, &str)] = &[("server-zone", "eu-1")];
const BIZ: &[(&str, &str)] = &[("biz-status", "404"), ("biz-message", "not found"), ("biz-extra", "{\"id\":\"42\"}")];

/// Every vector that must decode on a unary connection, its facts, and how to write it.
#[rustfmt::skip]
const UNARY: &[(&str, &str, Rewrite)] = &[
    ("E1-call-minimal",             "flags=0 seq=1 Call Echo 1 \\n\\x05hello", Rewrite::Info),
    ("E2-call-full",                "flags=0 seq=1 isn=EchoService 1=framed 3=caller.svc 6=demo.echo 9=Echo 20= 22=1 Call Echo 1 \\n\\x05hello", Rewrite::Request(SPEC)),
    ("E3-reply",                    "flags=0 seq=1 22=2 Reply Echo 1 \\n\\x05hello", Rewrite::Reply(&[])),
    ("E3b-reply-minimal",           "flags=0 seq=1 Reply Echo 1 \\n\\x05hello", Rewrite::Info),
    ("E3c-reply-closing",           "flags=0 seq=1 crrst=1 22=2 Reply Echo 1 \\n\\x05hello", Rewrite::Reply(CLOSING)),
    ("E4-exception-unknown-method", "flags=0 seq=2 crrst=1 22=3 Exception Nope 2 1:unknown method Nope (service EchoService)", Rewrite::Reply(CLOSING)),
    ("E4b-exception-handler-error", "flags=0 seq=3 22=3 Exception Echo 3 6:biz error: disk full", Rewrite::Reply(&[])),
    ("E5-call-metainfo-timeout",    "flags=0 seq=7 acl=tok-abc RPC_PERSIST_TENANT=acme RPC_TRANSIT_HOP=1 isn=EchoService 1=framed 3=caller.svc 6=demo.echo 9=Echo 12=500 17=50 20=Front 22=1 Call Echo 7 \\n\\x05hello", Rewrite::Info),
    ("E5b-reply-backward",          "flags=0 seq=7 server-zone=eu-1 22=2 Reply Echo 7 \\n\\x05hello", Rewrite::Reply(ZONE)),
    ("E6-oneway",                   "flags=0 seq=8 isn=EchoService 1=framed 3=caller.svc 6=demo.echo 9=Echo 20= 22=4 Oneway Echo 8 \\n\\x05hello", Rewrite::Request(ONEWAY)),
    ("E7-biz-status-reply",         "flags=0 seq=9 biz-status=404 biz-message=not found biz-extra={\\\"id\\\":\\\"42\\\"} 22=2 Reply Echo 9 ", Rewrite::Reply(BIZ)),
    ("E8-framed-call",              "Call Echo 1 \\n\\x05hello", Rewrite::Never("a client of ours sends no bare frames")),
    ("E8b-framed-reply",            "Reply Echo 1 \\n\\x05hello", Rewrite::Reply(&[])),
    ("E9-mux-call",                 "flags=1 seq=305419896 isn=EchoService 1=framed 3=caller.svc 6=demo.echo 9=Echo 20= 22=1 Call Echo 305419896 \\n\\x05hello", Rewrite::Request(MUX)),
    ("E9b-mux-control-close",       "flags=0 seq=0 crrst=1 control", Rewrite::Never("its payload is Thrift")),
    ("E10-call-crc32c",             "flags=0 seq=10 crc32c=f8ed18da Call Echo 10 \\n\\x05hello", Rewrite::Checksum),
    ("E11-call-proto4",             "flags=0 seq=1 Call Echo 1 \\n\\x05hello", Rewrite::Never("protocol id 4 is not sent")),
    ("E12-empty-message",           "flags=0 seq=11 Call Echo 11 ", Rewrite::Info),
];

/// Writes a frame again from its parts; what `rewrite` says must be enough.
fn write_again(frame: &[u8], rewrite: &Rewrite) -> Option<Vec<u8>> {
    let form = form_of(frame).unwrap();
    let header = TtFrame::decode(frame);
    let payload = Payload::decode(header.map_or(frame, |header| header.payload));
    let mut out = Vec::new();
    match rewrite {
        Rewrite::Never(reason) => {
            assert!(!reason.is_empty());
            return None;
        }
        Rewrite::Info => {
            let (header, payload) = (header.unwrap(), payload.unwrap());
            let blocks = [header.info, b""];
            let Payload { kind, method, seq, body } = payload;
            write_frame_head(&mut out, header.flags, seq, blocks, kind, method, body.len()).unwrap();
        }
        Rewrite::Checksum => {
            let Payload { kind, method, seq, body } = payload.unwrap();
            let (one, other) = body.split_at(3); // as a chain of blocks has it
            let checksum = Checksum::of_message(kind, method, seq, [one, other].into_iter());
            let mut strings = StringBlock::new();
            strings.push(b"crc32c", &checksum.to_hex()).unwrap();
            let blocks = [strings.as_bytes(), b""];
            write_frame_head(&mut out, header.unwrap().flags, seq, blocks, kind, method, body.len()).unwrap();
        }
        Rewrite::Request(spec) => {
            let payload = payload.unwrap();
            let head = RequestHead::new(spec).unwrap();
            head.write(&mut out, payload.seq, None, b"", payload.body.len()).unwrap();
        }
        Rewrite::Reply(pairs) => {
            let payload = payload.unwrap();
            let mut strings = StringBlock::new();
            for (key, value) in *pairs {
                strings.push(key.as_bytes(), value.as_bytes()).unwrap();
            }
            let kind = match payload.kind {
                MessageType::Exception => ReplyKind::Exception,
                _ => ReplyKind::Reply,
            };
            let (seq, len) = (payload.seq, payload.body.len());
            let head = ReplyHead::new(std::str::from_utf8(payload.method).unwrap()).unwrap();
            head.write(&mut out, form, kind, seq, len, strings.as_bytes()).unwrap();
        }
    }
    out.extend(payload.unwrap().body);
    Some(out)
}

#[test]
fn every_vector_is_what_it_says() {
    let (mut unary, mut rewritten, mut streaming, mut refused) = (0, 0, 0, 0);
    for Vector { name, kind, bytes } in vectors() {
        match (kind, &name[..1]) {
            ("ok", "E") => {
                let (_, facts, rewrite) =
                    UNARY.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("no row {name}"));
                assert_eq!(receive(&bytes).as_deref(), Ok(*facts), "{name}");
                if let Some(again) = write_again(&bytes, rewrite) {
                    assert_eq!(again, bytes, "{name}");
                    rewritten += 1;
                }
                unary += 1;
            }
            // Streaming is TTHeader, and not served: the connection is told so by its first frame.
            ("ok", "S" | "P") => {
                let header = TtFrame::decode(&bytes).unwrap();
                assert!(InfoEntries::new(header.info).all(|entry| entry.is_ok()), "{name}");
                assert_eq!((header.flags, header.seq), (2, 1), "{name}");
                assert_eq!(receive(&bytes), Err("unsupported"), "{name}");
                streaming += 1;
            }
            (kind, "N") => {
                assert_eq!(receive(&bytes), Err(kind), "{name}");
                refused += 1;
            }
            _ => panic!("what to do with {name} ({kind})?"),
        }
    }
    assert_eq!((unary, rewritten, streaming, refused), (UNARY.len(), 15, 10, 18));
}

#[test]
fn beginnings_are_waited_for() {
    for Vector { name, bytes, .. } in vectors().into_iter().filter(|v| v.name.starts_with('E')) {
        for cut in 0..bytes.len() {
            assert_eq!(receive(&bytes[..cut]), Err("short"), "{name} cut at {cut}");
        }
        let mut two = bytes.clone();
        two.extend(&bytes);
        assert_eq!(receive(&two), receive(&bytes), "{name} twice");
    }
}

/// Everything that ever looks at a peer's bytes.
fn look_everywhere(input: &[u8]) {
    let limits = HeaderLimits::default();
    if let Ok(Next::More { need }) = KitexFraming::new(MAX_FRAME).find(input) {
        assert!(need > input.len() && need <= MAX_FRAME as usize + 4);
    }
    let _ = (form_of(input), ControlFrame::is(input));
    if let Ok(payload) = Payload::decode(input) {
        let _ = Exception::decode(payload.body);
    }
    if let Ok(frame) = TtFrame::decode(input) {
        if let Ok(Some(control)) = ControlFrame::decode(&frame) {
            let mut again = Vec::new();
            control.encode(&mut again);
            assert_eq!(ControlFrame::decode(&TtFrame::decode(&again).unwrap()), Ok(Some(control)));
        }
        if let Ok(payload) = Payload::decode(frame.payload) {
            let _ = Exception::decode(payload.body);
        }
        look_at_info(frame.info, &limits);
    }
}

fn look_at_info(info: &[u8], limits: &HeaderLimits) {
    let request = RequestInfo::parse(info, limits);
    let reply = ReplyInfo::parse(info, limits);
    assert_eq!(request.as_ref().err(), reply.as_ref().err());
    if let Ok(request) = request {
        let texts = [request.service(), request.from_service(), request.from_method(), request.to_method()];
        assert!(texts.iter().flatten().all(|text| !text.is_empty()));
        assert!(request.timeout().is_none_or(|timeout| timeout > Duration::ZERO));
    }
}

#[test]
fn no_cut_and_no_changed_byte_makes_it_panic() {
    let ours = include_str!("wire/control_vectors.tsv").lines().filter_map(|line| line.rsplit('\t').next()).map(hex);
    for bytes in vectors().into_iter().map(|vector| vector.bytes).chain(ours) {
        for cut in 0..bytes.len() {
            look_everywhere(&bytes[..cut]);
            // A cut frame whose length field agrees gets further.
            if let Some(len) = cut.checked_sub(4) {
                let mut whole = bytes[..cut].to_vec();
                whole[..4].copy_from_slice(&(len as u32).to_be_bytes());
                look_everywhere(&whole);
            }
        }
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for byte in 0..=u8::MAX {
                changed[at] = byte;
                look_everywhere(&changed);
            }
            changed[at] = bytes[at];
        }
    }
}

#[test]
fn requests_are_summed_up() {
    let limits = HeaderLimits::default();
    let info = |name| RequestInfo::parse(TtFrame::decode(&vector(name)).unwrap().info, &limits).unwrap();
    let full = info("E5-call-metainfo-timeout");
    assert_eq!(full.service(), Some(&b"EchoService"[..]));
    assert_eq!(full.from_service(), Some(&b"caller.svc"[..]));
    assert_eq!(full.from_method(), Some(&b"Front"[..]));
    assert_eq!(full.to_method(), Some(&b"Echo"[..]));
    assert_eq!(full.timeout(), Some(Duration::from_millis(500)));
    assert_eq!(full.message_type(), Some(MessageType::Call));
    assert_eq!(full.persistent(), &[("TENANT", "acme")].into_iter().collect());
    assert_eq!(full.transient(), &[("gdpr-token", "tok-abc"), ("HOP", "1")].into_iter().collect());
    assert_eq!((full.capabilities(), full.remote_address()), (None, None));
    let plain = info("E2-call-full");
    assert_eq!((plain.from_method(), plain.timeout()), (None, None));
    assert_eq!((plain.checksum(), info("E10-call-crc32c").checksum()), (None, Some(&b"f8ed18da"[..])));
    let empty = info("E1-call-minimal");
    assert_eq!((empty.service(), empty.message_type()), (None, None));
    assert!(empty.persistent().is_empty() && empty.transient().is_empty());
}

#[test]
fn replies_are_summed_up() {
    let limits = HeaderLimits::default();
    let info = |name| ReplyInfo::parse(TtFrame::decode(&vector(name)).unwrap().info, &limits).unwrap();
    assert_eq!(info("E10-call-crc32c"), ReplyInfo { checksum: Some((*b"f8ed18da").into()), ..ReplyInfo::default() });
    assert_eq!(info("E3-reply"), ReplyInfo::default());
    assert_eq!(info("E3b-reply-minimal"), ReplyInfo::default());
    assert_eq!(info("E4b-exception-handler-error"), ReplyInfo::default());
    for name in ["E3c-reply-closing", "E4-exception-unknown-method", "E9b-mux-control-close"] {
        assert_eq!(info(name), ReplyInfo { closing: true, ..ReplyInfo::default() }, "{name}");
    }
    let backward = [("server-zone", "eu-1")].into_iter().collect();
    assert_eq!(info("E5b-reply-backward"), ReplyInfo { backward, ..ReplyInfo::default() });
    let extra = [("id".to_owned(), "42".to_owned())].into();
    let business = Some(BizStatus { status: 404, message: "not found".into(), extra });
    assert_eq!(info("E7-biz-status-reply"), ReplyInfo { business, ..ReplyInfo::default() });
}

#[test]
fn business_statuses_are_written_as_kitex_writes_them() {
    let error = rpc_core::Error::business(404, "not found").with_extra("id", "42");
    let mut strings = StringBlock::new();
    error.business_status().unwrap().put(&mut strings).unwrap();
    let mut out = Vec::new();
    let head = ReplyHead::new("Echo").unwrap();
    head.write(&mut out, Form::TtHeader, ReplyKind::Reply, 9, 0, strings.as_bytes()).unwrap();
    assert_eq!(out, vector("E7-biz-status-reply"));
}

/// The examples send requests without an announcement; ours carries one to peers of this framework.
#[test]
fn an_announcement_is_read_back_and_changes_nothing_else() {
    let mut out = Vec::new();
    let head = RequestHead::new(&RequestHeadSpec { announce: true, ..SPEC }).unwrap();
    head.write(&mut out, 1, Some(250), b"", HELLO.len()).unwrap();
    out.extend(HELLO);
    let info = TtFrame::decode(&out).unwrap().info;
    let ours = RequestInfo::parse(info, &HeaderLimits::default()).unwrap();
    assert_eq!((ours.capabilities(), ours.timeout()), (Some(0), Some(Duration::from_millis(250))));
    let plain = receive(&vector("E2-call-full")).unwrap().replace(" 9=Echo", " 9=Echo 12=0000000250");
    assert_eq!(receive(&out).unwrap(), plain.replace("22=1", "22=1 31001=0"));
}

/// A checksum is that of all bytes behind the header: any change of them shows, and a change of the header does not.
#[test]
fn a_changed_payload_does_not_match_its_checksum() {
    let whole = vector("E10-call-crc32c");
    let payload_at = whole.len() - TtFrame::decode(&whole).unwrap().payload.len();
    for at in payload_at..whole.len() {
        let mut changed = whole[payload_at..].to_vec();
        changed[at - payload_at] ^= 0x10;
        let error = Checksum::check(b"f8ed18da", &changed).unwrap_err();
        assert!(error.to_string().ends_with("its header says f8ed18da"), "{error}");
    }
    assert_eq!(Checksum::check(b"f8ed18da", &whole[payload_at..]), Ok(()));
}

/// Requests on multiplexed connections announce control frames, and a reply confirms them: bytes written by hand.
#[test]
fn control_frames_are_announced_and_confirmed() {
    let mut out = Vec::new();
    let head = RequestHead::new(&RequestHeadSpec { announce: true, ..MUX }).unwrap();
    head.write(&mut out, 1, None, b"", HELLO.len()).unwrap();
    out.extend(HELLO);
    let plain = receive(&vector("E9-mux-call")).unwrap().replace("305419896", "1");
    assert_eq!(receive(&out).unwrap(), plain.replace("22=1", "22=1 31001=1"));

    let mut out = Vec::new();
    let head = ReplyHead::new("Echo").unwrap();
    head.write(&mut out, Form::TtHeader, ReplyKind::Reply, 1, HELLO.len(), CONFIRMATION).unwrap();
    out.extend(HELLO);
    let by_hand = hex("00000039 1000 0000 00000001 0005 00 00 10 0001 7919 0001 31 10 0001 0016 0001 32 0000 \
                       00000017 9001 0002 00000004 4563686f 00000001 0a0568656c6c6f");
    assert_eq!(out, by_hand);
    let info = ReplyInfo::parse(TtFrame::decode(&out).unwrap().info, &HeaderLimits::default()).unwrap();
    assert_eq!(info, ReplyInfo { capabilities: Some(1), ..ReplyInfo::default() });
}

/// `wire/control_vectors.tsv` was written by hand from the description in `docs/control-frames.md`.
#[test]
fn control_frames_are_the_bytes_that_the_page_says() {
    let mut read = 0;
    for line in include_str!("wire/control_vectors.tsv").lines() {
        let columns: Vec<_> = line.split('\t').collect();
        let [name, facts, digits] = columns[..] else { panic!("three columns: {line}") };
        let bytes = hex(digits);
        assert_eq!(
            KitexFraming::new(MAX_FRAME).find(&bytes),
            Ok(Next::Frame(Span { skip: 0, len: bytes.len(), tail: 0 }))
        );
        let frame = TtFrame::decode(&bytes).unwrap();
        assert!(frame.seq == 0 && ControlFrame::is(&bytes), "{name}");
        let control = ControlFrame::decode(&frame).unwrap().unwrap_or_else(|| panic!("{name} is a control frame"));
        let shown = match control {
            ControlFrame::GoAway { last, reason } => {
                format!("GoAway {{ last: {last}, reason: \"{}\" }}", reason.escape_ascii())
            }
            other => format!("{other:?}"),
        };
        assert_eq!(shown, facts, "{name}");
        let mut again = Vec::new();
        control.encode(&mut again);
        assert_eq!(again, bytes, "{name}");
        assert!(ReplyInfo::parse(frame.info, &HeaderLimits::default()).is_ok_and(|info| !info.closing), "{name}");
        for cut in 0..bytes.len() {
            assert!(receive(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        read += 1;
    }
    assert_eq!(read, 6);
    for Vector { name, bytes, .. } in vectors().iter().filter(|v| v.kind == "ok") {
        assert!(!ControlFrame::is(bytes), "{name} is a message, or Kitex's goodbye");
        let frame = TtFrame::decode(bytes).ok();
        assert!(frame.is_none_or(|frame| ControlFrame::decode(&frame) == Ok(None)), "{name}");
    }
}

fn bytes(len: impl Into<proptest::sample::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), len)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let pairs = proptest::collection::vec((bytes(1..40), bytes(1..40)), 0..20);
    pairs.prop_map(|pairs| pairs.into_iter().collect())
}

proptest! {
    #[test]
    fn metadata_is_read_back(
        persistent in metadata(),
        transient in metadata(),
        token in bytes(0..20),
        seq in any::<i32>(),
        timeout in proptest::option::of(1u32..),
        usual_timeout_ms in 0u32..1000,
        service in "[a-zA-Z]{0,200}",
    ) {
        let mut transient = transient;
        // A transient key of this form would be read as one that came from upstream.
        prop_assume!(transient.iter().all(|(key, _)| !key.starts_with(b"UPSTREAM_")));
        if !token.is_empty() {
            transient.insert("gdpr-token", token);
        }
        let spec = RequestHeadSpec { service: &service, usual_timeout_ms, ..SPEC };
        let extra = request_metadata(&persistent, &transient).unwrap();
        let mut frame = Vec::new();
        RequestHead::new(&spec).unwrap().write(&mut frame, seq, timeout, &extra, HELLO.len()).unwrap();
        frame.extend(HELLO);
        let header = TtFrame::decode(&frame).unwrap();
        let payload = Payload::decode(header.payload).unwrap();
        prop_assert_eq!((header.seq, payload.seq, payload.method, payload.body), (seq, seq, &b"Echo"[..], HELLO));
        let info = RequestInfo::parse(header.info, &HeaderLimits::default()).unwrap();
        prop_assert_eq!(info.persistent(), &persistent);
        prop_assert_eq!(info.transient(), &transient);
        prop_assert_eq!(info.timeout(), timeout.map(|ms| Duration::from_millis(ms.into())));
        prop_assert_eq!(info.service().unwrap_or_default(), service.as_bytes());
    }

    #[test]
    fn string_pairs_are_read_back(pairs in proptest::collection::vec((bytes(0..50), bytes(0..300)), 0..100)) {
        let mut strings = StringBlock::new();
        for (key, value) in &pairs {
            strings.push(key, value).unwrap();
        }
        let read: Vec<_> = InfoEntries::new(strings.as_bytes())
            .map(|entry| match entry.unwrap() {
                Entry::Str { key, value } => (key.to_vec(), value.to_vec()),
                entry => panic!("{entry:?}"),
            })
            .collect();
        prop_assert_eq!(read, pairs);
    }

    #[test]
    fn random_bytes_never_panic(input in bytes(0..200), info in bytes(2..200)) {
        look_everywhere(&input);
        look_at_info(&info, &HeaderLimits::default());
        let mut frame = vec![0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 1];
        frame.extend(&input);
        let len = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        look_everywhere(&frame);
        frame[4..8].copy_from_slice(&[0x90, 0x01, 0, 1]);
        look_everywhere(&frame);
    }
}
