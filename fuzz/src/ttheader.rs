//! A frame that claims to be TTHeader: taken apart twice, and put together again.

use rpc_core::protocol::ttheader::{
    ControlFrame, Entry, InfoEntries, KnownFrame, KnownHead, TtFrame, write_frame_head,
};
use rpc_core::protocol::{Checksum, Form, MessageType, Payload, form_of};

use crate::{meter, reach, reference};

/// The TTHeader decoder against the reference, byte for byte and error for error; what was decoded makes the same bytes again.
pub fn ttheader(data: &[u8]) {
    let form = form_of(data);
    reach::note("rpc-core/src/protocol/header.rs", "form_of", &form);
    match form {
        Ok(Form::TtHeader) => assert_eq!(data[4..6], [0x10, 0x00]),
        Ok(Form::Framed) => assert_eq!(data[4..6], [0x90, 0x01]),
        Err(error) => assert!(matches!(error.kind(), "short" | "magic")),
    }
    reach::note("rpc-core/src/protocol/ttheader/control.rs", "is", &ControlFrame::is(data));
    let (decoded, held) = meter::peak(|| TtFrame::decode(data));
    assert_eq!(held, 0, "taking a frame apart allocates");
    reach::note("rpc-core/src/protocol/ttheader/decode.rs", "decode", &decoded);
    let expected = reference::frame(data);
    let (frame, expected) = match (decoded, expected) {
        (Ok(frame), Ok(expected)) => (frame, expected),
        (Err(error), Err(kind)) => {
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            return assert!(text.starts_with(kind) && !text.contains(char::is_control), "{text}");
        }
        (decoded, expected) => panic!("{decoded:?} where the reference has {expected:?}"),
    };
    let ours = reference::Frame {
        flags: frame.flags,
        seq: frame.seq,
        info: frame.info.to_vec(),
        payload: frame.payload.to_vec(),
    };
    assert_eq!(ours, expected);
    assert_eq!(reference::write_frame(&ours, data[14]), data, "it is not the frame that was read");

    let (found, error) = meter::framing(data.len(), || entries(frame.info));
    let (entries, expected) = reference::entries(frame.info);
    reach::note("rpc-core/src/protocol/ttheader/pairs.rs", "new", &error.is_none());
    assert_eq!((&found, error), (&entries, expected));
    if error.is_none() && frame.payload.len() < 1024 {
        written_again(&frame);
    }
    control(&frame, data);
    checksum(&frame, &entries);
    known(&frame, data);
}

/// A head that is known is recognised where both ids agree, and nothing is that would not be taken apart to the same.
fn known(frame: &TtFrame<'_>, data: &[u8]) {
    let Ok(payload) = Payload::decode(frame.payload) else { return };
    let mut known = KnownHead::default();
    known.learn(data, frame.payload.len(), payload.body.len());
    let found = known.matches(data);
    let agree = frame.seq == payload.seq;
    assert_eq!(found, agree.then_some(KnownFrame { seq: frame.seq, body: payload.body }));
    reach::note("rpc-core/src/protocol/ttheader/known.rs", "learn", &true);
    reach::note("rpc-core/src/protocol/ttheader/known.rs", "matches", &found);
    if data.len() > 1024 {
        return;
    }
    for at in 0..data.len() - payload.body.len() {
        let mut other = data.to_vec();
        other[at] ^= data[0] | 1;
        let found = known.matches(&other);
        reach::note("rpc-core/src/protocol/ttheader/known.rs", "matches", &found);
        if let Some(found) = found {
            let again = TtFrame::decode(&other).expect("a recognised frame can be taken apart");
            let message = Payload::decode(again.payload).expect("and so can its payload");
            assert_eq!((again.flags, again.info), (frame.flags, frame.info));
            assert_eq!((message.kind, message.method), (payload.kind, payload.method));
            assert_eq!((again.seq, message.seq, message.body), (found.seq, found.seq, found.body));
        }
    }
}

/// Every text of the header, and the whole of it, as the payload's checksum.
fn checksum(frame: &TtFrame<'_>, entries: &[reference::Entry]) {
    let right = format!("{:08x}", reference::crc32c(frame.payload));
    assert_eq!(Checksum::of(frame.payload).to_hex(), right.as_bytes());
    let texts = entries.iter().filter_map(|entry| match entry {
        reference::Entry::Str(key, value) if key == b"crc32c" => Some(&value[..]),
        _ => None,
    });
    for announced in texts.chain([frame.info]) {
        let checked = Checksum::check(announced, frame.payload);
        reach::note("rpc-core/src/protocol/checksum.rs", "check", &checked);
        assert_eq!(checked.is_ok(), announced.eq_ignore_ascii_case(right.as_bytes()), "{announced:02x?}, {right}");
        if let Err(corrupt) = checked {
            assert_eq!(corrupt.found, right);
            assert!(corrupt.announced.chars().count() <= 16, "an error as long as its input: {corrupt}");
        }
    }
}

/// What it says if it is a control frame, which is written again and says the same.
fn control(frame: &TtFrame<'_>, data: &[u8]) {
    let (read, held) = meter::peak(|| ControlFrame::decode(frame));
    assert_eq!(held, 0, "reading a control frame allocates");
    if !matches!(read, Ok(None)) {
        reach::note("rpc-core/src/protocol/ttheader/control.rs", "decode", &read);
    }
    if let Ok(Some(control)) = read {
        assert_eq!(ControlFrame::is(data), frame.seq == 0);
        let mut out = Vec::new();
        control.encode(&mut out);
        let again = TtFrame::decode(&out).expect("we read what we write");
        assert_eq!(ControlFrame::decode(&again), Ok(Some(control)));
    }
}

/// Every entry, and the kind of the error that ended the walk.
pub(crate) fn entries(info: &[u8]) -> (Vec<reference::Entry>, Option<&'static str>) {
    let mut found = Vec::new();
    let mut walk = InfoEntries::new(info);
    for entry in &mut walk {
        found.push(match entry {
            Ok(Entry::Str { key, value }) => reference::Entry::Str(key.to_vec(), value.to_vec()),
            Ok(Entry::Int { key, value }) => reference::Entry::Int(key.into(), value.to_vec()),
            Ok(Entry::Acl(token)) => reference::Entry::Acl(token.to_vec()),
            Err(error) => {
                assert!(walk.next().is_none(), "the walk goes on after an error");
                return (found, Some(error.kind()));
            }
        });
    }
    assert!(walk.next().is_none());
    (found, None)
}

/// Our own writer around the info section of a frame of somebody else: its payload head is read back.
fn written_again(frame: &TtFrame<'_>) {
    let mut out = Vec::new();
    let body = frame.payload;
    let head =
        write_frame_head(&mut out, frame.flags, frame.seq, [frame.info, b""], MessageType::Call, b"M", body.len());
    if head.is_err() {
        assert!(out.is_empty() && frame.info.len() > 65_000, "a frame that was read cannot be written");
        return;
    }
    out.extend_from_slice(body);
    let again = TtFrame::decode(&out).expect("we read what we write");
    assert_eq!((again.flags, again.seq), (frame.flags, frame.seq));
    assert_eq!(entries(again.info), entries(frame.info));
    let payload = Payload::decode(again.payload).expect("we read what we write");
    assert_eq!((payload.method, payload.seq, payload.body), (&b"M"[..], frame.seq, body));
}
