//! What a server must answer to these bytes: one value for the whole conversation, from the description, without a thought of pieces.
//!
//! Pongs are apart: of several pings that are read at once only the last one is answered.

use prost::Message as _;

use crate::detect::{self, Ending};
use crate::reference::{self, Control, Entry};
use crate::service::Blob;

/// The rules of the server that is spoken to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_frame: u32,
    pub(crate) max_header: usize,
    pub(crate) max_entries: usize,
    pub(crate) strikes: u32,
    pub(crate) cancel_budget: u64,
    /// It compares checksums, and sends them.
    pub(crate) checksum: bool,
}

/// A frame of the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Reply {
        seq: i32,
        /// The message; none in an exception.
        body: Option<Vec<u8>>,
        /// Its header says that control frames are known.
        confirms: bool,
        /// A code that is named to peers of this framework.
        cancelled: bool,
    },
    Ping(u64),
    GoAway(i32, &'static str),
}

/// What a server must say and count.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) said: Vec<Said>,
    /// Numbers of the pings that it answers, one by one or the last of some.
    pub(crate) pings: Vec<u64>,
    /// It ends the connection.
    pub(crate) closed: bool,
    pub(crate) accepted: u64,
    /// Calls that run until the connection ends.
    pub(crate) unanswered: u64,
    pub(crate) glitches: u64,
    /// What was done about control frames.
    pub(crate) events: Vec<&'static str>,
    /// It has nothing more to do, and closes when a read finds nothing: what comes after this is refused, or not read any more, as it was
    /// there by then or not.
    pub(crate) left: Option<Left>,
}

/// How far things were then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) said: usize,
    pub(crate) accepted: u64,
    pub(crate) glitches: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Controls {
    No,
    Announced,
    On,
}

#[derive(Clone, Copy, PartialEq)]
enum Drain {
    No,
    /// Told to go, and asked for a round trip.
    Told,
    Over,
}

/// A connection, as the server should see it.
struct Conn {
    rules: Rules,
    expected: Expected,
    controls: Controls,
    drain: Drain,
    /// The last header that was read.
    header: Vec<u8>,
    /// Calls that run, at the places that they take, and the places that are free: of equal ids the first place counts.
    running: Vec<Option<Call>>,
    free: Vec<usize>,
    calls: u64,
    cancels: u64,
    cut: u64,
    last: i32,
    pings: u32,
}

#[derive(Clone, Copy)]
struct Call {
    seq: i32,
    oneway: bool,
    /// Its caller is of this framework, and is told codes by name.
    ours: bool,
}

/// Nothing follows from the bytes alone: it depends on the time.
struct Unknown;

/// What follows from `data` for the connection; `None` where time decides, because a call holds up those behind it or has a deadline.
pub(crate) fn expect(data: &[u8], rules: Rules) -> Option<Expected> {
    let (frames, ending) = detect::cut(data, rules.max_frame);
    let mut conn = Conn {
        rules,
        expected: Expected::default(),
        controls: Controls::No,
        drain: Drain::No,
        header: Vec::new(),
        running: Vec::new(),
        free: Vec::new(),
        calls: 0,
        cancels: 0,
        cut: 0,
        last: 0,
        pings: 0,
    };
    for frame in frames {
        conn.frame(&frame).ok()?;
        if conn.expected.closed {
            break;
        }
    }
    conn.expected.closed |= conn.expected.left.is_some() || ending == Ending::Closed;
    // Oneway messages are handled to their end though their sender leaves, unless the server has closed before.
    let dropped = |call: &&Call| conn.expected.closed || !call.oneway;
    conn.expected.unanswered = conn.running.iter().flatten().filter(dropped).count() as u64;
    Some(conn.expected)
}

impl Conn {
    fn frame(&mut self, frame: &[u8]) -> Result<(), Unknown> {
        match detect::message(frame) {
            Ok(message) => {
                let (flags, info) = reference::frame(frame).map_or((0, Vec::new()), |tt| (tt.flags, tt.info));
                return self.request(frame[4] == 0x10, flags, &info, message, frame);
            }
            Err(_) => match reference::frame(frame) {
                Ok(tt) if tt.seq == 0 => match reference::control(&tt.info, &tt.payload) {
                    Ok(Some(control)) => self.control(control),
                    _ => self.expected.closed = true,
                },
                _ => self.expected.closed = true,
            },
        }
        Ok(())
    }

    fn request(
        &mut self,
        tt: bool,
        flags: u16,
        info: &[u8],
        message: reference::Message,
        frame: &[u8],
    ) -> Result<(), Unknown> {
        let (entries, error) = reference::entries(info);
        let over = info.len() + 2 > self.rules.max_header || entries.len() > self.rules.max_entries;
        if !over && error.is_some() {
            self.expected.closed = true;
            return Ok(());
        }
        let oneway = message.kind == 4;
        if !matches!(message.kind, 1 | 4) {
            self.expected.glitches += 1;
            return Ok(());
        }
        self.expected.accepted += 1;
        if over {
            self.expected.glitches += 1;
            self.reply(tt, oneway, message.seq, None);
            return Ok(());
        }
        let int = |wanted| {
            entries.iter().rev().find_map(|entry| match entry {
                Entry::Int(key, value) if *key == wanted => Some(&value[..]),
                _ => None,
            })
        };
        let string = |wanted: &[u8]| {
            entries.iter().rev().find_map(|entry| match entry {
                Entry::Str(key, value) if key == wanted => Some(&value[..]),
                _ => None,
            })
        };
        // A header that is that of the request before is not looked at again: a connection's first must announce.
        let bits = int(31001).and_then(reference::number).and_then(|bits| u32::try_from(bits).ok());
        if self.header != info {
            self.header = info.to_vec();
            if bits.is_some_and(|bits| bits & 1 != 0) && flags & 1 != 0 && self.controls == Controls::No {
                self.controls = Controls::Announced;
                self.expected.events.push("announced");
            }
        }
        self.calls += 1;
        if self.drain == Drain::Over {
            self.expected.glitches += 1;
            if self.expected.left.is_none() {
                self.expected.events.push("refused after goaway");
            }
            self.reply(tt, oneway, message.seq, None);
            return Ok(());
        }
        self.last = message.seq;
        if self.rules.checksum
            && let Some(announced) = string(b"crc32c").filter(|text| !text.is_empty())
        {
            let payload = reference::frame(frame).expect("it has a header").payload;
            let right = announced.eq_ignore_ascii_case(format!("{:08x}", reference::crc32c(&payload)).as_bytes());
            self.expected.events.push(if right { "checksum right" } else { "checksum wrong" });
            if !right {
                self.expected.glitches += 1;
                self.reply(tt, oneway, message.seq, None);
                return Ok(());
            }
        }
        let later = message.method == b"Later";
        if !later && message.method != b"Blob" {
            self.reply(tt, oneway, message.seq, None);
            return Ok(());
        }
        let Ok(blob) = Blob::decode(&message.body[..]) else {
            self.expected.glitches += 1;
            self.reply(tt, oneway, message.seq, None);
            return Ok(());
        };
        if !later {
            self.reply(tt, oneway, message.seq, Some(blob.encode_to_vec()));
            return Ok(());
        }
        let deadline = int(12).and_then(reference::number).is_some_and(|timeout| timeout > 0);
        if deadline || (flags & 1 == 0 && !oneway) {
            return Err(Unknown);
        }
        let call = Some(Call { seq: message.seq, oneway, ours: bits.is_some() });
        match self.free.pop() {
            Some(place) => self.running[place] = call,
            None => self.running.push(call),
        }
        Ok(())
    }

    fn reply(&mut self, tt: bool, oneway: bool, seq: i32, body: Option<Vec<u8>>) {
        if oneway {
            return;
        }
        let confirms = tt && self.controls == Controls::Announced;
        if confirms {
            self.controls = Controls::On;
            self.expected.events.push("confirmed");
        }
        self.expected.said.push(Said::Reply { seq, body, confirms, cancelled: false });
    }

    fn control(&mut self, control: Control) {
        if self.controls != Controls::On {
            self.expected.events.push("not agreed");
            self.expected.closed = true;
            return;
        }
        match control {
            Control::Ping(number) => {
                self.pings += 1;
                // The first is no strike, however soon it comes.
                if self.pings > self.rules.strikes + 1 {
                    self.expected.events.push("too many pings");
                    self.expected.said.push(Said::GoAway(0, "too_many_pings"));
                    self.expected.closed = true;
                } else {
                    self.expected.events.push("ping");
                    self.expected.pings.push(number);
                }
            }
            Control::Pong(1) if self.drain == Drain::Told => {
                self.expected.events.push("pong");
                self.drain = Drain::Over;
                self.expected.said.push(Said::GoAway(self.last, "cancel_budget"));
                self.leave();
            }
            Control::Pong(_) => {
                self.expected.events.push("pong unasked");
                self.expected.glitches += 1;
            }
            Control::Cancel(seq) => self.cancel(seq),
            Control::GoAway(..) => self.expected.events.push("goaway"),
        }
    }

    fn cancel(&mut self, seq: i32) {
        self.cancels += 1;
        if self.cancels > self.calls {
            self.expected.events.push("more cancels than calls");
            self.expected.glitches += 1;
            return;
        }
        let place = self.running.iter().position(|call| call.is_some_and(|call| call.seq == seq));
        let Some(place) = place else {
            self.expected.events.push("cancel of no call");
            return;
        };
        self.expected.events.push("cancel");
        let call = self.running[place].take().expect("it was found");
        self.free.push(place);
        if !call.oneway {
            self.expected.said.push(Said::Reply { seq, body: None, confirms: false, cancelled: call.ours });
        }
        self.cut += 1;
        // Inputs have no room for as many calls as would make it forget some.
        if self.calls >= self.rules.cancel_budget && 2 * self.cut > self.calls && self.drain == Drain::No {
            self.expected.events.push("cancel budget");
            self.drain = Drain::Told;
            self.expected.said.extend([Said::GoAway(0, "cancel_budget"), Said::Ping(1)]);
        }
        self.leave();
    }

    /// Closes when it has said so, nothing runs, and nothing is left to read.
    fn leave(&mut self) {
        if self.drain == Drain::Over && self.running.iter().flatten().count() == 0 && self.expected.left.is_none() {
            self.expected.events.push("left");
            self.expected.left = Some(Left {
                said: self.expected.said.len(),
                accepted: self.expected.accepted,
                glitches: self.expected.glitches,
            });
        }
    }
}

/// Frames that a server sent, its pongs apart.
pub(crate) fn heard(output: &[u8], checksum: bool) -> (Vec<Said>, Vec<u64>) {
    let (frames, rest) = detect::cut(output, u32::MAX);
    assert_eq!(rest, Ending::Waits(0), "the server's own bytes are no frames: {output:02x?}");
    let (mut said, mut pongs) = (Vec::new(), Vec::new());
    for frame in frames {
        let tt = reference::frame(&frame).ok();
        let control = tt.as_ref().filter(|tt| tt.seq == 0 && tt.payload.is_empty());
        if let Some(tt) = control {
            match reference::control(&tt.info, &tt.payload).expect("a control frame by the rules").expect("one of ours")
            {
                Control::Ping(number) => said.push(Said::Ping(number)),
                Control::Pong(number) => pongs.push(number),
                Control::GoAway(last, reason) => {
                    let known = ["too_many_pings", "cancel_budget"].into_iter().find(|name| name.as_bytes() == reason);
                    said.push(Said::GoAway(last, known.unwrap_or("another reason")));
                }
                Control::Cancel(_) => panic!("a server cancels"),
            }
            continue;
        }
        let message = detect::message(&frame).expect("a message");
        assert!(matches!(message.kind, 2 | 3), "a server sends a message of kind {}", message.kind);
        let (entries, broken) = tt.as_ref().map_or_else(|| (Vec::new(), None), |tt| reference::entries(&tt.info));
        assert_eq!(broken, None);
        let has = |wanted: &Entry| entries.contains(wanted);
        if let Some(tt) = tt.as_ref().filter(|_| checksum) {
            let right = format!("{:08x}", reference::crc32c(&tt.payload)).into_bytes();
            assert!(has(&Entry::Str(b"crc32c".to_vec(), right)), "a reply without its checksum: {entries:?}");
        }
        said.push(Said::Reply {
            seq: message.seq,
            confirms: entries.iter().any(|entry| matches!(entry, Entry::Int(31001, _))),
            cancelled: has(&Entry::Str(b"rpc-code".to_vec(), b"CANCELLED".to_vec())),
            body: (message.kind == 2).then_some(message.body),
        });
    }
    (said, pongs)
}
