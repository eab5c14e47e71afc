//! One connection's TLS: bytes of the socket in, plaintext out, and back; no I/O.

use std::sync::Arc;
use std::time::Instant;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{CommonState, Error, HandshakeKind};

use super::error::{TlsError, TlsErrorKind};
use super::server::take_asked_for;
use super::{TlsClient, TlsPeer, TlsServer};
use crate::url::Endpoint;

/// Most plaintext in a record.
const RECORD: usize = 16 << 10;

/// Most plaintext that is encrypted for one write.
const SEALED_AT_ONCE: usize = 4 * RECORD;

/// Room, in bytes, for what one read brings behind an unfinished record, or for what one write takes.
pub(crate) const SCRATCH: usize = SEALED_AT_ONCE + (16 << 10);

/// A TLS record's first byte: alert, handshake. Nothing else begins a conversation.
const FIRST_BYTES: [u8; 2] = [21, 22];

/// The answer to anything else, as a record: a fatal alert. Who speaks plain text sees at least what this is.
const UNEXPECTED_MESSAGE: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// One connection's TLS.
pub(crate) struct Session {
    side: Side,
    /// The TCP connection is established.
    pub(crate) connected: bool,
    begun: bool,
    /// Its handshake waits for its ration, and since it first had to, its place among those that do.
    pub(crate) waits: bool,
    pub(crate) place: u64,
    /// Its listener has asked it to finish while its handshake was under way: by when that must be over.
    pub(crate) finish_by: Option<Instant>,
    /// The peer's `close_notify` came.
    pub(crate) closed: bool,
    /// This side's has been queued.
    pub(crate) parted: bool,
    /// How much of the connection's output the kernel has taken: its stream position.
    pub(crate) delivered: u64,
    /// The peer has said something.
    greeted: bool,
    /// A server's: keys were agreed on, and the answer that says so was made.
    answered: bool,
    /// Something that no bystander could have made has been read.
    heard: bool,
    /// What came is no TLS, or broke it: what is left to read is nothing.
    failed: Option<Box<TlsError>>,
    /// It has failed: rustls is not asked any more, be it for a last word. It goes by bytes that are gone.
    broken: bool,
    /// Ciphertext of less than a record, or of a handshake's message that is not whole.
    partial: Vec<u8>,
    pub(crate) partial_since: Option<Instant>,
    /// Plaintext from `taken` on that there was no room for.
    opened: Vec<u8>,
    taken: usize,
    /// Ciphertext from `sent` on that the kernel has not taken.
    unsent: Vec<u8>,
    sent: usize,
    /// The name that the client wants, until the handshake is over.
    asked_for: Option<Box<str>>,
    peer: Option<Arc<TlsPeer>>,
}

/// rustls's part takes a kilobyte or two: a server's is made when its client says something.
enum Side {
    Awaited(TlsServer),
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// It could not be made.
    Nobody,
}

impl Session {
    pub(crate) fn server(server: TlsServer) -> Session {
        Session { connected: true, ..Session::of(Side::Awaited(server)) }
    }

    pub(crate) fn client(client: &TlsClient, endpoint: &Endpoint) -> Session {
        match client.connect(endpoint) {
            Ok(made) => Session::of(Side::Client(Box::new(made))),
            Err(error) => {
                let mut session = Session::of(Side::Nobody);
                session.fail(TlsError::from(&error));
                session
            }
        }
    }

    fn of(side: Side) -> Session {
        Session {
            side,
            connected: false,
            begun: false,
            waits: false,
            place: 0,
            finish_by: None,
            closed: false,
            parted: false,
            delivered: 0,
            greeted: false,
            answered: false,
            heard: false,
            failed: None,
            broken: false,
            partial: Vec::new(),
            partial_since: None,
            opened: Vec::new(),
            taken: 0,
            unsent: Vec::new(),
            sent: 0,
            asked_for: None,
            peer: None,
        }
    }

    fn state(&self) -> Option<&CommonState> {
        match &self.side {
            Side::Server(server) => Some(server),
            Side::Client(client) => Some(client),
            Side::Awaited(_) | Side::Nobody => None,
        }
    }

    pub(crate) fn is_client(&self) -> bool {
        !matches!(self.side, Side::Awaited(_) | Side::Server(_))
    }

    /// Whether application data may not be written yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.peer.is_none()
    }

    /// What the handshake has told, once it is over.
    pub(crate) fn peer(&self) -> Option<&Arc<TlsPeer>> {
        self.peer.as_ref()
    }

    /// Whether the peer has ever proved to be there: by a record under the keys that were agreed on.
    pub(crate) fn has_heard(&self) -> bool {
        self.heard
    }

    /// Whether the peer has said anything: then it has been answered.
    pub(crate) fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether a server has made its answer to the ClientHello that it goes by: what its handshake costs is mostly spent. A request for
    /// another one is no such answer: that costs next to nothing.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether there is something to hand on without reading: plaintext, its end, or a failure.
    pub(crate) fn has_more(&self) -> bool {
        self.taken < self.opened.len() || self.closed || self.failed.is_some()
    }

    /// Bytes of memory that it keeps from others.
    pub(crate) fn held(&self) -> usize {
        self.partial.capacity() + self.opened.capacity() + self.unsent.capacity()
    }

    /// Whether it holds nothing, and nothing is to be done for it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.held() == 0 && !self.has_more()
    }

    /// What is left of an unfinished record, to which the next read's bytes belong.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether application data may be written: not before the handshake is over, and not after a failure.
    pub(crate) fn may_write(&self) -> bool {
        !self.is_handshaking() && !self.broken
    }

    /// Why the session cannot go on, told once.
    pub(crate) fn take_failure(&mut self) -> Option<TlsError> {
        self.failed.take().map(|failure| *failure)
    }

    /// Up to `most` bytes of plaintext for which there was no room before.
    pub(crate) fn take_opened(&mut self, most: usize) -> &[u8] {
        let from = self.taken;
        self.taken = self.opened.len().min(from.saturating_add(most));
        &self.opened[from..self.taken]
    }

    /// Frees what has been handed on.
    pub(crate) fn settle(&mut self) {
        if self.taken == self.opened.len() {
            (self.opened, self.taken) = (Vec::new(), 0);
        }
        if self.sent == self.unsent.len() {
            (self.unsent, self.sent) = (Vec::new(), 0);
        }
    }

    /// What is to be written before anything else.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.unsent[self.sent..]
    }

    pub(crate) fn note_sent(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.unsent.len());
        self.settle();
    }

    /// The kernel has not taken that.
    pub(crate) fn keep_unsent(&mut self, rest: &[u8]) {
        self.unsent.extend_from_slice(rest);
    }

    /// A client speaks first; asked more than once it has nothing to add.
    pub(crate) fn begin(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.begun, true) && self.is_client() {
            self.receive(&mut [], now, |_| 0);
        }
    }

    /// Takes in `bytes`: what was [partial](Session::partial) and what has come behind it. Every whole record is decrypted now, so that what
    /// stays is less than one; plaintext goes to `take`, which says how much it had room for. What is to be answered is
    /// [unsent](Session::unsent) then.
    pub(crate) fn receive(&mut self, bytes: &mut [u8], now: Instant, take: impl FnMut(&[u8]) -> usize) {
        if let (false, Some(first)) = (self.greeted, bytes.first()) {
            self.greeted = true;
            if !FIRST_BYTES.contains(first) {
                if !self.is_client() {
                    self.unsent.extend_from_slice(&UNEXPECTED_MESSAGE);
                }
                return self.fail(TlsError::new(TlsErrorKind::PlainText, ""));
            }
        }
        if let Side::Awaited(server) = &self.side {
            match server.accept() {
                Ok(made) => self.side = Side::Server(Box::new(made)),
                Err(error) => return self.fail(TlsError::from(&error)),
            }
        }
        let (opened, unsent) = (&mut self.opened, &mut self.unsent);
        let pumped = match &mut self.side {
            Side::Server(server) => pump(&mut **server, bytes, opened, unsent, take),
            Side::Client(client) => pump(&mut **client, bytes, opened, unsent, take),
            Side::Awaited(_) | Side::Nobody => return,
        };
        self.closed |= pumped.closed;
        self.heard |= pumped.opened;
        if let Some(error) = &pumped.error {
            self.fail(TlsError::from(error));
        }
        if let Some(name) = take_asked_for() {
            self.asked_for = Some(name);
        }
        if self.peer.is_none()
            && let Some(state) = self.state().filter(|state| !state.is_handshaking())
        {
            self.peer = Some(Arc::new(TlsPeer::of(state, self.asked_for.clone())));
            self.asked_for = None;
        }
        self.answered |= self.failed.is_none() && !self.is_client() && self.state().is_some_and(has_chosen);
        let rest = &bytes[pumped.used..];
        // Nothing that comes after the end or a failure counts.
        let rest = if self.closed || self.broken { &[] } else { rest };
        let progress = pumped.used > 0;
        self.partial = rest.to_vec();
        self.partial_since = match rest {
            [] => None,
            _ => self.partial_since.filter(|_| !progress).or(Some(now)),
        };
        if rest.len() >= SCRATCH - RECORD {
            // A record is shorter: this is a message of the handshake that goes on and on.
            self.fail(TlsError::new(TlsErrorKind::Protocol, "a message of the handshake is too large"));
        }
    }

    fn fail(&mut self, error: TlsError) {
        self.failed = Some(Box::new(error));
        self.broken = true;
    }

    /// Encrypts from the front of `pieces` into `out`, about 64 KiB of plaintext at most; says how much of both there is.
    pub(crate) fn seal<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
        out: &mut [u8],
    ) -> Result<(usize, usize), TlsError> {
        if self.broken {
            return Err(TlsError::new(TlsErrorKind::Protocol, "it has failed"));
        }
        let (partial, unsent) = (&mut self.partial, &mut self.unsent);
        let sealed = match &mut self.side {
            Side::Server(server) => seal_into(&mut **server, partial, unsent, pieces, out),
            Side::Client(client) => seal_into(&mut **client, partial, unsent, pieces, out),
            Side::Awaited(_) | Side::Nobody => Err(Error::HandshakeNotComplete),
        };
        sealed.map_err(|error| TlsError::from(&error))
    }

    /// Queues the `close_notify` that ends what this side has to say, once.
    pub(crate) fn part(&mut self) {
        if std::mem::replace(&mut self.parted, true) || self.is_handshaking() || self.broken {
            return;
        }
        let (partial, unsent) = (&mut self.partial, &mut self.unsent);
        // Without it the peer takes the end for a cut: there is nothing better to be done if it cannot be made.
        let _ = match &mut self.side {
            Side::Server(server) => part_into(&mut **server, partial, unsent),
            Side::Client(client) => part_into(&mut **client, partial, unsent),
            Side::Awaited(_) | Side::Nobody => Ok(()),
        };
    }
}

/// Whether a server is past the ClientHello. After a request for another one the kind of handshake is known, and no key is exchanged yet.
fn has_chosen(state: &CommonState) -> bool {
    match state.handshake_kind() {
        Some(HandshakeKind::FullWithHelloRetryRequest) => state.negotiated_key_exchange_group().is_some(),
        kind => kind.is_some(),
    }
}

/// rustls has the same method for both sides, and no name for that.
trait Records<D> {
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, D>;
}

impl Records<ClientConnectionData> for UnbufferedConnectionCommon<ClientConnectionData> {
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(bytes)
    }
}

impl Records<ServerConnectionData> for UnbufferedConnectionCommon<ServerConnectionData> {
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(bytes)
    }
}

#[derive(Default)]
struct Pumped {
    used: usize,
    opened: bool,
    closed: bool,
    error: Option<Error>,
}

/// Has rustls work on `bytes` until it needs more.
fn pump<D>(
    conn: &mut UnbufferedConnectionCommon<D>,
    bytes: &mut [u8],
    opened: &mut Vec<u8>,
    unsent: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> usize,
) -> Pumped
where
    UnbufferedConnectionCommon<D>: Records<D>,
{
    let mut pumped = Pumped::default();
    loop {
        let UnbufferedStatus { mut discard, state, .. } = conn.process(&mut bytes[pumped.used..]);
        let mut more = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    pumped.opened = true;
                    // In order: behind what waits for room everything waits.
                    let taken = if opened.is_empty() { take(record.payload) } else { 0 };
                    opened.extend_from_slice(&record.payload[taken..]);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(unsent, |out| data.encode(out).map_err(|error| wanted(&error)));
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(), // it is in `unsent`, which comes before all else
            Ok(ConnectionState::PeerClosed) => pumped.closed = true,
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                more = false;
            }
            // Early data is not accepted, and nothing else is known.
            Ok(_) => {
                pumped.error.get_or_insert(Error::General("an unexpected state of rustls".to_owned()));
                more = false;
            }
            Err(error) => _ = pumped.error.get_or_insert(error),
        }
        pumped.used += discard;
        // After an error it is asked for its last words, an alert, and not to look at the same bytes again.
        if !more || pumped.error.is_some() && !conn.wants_write() {
            return pumped;
        }
    }
}

/// Hands what `conn` may write with to `f`, if it may write now. If it has something to say before, that is in `unsent` then, and `f` has
/// not run.
fn with_traffic<D, R>(
    conn: &mut UnbufferedConnectionCommon<D>,
    partial: &mut [u8],
    unsent: &mut Vec<u8>,
    f: impl FnOnce(WriteTraffic<'_, D>) -> Result<R, Error>,
) -> Result<Option<R>, Error>
where
    UnbufferedConnectionCommon<D>: Records<D>,
{
    // All whole records have been opened, so that there is nothing but the end of the last one's to be looked at.
    match conn.process(partial).state? {
        ConnectionState::WriteTraffic(traffic) => f(traffic).map(Some),
        ConnectionState::EncodeTlsData(mut data) => {
            append(unsent, |out| data.encode(out).map_err(|error| wanted(&error)));
            Ok(None)
        }
        ConnectionState::TransmitTlsData(mut data) => match data.may_encrypt_app_data() {
            Some(traffic) => f(traffic).map(Some),
            None => Err(Error::HandshakeNotComplete),
        },
        _ => Err(Error::HandshakeNotComplete),
    }
}

fn seal_into<'a, D>(
    conn: &mut UnbufferedConnectionCommon<D>,
    partial: &mut [u8],
    unsent: &mut Vec<u8>,
    pieces: impl Iterator<Item = &'a [u8]>,
    out: &mut [u8],
) -> Result<(usize, usize), Error>
where
    UnbufferedConnectionCommon<D>: Records<D>,
{
    let sealed = with_traffic(conn, partial, unsent, |mut traffic| {
        let (mut plain, mut sealed) = (0, 0);
        for chunk in pieces.flat_map(|piece| piece.chunks(RECORD)) {
            if plain + chunk.len() > SEALED_AT_ONCE {
                break;
            }
            match traffic.encrypt(chunk, &mut out[sealed..]) {
                Ok(n) => (plain, sealed) = (plain + chunk.len(), sealed + n),
                Err(EncryptError::InsufficientSize(_)) => break,
                Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
            }
        }
        Ok((plain, sealed))
    });
    sealed.map(Option::unwrap_or_default)
}

fn part_into<D>(conn: &mut UnbufferedConnectionCommon<D>, partial: &mut [u8], unsent: &mut Vec<u8>) -> Result<(), Error>
where
    UnbufferedConnectionCommon<D>: Records<D>,
{
    let mut last = Vec::new();
    let parted = with_traffic(conn, partial, unsent, |mut traffic| {
        append(&mut last, |out| traffic.queue_close_notify(out).map_err(|_| None));
        Ok(())
    });
    unsent.append(&mut last);
    parted.map(drop)
}

/// Room for most of what a handshake says at once.
const MESSAGE: usize = 1 << 10;

/// Makes room at the end of `out` for what `encode` has to say: it tells how much that is if there is too little. Nothing if it fails.
fn append(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>) {
    let (start, mut room) = (out.len(), MESSAGE);
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(Some(wanted)) if wanted > room => room = wanted,
            Err(_) => return out.truncate(start),
        }
    }
}

fn wanted(error: &EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Some(*required_size),
        EncodeError::AlreadyEncoded => None,
    }
}
