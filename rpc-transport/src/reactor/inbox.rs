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
/// submitter looks at the announcement *after* it has put its command in; both hold the lock in between. The models `inbox_sleep` and
/// `inbox_close` run it in a real reactor.
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

    /// How many requests wait.
    #[cfg(feature = "tokio")]
    pub(crate) fn count(&self) -> usize {
        let requests = |command: &Command| match command {
            Command::Message(_, parcel) => parcel.count(),
            _ => 1,
        };
        self.queue.lock().commands.iter().map(requests).sum()
    }

    /// Takes everything that waits, in order, and says whether there is something; `into` must be empty and lends its memory to the queue.
    pub(crate) fn drain(&self, into: &mut Vec<Command>) -> bool {
        let filled = self.filled.load(Ordering::Relaxed);
        if filled {
            let mut queue = self.queue.lock();
            std::mem::swap(&mut queue.commands, into);
            self.filled.store(false, Ordering::Relaxed);
        }
        filled
    }

    /// From now on every submit fails; returns what was still waiting.
    pub(crate) fn close(&self) -> Vec<Command> {
        let mut queue = self.queue.lock();
        queue.closed = !put_back!("B17"); // who comes after the walk is never told
        std::mem::take(&mut queue.commands)
    }
}
