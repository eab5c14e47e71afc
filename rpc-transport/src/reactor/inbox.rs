//! What other threads ask of a reactor, and how they wake it: once, and only if it sleeps.

use super::tasks::LocalTask;
use crate::conn::{ConnId, Parcel};
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::sync::{Mutex, put_back};

/// What another thread may ask for.
pub(crate) enum Command {
    /// Deliver to a connection's handler.
    Message(ConnId, Parcel),
    /// Poll the local task in this slot.
    Wake(u32),
    /// Run a new local task.
    Spawn(Box<dyn LocalTask>),
    /// Run a closure: for the rare things, since it allocates.
    Run(Box<dyn FnOnce() + Send>),
    /// Poll the future of the blocking caller with this waker, if that caller still leads.
    WakeMain(usize),
}

/// What the thread that hosts the reactor does just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Attention {
    /// It runs and will look into the inbox before it sleeps.
    Running = 0,
    /// It sleeps in the driver.
    Polling = 1,
    /// Nobody hosts the reactor; its own thread is parked.
    Unattended = 2,
}

/// A queue of commands: two vectors swapped under a short lock.
///
/// No wake-up is lost: the reactor announces that it sleeps *before* it looks into the queue a last time, and a
/// submitter looks at the announcement *after* it has put its command in; both hold the lock in between.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    filled: AtomicBool,
    attention: AtomicU8,
}

struct Queue {
    commands: Vec<Command>,
    closed: bool,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox {
            queue: Mutex::new(Queue { commands: Vec::new(), closed: false }),
            filled: AtomicBool::new(false),
            attention: AtomicU8::new(Attention::Running as u8),
        }
    }

    /// Queues a command and tells whom to wake; a closed inbox gives the command back.
    pub(crate) fn submit(&self, command: Command) -> Result<Attention, Command> {
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                if put_back!("B16-inbox") {
                    return Ok(Attention::Running); // a command after the end is dropped without a word
                }
                return Err(command);
            }
            queue.commands.push(command);
            self.filled.store(true, Ordering::Relaxed);
        }
        Ok(self.arouse())
    }

    /// Claims the wake-up: only the first of many submitters gets anything but `Running`.
    pub(crate) fn arouse(&self) -> Attention {
        if self.attention.load(Ordering::Acquire) == Attention::Running as u8 {
            return Attention::Running;
        }
        match self.attention.swap(Attention::Running as u8, Ordering::AcqRel) {
            1 => Attention::Polling,
            2 => Attention::Unattended,
            _ => Attention::Running,
        }
    }

    /// Whether its host runs it, or is about to.
    pub(crate) fn is_running(&self) -> bool {
        self.attention.load(Ordering::Relaxed) == Attention::Running as u8
    }

    /// Announces what the host is about to do. Returns whether commands wait, so that it must not.
    pub(crate) fn announce(&self, attention: Attention) -> bool {
        if put_back!("B32-inbox") {
            // The last look comes before the announcement.
            let waits = !self.queue.lock().commands.is_empty();
            self.attention.store(attention as u8, Ordering::Release);
            return waits && attention != Attention::Running;
        }
        self.attention.store(attention as u8, Ordering::Release);
        if attention == Attention::Running {
            return false;
        }
        let queue = self.queue.lock();
        !queue.commands.is_empty() || queue.closed
    }

    /// Takes everything that waits, in order; `into` must be empty and lends its memory to the queue.
    pub(crate) fn drain(&self, into: &mut Vec<Command>) {
        if self.filled.load(Ordering::Relaxed) {
            let mut queue = self.queue.lock();
            std::mem::swap(&mut queue.commands, into);
            self.filled.store(false, Ordering::Relaxed);
        }
    }

    /// From now on every submit fails; returns what was still waiting.
    pub(crate) fn close(&self) -> Vec<Command> {
        let mut queue = self.queue.lock();
        queue.closed = !put_back!("B17"); // who comes after the walk is never told
        std::mem::take(&mut queue.commands)
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::sync::model::{Condvar, explore};
    use crate::sync::thread;

    /// Stands for the driver: what a wake-up is written to, and what the reactor sleeps in.
    #[derive(Default)]
    struct Poller(Mutex<bool>, Condvar);

    impl Poller {
        fn wake(&self) {
            *self.0.lock() = true;
            self.1.notify_one();
        }

        fn wait(&self) {
            let mut woken = self.0.lock();
            while !std::mem::take(&mut *woken) {
                self.1.wait(&mut woken);
            }
        }
    }

    fn submit(inbox: &Inbox, poller: &Poller, slot: u32) -> bool {
        match inbox.submit(Command::Wake(slot)) {
            Ok(Attention::Running) => true,
            Ok(_) => {
                poller.wake();
                true
            }
            Err(Command::Wake(back)) => {
                assert_eq!(back, slot, "what comes back is what was sent");
                false
            }
            Err(_) => panic!("another command came back"),
        }
    }

    /// What `Reactor::turn` does with the inbox.
    fn turn(inbox: &Inbox, poller: &Poller, done: &mut Vec<u32>) {
        if !inbox.announce(Attention::Polling) {
            poller.wait();
        }
        inbox.announce(Attention::Running);
        let mut commands = Vec::new();
        inbox.drain(&mut commands);
        done.extend(slots(commands));
    }

    fn slots(commands: Vec<Command>) -> impl Iterator<Item = u32> {
        commands.into_iter().map(|command| match command {
            Command::Wake(slot) => slot,
            _ => panic!("another command came out"),
        })
    }

    /// B32: whoever submits while the reactor falls asleep wakes it. A wake-up that is lost is a deadlock here.
    #[test]
    fn inbox_sleep() {
        explore("inbox_sleep", || {
            let (inbox, poller) = (Arc::new(Inbox::new()), Arc::new(Poller::default()));
            let others = [1, 2].map(|slot| {
                let (inbox, poller) = (Arc::clone(&inbox), Arc::clone(&poller));
                thread::spawn(move || assert!(submit(&inbox, &poller, slot)))
            });
            let mut done = Vec::new();
            while done.len() < 2 {
                turn(&inbox, &poller, &mut done);
            }
            others.into_iter().for_each(|thread| thread.join().unwrap());
            done.sort_unstable();
            assert_eq!(done, [1, 2], "each is executed, once");
        });
    }

    /// B16, B17: a command that meets the end of the reactor is executed, found at the end, or comes back to who sent it.
    #[test]
    fn inbox_close() {
        explore("inbox_close", || {
            let (inbox, poller) = (Arc::new(Inbox::new()), Arc::new(Poller::default()));
            let others = [1, 2].map(|slot| {
                let (inbox, poller) = (Arc::clone(&inbox), Arc::clone(&poller));
                thread::spawn(move || if submit(&inbox, &poller, slot) { None } else { Some(slot) })
            });
            let mut heard = Vec::new();
            turn(&inbox, &poller, &mut heard);
            assert!(!heard.is_empty(), "it was woken for something");
            heard.extend(slots(inbox.close()));
            heard.extend(others.map(|thread| thread.join().unwrap()).into_iter().flatten());
            heard.sort_unstable();
            assert_eq!(heard, [1, 2], "each has one end");
            assert!(inbox.announce(Attention::Polling), "nobody falls asleep over a closed inbox");
        });
    }
}
