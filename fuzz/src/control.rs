//! Control frames: what two peers of this framework say to each other beside calls.

use arbitrary::{Arbitrary, Unstructured};
use rpc_core::protocol::ProtocolError;
use rpc_core::protocol::ttheader::{ControlFrame, TtFrame};

use crate::reference::{self, Control};
use crate::{meter, reach};

/// A control frame of our own making.
#[derive(Debug, Arbitrary)]
enum Said<'a> {
    Ping(u64),
    Pong(u64),
    Cancel(i32),
    GoAway(i32, &'a [u8]),
}

/// The info section of a frame with id 0 against the reference, with a payload and without; and the other way round, a control frame
/// made from the same bytes is written, and read as what it was.
pub fn control(data: &[u8]) {
    for payload in [&b""[..], b"x"] {
        let frame = TtFrame { flags: 0, seq: 0, info: data, payload };
        let (read, held) = meter::peak(|| meter::framing(data.len(), || ControlFrame::decode(&frame)));
        assert_eq!(held, 0, "reading a control frame allocates");
        if !matches!(read, Ok(None)) {
            reach::note("rpc-core/src/protocol/ttheader/control.rs", "decode", &read);
        }
        match (read, reference::control(data, payload)) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(control)), Ok(Some(expected))) => {
                assert_eq!(of(control), expected);
                written(control);
            }
            (Err(error), Err(expected)) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control), "{text:?}");
                assert_eq!(error.kind(), expected.unwrap_or(ProtocolError::Control("").kind()), "{text}");
            }
            (read, expected) => panic!("{read:?} where the reference has {expected:?}"),
        }
    }
    if let Ok(said) = Said::arbitrary(&mut Unstructured::new(data)) {
        written(match said {
            Said::Ping(number) => ControlFrame::Ping(number),
            Said::Pong(number) => ControlFrame::Pong(number),
            Said::Cancel(seq) => ControlFrame::Cancel(if seq == 0 { 1 } else { seq }),
            Said::GoAway(last, reason) => ControlFrame::GoAway { last, reason },
        });
    }
}

/// Writes a frame, and reads it again: the same, but for what is cut of a long reason.
fn written(control: ControlFrame<'_>) {
    let mut out = Vec::new();
    control.encode(&mut out);
    assert!(ControlFrame::is(&out), "{control:?} is not known for what it is");
    let frame = reference::frame(&out).expect("we write what others read");
    assert_eq!((frame.flags, frame.seq, &frame.payload[..]), (0, 0, &b""[..]));
    let expected = match of(control) {
        Control::GoAway(last, reason) => Control::GoAway(last, reason[..reason.len().min(256)].to_vec()),
        other => other,
    };
    assert_eq!(reference::control(&frame.info, &frame.payload), Ok(Some(expected)));
    let again = TtFrame::decode(&out).expect("we read what we write");
    let again = ControlFrame::decode(&again).expect("we read what we write").expect("a control frame");
    match (again, control) {
        (ControlFrame::GoAway { last, reason }, ControlFrame::GoAway { last: said, reason: whole }) => {
            assert_eq!((last, reason), (said, &whole[..whole.len().min(256)]));
        }
        (again, control) => assert_eq!(again, control),
    }
}

fn of(control: ControlFrame<'_>) -> Control {
    match control {
        ControlFrame::Ping(number) => Control::Ping(number),
        ControlFrame::Pong(number) => Control::Pong(number),
        ControlFrame::Cancel(seq) => Control::Cancel(seq),
        ControlFrame::GoAway { last, reason } => Control::GoAway(last, reason.to_vec()),
    }
}
