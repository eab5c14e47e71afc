//! Models of a whole reactor and its hosts: real turns, real commands and tasks, over a driver without sockets.
//!
//! Time stands still unless the reactor has nothing else to wait for, and no wait in a host ends by its time limit: what only a safety
//! net would save is a deadlock here.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::{Host, HostedBy};
use super::{Reactor, ReactorHandle};
use crate::buffer::Block;
use crate::driver::{CloseHow, Driver, Event, Key, RawSocket, Wake};
use crate::socket::SocketOptions;
use crate::sync::model::{Condvar, explore};
use crate::sync::{Mutex, thread};
use crate::url::Endpoint;

/// What a reactor sleeps in.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock() = true;
        self.rings.notify_one();
    }
}

/// A driver without sockets.
struct NoSockets {
    bell: Arc<Bell>,
    now: Instant,
}

impl Driver for NoSockets {
    fn now(&self) -> Instant {
        self.now
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.bell) as Arc<dyn Wake>
    }

    fn wait(&mut self, timeout: Option<Duration>, _events: &mut Vec<Event>) -> io::Result<()> {
        let mut rung = self.bell.rung.lock();
        match timeout {
            Some(timeout) if !*rung => self.now += timeout,
            _ => {
                while !*rung && timeout.is_none() {
                    self.bell.rings.wait(&mut rung);
                }
            }
        }
        *rung = false;
        Ok(())
    }

    fn listen(&mut self, _: &Endpoint, _: &SocketOptions, _: usize) -> io::Result<(Key, Endpoint)> {
        unreachable!("no sockets")
    }

    fn accept(&mut self, _: Key) -> io::Result<(RawSocket, Endpoint)> {
        unreachable!("no sockets")
    }

    fn adopt(&mut self, _: RawSocket, _: &SocketOptions, _: usize) -> io::Result<Key> {
        unreachable!("no sockets")
    }

    fn connect(&mut self, _: &Endpoint, _: &SocketOptions, _: usize) -> io::Result<Key> {
        unreachable!("no sockets")
    }

    fn connected(&mut self, _: Key) -> io::Result<bool> {
        unreachable!("no sockets")
    }

    fn read(&mut self, _: Key, _: &mut Block, _: usize) -> io::Result<usize> {
        unreachable!("no sockets")
    }

    fn write(&mut self, _: Key, _: &[io::IoSlice<'_>]) -> io::Result<usize> {
        unreachable!("no sockets")
    }

    fn watch_writable(&mut self, _: Key, _: bool, _: usize) -> io::Result<()> {
        unreachable!("no sockets")
    }

    fn finish(&mut self, _: Key) -> io::Result<()> {
        unreachable!("no sockets")
    }

    fn close(&mut self, _: Key, _: CloseHow) {
        unreachable!("no sockets")
    }
}

fn reactor(by: HostedBy) -> Reactor {
    let driver = NoSockets { bell: Arc::default(), now: crate::clock::now() };
    Reactor::new(Box::new(driver), "model".to_owned(), 0, Host::new(by))
}

/// One reactor, turned by the thread of the model, and threads that ask it for something.
#[cfg(model = "loom")]
mod turned {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::conn::{ConnId, Slab};
    use crate::handler::Message;

    /// A message to a connection that is gone: all that can become of it is that it comes back.
    #[derive(Default)]
    pub(super) struct Letter(AtomicUsize);

    impl Message for Letter {
        fn undelivered(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Letter {
        /// How often it came back.
        pub(super) fn returned(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn nobody() -> ConnId {
        Slab::<()>::new().reserve()
    }

    /// A letter from each of two threads.
    pub(super) fn letters(handle: &ReactorHandle) -> ([Arc<Letter>; 2], [thread::JoinHandle<()>; 2]) {
        let letters = [0, 1].map(|_| Arc::<Letter>::default());
        let senders = [0, 1].map(|n| {
            let (handle, letter) = (handle.clone(), Arc::clone(&letters[n]));
            thread::spawn(move || handle.send(nobody(), letter))
        });
        (letters, senders)
    }
}

/// B32: whoever submits while the reactor falls asleep wakes it. A wake-up that is lost is a deadlock here.
#[cfg(model = "loom")]
#[test]
fn inbox_sleep() {
    explore("inbox_sleep", || {
        let mut reactor = reactor(HostedBy::Thread);
        let (letters, senders) = turned::letters(reactor.handle());
        while letters.iter().any(|letter| letter.returned() == 0) {
            reactor.turn();
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(letters.map(|letter| letter.returned()), [1, 1], "each is looked at, once");
    });
}

/// B16, B17: a message that meets the end of the reactor is looked at, found at the end, or comes back to who sent it.
#[cfg(model = "loom")]
#[test]
fn inbox_close() {
    explore("inbox_close", || {
        let mut reactor = reactor(HostedBy::Thread);
        let (letters, senders) = turned::letters(reactor.handle());
        reactor.turn();
        assert!(letters.iter().any(|letter| letter.returned() == 1), "it was woken for something");
        drop(reactor);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!(letters.map(|letter| letter.returned()), [1, 1], "each has one end");
    });
}

/// Whole hosts: who turns the reactor changes. Not under loom 0.7: it forgets that a thread was unparked which waits for a lock just then,
/// and takes the park that follows for a deadlock.
#[cfg(model = "shuttle")]
mod hosted;
