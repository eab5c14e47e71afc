//! A peer that has shaken hands, and then writes what no library would: records of its own making, under the keys that were agreed on.

use rpc_transport::rustls::crypto::cipher::{MessageEncrypter, OutboundPlainMessage};
use rpc_transport::rustls::{Connection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};

pub(crate) struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    seq: u64,
}

impl Forger {
    /// Of a peer whose handshake is over and whose bytes have been taken. `None` before that, and for TLS 1.2.
    pub(crate) fn of(peer: Connection) -> Option<Forger> {
        let SupportedCipherSuite::Tls13(suite) = peer.negotiated_cipher_suite()? else { return None };
        let (seq, secrets) = peer.dangerous_extract_secrets().ok()?.tx;
        let (key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
            _ => return None,
        };
        Some(Forger { encrypter: suite.aead_alg.encrypter(key, iv), seq })
    }

    /// A record of that kind: 20 changes ciphers, 21 is an alert, 22 of the handshake, 23 application data.
    pub(crate) fn record(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let (typ, version) = (ContentType::from(kind), ProtocolVersion::TLSv1_2);
        let plain = OutboundPlainMessage { typ, version, payload: payload.into() };
        let sealed = self.encrypter.encrypt(plain, self.seq).expect("it fits");
        self.seq += 1;
        sealed.encode()
    }
}
