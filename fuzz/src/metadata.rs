//! Info sections: what a request and a reply say beside their message.

use std::time::Duration;

use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::{HeaderLimits, InfoError, ReplyInfo, RequestInfo, StringBlock, request_metadata};
use rpc_core::{Code, HeaderError, Metadata};

use crate::reference::{self, Entry};
use crate::{meter, reach, ttheader};

/// The defaults, and limits that small inputs reach.
const LIMITS: [HeaderLimits; 3] = [
    HeaderLimits { max_header_size: 65_532, max_header_entries: 128 },
    HeaderLimits { max_header_size: 48, max_header_entries: u32::MAX },
    HeaderLimits { max_header_size: u32::MAX, max_header_entries: 2 },
];

/// Info sections as requests and as replies, against the reference; what was read is written and read again.
pub fn metadata(data: &[u8]) {
    let (entries, error) = reference::entries(data);
    assert_eq!(ttheader::entries(data), (entries.clone(), error));
    for limits in &LIMITS {
        let expected = refusal(data, limits, &entries, error);
        let request = meter::framing(data.len(), || RequestInfo::parse(data, limits));
        // Memory that held another section before makes no difference.
        let mut used = RequestInfo::default();
        let _ = used.update(&data[..data.len() / 2], limits);
        let again = used.update(data, limits);
        reach::note("rpc-core/src/protocol/ttheader/info.rs", "parse", &request);
        reach::note("rpc-core/src/protocol/ttheader/info.rs", "update", &again);
        assert_eq!(again.is_ok(), request.is_ok());
        assert_eq!(used.raw(), if again.is_ok() { data } else { b"" });
        match (&request, &expected) {
            (Ok(request), None) => check_request(request, &entries),
            (Err(error), Some(kind)) => assert_eq!(kind_of(error), *kind),
            (request, expected) => panic!("{request:?} where {expected:?} is due"),
        }
        let reply = meter::framing(data.len(), || ReplyInfo::parse(data, limits));
        match (&reply, &expected) {
            (Ok(reply), None) => check_reply(reply, &entries),
            (Err(error), Some(kind)) => assert_eq!(kind_of(error), *kind),
            (reply, expected) => panic!("{reply:?} where {expected:?} is due"),
        }
    }
}

/// Why a section is not taken.
fn refusal(data: &[u8], limits: &HeaderLimits, entries: &[Entry], error: Option<&'static str>) -> Option<&'static str> {
    if data.len() + 2 > limits.max_header_size as usize {
        return Some("too large");
    }
    if entries.len() > limits.max_header_entries as usize {
        return Some("too many");
    }
    error
}

fn kind_of(error: &InfoError) -> &'static str {
    match error {
        InfoError::Protocol(error) => error.kind(),
        InfoError::TooLarge { .. } => "too large",
        InfoError::TooMany { .. } => "too many",
    }
}

fn last_int(entries: &[Entry], wanted: u64) -> Option<&[u8]> {
    let found = entries.iter().rev().find_map(|entry| match entry {
        Entry::Int(key, value) if *key == wanted => Some(&value[..]),
        _ => None,
    });
    found.filter(|value| !value.is_empty())
}

fn last_str<'a>(entries: &'a [Entry], wanted: &[u8]) -> Option<&'a [u8]> {
    let found = entries.iter().rev().find_map(|entry| match entry {
        Entry::Str(key, value) if key == wanted => Some(&value[..]),
        _ => None,
    });
    found.filter(|value| !value.is_empty())
}

fn check_request(info: &RequestInfo, entries: &[Entry]) {
    assert_eq!(info.service(), last_str(entries, b"isn"));
    assert_eq!(info.remote_address(), last_str(entries, b"rip"));
    assert_eq!(info.from_service(), last_int(entries, 3));
    assert_eq!(info.to_method(), last_int(entries, 9));
    assert_eq!(info.from_method(), last_int(entries, 20));
    let timeout = last_int(entries, 12).and_then(reference::number).filter(|ms| *ms > 0);
    assert_eq!(info.timeout(), timeout.map(|ms| Duration::from_millis(ms.min(u32::MAX.into()) as u64)));
    let kind = match last_int(entries, 22).and_then(reference::number) {
        Some(1) => Some(MessageType::Call),
        Some(2) => Some(MessageType::Reply),
        Some(3) => Some(MessageType::Exception),
        Some(4) => Some(MessageType::Oneway),
        _ => None,
    };
    assert_eq!(info.message_type(), kind);
    assert_eq!(
        info.capabilities(),
        last_int(entries, 31_001).and_then(reference::number).and_then(|n| n.try_into().ok())
    );

    let strip = |prefixes: [&'static str; 2]| {
        entries.iter().filter_map(move |entry| match entry {
            Entry::Str(key, value) => {
                let key = prefixes.iter().find_map(|prefix| key.strip_prefix(prefix.as_bytes()))?;
                Some((key, &value[..]))
            }
            Entry::Acl(token) if prefixes[0].starts_with("RPC_TRANSIT") => Some((&b"gdpr-token"[..], &token[..])),
            _ => None,
        })
    };
    let persistent = reference::pairs(strip(["RPC_PERSIST_", "RPC_PERSIST_"]));
    let transient = reference::pairs(strip(["RPC_TRANSIT_UPSTREAM_", "RPC_TRANSIT_"]));
    assert_eq!(reference::pairs(info.persistent().iter()), persistent);
    assert_eq!(reference::pairs(info.transient().iter()), transient);
    assert_eq!((info.persistent().len(), info.transient().len()), (persistent.len(), transient.len()));
    passed_on(info.persistent(), info.transient());
}

/// What one hop received, the next one receives from us.
fn passed_on(persistent: &Metadata, transient: &Metadata) {
    match request_metadata(persistent, transient) {
        Ok(blocks) => {
            let unlimited = HeaderLimits { max_header_size: u32::MAX, max_header_entries: u32::MAX };
            let info = RequestInfo::parse(&blocks, &unlimited).expect("we read what we write");
            assert_eq!((info.persistent(), info.transient()), (persistent, transient));
        }
        Err(HeaderError::Reserved(_)) => {
            assert!(transient.iter().any(|(key, _)| key.starts_with(b"UPSTREAM_")));
        }
        Err(error) => assert!(matches!(error, HeaderError::TooLong { .. }), "{error}"),
    }
}

fn check_reply(info: &ReplyInfo, entries: &[Entry]) {
    let is = |key: &[u8], text: &[u8]| last_str(entries, key) == Some(text);
    assert_eq!((info.closing, info.not_executed), (is(b"crrst", b"1"), is(b"rpc-not-executed", b"1")));
    let name = last_str(entries, b"rpc-code");
    let code = name.and_then(Code::from_wire_name);
    if name.is_some() {
        reach::note("rpc-core/src/status.rs", "from_wire_name", &code);
    }
    assert_eq!(info.code, code);
    assert_eq!(
        info.capabilities,
        last_int(entries, 31_001).and_then(reference::number).and_then(|n| n.try_into().ok())
    );
    let status = last_str(entries, b"biz-status").and_then(reference::number).and_then(|n| i32::try_from(n).ok());
    assert_eq!(info.business.as_ref().map(|business| business.status), status.filter(|status| *status != 0));
    let strings = entries.iter().filter_map(|entry| match entry {
        Entry::Str(key, value) => Some((key.strip_prefix(b"RPC_BACKWARD_").unwrap_or(key), &value[..])),
        _ => None,
    });
    let reserved = |key: &[u8]| {
        const NAMES: [&str; 11] = [
            "isn",
            "rip",
            "crrst",
            "biz-status",
            "biz-message",
            "biz-extra",
            "crc32c",
            "ttscp",
            "rpc-code",
            "rpc-not-executed",
            "rpc-reason",
        ];
        key.starts_with(b"PV_") || key.starts_with(b"RPC_") || NAMES.iter().any(|name| name.as_bytes() == key)
    };
    let backward = reference::pairs(strings.filter(|(key, _)| !reserved(key)));
    assert_eq!(reference::pairs(info.backward.iter()), backward);

    let mut strings = StringBlock::new();
    if let Some(business) = &info.business
        && business.put(&mut strings).is_ok()
    {
        let again = ReplyInfo::parse(strings.as_bytes(), &HeaderLimits::default());
        if let Ok(again) = again {
            assert_eq!(again.business.as_ref(), Some(business));
        } else {
            assert!(strings.as_bytes().len() > 65_000);
        }
    }
}
