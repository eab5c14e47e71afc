//! A peer made by hand at its end of a connection, with or without TLS: rustls's own client, not ours.

use std::io::{Read, Write};
use std::sync::Arc;

use rpc_transport::rustls::pki_types::ServerName;
use rpc_transport::rustls::{ClientConfig, ClientConnection};
use rpc_transport::testing::tls::NAME;
use rpc_transport::testing::{RawPeer, Received};

/// Most bytes that it encrypts before those before have gone.
const AT_ONCE: usize = 4096;

pub(crate) struct Line {
    peer: RawPeer,
    tls: Option<Box<Tls>>,
}

struct Tls {
    conn: ClientConnection,
    /// Ciphertext that the network has not taken.
    unsent: Vec<u8>,
    /// It writes no more when that is gone.
    finishes: bool,
    finished: bool,
}

impl Line {
    /// Under TLS with these settings.
    pub(crate) fn new(peer: RawPeer, tls: Option<Arc<ClientConfig>>) -> Line {
        let tls = tls.map(|config| {
            let name = ServerName::try_from(NAME).expect("a name");
            let conn = ClientConnection::new(config, name).expect("correct settings");
            Box::new(Tls { conn, unsent: Vec::new(), finishes: false, finished: false })
        });
        Line { peer, tls }
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The same without TLS, before anything was said.
    pub(crate) fn into_plain(self) -> Line {
        Line { tls: None, ..self }
    }

    /// The number by which the network's observer knows it.
    pub(crate) fn number(&self) -> usize {
        self.peer.number()
    }

    /// Whether something can be said.
    pub(crate) fn is_open(&self) -> bool {
        self.peer.is_open() && self.tls.as_ref().is_none_or(|tls| !tls.conn.is_handshaking())
    }

    /// Whether all that was said is with the network.
    pub(crate) fn is_drained(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.unsent.is_empty() && !tls.conn.wants_write())
    }

    /// Shakes hands, and writes what waits.
    pub(crate) fn go_on(&mut self) {
        let shakes = self.tls.as_ref().is_some_and(|tls| tls.conn.is_handshaking());
        if shakes && self.peer.is_open() {
            self.read(&mut Vec::new());
        }
        self.push();
    }

    /// Says as much as there is room for, and says how much that is.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(tls) = &mut self.tls else { return self.peer.write(bytes) };
        if tls.conn.is_handshaking() || !tls.unsent.is_empty() || tls.finishes {
            return 0;
        }
        let n = tls.conn.writer().write(&bytes[..bytes.len().min(AT_ONCE)]).expect("into memory");
        self.push();
        n
    }

    /// Appends what has been said to it.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> Received {
        let Some(tls) = &mut self.tls else { return self.peer.read(into) };
        let mut sealed = Vec::new();
        let received = self.peer.read(&mut sealed);
        let (before, mut sealed) = (into.len(), &sealed[..]);
        while !sealed.is_empty() {
            let Ok(1..) = tls.conn.read_tls(&mut sealed) else { break };
            if tls.conn.process_new_packets().is_err() {
                return Received::Reset;
            }
            // What ends it, or that nothing more is there, is told below.
            _ = tls.conn.reader().read_to_end(into);
        }
        let parted = matches!(tls.conn.reader().read(&mut [0]), Ok(0));
        match (into.len() - before, received) {
            (n @ 1.., _) => Received::Bytes(n),
            (0, Received::Bytes(_)) if parted => Received::End,
            (0, Received::Bytes(_)) => Received::Bytes(0),
            (0, end) => end,
        }
    }

    /// Says that this is all, if that is said here.
    pub(crate) fn part(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.conn.send_close_notify();
        }
        self.push();
    }

    /// Says nothing more; goes on reading.
    pub(crate) fn finish(&mut self) {
        self.part();
        match &mut self.tls {
            Some(tls) => tls.finishes = true,
            None => self.peer.finish(),
        }
        self.push();
    }

    pub(crate) fn reset(&mut self) {
        self.peer.reset();
    }

    fn push(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        while tls.conn.wants_write() {
            tls.conn.write_tls(&mut tls.unsent).expect("into memory");
        }
        while !tls.unsent.is_empty() {
            match self.peer.write(&tls.unsent) {
                0 => return,
                n => drop(tls.unsent.drain(..n)),
            }
        }
        if tls.finishes && !std::mem::replace(&mut tls.finished, true) {
            self.peer.finish();
        }
    }
}
