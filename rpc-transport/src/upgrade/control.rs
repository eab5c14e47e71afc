//! The socket between the two processes: packets, descriptors beside them, and who is at the other end.

use std::fs::{self, DirBuilder};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::message::{MAX, Message, MessageError};

/// Why nothing was heard.
#[derive(Debug)]
pub(super) enum Fault {
    System(io::Error),
    /// The other end has closed, or its process is gone.
    Closed,
    /// The time was over.
    Late,
    /// Nobody wants it any more.
    Cancelled,
    Message(MessageError),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Fault::Closed,
            _ => Fault::System(e),
        }
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Control(Socket);

/// Who is at the other end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: u32,
    pub(super) uid: u32,
}

impl Control {
    pub(super) fn connect(path: &Path) -> io::Result<Control> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_nonblocking(true)?;
        Ok(Control(socket))
    }

    /// As the kernel noted it when they connected.
    pub(super) fn peer(&self) -> io::Result<Peer> {
        let peer = getsockopt(&self.0, PeerCredentials)?;
        Ok(Peer { pid: peer.pid().unsigned_abs(), uid: peer.uid() })
    }

    /// Sends a message, and with it a descriptor.
    pub(super) fn send(&self, message: &Message, fd: Option<BorrowedFd<'_>>, until: Instant) -> Result<(), Fault> {
        let bytes = message.encode();
        let fds = fd.as_slice();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                beside.push(SendAncillaryMessage::ScmRights(fds));
            }
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(e) => match io::Error::from(e) {
                    e if e.kind() == io::ErrorKind::Interrupted => {}
                    e if e.kind() == io::ErrorKind::WouldBlock => {
                        wait_for(&[(self.0.as_fd(), PollFlags::OUT)], until)?.ok_or(Fault::Late)?;
                    }
                    e => return Err(e.into()),
                },
            }
        }
    }

    /// The next message, and the descriptor that came with it.
    pub(super) fn receive(&self, until: Instant) -> Result<(Message, Option<OwnedFd>), Fault> {
        loop {
            wait_for(&[(self.0.as_fd(), PollFlags::IN)], until)?.ok_or(Fault::Late)?;
            let mut bytes = [0; MAX];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags) {
                Ok(received) => received,
                Err(e) => match io::Error::from(e) {
                    e if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => continue,
                    e => return Err(e.into()),
                },
            };
            // What is not wanted is closed here.
            let mut fds: Vec<OwnedFd> = beside
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            if received.bytes == 0 && fds.is_empty() {
                return Err(Fault::Closed);
            }
            if fds.len() > 1 || received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                return Err(Fault::Message(MessageError::Garbage));
            }
            let message = Message::decode(&bytes[..received.bytes]).map_err(Fault::Message)?;
            return Ok((message, fds.pop()));
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where the new process connects: in a directory of its own, which nobody else may enter. Both are removed when it is dropped.
#[derive(Debug)]
pub(super) struct Door {
    socket: Socket,
    directory: PathBuf,
}

impl Door {
    pub(super) fn open(parent: &Path, number: u64) -> io::Result<Door> {
        let directory = parent.join(format!("rpc-upgrade-{}-{number:x}", std::process::id()));
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        DirBuilder::new().mode(0o700).create(&directory)?; // fails if it is there already, whoever made it
        let door = Door { socket, directory };
        let path = door.path();
        door.socket.bind(&SockAddr::unix(&path)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        door.socket.listen(8)?;
        door.socket.set_nonblocking(true)?;
        Ok(door)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join("control")
    }

    pub(super) fn accept(&self) -> io::Result<Control> {
        let (socket, _) = self.socket.accept()?;
        socket.set_nonblocking(true)?;
        Ok(Control(socket))
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path());
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Waits until something can be done with one of the descriptors: the place of the first that is; none when the time is over.
pub(super) fn wait_for(fds: &[(BorrowedFd<'_>, PollFlags)], until: Instant) -> io::Result<Option<usize>> {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // A millisecond more: a wait that ends a little early would be made many times.
        let left = Timespec::try_from(left + Duration::from_millis(1)).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(fds.iter().position(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn pair() -> (Control, Control) {
        let (a, b) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (Control(a), Control(b))
    }

    #[test]
    fn a_descriptor_comes_with_its_message() {
        let (here, there) = pair();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let message = Message::Socket { asked: "fd://web".to_owned(), sole: true };
        here.send(&message, Some(listener.as_fd()), soon()).unwrap();
        here.send(&Message::Go, None, soon()).unwrap();
        let (heard, fd) = there.receive(soon()).unwrap();
        assert_eq!(heard, message);
        let copy = std::net::TcpListener::from(fd.expect("a descriptor"));
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        let (heard, fd) = there.receive(soon()).unwrap();
        assert!(heard == Message::Go && fd.is_none());
        drop(here);
        assert!(matches!(there.receive(soon()), Err(Fault::Closed)));
        assert!(matches!(there.send(&Message::Serving, None, soon()), Err(Fault::Closed)));
    }

    #[test]
    fn what_is_no_message_ends_it() {
        let check = |bytes: &[u8], fds: &[BorrowedFd<'_>]| {
            let (here, there) = pair();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            beside.push(SendAncillaryMessage::ScmRights(fds));
            sendmsg(&here.0, &[IoSlice::new(bytes)], &mut beside, SendFlags::NOSIGNAL).unwrap();
            match there.receive(soon()) {
                Err(Fault::Message(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(check(b"hello?", &[]), MessageError::Garbage);
        assert_eq!(check(b"RPCU\x09\x01", &[]), MessageError::Version(9));
        assert_eq!(check(&[b'x'; MAX + 1], &[]), MessageError::Garbage);
        let (a, b) = pair();
        assert_eq!(check(b"RPCU\x01\x05", &[a.as_fd(), b.as_fd(), a.as_fd()]), MessageError::Garbage, "two too many");
    }

    #[test]
    fn silence_has_an_end() {
        let (here, _there) = pair();
        assert!(matches!(here.receive(Instant::now()), Err(Fault::Late)));
        let packet = Message::Ready { left: vec![0; 1024] };
        let full = loop {
            if let Err(fault) = here.send(&packet, None, Instant::now()) {
                break fault;
            }
        };
        assert!(matches!(full, Fault::Late), "nobody reads: {full:?}");
    }

    #[test]
    fn the_door_is_ours_alone_and_vanishes() {
        let door = Door::open(&std::env::temp_dir(), 1).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&door.directory), mode(&door.path())), (0o700, 0o600));
        let here = Control::connect(&door.path()).unwrap();
        let there = door.accept().unwrap();
        let own = Peer { pid: std::process::id(), uid: nix_uid() };
        assert_eq!((here.peer().unwrap(), there.peer().unwrap()), (own, own));
        assert!(Door::open(&std::env::temp_dir(), 1).is_err(), "the directory is another one's");
        let (path, directory) = (door.path(), door.directory.clone());
        drop(door);
        assert!(!path.exists() && !directory.exists());
    }

    fn nix_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }
}
