//! What the kernel knows of a TCP socket, asked of the kernel by `sock_diag(7)`: from any thread, without the socket.
//!
//! So nobody has to wait for a reactor that is held, and what `ss -i` shows costs the reactor nothing. Numbers in messages are the
//! machine's own way round, addresses and ports the network's.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::{Queue, TcpInfo};

/// From `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h`, `net/tcp_states.h`.
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_INFO: u16 = 2;
const TCP_LISTEN: u32 = 10;
const IPPROTO_TCP: u8 = 6;

/// Bytes of `nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// The kernel answers at once, if it does.
const PATIENCE: Duration = Duration::from_millis(200);

/// What the kernel sends in one piece, at most.
const PIECE: usize = 32 << 10;

/// No machine has as many listening sockets: a loop has an end.
const PIECES_MAX: usize = 10_000;

/// A conversation with the kernel.
pub(super) struct SockDiag {
    socket: Socket,
    sequence: u32,
    piece: Box<[u8]>,
}

impl SockDiag {
    /// # Errors
    /// Where the kernel, or what the process may do, does not have it.
    pub(super) fn open() -> io::Result<SockDiag> {
        let protocol = Protocol::from(NETLINK_SOCK_DIAG);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(SockDiag { socket, sequence: 0, piece: vec![0; PIECE].into() })
    }

    /// A connection of this machine.
    pub(super) fn connection(&mut self, local: SocketAddr, peer: SocketAddr) -> Option<TcpInfo> {
        let mut found = None;
        self.ask(NLM_F_REQUEST, !0, local, Some(peer), |message| found = connection_of(message)).ok()?;
        found
    }

    /// The queues of the sockets that listen there, of whatever process.
    pub(super) fn queues(&mut self, at: SocketAddr) -> io::Result<Vec<Queue>> {
        let mut found = Vec::new();
        self.ask(NLM_F_REQUEST | NLM_F_DUMP, 1 << TCP_LISTEN, at, None, |message| {
            found.extend(address_of(message).filter(|there| *there == at).and_then(|_| queue_of(message)));
        })?;
        Ok(found)
    }

    fn ask(
        &mut self,
        flags: u16,
        states: u32,
        local: SocketAddr,
        peer: Option<SocketAddr>,
        mut hear: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        self.socket.send(&request(flags, states, self.sequence, local, peer))?;
        for _ in 0..PIECES_MAX {
            let got = self.socket.read(&mut self.piece)?;
            let mut rest = self.piece.get(..got).unwrap_or_default();
            while let Some((kind, sequence, body, after)) = next_message(rest) {
                rest = after;
                match kind {
                    _ if sequence != self.sequence => {} // of a question that was given up
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(io::ErrorKind::NotFound.into()),
                    SOCK_DIAG_BY_FAMILY => {
                        hear(body);
                        if flags & NLM_F_DUMP == 0 {
                            return Ok(());
                        }
                    }
                    _ => {}
                }
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn request(flags: u16, states: u32, sequence: u32, local: SocketAddr, peer: Option<SocketAddr>) -> Vec<u8> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes()); // from this socket
    message.extend([family as u8, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    message.extend(states.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(peer.map_or(0, |peer| peer.port()).to_be_bytes());
    message.extend(octets(local.ip()));
    message.extend(peer.map_or([0; 16], |peer| octets(peer.ip())));
    message.extend(0_u32.to_ne_bytes()); // any interface
    message.extend([0xff; 8]); // no cookie
    message
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut all = [0; 16];
            all[..4].copy_from_slice(&address.octets());
            all
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The first message: its type, its number, its content; and what follows it.
fn next_message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = u32_at(bytes, 0)? as usize;
    let body = bytes.get(HEADER..len)?;
    let after = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((u16_at(bytes, 4)?, u32_at(bytes, 8)?, body, after))
}

/// The own address in an `inet_diag_msg`.
fn address_of(message: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = message.get(8..24)?;
    let ip = match i32::from(*message.first()?) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(address.get(..4)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Of a listening socket the queues are those of connections.
fn queue_of(message: &[u8]) -> Option<Queue> {
    Some(Queue { waiting: u32_at(message, 56)?, backlog: u32_at(message, 60)? })
}

fn connection_of(message: &[u8]) -> Option<TcpInfo> {
    let info = attribute(message.get(MESSAGE..)?, INET_DIAG_INFO)?;
    let micros = |at| Some(Duration::from_micros(u32_at(info, at)?.into()));
    Some(TcpInfo {
        rtt: micros(68)?,
        rtt_var: micros(72)?,
        retransmits: u32_at(info, 100)?,
        unanswered: info.get(2).copied()?.into(),
        probes: info.get(3).copied()?.into(),
        congestion_window: u32_at(info, 80)?,
        max_segment: u32_at(info, 16)?,
        bytes_acked: u64_at(info, 120)?,
        bytes_received: u64_at(info, 128)?,
        receive_queue: u32_at(message, 56)?,
        send_queue: u32_at(message, 60)?,
    })
}

/// The content of the first attribute of that type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(bytes, 0)?);
        let content = bytes.get(4..len)?;
        if u16_at(bytes, 2)? == wanted {
            return Some(content);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_of_a_connection_and_of_a_queue() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue }; // a machine without IPv6
            let at = listener.local_addr().unwrap();
            let mut ours = TcpStream::connect(at).unwrap();
            let mut diag = SockDiag::open().unwrap();
            assert_eq!(diag.queues(at).unwrap().iter().map(|queue| queue.waiting).collect::<Vec<_>>(), [1]);
            let (theirs, _) = listener.accept().unwrap();
            assert_eq!(diag.queues(at).unwrap().iter().map(|queue| queue.waiting).collect::<Vec<_>>(), [0]);
            ours.write_all(&[7; 1000]).unwrap();
            let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            let sent = diag.connection(local, peer).expect("it is known");
            assert!(sent.rtt > Duration::ZERO && sent.max_segment > 100 && sent.retransmits == 0, "{sent:?}");
            let got = diag.connection(peer, local).expect("the other end, too");
            assert_eq!((got.bytes_received, got.receive_queue), (1000, 1000), "{got:?}");
            drop((ours, theirs, listener));
            assert_eq!(diag.queues(at).unwrap().len(), 0);
        }
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert_eq!(SockDiag::open().unwrap().connection(nobody, nobody), None);
    }

    /// What is cut short, or lies about its length, is nothing.
    #[test]
    fn messages_are_read_within_their_bounds() {
        let message = request(0, 0, 1, SocketAddr::from(([1, 2, 3, 4], 5)), None);
        for end in 0..message.len() {
            assert!(next_message(&message[..end]).is_none());
            assert!(connection_of(&message[..end]).is_none());
        }
        let mut lying = message.clone();
        for len in [0_u32, 3, 15, 1 << 20, u32::MAX] {
            lying[..4].copy_from_slice(&len.to_ne_bytes());
            assert!(next_message(&lying).is_none(), "{len}");
        }
        assert_eq!(attribute(&[0; 8], 2), None, "an attribute of no length is no loop");
    }
}
