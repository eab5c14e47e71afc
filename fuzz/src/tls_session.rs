//! One side of a TLS connection: any bytes as ciphertext, and the bytes of a real peer, changed on their way.
//!
//! ```text
//!  a rustls client or server ── wire: cut, twice, swapped, flipped, lost ──► TlsByHand ──► plaintext: a prefix of what was said
//!       or a forger with its keys ◄── as it is ──────────────────────────────┘
//! ```

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use rpc_transport::rustls::pki_types::ServerName;
use rpc_transport::rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rpc_transport::testing::TlsByHand;
use rpc_transport::testing::tls::{Kind, NAME, client_config, seed, server_config};
use rpc_transport::{TlsClient, TlsError, TlsServer};

use crate::forger::Forger;
use crate::{meter, reach, stream};

const FILE: &str = "rpc-transport/src/tls/session.rs";
/// Operations of a story, and bytes of plaintext in each direction.
const MOST_OPS: usize = 256;
const MOST_SAID: usize = 256 * 1024;
/// How often a peer may ask for new keys without being taken for a nuisance.
const KEYS: usize = 30;
/// What one read may bring: four records of the largest size and what is left of a fifth.
const READ: usize = 80 * 1024;
/// What a session may keep: a message of the handshake that is not whole (64 KiB), the plaintext of one read in a vector that has grown
/// in steps, and the ciphertext of one write with what rustls has to say beside it.
const HELD: usize = 64 * 1024 + 2 * READ + 2 * READ;
/// What a read may need beside, while it is worked on.
const PEAK: usize = 8 * READ;

/// A server's side, of whatever client.
pub fn tls_server(data: &[u8]) {
    judge(data, Side::Server);
}

/// A client's side, of whatever server.
pub fn tls_client(data: &[u8]) {
    judge(data, Side::Client);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    /// Handshakes and all else goes back and forth until nobody has anything to say.
    Settle,
    /// So many of the peer's bytes come, and so many records' worth of room is there for what they say.
    Deliver {
        bytes: u16,
        room: u16,
    },
    /// Each byte by itself.
    Trickle {
        bytes: u8,
    },
    /// Plaintext that there was no room for is taken.
    Take(u16),
    Flip {
        at: u16,
        bit: u8,
    },
    Lose {
        at: u16,
        len: u16,
    },
    Repeat {
        at: u16,
        len: u16,
    },
    Swap {
        at: u16,
        len: u16,
    },
    Insert {
        at: u16,
        byte: u8,
        len: u8,
    },
    LoseRecord(u8),
    RepeatRecord(u8),
    SwapRecords(u8),
    /// The peer says so many bytes.
    Say(u16),
    /// It asks for new keys.
    Refresh,
    /// It has nothing more to say.
    Bye,
    /// From now on somebody with its keys writes such records.
    Forge {
        kind: u8,
        len: u16,
    },
    ForgeMessage {
        kind: u8,
        len: u8,
        byte: u8,
    },
    /// This side says so many bytes.
    Answer(u16),
    Part,
    /// Somebody without keys says in plain text, before a record, that this is the end, or worse.
    Alert {
        record: u8,
        level: u8,
        description: u8,
    },
    /// The peer reads so many of this side's bytes.
    Hear(u16),
}

fn judge(data: &[u8], side: Side) {
    let [how, rest @ ..] = data else { return };
    seed(u64::from(*how >> 3));
    let kind = Kind { old: how & 1 != 0, mutual: how & 2 != 0, resumes: how >> 3 & 1 != 0 };
    if how & 4 != 0 {
        return raw(&stream::expand(rest), Settings::of(kind, side).ours());
    }
    let settings = Settings::of(kind, side);
    if kind.resumes {
        // The first of two connections, for its ticket.
        let mut first = Story::new(&settings);
        first.settle();
        first.end();
    }
    let mut story = Story::new(&settings);
    let mut input = Unstructured::new(rest);
    for _ in 0..MOST_OPS {
        if story.over || input.is_empty() {
            break;
        }
        let Ok(op) = input.arbitrary() else { break };
        story.op(op);
    }
    story.end();
}

/// Bytes of no peer: nothing is ever made of them but an error or a wish for more.
fn raw(bytes: &[u8], mut ours: TlsByHand) {
    let mut out = Vec::new();
    let mut failure = None;
    for piece in stream::pieces(bytes) {
        receive(&mut ours, piece, usize::MAX, &mut out);
        failure = ours.take_failure();
        if failure.is_some() || ours.is_closed() {
            break;
        }
    }
    assert!(out.is_empty() && ours.is_handshaking(), "plaintext of nobody: {out:02x?}");
    note(failure);
}

/// A failure has a name and stands on one line.
fn note(failure: Option<TlsError>) {
    if let Some(error) = &failure {
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
    }
    reach::note(FILE, "receive", &failure.is_none());
}

fn receive(ours: &mut TlsByHand, bytes: &[u8], room: usize, out: &mut Vec<u8>) {
    let before = out.len();
    out.reserve(bytes.len() + READ);
    let ((), peak) = meter::peak(|| ours.receive(bytes, room, out));
    assert!(peak <= PEAK, "a read of {} bytes took {peak} bytes of memory", bytes.len());
    assert!(out.len() - before <= room, "more plaintext than there was room for");
}

/// The settings of the conversations of an input; what is resumed was said under the same.
#[derive(Clone)]
struct Settings {
    side: Side,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Settings {
    fn new(kind: Kind, side: Side) -> Settings {
        let (mut server, mut client) = (server_config(kind), client_config(kind));
        (server.enable_secret_extraction, client.enable_secret_extraction) = (true, true);
        Settings { side, server: Arc::new(server), client: Arc::new(client) }
    }

    /// Those that remember nothing are made once.
    fn of(kind: Kind, side: Side) -> Settings {
        static ALL: OnceLock<Vec<(Kind, Settings)>> = OnceLock::new();
        if kind.resumes {
            return Settings::new(kind, side);
        }
        let all = ALL.get_or_init(|| {
            let kinds = (0..4).map(|bits| Kind { old: bits & 1 != 0, mutual: bits & 2 != 0, resumes: false });
            kinds.map(|kind| (kind, Settings::new(kind, side))).collect()
        });
        let (_, found) = all.iter().find(|(known, _)| *known == kind).expect("all kinds");
        Settings { side, ..found.clone() }
    }

    fn ours(&self) -> TlsByHand {
        match self.side {
            Side::Server => TlsByHand::server(&TlsServer::from_rustls((*self.server).clone())),
            Side::Client => {
                let client = TlsClient::from_rustls((*self.client).clone()).for_server(NAME).expect("a name");
                TlsByHand::client(&client, SocketAddr::from(([127, 0, 0, 1], 1)))
            }
        }
    }

    fn theirs(&self) -> Connection {
        match self.side {
            Side::Client => Connection::Server(ServerConnection::new(Arc::clone(&self.server)).expect("settings")),
            Side::Server => {
                let name = ServerName::try_from(NAME).expect("a name");
                Connection::Client(ClientConnection::new(Arc::clone(&self.client), name).expect("settings"))
            }
        }
    }
}

enum Peer {
    Honest(Box<Connection>),
    Forger(Forger),
    Gone,
}

/// A conversation, and what is known of it.
struct Story {
    ours: TlsByHand,
    peer: Peer,
    /// On its way to this side, and how many bytes of it belong to a record of which the rest has come.
    wire: Vec<u8>,
    begun: usize,
    /// And to the peer.
    back: Vec<u8>,
    /// What the peer has said, and what has come of it.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// What this side has said, and what the peer has heard of it.
    answered: Vec<u8>,
    understood: Vec<u8>,
    /// How much the peer had said when it said that this was all.
    bye: Option<usize>,
    /// How often it has asked for new keys.
    refreshed: usize,
    parted: bool,
    /// Bytes were changed on their way, or forged: from now on either side may give up.
    tampered: bool,
    over: bool,
}

fn pattern(from: usize, len: usize) -> impl Iterator<Item = u8> {
    (from..from + len).map(|n| (n * 31 + n / 251) as u8)
}

impl Story {
    fn new(settings: &Settings) -> Story {
        Story {
            ours: settings.ours(),
            peer: Peer::Honest(Box::new(settings.theirs())),
            wire: Vec::new(),
            begun: 0,
            back: Vec::new(),
            said: Vec::new(),
            heard: Vec::new(),
            answered: Vec::new(),
            understood: Vec::new(),
            bye: None,
            refreshed: 0,
            parted: false,
            tampered: false,
            over: false,
        }
    }

    fn op(&mut self, op: Op) {
        self.fetch();
        let place = |at: u16, len: u16, wire: usize| {
            let at = usize::from(at).min(wire);
            (at, at + usize::from(len).min(wire - at))
        };
        let wire = self.wire.len();
        match op {
            Op::Settle => self.settle(),
            Op::Deliver { bytes, room } => self.deliver(usize::from(bytes), usize::from(room)),
            Op::Trickle { bytes } => (0..bytes).for_each(|_| self.deliver(1, usize::MAX)),
            Op::Take(most) => self.take(most.into()),
            Op::Flip { at, bit } => {
                if let Some(byte) = self.wire.get_mut(usize::from(at)) {
                    *byte ^= 1 << (bit % 8);
                    self.tampered = true;
                }
            }
            Op::Lose { at, len } => {
                let (from, to) = place(at, len, wire);
                self.splice(from, to, &[]);
            }
            Op::Repeat { at, len } => {
                let (from, to) = place(at, len, wire);
                let again = self.wire[from..to].to_vec();
                self.splice(to, to, &again);
            }
            Op::Swap { at, len } => {
                let (from, to) = place(at, len, wire);
                let end = (to + usize::from(len)).min(wire);
                self.tampered |= to > from && end > to;
                self.wire[from..end].rotate_left(to - from);
            }
            Op::Insert { at, byte, len } => {
                let (from, _) = place(at, 0, wire);
                self.splice(from, from, &vec![byte; len.into()]);
            }
            Op::LoseRecord(n) => {
                if let Some((from, to)) = self.record(n) {
                    self.splice(from, to, &[]);
                }
            }
            Op::RepeatRecord(n) => {
                if let Some((from, to)) = self.record(n) {
                    let again = self.wire[from..to].to_vec();
                    self.splice(to, to, &again);
                }
            }
            Op::SwapRecords(n) => {
                if let (Some((from, to)), Some((_, end))) = (self.record(n), self.record(n.saturating_add(1))) {
                    self.wire[from..end].rotate_left(to - from);
                    self.tampered = true;
                }
            }
            Op::Say(len) => self.say(len.into()),
            Op::Refresh => {
                if let Peer::Honest(peer) = &mut self.peer
                    && !peer.is_handshaking()
                    && self.bye.is_none()
                {
                    _ = peer.refresh_traffic_keys();
                    self.refreshed += 1;
                    self.tampered |= self.refreshed > KEYS;
                }
            }
            Op::Bye => {
                if let Peer::Honest(peer) = &mut self.peer
                    && self.bye.is_none()
                {
                    // What it has said before its handshake is over waits, and is not said any more; nor is its end an orderly one then.
                    let said = if peer.is_handshaking() { 0 } else { self.said.len() };
                    self.tampered |= peer.is_handshaking();
                    peer.send_close_notify();
                    self.bye = Some(said);
                }
            }
            Op::Alert { record, level, description } => {
                let at = self.record(record).map_or(wire, |(from, _)| from);
                self.splice(at, at, &[21, 3, 3, 0, 2, level, description]);
            }
            Op::Forge { kind: 21, len: 0 } => self.forge(21, &[1, 0]),
            Op::Forge { kind, len } => self.forge(kind, &vec![b'f'; len.into()]),
            Op::ForgeMessage { kind, len, byte } => {
                let message: Vec<u8> =
                    [kind, 0, 0, len].into_iter().chain(std::iter::repeat_n(byte, len.into())).collect();
                self.forge(22, &message);
            }
            Op::Answer(len) => self.answer(len.into()),
            Op::Part if self.ours.is_handshaking() => {}
            Op::Part => {
                self.ours.part();
                self.parted = true;
            }
            Op::Hear(bytes) => self.hear(bytes.into()),
        }
        self.check();
    }

    /// What the peer has to say is on its way.
    fn fetch(&mut self) {
        if let Peer::Honest(peer) = &mut self.peer {
            while peer.wants_write() {
                peer.write_tls(&mut self.wire).expect("into memory");
            }
        }
    }

    fn splice(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if (to > from || !bytes.is_empty()) && self.wire.len() < MOST_SAID {
            self.wire.splice(from..to, bytes.iter().copied());
            self.tampered = true;
        }
    }

    /// Where a record begins and ends that is on its way.
    fn record(&self, n: u8) -> Option<(usize, usize)> {
        let mut from = self.begun;
        for _ in 0..n {
            from = record_end(&self.wire, from)?;
        }
        record_end(&self.wire, from).map(|to| (from, to))
    }

    /// One read, as a connection makes it: not while there is something to hand on, and not after its own last word.
    fn deliver(&mut self, most: usize, room: usize) {
        self.fetch();
        let n = most.min(self.wire.len()).min(self.ours.room());
        if n == 0 || self.over || self.parted || self.ours.has_more() {
            return;
        }
        while self.begun < n {
            match record_end(&self.wire, self.begun) {
                Some(end) => self.begun = end,
                None => self.begun = self.wire.len(),
            }
        }
        self.begun -= n;
        let piece: Vec<u8> = self.wire.drain(..n).collect();
        receive(&mut self.ours, &piece, room, &mut self.heard);
        self.look();
    }

    fn take(&mut self, most: usize) {
        self.ours.take_opened(most, &mut self.heard);
        self.look();
    }

    /// What a connection does when there is something to hand on.
    fn look(&mut self) {
        self.check();
        let mut rest = Vec::new();
        if !self.ours.has_more() || self.over {
            return;
        }
        // Plaintext comes before what ended it.
        if self.ours.is_closed() {
            while self.ours.take_opened(1000, &mut self.heard) > 0 {}
            self.check();
            assert_eq!(self.ours.take_opened(1, &mut rest), 0);
            if !self.ours.is_handshaking() {
                let all = self.bye.map(|said| &self.said[..said]);
                assert!(
                    all == Some(&self.heard[..]),
                    "an end that is not the peer's, after {} bytes",
                    self.heard.len()
                );
            }
            note(None);
            reach::event("tls", "the end");
            self.over = true;
        } else if let Some(error) = self.ours.take_failure() {
            while self.ours.take_opened(1000, &mut self.heard) > 0 {}
            assert!(self.tampered, "{error}");
            note(Some(error));
            // As a connection that ends.
            self.ours.part();
            self.over = true;
        }
    }

    fn say(&mut self, len: usize) {
        if self.bye.is_some() || self.said.len() + len > MOST_SAID {
            return;
        }
        let bytes: Vec<u8> = pattern(self.said.len(), len).collect();
        match &mut self.peer {
            Peer::Honest(peer) => {
                // As much as it takes before its handshake is over.
                let n = peer.writer().write(&bytes).expect("into memory");
                self.said.extend_from_slice(&bytes[..n]);
            }
            Peer::Forger(_) => self.forge(23, &bytes),
            Peer::Gone => {}
        }
    }

    fn forge(&mut self, kind: u8, payload: &[u8]) {
        if let Peer::Honest(peer) = &mut self.peer {
            if peer.is_handshaking() || self.bye.is_some() {
                return;
            }
            self.fetch();
            let Peer::Honest(peer) = std::mem::replace(&mut self.peer, Peer::Gone) else { return };
            self.peer = Forger::of(*peer).map_or(Peer::Gone, Peer::Forger);
        }
        let Peer::Forger(forger) = &mut self.peer else { return };
        if self.wire.len() + payload.len() > MOST_SAID || self.bye.is_some() {
            return;
        }
        self.tampered = true;
        self.wire.extend(forger.record(kind, payload));
        if kind == 23 {
            self.said.extend_from_slice(payload);
        }
        if kind == 21 && payload.len() == 2 && payload[1] == 0 {
            self.bye = Some(self.said.len());
        }
        reach::event("tls", "forged");
    }

    /// One write, as a connection makes it: when the one before has left.
    fn answer(&mut self, len: usize) {
        self.back.extend(self.ours.take_output());
        if self.over || self.parted || self.answered.len() + len > MOST_SAID || self.ours.is_handshaking() {
            return;
        }
        let bytes: Vec<u8> = pattern(self.answered.len(), len).collect();
        let taken = self.ours.seal(&bytes).expect("it is open");
        self.answered.extend_from_slice(&bytes[..taken]);
    }

    fn hear(&mut self, most: usize) {
        self.back.extend(self.ours.take_output());
        let n = most.min(self.back.len());
        let piece: Vec<u8> = self.back.drain(..n).collect();
        let Peer::Honest(peer) = &mut self.peer else { return };
        if self.tampered && self.bye.is_some() {
            return; // rustls asserts that it does not send an alert behind its own end
        }
        let mut piece = &piece[..];
        while !piece.is_empty() {
            if peer.read_tls(&mut piece).is_ok_and(|n| n == 0) {
                break;
            }
            let processed = peer.process_new_packets();
            _ = peer.reader().read_to_end(&mut self.understood);
            if let Err(error) = processed {
                assert!(self.tampered, "the peer does not understand: {error}");
                self.fetch(); // its alert
                self.peer = Peer::Gone;
                return;
            }
        }
    }

    fn settle(&mut self) {
        loop {
            self.fetch();
            self.take(usize::MAX);
            self.back.extend(self.ours.take_output());
            if self.wire.is_empty() && self.back.is_empty() || self.over {
                return;
            }
            let (wire, back) = (self.wire.len(), self.back.len());
            self.hear(usize::MAX);
            self.deliver(usize::MAX, usize::MAX);
            if (self.wire.len(), self.back.len()) == (wire, back) {
                return;
            }
        }
    }

    fn check(&self) {
        assert!(
            self.said.starts_with(&self.heard),
            "heard what was not said: {} of {}",
            self.heard.len(),
            self.said.len()
        );
        let understood = self.answered.starts_with(&self.understood);
        assert!(understood, "the peer heard what was not said: {} of {}", self.understood.len(), self.answered.len());
        assert!(self.ours.held() <= HELD, "it keeps {} bytes", self.ours.held());
    }

    /// All arrives, and the peer ends without a word if it has not said one.
    fn end(mut self) {
        self.settle();
        self.hear(usize::MAX); // if its end has come first
        self.check();
        if self.tampered || self.over && self.bye.is_none() {
            return;
        }
        if self.ours.is_handshaking() || self.bye.is_some_and(|said| said < self.said.len()) {
            return;
        }
        if let Peer::Honest(peer) = &mut self.peer {
            assert!(self.understood == self.answered, "{} of {}", self.understood.len(), self.answered.len());
            let hears_the_end = peer.reader().read(&mut [0]).is_ok_and(|n| n == 0);
            assert_eq!(hears_the_end, self.parted, "an end is this side's, or none");
        }
        if self.parted {
            return;
        }
        assert!(self.heard == self.said, "heard {} of {} bytes", self.heard.len(), self.said.len());
        assert_eq!(self.ours.is_closed(), self.bye.is_some(), "an end is the peer's, or none");
        assert_eq!(self.ours.held(), 0, "it keeps something of nothing");
        note(None);
        reach::event("tls", "all arrived");
    }
}

/// Where the record that begins there ends, if all of it is there.
fn record_end(wire: &[u8], from: usize) -> Option<usize> {
    let header: &[u8; 5] = wire.get(from..)?.first_chunk()?;
    let end = from + 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (end <= wire.len()).then_some(end)
}
