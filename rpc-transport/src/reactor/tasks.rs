//! Futures that run on a reactor, between its connections.
//!
//! A slot keeps its waker for ever, so running another task in it allocates nothing. A waker that outlives its task
//! wakes the slot's next task once too often, which is harmless.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::{Command, ReactorHandle, core};
use crate::sync::atomic::{AtomicBool, Ordering};

/// Something to poll on a reactor. For a plain future use [`ReactorHandle::spawn`].
pub trait LocalTask: Send {
    /// Polls it once; after `Ready` it is not polled again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// It is done and given up: the place to put its memory back into a pool.
    fn finished(self: Box<Self>) {}
}

/// Names the local task that is being polled, for [`local::wake`](crate::local::wake).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskId(pub(crate) u32);

impl TaskId {
    /// The future that a blocking caller drives while it hosts the reactor.
    pub(crate) const MAIN: TaskId = TaskId(u32::MAX);
}

/// A slot taken before it is known whether a task is needed: poll with its waker, then
/// [`spawn`](crate::local::spawn_reserved) or [`release`](crate::local::release) it.
#[derive(Debug)]
pub struct ReservedTask {
    pub(crate) id: TaskId,
    pub(crate) waker: Waker,
}

impl ReservedTask {
    /// The task-to-be.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The waker of the task-to-be.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}

#[derive(Default)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    running: usize,
    pub(crate) current: Option<Polled>,
}

/// A task that is being polled, and the address that tells its waker from others; 0 if there is none.
#[derive(Clone, Copy)]
pub(crate) struct Polled {
    pub(crate) task: TaskId,
    pub(crate) waker: usize,
}

impl Polled {
    pub(crate) const NONE: Polled = Polled { task: TaskId::MAIN, waker: 0 };

    /// The task, if `waker` is its own.
    #[inline]
    pub(crate) fn task_of(self, waker: &Waker) -> Option<TaskId> {
        // Nobody's waker has the address 0, but a no-op waker does.
        (self.waker != 0 && self.waker == waker.data() as usize).then_some(self.task)
    }
}

struct Slot {
    task: Option<Box<dyn LocalTask>>,
    /// Out while the task is polled, and while the slot is reserved.
    waker: Option<Waker>,
    /// Woken while reserved: the task starts with a poll.
    woken_early: bool,
    /// It is in the queue.
    queued: bool,
    /// Its waker has been used, and its flag is set.
    flagged: bool,
    flag: Arc<TaskWaker>,
}

pub(crate) struct TaskWaker {
    slot: u32,
    /// Used since the slot's last poll began.
    used: AtomicBool,
    reactor: ReactorHandle,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.used.swap(true, Ordering::AcqRel) && !core::wake_here(&self.reactor, self.slot) {
            self.reactor.submit(Command::Wake(self.slot));
        }
    }
}

impl Tasks {
    pub(crate) fn reserve(&mut self, reactor: &ReactorHandle) -> ReservedTask {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len() as u32;
            let flag = Arc::new(TaskWaker { slot, used: AtomicBool::new(false), reactor: reactor.clone() });
            let waker = Some(Waker::from(Arc::clone(&flag)));
            self.slots.push(Slot { task: None, waker, woken_early: false, queued: false, flagged: false, flag });
            slot
        });
        let waker = self.slots[slot as usize].waker.take().expect("a free slot has its waker");
        ReservedTask { id: TaskId(slot), waker }
    }

    pub(crate) fn release(&mut self, reserved: ReservedTask) {
        let slot = &mut self.slots[reserved.id.0 as usize];
        slot.waker = Some(reserved.waker);
        slot.woken_early = false;
        self.free.push(reserved.id.0);
    }

    /// Fills a reserved slot with a task that has been polled with its waker already.
    pub(crate) fn start(&mut self, reserved: ReservedTask, task: Box<dyn LocalTask>) {
        let slot = &mut self.slots[reserved.id.0 as usize];
        slot.waker = Some(reserved.waker);
        slot.task = Some(task);
        self.running += 1;
        if std::mem::take(&mut slot.woken_early) {
            self.wake(reserved.id.0);
        }
    }

    /// Queues a slot whose waker was used.
    pub(crate) fn enqueue(&mut self, slot: u32) {
        if let Some(entry) = self.slots.get_mut(slot as usize) {
            entry.flagged = true;
        }
        self.wake(slot);
    }

    /// Wakes a task from its own reactor, without its waker: by no atomic instruction.
    #[inline]
    pub(crate) fn wake(&mut self, slot: u32) {
        let entry = self.slots.get_mut(slot as usize);
        if entry.is_some_and(|entry| !std::mem::replace(&mut entry.queued, true)) {
            self.queue.push_back(slot);
        }
    }

    pub(crate) fn runnable(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Takes the next woken task and its waker; both come back by [`Tasks::put_back`].
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Polling> {
        loop {
            let slot = self.queue.pop_front()?;
            let entry = &mut self.slots[slot as usize];
            entry.queued = false;
            if std::mem::take(&mut entry.flagged) {
                // With acquire: a wake-up that found the flag set relies on this poll to see what was done before it.
                entry.flag.used.swap(false, Ordering::AcqRel);
            }
            let Some(task) = entry.task.take() else {
                // Woken late, when the task is gone, or early, while the slot is reserved: the waker stays where it is.
                entry.woken_early = entry.waker.is_none();
                continue;
            };
            let waker = entry.waker.take().expect("a task that is not being polled has its waker");
            let id = TaskId(slot);
            self.current = Some(Polled { task: id, waker: Arc::as_ptr(&entry.flag) as usize });
            return Some(Polling { id, task, waker });
        }
    }

    #[inline]
    pub(crate) fn put_back(&mut self, polling: Polling) {
        self.current = None;
        let entry = &mut self.slots[polling.id.0 as usize];
        entry.waker = Some(polling.waker);
        entry.task = Some(polling.task);
    }

    /// The task is done; returns it so that its memory can be reused.
    pub(crate) fn retire(&mut self, polling: Polling) -> Box<dyn LocalTask> {
        self.current = None;
        self.slots[polling.id.0 as usize].waker = Some(polling.waker);
        self.free.push(polling.id.0);
        self.running -= 1;
        polling.task
    }

    /// Takes a task that is not being polled out of its slot.
    pub(crate) fn cancel(&mut self, id: TaskId) -> Option<Box<dyn LocalTask>> {
        let task = self.slots.get_mut(id.0 as usize)?.task.take()?;
        self.free.push(id.0);
        self.running -= 1;
        Some(task)
    }

    /// Every task that is not being polled, for the end of the reactor.
    pub(crate) fn clear(&mut self) -> Vec<Box<dyn LocalTask>> {
        self.slots.iter_mut().filter_map(|slot| slot.task.take()).collect()
    }
}

pub(crate) struct Polling {
    pub(crate) id: TaskId,
    pub(crate) task: Box<dyn LocalTask>,
    pub(crate) waker: Waker,
}

/// A boxed future as a task.
pub(crate) struct FutureTask(pub(crate) Pin<Box<dyn Future<Output = ()> + Send>>);

impl LocalTask for FutureTask {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
