use super::*;

/// An info section of one int pair.
fn int(key: u16, value: &[u8]) -> Vec<u8> {
    let mut info = vec![block::INTS, 0, 1];
    info.extend(key.to_be_bytes());
    info.extend((value.len() as u16).to_be_bytes());
    info.extend(value);
    info
}

/// An info section of string pairs.
fn strings(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut strings = StringBlock::new();
    for (key, value) in pairs {
        strings.push(key.as_bytes(), value.as_bytes()).unwrap();
    }
    strings.as_bytes().to_vec()
}

fn request(info: &[u8]) -> RequestInfo {
    RequestInfo::parse(info, &HeaderLimits::default()).unwrap()
}

fn reply(pairs: &[(&str, &str)]) -> ReplyInfo {
    ReplyInfo::parse(&strings(pairs), &HeaderLimits::default()).unwrap()
}

/// T20: what counts as a timeout.
#[test]
#[rustfmt::skip]
fn timeouts_are_positive_numbers_of_milliseconds() {
    let check = |text: &str, ms: Option<u64>| {
        let info = request(&int(int_key::RPC_TIMEOUT, text.as_bytes()));
        assert_eq!(info.timeout(), ms.map(Duration::from_millis), "{text:?}");
    };
    check("500",                    Some(500));
    check("0000000500",             Some(500));
    check("+1",                     Some(1));
    check("0",                      None);
    check("0000000000",             None);
    check("-5",                     None);
    check("-9223372036854775809",   None);
    check("",                       None);
    check("-",                      None);
    check("abc",                    None);
    check("5s",                     None);
    check(" 5",                     None);
    check("1e3",                    None);
    check("4294967296",             Some(u32::MAX.into()));
    check("9223372036854775808",    Some(u32::MAX.into()));
    check(&"9".repeat(1000),        Some(u32::MAX.into()));
}

/// T7: a header bomb costs one pass and the one call.
#[test]
#[rustfmt::skip]
fn header_bombs_are_refused_to_the_call() {
    let limits = HeaderLimits::default();
    let check = |info: &[u8], limits: &HeaderLimits, want: Result<(), InfoError>| {
        assert_eq!(RequestInfo::parse(info, limits).map(drop), want);
        assert_eq!(ReplyInfo::parse(info, limits).map(drop), want);
        assert!(want.is_ok_and(|()| true) || !want.unwrap_err().is_fatal());
    };
    let wide = HeaderLimits { max_header_size: u32::MAX, max_header_entries: u32::MAX };
    let entries = HeaderLimits { max_header_size: u32::MAX, ..limits };
    let one_byte = strings(&vec![("k", ""); 65_535]);
    let same_key = strings(&vec![("RPC_PERSIST_k", "v"); 10_000]);
    let padding = vec![0; 65_530];
    check(&one_byte,      &limits,  Err(InfoError::TooLarge { size: one_byte.len() as u32 + 2, limit: 65_532 }));
    check(&one_byte,      &entries, Err(InfoError::TooMany { limit: 128 }));
    check(&one_byte,      &wide,    Ok(()));
    check(&same_key,      &entries, Err(InfoError::TooMany { limit: 128 }));
    check(&same_key,      &wide,    Ok(()));
    check(&padding,       &limits,  Ok(()));
    check(&[0; 65_531],   &limits,  Err(InfoError::TooLarge { size: 65_533, limit: 65_532 }));
    check(&strings(&[("k", "v"); 128]), &limits, Ok(()));
    check(&strings(&[("k", "v"); 129]), &limits, Err(InfoError::TooMany { limit: 128 }));
    assert_eq!(RequestInfo::parse(&same_key, &wide).unwrap().persistent().len(), 1);
}

#[test]
fn the_same_section_is_not_read_twice() {
    let limits = HeaderLimits::default();
    let mut info = request(&strings(&[("isn", "Echo"), ("RPC_PERSIST_a", "1")]));
    let before = info.persistent().get("a").unwrap().as_ptr();
    info.update(&strings(&[("isn", "Echo"), ("RPC_PERSIST_a", "1")]), &limits).unwrap();
    assert_eq!(info.persistent().get("a").unwrap().as_ptr(), before);
    info.update(&strings(&[("isn", "Other")]), &limits).unwrap();
    assert_eq!((info.service(), info.persistent().len()), (Some(&b"Other"[..]), 0));
    assert!(info.update(&[block::STRINGS], &limits).unwrap_err().is_fatal());
    assert_eq!((info.service(), info.raw()), (None, &b""[..]));
}

#[test]
#[rustfmt::skip]
fn metadata_goes_by_prefix() {
    let info = request(&strings(&[
        ("RPC_PERSIST_a", "1"), ("RPC_PERSIST_a", "2"), ("RPC_PERSIST_RetryReq", "1"), ("RPC_PERSIST_", "x"), ("RPC_PERSIST_e", ""),
        ("RPC_TRANSIT_b", "3"), ("RPC_TRANSIT_UPSTREAM_c", "4"), ("RPC_TRANSIT_UPSTREAM_", "x"),
        ("rip", "10.0.0.1:5"), ("other", "x"), ("isn", ""),
    ]));
    assert_eq!(info.persistent(), &[("a", "2"), ("RetryReq", "1")].into_iter().collect());
    assert_eq!(info.transient(), &[("b", "3"), ("c", "4")].into_iter().collect());
    assert_eq!((info.remote_address(), info.service()), (Some(&b"10.0.0.1:5"[..]), None));
    let info = request(b"\x11\0\x03tok\x01\0\x01\0\x0eRPC_PERSIST_\xff\xfe\0\x01\x80");
    assert_eq!(info.transient().get("gdpr-token"), Some(&b"tok"[..]));
    assert_eq!(info.persistent().get(b"\xff\xfe"), Some(&b"\x80"[..]));
}

#[test]
#[rustfmt::skip]
fn business_statuses_are_numbers_other_than_zero() {
    let check = |status: &str, want: Option<i32>| {
        let info = reply(&[("biz-status", status), ("biz-message", "text")]);
        assert_eq!(info.business.map(|business| business.status), want, "{status:?}");
    };
    check("404",         Some(404));
    check("-1",          Some(-1));
    check("0",           None);
    check("",            None);
    check("x",           None);
    check("2147483647",  Some(i32::MAX));
    check("2147483648",  None);
    assert_eq!(reply(&[("biz-message", "text")]).business, None);
    let with_extra = |extra: &str| reply(&[("biz-status", "5"), ("biz-extra", extra)]).business.unwrap().extra;
    assert_eq!(with_extra(r#"{"a":"\u003cb>"}"#), [("a".into(), "<b>".into())].into());
    assert!(with_extra(r#"{"a":1}"#).is_empty());
}

#[test]
fn reserved_names_are_no_backward_metadata() {
    let info = reply(&[
        ("zone", "eu"),
        ("RPC_BACKWARD_lag", "5"),
        ("RPC_BACKWARD_crrst", "1"),
        ("RPC_PERSIST_x", "1"),
        ("PV_x", "1"),
        ("crc32c", "00000000"),
        ("rpc-reason", "x"),
        ("rip", "1.2.3.4:5"),
        ("", "x"),
        ("empty", ""),
        ("crrst", "0"),
        ("rpc-code", "RESOURCE_EXHAUSTED"),
        ("rpc-not-executed", "1"),
    ]);
    let backward = [("zone", "eu"), ("lag", "5")].into_iter().collect();
    let code = Some(Code::ResourceExhausted);
    let checksum = Some((*b"00000000").into());
    assert_eq!(info, ReplyInfo { backward, code, not_executed: true, checksum, ..ReplyInfo::default() });
}

#[test]
fn the_usual_sections_are_as_replies_carry_them() {
    use crate::protocol::Form;
    use crate::protocol::ttheader::{ReplyHead, ReplyKind, TtFrame};
    for (kind, info) in [(ReplyKind::Reply, REPLY_INFO), (ReplyKind::Exception, EXCEPTION_INFO)] {
        let mut out = Vec::new();
        let head = ReplyHead::new("Echo").unwrap();
        head.write(&mut out, Form::TtHeader, kind, 1, 0, b"").unwrap();
        assert_eq!(TtFrame::decode(&out).unwrap().info, info);
    }
    assert_eq!(request(&int(int_key::CAPABILITIES, b"1")).capabilities(), Some(1));
    assert_eq!(request(&int(int_key::CAPABILITIES, b"-1")).capabilities(), None);
    assert_eq!(request(&int(int_key::MSG_TYPE, b"9")).message_type(), None);
}
