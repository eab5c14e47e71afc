//! A frame that claims to be TTHeader: taken apart twice, and put together again.

use rpc_core::protocol::ttheader::{ControlFrame, Entry, InfoEntries, TtFrame, write_frame_head};
use rpc_core::protocol::{Checksum, Form, MessageType, Payload, form_of};

use crate::meter;
use crate::reference;

/// The TTHeader decoder against the reference, byte for byte and error for error; what was decoded makes the same bytes again.
pub fn ttheader(data: &[u8]) {
    match form_of(data) {
        Ok(Form::TtHeader) => assert_eq!(data[4..6], [0x10, 0x00]),
        Ok(Form::Framed) => assert_eq!(data[4..6], [0x90, 0x01]),
        Err(error) => assert!(matches!(error.kind(), "short" | "magic")),
    }
    let (decoded, held) = meter::peak(|| TtFrame::decode(data));
    assert_eq!(held, 0, "taking a frame apart allocates");
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
    assert_eq!((found, error), reference::entries(frame.info));
    if error.is_none() && frame.payload.len() < 1024 {
        written_again(&frame);
    }
    control(&frame, data);
    let _ = Checksum::check(frame.info, frame.payload);
}

/// What it says if it is a control frame, which is written again and says the same.
fn control(frame: &TtFrame<'_>, data: &[u8]) {
    let (read, held) = meter::peak(|| ControlFrame::decode(frame));
    assert_eq!(held, 0, "reading a control frame allocates");
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
