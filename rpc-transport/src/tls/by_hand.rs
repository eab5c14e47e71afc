//! A session without a connection, for tests that give it bytes as they like.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use super::session::SCRATCH;
use super::{Session, TlsClient, TlsError, TlsServer};
use crate::url::Endpoint;

/// One side of a TLS connection, which is asked by hand for what its connection would ask it for.
pub struct TlsByHand {
    session: Session,
    scratch: Vec<u8>,
}

impl TlsByHand {
    /// A server's side.
    pub fn server(server: &TlsServer) -> TlsByHand {
        TlsByHand::of(Session::server(server.clone()))
    }

    /// A client's side, which has said its first words.
    pub fn client(client: &TlsClient, peer: SocketAddr) -> TlsByHand {
        let mut made = TlsByHand::of(Session::client(client, &Endpoint::Tcp(peer)));
        made.session.begin(Instant::now());
        made
    }

    fn of(session: Session) -> TlsByHand {
        TlsByHand { session, scratch: vec![0; SCRATCH] }
    }

    /// Bytes that one read may bring.
    pub fn room(&self) -> usize {
        SCRATCH - self.session.partial().len()
    }

    /// What a read has brought, of which there is [room](TlsByHand::room) for; at most `most` bytes of plaintext are appended to `out`, and
    /// the rest is kept for [`TlsByHand::take_opened`].
    pub fn receive(&mut self, bytes: &[u8], most: usize, out: &mut Vec<u8>) {
        let partial = self.session.partial().len();
        self.scratch[..partial].copy_from_slice(self.session.partial());
        let end = partial + bytes.len();
        self.scratch[partial..end].copy_from_slice(bytes);
        let mut room = most;
        self.session.receive(&mut self.scratch[..end], Instant::now(), |plain| {
            let n = plain.len().min(room);
            out.extend_from_slice(&plain[..n]);
            room -= n;
            n
        });
        self.session.settle();
    }

    /// Plaintext that there was no room for; says how much.
    pub fn take_opened(&mut self, most: usize, out: &mut Vec<u8>) -> usize {
        let taken = self.session.take_opened(most);
        out.extend_from_slice(taken);
        let n = taken.len();
        self.session.settle();
        n
    }

    /// Whether there is something to hand on without a read: then none is made.
    pub fn has_more(&self) -> bool {
        self.session.has_more()
    }

    /// Ciphertext on its way to the peer.
    pub fn take_output(&mut self) -> Vec<u8> {
        let unsent = self.session.unsent().to_vec();
        self.session.note_sent(unsent.len());
        unsent
    }

    /// Encrypts from the front of `plain`, behind all other output; says how much of it.
    ///
    /// # Errors
    /// The session cannot write: its handshake is not over, or it has ended.
    pub fn seal(&mut self, plain: &[u8]) -> Result<usize, TlsError> {
        let (taken, sealed) = self.session.seal([plain].into_iter(), &mut self.scratch)?;
        self.session.keep_unsent(&self.scratch[..sealed]);
        Ok(taken)
    }

    /// Says that this side has nothing more to say.
    pub fn part(&mut self) {
        self.session.part();
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Whether the peer has said that it has nothing more to say.
    pub fn is_closed(&self) -> bool {
        self.session.closed
    }

    /// Why the session cannot go on, told once.
    pub fn take_failure(&mut self) -> Option<TlsError> {
        self.session.take_failure()
    }

    /// Bytes of memory that it keeps from others, beside what rustls has.
    pub fn held(&self) -> usize {
        self.session.held()
    }
}

impl fmt::Debug for TlsByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS by hand")
    }
}
