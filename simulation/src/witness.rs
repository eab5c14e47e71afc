//! What the network itself can tell of calls: requests and replies as they pass, without a question to anybody's counters.
//!
//! ```text
//!   client ── request ──► written … arrived ──► server      an id is taken from its first byte on
//!   client ◄── reply ──── read   … written ◄─── server      to the last byte of its reply, read
//! ```
//!
//! Of peers whose bytes are made by hand, those are looked at that send nothing but requests. Under TLS there is nothing to be told of calls, and
//! that is what is looked at: records, and no payload.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use rpc_transport::Url;
use rpc_transport::testing::Observer;

use crate::frames::{Frame, Frames, Known};
use crate::sealed::{NEEDLE, Sealed};
use crate::service;

/// Ids with these bits alike are the same place in a client's table: only one of them may be under way.
const PLACE: u32 = (1 << 17) - 1;

/// Looks at every connection of a run. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Account>>);

#[derive(Default)]
struct Account {
    /// By number of the end: its connection, and which side of it.
    ends: HashMap<usize, (usize, Side)>,
    conns: Vec<Conn>,
    /// By reactor: calls that its clients may have on the wire of one connection, and whether they handle at once what they read.
    limits: HashMap<usize, (usize, bool)>,
    /// Ends of peers by hand that are looked at.
    by_hand: HashSet<usize>,
    /// Addresses where TLS is spoken.
    secure: HashSet<String>,
    /// How payloads begin, which must not be seen there.
    secrets: HashSet<[u8; NEEDLE]>,
    turns: u64,
    /// Requests and replies so far.
    calls: u64,
    /// Records of connections under TLS.
    records: u64,
    /// Nothing goes wrong but that servers shut down: what is owed is paid.
    gentle: bool,
    wrong: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

struct Conn {
    at: String,
    /// It is looked at.
    looked_at: bool,
    /// Its client is one of ours; others give ids as they like, and say what they like.
    ours: bool,
    /// It is under TLS: what each side writes.
    sealed: Option<[Sealed; 2]>,
    limit: usize,
    /// Its client handles in the same turn what it reads.
    prompt: bool,
    requests: Frames,
    replies: Frames,
    /// Requests, from the first byte written to the last byte of the reply read, oldest first.
    asked: VecDeque<Asked>,
    /// Of the stream of requests, bytes that have arrived.
    arrived: u64,
    /// Of the stream of replies, bytes that have been read.
    read: u64,
    /// Frames that the client has not read, and where each ends.
    unread: VecDeque<(Frame, u64)>,
    /// The last write of the client took all there was.
    drained: bool,
    /// The turn in which the client read that it is to go elsewhere.
    told: Option<u64>,
    /// Its server shuts down: from the first moment on what has arrived is owed, and what comes then may be.
    leaving: bool,
    /// It has said in a reply that it closes.
    said_so: bool,
    tally: Tally,
    /// One side ended it, and not because it was broken or ended already: what has no reply now gets none.
    left: bool,
    /// No longer to be judged: broken on purpose, or ended by one side.
    excused: bool,
}

/// What passed between a server and its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests that arrived whole.
    pub(crate) asked: u64,
    /// Replies that the network took.
    pub(crate) answered: u64,
    /// Requests without a reply when one side ended the connection, on their way or there; and those that want none.
    pub(crate) left: u64,
}

struct Asked {
    seq: u32,
    /// The call's, once that is known.
    number: u64,
    any_order: bool,
    oneway: bool,
    /// Where it ends in the stream, once that is known.
    end: Option<u64>,
    /// All of it has arrived.
    here: bool,
    owed: bool,
    replied: bool,
}

impl Asked {
    fn new(seq: u32) -> Asked {
        Asked { seq, number: 0, any_order: true, oneway: false, end: None, here: false, owed: false, replied: false }
    }
}

impl Witness {
    /// From now on servers that leave must have answered everything.
    pub(crate) fn be_gentle(&self) {
        self.0.lock().gentle = true;
    }

    /// The clients of a reactor may have so many calls on the wire of one connection.
    /// `prompt`: they handle at once what they read.
    pub(crate) fn limit(&self, reactor: usize, calls: usize, prompt: bool) {
        self.0.lock().limits.insert(reactor, (calls, prompt));
    }

    /// The peer at this end, made by hand, sends nothing but requests: it is judged what becomes of them.
    pub(crate) fn look_at(&self, end: usize) {
        let account = &mut *self.0.lock();
        account.by_hand.insert(end);
        if let Some((number, _)) = account.ends.get(&end) {
            account.conns[*number].looked_at = true;
        }
    }

    /// At that address TLS is spoken.
    pub(crate) fn is_secure(&self, at: &Url) {
        self.0.lock().secure.insert(plain(at));
    }

    /// What a call with this number carries is nobody else's.
    pub(crate) fn hide(&self, number: u64) {
        let mut secret = [0; NEEDLE];
        secret.copy_from_slice(&service::payload(number, NEEDLE));
        self.0.lock().secrets.insert(secret);
    }

    /// The server there begins to shut down.
    pub(crate) fn leaves(&self, at: &Url) {
        self.each(at, Conn::leave);
    }

    /// The server there is cut, or dies.
    pub(crate) fn dies(&self, at: &Url) {
        self.each(at, |conn| conn.excused = true);
    }

    /// What passed between the server there and its clients.
    pub(crate) fn tally(&self, at: &Url) -> Tally {
        let mut sum = Tally::default();
        self.each(at, |conn| {
            sum.asked += conn.tally.asked;
            sum.answered += conn.tally.answered;
            if conn.left {
                sum.left += conn.asked.iter().filter(|asked| !asked.replied).count() as u64;
            }
        });
        sum
    }

    fn each(&self, at: &Url, tell: impl FnMut(&mut Conn)) {
        let at = plain(at);
        self.0.lock().conns.iter_mut().filter(|conn| conn.at == at).for_each(tell);
    }

    /// What has gone wrong so far.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.0.lock().wrong.clone()
    }

    /// Requests and replies that have begun so far; under TLS nobody can tell them from anything else.
    pub(crate) fn steps(&self) -> u64 {
        let account = self.0.lock();
        account.calls + account.records
    }

    /// Records that have begun so far.
    pub(crate) fn records(&self) -> u64 {
        self.0.lock().records
    }
}

impl Observer for Witness {
    fn turn(&mut self, _: usize) {
        self.0.lock().turns += 1;
    }

    fn paired(&mut self, client: usize, reactor: Option<usize>, server: usize, at: &Url) {
        let mut account = self.0.lock();
        let limits = reactor.and_then(|reactor| account.limits.get(&reactor).copied());
        let (limit, prompt) = limits.unwrap_or((usize::MAX, false));
        let (number, ours) = (account.conns.len(), reactor.is_some());
        let looked_at = ours || account.by_hand.contains(&client);
        let at = plain(at);
        let sealed = account.secure.contains(&at).then(Default::default);
        account.conns.push(Conn { looked_at, ours, sealed, ..Conn::new(at, limit, prompt) });
        account.ends.insert(client, (number, Side::Client));
        account.ends.insert(server, (number, Side::Server));
    }

    fn wrote(&mut self, end: usize, bytes: &[u8]) {
        self.look_at_records(end, bytes);
        self.look(end, |conn, side, turns| conn.wrote(side, bytes, turns));
    }

    fn written(&mut self, end: usize, all: bool) {
        self.look(end, |conn, side, _| {
            if side == Side::Client {
                conn.drained = all;
            }
            Ok(0)
        });
    }

    fn arrived(&mut self, end: usize, n: usize) {
        self.look(end, |conn, side, _| {
            if side == Side::Server {
                conn.arrived += n as u64;
                let here = conn
                    .asked
                    .iter_mut()
                    .filter(|asked| !asked.here && asked.end.is_some_and(|end| end <= conn.arrived));
                conn.tally.asked += here.map(|asked| asked.here = true).count() as u64;
            }
            Ok(0)
        });
    }

    fn read(&mut self, end: usize, n: usize) {
        self.look(end, |conn, side, turns| {
            if side == Side::Client {
                conn.has_read(n, turns);
            }
            Ok(0)
        });
    }

    fn broke(&mut self, end: usize) {
        self.look(end, |conn, _, _| {
            conn.excused = true;
            Ok(0)
        });
    }

    /// A server that closes says so first, and closes when its client has, too: now it is judged.
    fn finished(&mut self, end: usize) {
        self.ends(end);
    }

    fn closed(&mut self, end: usize) {
        self.ends(end);
    }
}

impl Witness {
    /// One side ends a connection; what the other does with it afterwards is nobody's fault.
    fn ends(&self, end: usize) {
        let gentle = self.0.lock().gentle;
        self.look(end, |conn, side, _| {
            if side == Side::Server && gentle {
                conn.judge()?;
            }
            conn.left |= !conn.excused;
            conn.excused = true;
            Ok(0)
        });
    }

    /// Of one under TLS; of attackers it is what they are told.
    fn look_at_records(&self, end: usize, bytes: &[u8]) {
        let account = &mut *self.0.lock();
        let Some((number, side)) = account.ends.get(&end) else { return };
        let conn = &mut account.conns[*number];
        let Some(sealed) = conn.sealed.as_mut().filter(|_| conn.looked_at || *side == Side::Server) else { return };
        match sealed[usize::from(*side == Side::Server)].take(bytes, &account.secrets) {
            Ok(records) => account.records += records,
            Err(wrong) => {
                _ = account.wrong.get_or_insert_with(|| format!("{wrong}, connection {number} to {}", conn.at))
            }
        }
    }

    /// Shows one end's connection, and what has been counted of turns; takes what was counted of calls.
    fn look(&self, end: usize, look: impl FnOnce(&mut Conn, Side, u64) -> Result<u64, String>) {
        let account = &mut *self.0.lock();
        let Some((number, side)) = account.ends.get(&end) else { return };
        let conn = &mut account.conns[*number];
        if !conn.looked_at || conn.sealed.is_some() {
            return;
        }
        match look(conn, *side, account.turns) {
            Ok(calls) => account.calls += calls,
            Err(wrong) => {
                _ = account.wrong.get_or_insert_with(|| format!("{wrong}, connection {number} to {}", conn.at))
            }
        }
    }
}

/// An address as the network knows it, to which TLS is nothing.
fn plain(at: &Url) -> String {
    at.to_string().replace("tls://", "tcp://")
}

impl Conn {
    fn new(at: String, limit: usize, prompt: bool) -> Conn {
        Conn {
            at,
            looked_at: true,
            ours: true,
            sealed: None,
            limit,
            prompt,
            requests: Frames::default(),
            replies: Frames::default(),
            asked: VecDeque::new(),
            arrived: 0,
            read: 0,
            unread: VecDeque::new(),
            drained: true,
            told: None,
            leaving: false,
            said_so: false,
            tally: Tally::default(),
            left: false,
            excused: false,
        }
    }

    /// Bytes on their way; returns how many requests or replies they begin.
    fn wrote(&mut self, side: Side, bytes: &[u8], turns: u64) -> Result<u64, String> {
        let mut heard = Vec::new();
        let frames = if side == Side::Client { &mut self.requests } else { &mut self.replies };
        frames.take(bytes, |known| heard.push(known))?;
        let mut calls = 0;
        for known in heard {
            match (side, known) {
                (_, Known::Begun(0)) => {}
                (Side::Client, Known::Begun(seq)) => {
                    calls += 1;
                    if self.ours {
                        self.ask(seq, turns)?;
                    }
                }
                (Side::Client, Known::Whole(Frame::Request { seq, any_order, oneway, number }, end)) => {
                    if !self.ours {
                        self.asked.push_back(Asked::new(seq));
                    }
                    if let Some(asked) = self.asked.back_mut() {
                        asked.end = Some(end);
                        (asked.any_order, asked.oneway, asked.number) = (any_order, oneway, number);
                    }
                }
                (Side::Client, Known::Whole(Frame::Control | Frame::Farewell, _)) => {}
                (Side::Server, Known::Begun(_)) => calls += 1,
                (Side::Server, Known::Whole(frame, end)) => {
                    self.unread.push_back((frame, end));
                    match frame {
                        Frame::Reply { seq, closing, number } => {
                            self.reply(seq, number)?;
                            // Each reply says so from then on; the first one is the goodbye.
                            if closing && !std::mem::replace(&mut self.said_so, true) {
                                self.leave();
                            }
                        }
                        Frame::Farewell => self.leave(),
                        Frame::Control => {}
                        Frame::Request { seq, .. } => return Err(format!("I3: a server sends a request {seq:#x}")),
                    }
                }
                (Side::Client, Known::Whole(Frame::Reply { seq, .. }, _)) => {
                    return Err(format!("I3: a client sends a reply {seq:#x}"));
                }
            }
        }
        Ok(calls)
    }

    /// A request begins.
    fn ask(&mut self, seq: u32, turns: u64) -> Result<(), String> {
        // What stood in the output when the goodbye was read is written in the same turn, or when there is room.
        if self.prompt && self.told.is_some_and(|told| told < turns) && self.drained {
            return Err(format!("I24: a request {seq:#x} after the goodbye was read"));
        }
        if let Some(other) = self.asked.iter().find(|asked| asked.seq & PLACE == seq & PLACE) {
            return Err(format!("I4: a request {seq:#x} though {:#x} is under way", other.seq));
        }
        self.asked.push_back(Asked::new(seq));
        match self.asked.len() > self.limit {
            true => Err(format!("I9: {} calls on the wire, {} allowed", self.asked.len(), self.limit)),
            false => Ok(()),
        }
    }

    /// A reply has been written. Where ids are alike it is for the first that waits: those are requests whose replies come in order, and
    /// what is in the reply tells whose it is.
    fn reply(&mut self, seq: u32, number: Option<u64>) -> Result<(), String> {
        let waits = |asked: &Asked| asked.seq == seq && !asked.replied && !asked.oneway;
        let Some(place) = self.asked.iter().position(waits) else {
            return Err(match self.asked.iter().find(|asked| asked.seq == seq) {
                Some(asked) if asked.oneway => format!("I1: a reply to {seq:#x}, which wants none"),
                Some(_) => format!("I1: a second reply to {seq:#x}"),
                None => format!("I3: a reply to {seq:#x}, which was not asked"),
            });
        };
        let asked = &self.asked[place];
        if !asked.here {
            return Err(format!("I3: a reply to {seq:#x}, which has not arrived"));
        }
        if number.is_some_and(|number| number != asked.number) {
            return Err(format!("I3 or I8: call {} gets the reply of call {number:?}", asked.number));
        }
        // Those that may be answered in any order may be overtaken, too.
        let awaited = |before: &Asked| !before.replied && !before.oneway && !before.any_order;
        if !asked.any_order && self.asked.iter().take(place).any(awaited) {
            return Err(format!("I8: a reply to {seq:#x} before those to earlier requests"));
        }
        self.asked[place].replied = true;
        self.tally.answered += 1;
        Ok(())
    }

    /// The client has read so many bytes.
    fn has_read(&mut self, n: usize, turns: u64) {
        self.read += n as u64;
        while let Some((frame, end)) = self.unread.front().copied()
            && end <= self.read
        {
            self.unread.pop_front();
            if let Frame::Reply { seq, .. } = frame
                && let Some(place) = self.asked.iter().position(|asked| asked.seq == seq && asked.replied)
            {
                self.asked.remove(place);
            }
            if matches!(frame, Frame::Farewell | Frame::Reply { closing: true, .. }) {
                self.told.get_or_insert(turns);
            }
        }
    }

    /// Its server says goodbye, or begins to shut down: every request that is there is to be answered.
    fn leave(&mut self) {
        self.leaving = true;
        for asked in &mut self.asked {
            asked.owed |= asked.here;
        }
    }

    /// Its server ends it.
    fn judge(&self) -> Result<(), String> {
        if self.excused {
            return Ok(());
        }
        let owed = |asked: &&Asked| asked.here && !asked.replied && !asked.oneway && (asked.owed || !self.leaving);
        match self.asked.iter().find(owed) {
            Some(asked) => Err(format!("I23: request {:#x} had arrived, and was not answered", asked.seq)),
            None => Ok(()),
        }
    }
}
