//! What a client must make of these bytes: which calls they answer, what it says beside calls, and whether it stays.

use bytes::Bytes;
use prost::Message as _;

use crate::detect::{self, Ending};
use crate::reference::{self, Control, Entry};
use crate::service::{Blob, ECHO_BLOB};

/// The rules of the client that is spoken to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_frame: u32,
    pub(crate) strikes: u32,
    /// The number of its first call, and how many there are.
    pub(crate) first: i32,
    pub(crate) calls: usize,
    /// It compares checksums.
    pub(crate) checksum: bool,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    None,
    Reply(Bytes),
    Error,
}

/// What a client must do.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) answers: Vec<Answer>,
    /// Control frames may be sent, and are: both sides have said that they know them.
    pub(crate) agreed: bool,
    /// Numbers of the pings that it answers, one by one or the last of some.
    pub(crate) pings: Vec<u64>,
    /// It says goaway, and why.
    pub(crate) goaway: Option<&'static str>,
    /// It ends the connection.
    pub(crate) closed: bool,
    /// No more calls there.
    pub(crate) retired: bool,
    pub(crate) glitches: u64,
    /// Whether it may have ended the connection before the last of these frames: its last call was answered.
    pub(crate) may_have_left: bool,
    pub(crate) events: Vec<&'static str>,
}

/// What follows from `data`.
pub(crate) fn expect(data: &[u8], rules: Rules) -> Expected {
    let (frames, ending) = detect::cut(data, rules.max_frame);
    let mut expected = Expected {
        answers: vec![Answer::None; rules.calls],
        agreed: false,
        pings: Vec::new(),
        goaway: None,
        closed: false,
        retired: false,
        glitches: 0,
        may_have_left: false,
        events: Vec::new(),
    };
    for frame in frames {
        expected.may_have_left |= expected.has_left();
        if !expected.frame(&frame, rules) {
            expected.closed = true;
            return expected;
        }
    }
    if ending == Ending::Closed {
        expected.may_have_left |= expected.has_left();
        expected.closed = true;
    }
    expected
}

impl Expected {
    /// Retired, and its last call has its answer.
    pub(crate) fn has_left(&self) -> bool {
        self.retired && self.answers.iter().all(|answer| *answer != Answer::None)
    }

    /// Whether the connection goes on.
    fn frame(&mut self, frame: &[u8], rules: Rules) -> bool {
        let Ok(tt) = reference::frame(frame) else { return false };
        if tt.seq == 0 {
            return match reference::control(&tt.info, &tt.payload) {
                Err(_) => false,
                Ok(Some(control)) => self.control(control, rules),
                Ok(None) => {
                    let (entries, error) = reference::entries(&tt.info);
                    let goodbye = error.is_none() && entries.len() <= 128 && last(&entries, b"crrst") == Some(b"1");
                    self.event(if goodbye { "goodbye" } else { "no goodbye" });
                    self.retired |= goodbye;
                    self.glitches += u64::from(!goodbye);
                    true
                }
            };
        }
        let Ok(message) = reference::message(&tt.payload) else { return false };
        let (entries, error) = reference::entries(&tt.info);
        let many = entries.len() > 128;
        if error.is_some() && !many {
            return false; // whoever the reply is for
        }
        if !many && !self.agreed {
            let bits = entries.iter().rev().find_map(|entry| match entry {
                Entry::Int(31001, value) => Some(reference::number(value).and_then(|bits| u32::try_from(bits).ok())),
                _ => None,
            });
            self.agreed = bits.flatten().is_some_and(|bits| bits & 1 != 0);
            if self.agreed {
                self.event("agreed");
            }
        }
        let call = usize::try_from(i64::from(tt.seq) - i64::from(rules.first)).ok();
        let Some(call) = call.filter(|call| self.answers.get(*call) == Some(&Answer::None)) else {
            self.event("a reply to no call");
            self.glitches += 1;
            return true;
        };
        match message.kind {
            2 if message.method != ECHO_BLOB.name().as_bytes() || message.seq != tt.seq => {
                self.answers[call] = Answer::Error;
                return false;
            }
            2 | 3 => {}
            _ => {
                self.glitches += 1;
                return true;
            }
        }
        self.answers[call] = Answer::Error;
        if many {
            self.glitches += 1;
            return true;
        }
        if let Some(announced) = last(&entries, b"crc32c").filter(|text| rules.checksum && !text.is_empty()) {
            let right = announced.eq_ignore_ascii_case(format!("{:08x}", reference::crc32c(&tt.payload)).as_bytes());
            self.event(if right { "checksum right" } else { "checksum wrong" });
            if !right {
                self.glitches += 1;
                return true;
            }
        }
        if last(&entries, b"crrst") == Some(b"1") {
            self.event("closing");
            self.retired = true;
        }
        let status = last(&entries, b"biz-status").and_then(reference::number);
        let business = status.and_then(|status| i32::try_from(status).ok()).unwrap_or(0) != 0;
        if message.kind == 2
            && !business
            && let Ok(blob) = Blob::decode(&message.body[..])
        {
            self.answers[call] = Answer::Reply(blob.payload);
        }
        true
    }

    fn control(&mut self, control: Control, rules: Rules) -> bool {
        if !self.agreed {
            self.event("not agreed");
            return false;
        }
        match control {
            Control::Ping(_) if self.pings.len() > rules.strikes as usize => {
                self.event("too many pings");
                self.goaway = Some("too_many_pings");
                return false;
            }
            Control::Ping(number) => {
                self.event("ping");
                self.pings.push(number);
            }
            Control::Pong(_) => {
                self.event("pong unasked");
                self.glitches += 1;
            }
            Control::Cancel(_) => {
                self.event("cancel");
                self.glitches += 1;
            }
            Control::GoAway(..) => {
                self.event(if self.retired { "goaway again" } else { "goaway" });
                self.retired = true;
            }
        }
        true
    }

    fn event(&mut self, what: &'static str) {
        self.events.push(what);
    }
}

/// The last value of a string key.
fn last<'a>(entries: &'a [Entry], wanted: &[u8]) -> Option<&'a [u8]> {
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Str(key, value) if key == wanted => Some(&value[..]),
        _ => None,
    })
}
