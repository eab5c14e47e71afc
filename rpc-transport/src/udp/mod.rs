//! Datagrams: a socket on each reactor, with a handler of its own, beside the connections there.
//!
//! ```text
//!  event ─► local task ─► recv_from ─► DatagramHandler::on_datagram ─► DatagramCx::send_to ─► kernel, or a bounded queue
//! ```

mod outbox;
mod shard;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::outbox::SendError;

use self::outbox::{ENTRY, Outbox};
use self::shard::Shard;
use crate::conn::Token;
use crate::driver::Key;
use crate::reactor::core::with;
use crate::reactor::{ReactorHandle, ReactorPool};
use crate::stats::Counter;

/// The most that a datagram over IPv4 can carry.
const LONGEST: usize = 65_507;

/// What happens to the datagrams of one socket. A value of this type belongs to the socket and runs on its reactor: no method may block.
///
/// Where one panics, the handler is dropped and made anew; the datagram is lost, the socket goes on.
#[allow(unused_variables)]
pub trait DatagramHandler: Send + 'static {
    /// One datagram, whole. It is borrowed: the next one overwrites it.
    fn on_datagram(&mut self, cx: &mut DatagramCx<'_>, datagram: &[u8], from: SocketAddr);

    /// Those of one wake-up have been handed up, at most 64 of them; others of the reactor have their turn before the next.
    fn on_batch_end(&mut self, cx: &mut DatagramCx<'_>) {}
}

/// Options of the sockets of one address.
#[derive(Clone, Debug)]
pub struct UdpOptions {
    /// A socket on each reactor, by `SO_REUSEPORT`: the kernel keeps what comes from one address and port at one of them. Otherwise one socket on
    /// one reactor. Default on. Any process of the same user can bind a socket to the same port then.
    pub reuse_port: bool,
    /// Longer datagrams are dropped whole, and counted, never handed up cut short. Default and most: 65,507 bytes. Each socket has a buffer
    /// of this size.
    pub max_datagram: usize,
    /// Bytes that wait at a socket while the kernel takes no more, and as many of other threads on their way there; what is sent beyond them
    /// is refused. Each counts for some 64 bytes more than it has. Default 256 KiB.
    pub send_queue: usize,
    /// `SO_RCVBUF` in bytes: what the kernel keeps until it is read; it drops what comes beyond. Default: the system's.
    pub recv_buffer: Option<usize>,
    /// `SO_SNDBUF` in bytes. Default: the system's.
    pub send_buffer: Option<usize>,
}

impl Default for UdpOptions {
    fn default() -> Self {
        UdpOptions {
            reuse_port: true,
            max_datagram: LONGEST,
            send_queue: 256 << 10,
            recv_buffer: None,
            send_buffer: None,
        }
    }
}

/// What a handler can do with its socket.
pub struct DatagramCx<'a> {
    key: Key,
    outbox: &'a mut Outbox,
    shared: &'a SocketShared,
    now: Instant,
}

impl DatagramCx<'_> {
    /// Sends a datagram, at once if the kernel takes it: one system call and no copy. If not it is copied, and waits in the socket's queue.
    /// That it was sent does not mean that it arrives.
    ///
    /// # Errors
    /// [`SendError`]; it was not sent then.
    pub fn send_to(&mut self, datagram: &[u8], to: SocketAddr) -> Result<(), SendError> {
        let sent = self.outbox.send(datagram, to, || Bytes::copy_from_slice(datagram), self.shared.kernel(self.key));
        self.shared.counted(sent)
    }

    /// The time of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The address that the socket is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.bound
    }

    /// The socket's reactor.
    pub fn reactor(&self) -> &ReactorHandle {
        &self.shared.reactor
    }
}

/// What the sockets of an address have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Datagrams handed up.
    pub received: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Datagrams over `max_datagram`, dropped.
    pub oversize: u64,
    /// Datagrams that were refused because `send_queue` was full.
    pub refused: u64,
    /// Errors of the system when receiving or sending, such as what ICMP says of an earlier datagram. None ends a socket.
    pub errors: u64,
}

/// Counters that the socket's reactor writes.
#[derive(Debug, Default)]
struct Counters {
    received: Counter,
    bytes_in: Counter,
    sent: Counter,
    bytes_out: Counter,
    oversize: Counter,
    refused: Counter,
    errors: Counter,
}

/// What others know of a socket.
struct SocketShared {
    bound: SocketAddr,
    reactor: ReactorHandle,
    counters: Counters,
    send_queue: usize,
    mailbox: Mutex<Mailbox>,
}

impl SocketShared {
    /// Sends a datagram at once.
    fn kernel(&self, key: Key) -> impl FnMut(&[u8], SocketAddr) -> io::Result<()> {
        move |datagram, to| {
            let send = || with(|core| core.driver.send_to(key, datagram, to));
            let sent = match send() {
                // What an earlier datagram met with, which ICMP told meanwhile: this one has not been tried yet.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => send(),
                sent => sent,
            };
            match &sent {
                Ok(_) => {
                    self.counters.sent.add(1);
                    self.counters.bytes_out.add(datagram.len() as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.counters.errors.add(1),
            }
            sent.map(drop)
        }
    }

    /// What the kernel says is counted where it says it.
    fn counted(&self, sent: Result<(), SendError>) -> Result<(), SendError> {
        if let Err(SendError::Full { .. }) = sent {
            self.counters.refused.add(1);
        }
        sent
    }
}

/// What other threads ask of a socket.
struct Mailbox {
    letters: VecDeque<(Bytes, SocketAddr)>,
    bytes: usize,
    closed: bool,
    /// The socket's task.
    waker: Waker,
}

/// The sockets of an address, from any thread. They are closed when it is dropped.
pub struct UdpHandle {
    sockets: Box<[Arc<SocketShared>]>,
    next: AtomicUsize,
}

impl UdpHandle {
    /// The address they are bound to: with the real port if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.sockets[0].bound
    }

    /// Sends a datagram from one of the sockets, each in turn: two in a row may overtake each other. Wakes its reactor; copies nothing.
    ///
    /// # Errors
    /// [`SendError::Full`] if as much as `send_queue` waits there already, and [`SendError::Closed`]. What the system says later is counted only.
    pub fn send_to(&self, datagram: Bytes, to: SocketAddr) -> Result<(), SendError> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.sockets.len();
        let socket = &self.sockets[index];
        let mut mailbox = socket.mailbox.lock();
        if mailbox.closed {
            return Err(SendError::Closed);
        }
        let takes = datagram.len() + ENTRY;
        if takes > socket.send_queue.saturating_sub(mailbox.bytes) {
            return Err(SendError::Full { waiting: mailbox.bytes, limit: socket.send_queue });
        }
        mailbox.bytes += takes;
        mailbox.letters.push_back((datagram, to));
        let waker = mailbox.waker.clone();
        drop(mailbox);
        waker.wake();
        Ok(())
    }

    /// What they have done, in all.
    pub fn stats(&self) -> UdpStats {
        let sum = |of: fn(&Counters) -> &Counter| self.sockets.iter().map(|socket| of(&socket.counters).get()).sum();
        UdpStats {
            received: sum(|counters| &counters.received),
            bytes_in: sum(|counters| &counters.bytes_in),
            sent: sum(|counters| &counters.sent),
            bytes_out: sum(|counters| &counters.bytes_out),
            oversize: sum(|counters| &counters.oversize),
            refused: sum(|counters| &counters.refused),
            errors: sum(|counters| &counters.errors),
        }
    }

    /// How many sockets there are.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }
}

impl Drop for UdpHandle {
    fn drop(&mut self) {
        for socket in &self.sockets {
            let mut mailbox = socket.mailbox.lock();
            mailbox.closed = true;
            let waker = mailbox.waker.clone();
            drop(mailbox);
            waker.wake();
        }
    }
}

impl fmt::Debug for UdpHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sockets at udp://{}", self.sockets.len(), self.local_addr())
    }
}

impl ReactorPool {
    /// Takes datagrams at `addr`. `make` gives each socket its handler; it runs on the socket's reactor. Returns when all are bound.
    ///
    /// A wake-up is read to its end, a system call a datagram, but not more than 64 of them before others have their turn. In steady state
    /// nothing is allocated.
    ///
    /// # Errors
    /// What the system says to bind, with the address in the text; then none stays.
    ///
    /// # Panics
    /// On a reactor's thread, where it would wait for itself.
    pub fn bind_udp<H: DatagramHandler>(
        &self,
        addr: SocketAddr,
        options: UdpOptions,
        make: impl Fn(&ReactorHandle) -> H + Send + Sync + 'static,
    ) -> io::Result<UdpHandle> {
        let make: Arc<dyn Fn(&ReactorHandle) -> H + Send + Sync> = Arc::new(make);
        let reactors = if options.reuse_port { self.handles() } else { std::slice::from_ref(self.next()) };
        let mut bound = UdpHandle { sockets: Box::default(), next: AtomicUsize::new(0) };
        for reactor in reactors {
            // What is dropped on the way closes those before.
            let at = bound.sockets.first().map_or(addr, |first| first.bound);
            let (here, options, make) = (reactor.clone(), options.clone(), Arc::clone(&make));
            let socket = reactor.ask(move || bind_here(here, at, &options, make));
            let socket = socket.unwrap_or_else(|| Err(io::Error::other("the reactor has stopped")));
            let socket = socket.map_err(|e| io::Error::new(e.kind(), format!("cannot bind udp://{addr}: {e}")))?;
            bound.sockets = bound.sockets.iter().cloned().chain([socket]).collect();
        }
        tracing::info!(addr = %bound.local_addr(), sockets = bound.sockets(), "taking datagrams");
        Ok(bound)
    }
}

/// A socket on the reactor that this thread turns.
fn bind_here<H: DatagramHandler>(
    reactor: ReactorHandle,
    addr: SocketAddr,
    options: &UdpOptions,
    make: Arc<dyn Fn(&ReactorHandle) -> H + Send + Sync>,
) -> io::Result<Arc<SocketShared>> {
    let handler = make(&reactor);
    with(|core| {
        let task = core.tasks.reserve(&reactor);
        let bound = core.driver.bind_udp(addr, options, Token::Task(task.id().0).pack());
        let (key, bound) = match bound {
            Ok(bound) => bound,
            Err(e) => {
                core.tasks.release(task);
                return Err(e);
            }
        };
        let waker = task.waker().clone();
        let mailbox = Mailbox { letters: VecDeque::new(), bytes: 0, closed: false, waker };
        let shared = Arc::new(SocketShared {
            bound,
            reactor,
            counters: Counters::default(),
            send_queue: options.send_queue,
            mailbox: Mutex::new(mailbox),
        });
        let outbox = Outbox::new(options.send_queue);
        // One byte more than is taken: what fills it is too long.
        let room = vec![0; options.max_datagram.min(LONGEST) + 1];
        let slot = task.id().0;
        core.tasks.start(task, Box::new(Shard { key, shared: Arc::clone(&shared), handler, make, room, outbox }));
        core.tasks.wake(slot);
        Ok(shared)
    })
}
