//! What a socket has to send while the kernel takes no more.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

/// Why a datagram was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// As much waits already as `send_queue` allows.
    Full {
        /// Bytes that wait, with those of their entries.
        waiting: usize,
        /// Most bytes.
        limit: usize,
    },
    /// The socket has been closed.
    Closed,
    /// What the system says, such as that the datagram is too long, or that there is no way to the address.
    Io(io::Error),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Full { waiting, limit } => {
                write!(
                    f,
                    "{waiting} bytes of datagrams wait to be sent, limit {limit}: send less, or raise `send_queue`"
                )
            }
            SendError::Closed => f.write_str("the socket has been closed"),
            SendError::Io(e) => write!(f, "the datagram cannot be sent: {e}"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SendError::Io(e) => Some(e),
            _ => None,
        }
    }
}

/// What a datagram that waits counts for beside its bytes: an empty one takes room, too.
pub(super) const ENTRY: usize = size_of::<(Bytes, SocketAddr)>();

/// Datagrams in the order in which they were sent. `kernel` takes one at once, or says why not.
pub(super) struct Outbox {
    waiting: VecDeque<(Bytes, SocketAddr)>,
    bytes: usize,
    limit: usize,
}

impl Outbox {
    pub(super) fn new(limit: usize) -> Outbox {
        Outbox { waiting: VecDeque::new(), bytes: 0, limit }
    }

    /// Sends it now, or has it wait: then `kept` is what is kept of it.
    pub(super) fn send(
        &mut self,
        datagram: &[u8],
        to: SocketAddr,
        kept: impl FnOnce() -> Bytes,
        mut kernel: impl FnMut(&[u8], SocketAddr) -> io::Result<()>,
    ) -> Result<(), SendError> {
        if self.waiting.is_empty() {
            match kernel(datagram, to) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent.map_err(SendError::Io),
            }
        }
        let takes = datagram.len() + ENTRY;
        if takes > self.limit.saturating_sub(self.bytes) {
            return Err(SendError::Full { waiting: self.bytes, limit: self.limit });
        }
        self.bytes += takes;
        self.waiting.push_back((kept(), to));
        Ok(())
    }

    /// Sends what waits, as far as the kernel takes it. One that it does not take at all is dropped.
    pub(super) fn flush(&mut self, mut kernel: impl FnMut(&[u8], SocketAddr) -> io::Result<()>) {
        while let Some((datagram, to)) = self.waiting.front() {
            if kernel(datagram, *to).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
                return;
            }
            self.bytes -= datagram.len() + ENTRY;
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_wait_in_their_order_up_to_a_limit() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let (mut sent, mut outbox) = (Vec::new(), Outbox::new(2 * ENTRY + 10));
        let full = |_: &[u8], _| Err(io::ErrorKind::WouldBlock.into());
        let mut send = |outbox: &mut Outbox, text: &'static [u8], takes: bool| {
            outbox.send(
                text,
                to,
                || Bytes::from_static(text),
                |datagram, to| match takes {
                    true => {
                        sent.push(datagram.to_vec());
                        Ok(())
                    }
                    false => full(datagram, to),
                },
            )
        };
        assert!(send(&mut outbox, b"first", true).is_ok());
        assert!(send(&mut outbox, b"second", false).is_ok(), "it waits");
        assert!(send(&mut outbox, b"3rd", true).is_ok(), "it waits behind the second, whatever the kernel would say");
        match send(&mut outbox, b"4th", true) {
            Err(SendError::Full { waiting, limit }) if (waiting, limit) == (2 * ENTRY + 9, 2 * ENTRY + 10) => {}
            other => panic!("{other:?}"),
        }
        assert!(send(&mut outbox, b"", true).is_err(), "an empty one takes room, too");
        let mut room = 2;
        outbox.flush(|datagram, _| {
            if room == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            room -= 1;
            sent.push(datagram.to_vec());
            Ok(())
        });
        assert_eq!(sent, [&b"first"[..], b"second", b"3rd"]);
        let mut send = |text: &'static [u8]| outbox.send(text, to, || Bytes::from_static(text), full).is_ok();
        assert!(send(b"123") && send(b"1234567") && !send(b""), "all of it is free again, and no more");
        // One that can never be sent does not hold up those behind it.
        let mut tried = 0;
        outbox.flush(|_, _| {
            tried += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((tried, outbox.bytes, outbox.waiting.len()), (2, 0, 0));
    }
}
