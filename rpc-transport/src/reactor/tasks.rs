//! Futures that run on a reactor, between its connections.
//!
//! A slot keeps its waker for ever, so running another task in it allocates nothing. A waker that outlives its task
//! wakes the slot's next task once too often, which is harmless.

use std::fmt;
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
    body: Box<Body>,
}

impl ReservedTask {
    /// The task-to-be.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The waker of the task-to-be.
    #[inline]
    pub fn waker(&self) -> &Waker {
        &self.body.waker
    }
}

#[derive(Default)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that were woken, each once.
    woken: Vec<u32>,
    /// Memory for the next ones, while those before have their turn.
    spare: Vec<u32>,
    running: usize,
    pub(crate) current: Option<Polled>,
}

/// A task that is being polled, and the address that tells its waker from others.
#[derive(Clone, Copy)]
pub(crate) struct Polled {
    pub(crate) task: TaskId,
    pub(crate) waker: usize,
}

struct Slot {
    /// Out while the task is polled, and while the slot is reserved.
    body: Option<Box<Body>>,
    /// Woken while reserved: the task starts with a poll.
    woken_early: bool,
    /// It is among the woken ones.
    queued: bool,
    /// Its waker has been used, and its flag is set.
    flagged: bool,
    flag: Arc<TaskWaker>,
}

/// What polling needs of a slot, in one piece, so that it is out and back by a move of one word.
struct Body {
    task: Option<Box<dyn LocalTask>>,
    waker: Waker,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("waker", &self.waker).finish_non_exhaustive()
    }
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
            let body = Some(Box::new(Body { task: None, waker: Waker::from(Arc::clone(&flag)) }));
            self.slots.push(Slot { body, woken_early: false, queued: false, flagged: false, flag });
            slot
        });
        let body = self.slots[slot as usize].body.take().expect("a free slot has its waker");
        ReservedTask { id: TaskId(slot), body }
    }

    pub(crate) fn release(&mut self, reserved: ReservedTask) {
        let slot = &mut self.slots[reserved.id.0 as usize];
        slot.body = Some(reserved.body);
        slot.woken_early = false;
        self.free.push(reserved.id.0);
    }

    /// Fills a reserved slot with a task that has been polled with its waker already.
    pub(crate) fn start(&mut self, mut reserved: ReservedTask, task: Box<dyn LocalTask>) {
        let slot = &mut self.slots[reserved.id.0 as usize];
        reserved.body.task = Some(task);
        slot.body = Some(reserved.body);
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
            self.woken.push(slot);
        }
    }

    pub(crate) fn runnable(&self) -> usize {
        self.woken.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// Those that were woken before now, in the order of that. They come [back](Tasks::keep) when each has had its turn.
    pub(crate) fn woken(&mut self) -> Vec<u32> {
        std::mem::replace(&mut self.woken, std::mem::take(&mut self.spare))
    }

    /// Gives the memory of [`woken`](Tasks::woken) back.
    pub(crate) fn keep(&mut self, mut batch: Vec<u32>) {
        batch.clear();
        self.spare = batch;
    }

    /// Takes a woken task with its waker; they come back by [`Tasks::put_back`]. `None` if it is gone, or not there yet.
    #[inline]
    pub(crate) fn take(&mut self, slot: u32) -> Option<Polling> {
        let entry = &mut self.slots[slot as usize];
        entry.queued = false;
        if std::mem::take(&mut entry.flagged) {
            // With acquire: a wake-up that found the flag set relies on this poll to see what was done before it.
            entry.flag.used.swap(false, Ordering::AcqRel);
        }
        // Woken early, while the slot is reserved, or late, when the task is gone: then the waker stays where it is.
        entry.woken_early = entry.body.is_none();
        let body = entry.body.take_if(|body| body.task.is_some())?;
        let id = TaskId(slot);
        self.current = Some(Polled { task: id, waker: body.waker.data() as usize });
        Some(Polling { id, body })
    }

    #[inline]
    pub(crate) fn put_back(&mut self, polling: Polling) {
        self.current = None;
        self.slots[polling.id.0 as usize].body = Some(polling.body);
    }

    /// The task is done; returns it so that its memory can be reused.
    pub(crate) fn retire(&mut self, mut polling: Polling) -> Option<Box<dyn LocalTask>> {
        self.current = None;
        let task = polling.body.task.take();
        self.slots[polling.id.0 as usize].body = Some(polling.body);
        self.free.push(polling.id.0);
        self.running -= 1;
        task
    }

    /// Takes a task that is not being polled out of its slot.
    pub(crate) fn cancel(&mut self, id: TaskId) -> Option<Box<dyn LocalTask>> {
        let task = self.slots.get_mut(id.0 as usize)?.body.as_mut()?.task.take()?;
        self.free.push(id.0);
        self.running -= 1;
        Some(task)
    }

    /// Every task that is not being polled, for the end of the reactor.
    pub(crate) fn clear(&mut self) -> Vec<Box<dyn LocalTask>> {
        self.slots.iter_mut().filter_map(|slot| slot.body.as_mut()?.task.take()).collect()
    }
}

pub(crate) struct Polling {
    id: TaskId,
    body: Box<Body>,
}

impl Polling {
    #[inline]
    pub(crate) fn poll(&mut self) -> Poll<()> {
        let Body { task, waker } = &mut *self.body;
        task.as_mut().map_or(Poll::Ready(()), |task| task.poll(&mut Context::from_waker(waker)))
    }
}

/// A boxed future as a task.
pub(crate) struct FutureTask(pub(crate) Pin<Box<dyn Future<Output = ()> + Send>>);

impl LocalTask for FutureTask {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
