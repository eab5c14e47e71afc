//! The floor inside tokio, T: nobody whose client lives there can be faster.
//!
//! ```text
//!  caller, a task ─► ids ──┐                        ┌─► one write for all of them
//!  caller, a task ─► ids ──┴─► the connection's task ┤
//!  callers' slots ◄────────────── whole frames ◄─────┴── one read
//! ```
//!
//! Before it writes, the connection's task lets the callers run that are ready, so that their frames go out together.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bench_driver::{Caller, Calls, Counts, Laps, RunArgs, Stage, repeat};
use parking_lot::Mutex;
use rpc_transport::ReactorStats;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;

use super::client::connect;
use super::pipe::Pipe;
use super::{Manner, Result, frames};
use crate::counts;

/// What is held while the loops run.
pub(crate) struct TokioFloor {
    /// One for each connection: each is counted by one task.
    stats: Vec<Arc<ReactorStats>>,
    _runtime: Runtime,
}

impl TokioFloor {
    pub(crate) fn start(args: &RunArgs, url: &str, stage: &Arc<Stage>) -> Result<TokioFloor> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build()?;
        let entered = runtime.enter();
        let [frames, _] = frames(args.payload, Manner::Gathering)?;
        let (mut stats, mut lanes) = (Vec::new(), Vec::new());
        for index in 0..args.connections {
            let counted = Arc::new(ReactorStats::default());
            let pipe = connect(url, &counted, frames.clone())?;
            #[allow(
                deprecated,
                reason = "its successor is unsafe, for descriptors that may be closed before; this one is owned"
            )]
            let ready = AsyncFd::try_new(pipe.socket.as_fd().try_clone_to_owned()?).map_err(io::Error::from)?;
            let lane = Arc::new(Lane::new(args.in_flight));
            let callers = (args.in_flight - index).div_ceil(args.connections);
            let (driven, stage) = (Arc::clone(&lane), Arc::clone(stage));
            runtime.spawn(async move {
                if let Err(failure) = drive(&driven, callers, pipe, &ready).await {
                    stage.fail(failure.to_string());
                }
            });
            stats.push(counted);
            lanes.push(lane);
        }
        for index in 0..args.in_flight {
            let call = FloorCall { lane: Arc::clone(&lanes[index % lanes.len()]), id: index as u32 };
            runtime.spawn(repeat(call, Laps::start(stage)));
        }
        drop(entered);
        Ok(TokioFloor { stats, _runtime: runtime })
    }
}

impl Caller for TokioFloor {
    fn counts(&self) -> Result<Counts> {
        counts::of(self.stats.iter().map(|stats| &**stats))
    }
}

/// What a connection's task and its callers share.
struct Lane {
    outbox: Mutex<Outbox>,
    slots: Box<[Mutex<Slot>]>,
}

#[derive(Default)]
struct Outbox {
    ids: Vec<u32>,
    /// The connection's task, if it waits.
    task: Option<Waker>,
}

#[derive(Default)]
struct Slot {
    replied: bool,
    caller: Option<Waker>,
}

impl Lane {
    fn new(callers: usize) -> Lane {
        let slots = (0..callers).map(|_| Mutex::default()).collect();
        Lane { outbox: Mutex::default(), slots }
    }

    fn send(&self, id: u32) {
        let mut outbox = self.outbox.lock();
        outbox.ids.push(id);
        let task = outbox.task.take();
        drop(outbox);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn complete(&self, id: u32) -> Result<()> {
        let mut slot = self.slots.get(id as usize).ok_or("a reply has an unknown id")?.lock();
        slot.replied = true;
        let caller = slot.caller.take();
        drop(slot);
        caller.ok_or("a reply came twice")?.wake();
        Ok(())
    }

    /// Whether there is something to send; if not, the task is woken when there is.
    fn poll_outbox(&self, cx: &Context<'_>) -> bool {
        let mut outbox = self.outbox.lock();
        if outbox.ids.is_empty() {
            outbox.task = Some(cx.waker().clone());
        }
        !outbox.ids.is_empty()
    }
}

/// The task of a connection that has so many callers.
async fn drive(lane: &Lane, callers: usize, mut pipe: Pipe, ready: &AsyncFd<OwnedFd>) -> Result<()> {
    let (mut ids, mut under_way) = (Vec::new(), 0);
    loop {
        let readable = poll_fn(|cx| poll_work(cx, lane, &mut pipe, ready)).await?;
        let replied = |_: &mut Pipe, id| {
            under_way -= 1;
            lane.complete(u32::from_be_bytes(id))
        };
        if readable && !pipe.turn(replied)? {
            return Err("the server closed the connection".into());
        }
        ids.append(&mut lane.outbox.lock().ids);
        if !ids.is_empty() && under_way + ids.len() < callers {
            tokio::task::yield_now().await;
            ids.append(&mut lane.outbox.lock().ids);
        }
        under_way += ids.len();
        ids.drain(..).try_for_each(|id| pipe.send(u32::to_be_bytes(id)))?;
        pipe.flush()?;
    }
}

/// Waits until there is something to read, to send, or room to write the rest; whether there is something to read. What the runtime has seen
/// of the socket is forgotten before the socket is used, so that nothing that happens meanwhile is.
fn poll_work(cx: &mut Context<'_>, lane: &Lane, pipe: &mut Pipe, ready: &AsyncFd<OwnedFd>) -> Poll<io::Result<bool>> {
    let readable = match ready.poll_read_ready(cx)? {
        Poll::Ready(mut guard) => {
            guard.clear_ready();
            true
        }
        Poll::Pending => false,
    };
    if !pipe.writable
        && let Poll::Ready(mut guard) = ready.poll_write_ready(cx)?
    {
        guard.clear_ready();
        pipe.writable = true;
        return Poll::Ready(Ok(readable));
    }
    if readable || lane.poll_outbox(cx) { Poll::Ready(Ok(readable)) } else { Poll::Pending }
}

/// One caller's calls.
struct FloorCall {
    lane: Arc<Lane>,
    id: u32,
}

impl Calls for FloorCall {
    type Reply = ();
    type Error = &'static str;

    async fn call(&self) -> std::result::Result<(), &'static str> {
        let mut sent = false;
        poll_fn(|cx| {
            let mut slot = self.lane.slots[self.id as usize].lock();
            if std::mem::take(&mut slot.replied) {
                return Poll::Ready(Ok(()));
            }
            slot.caller = Some(cx.waker().clone());
            drop(slot);
            if !std::mem::replace(&mut sent, true) {
                self.lane.send(self.id);
            }
            Poll::Pending
        })
        .await
    }

    /// The connection's task has looked at it.
    fn looks_right(&self, (): &()) -> bool {
        true
    }

    fn is_right(&self, (): &()) -> bool {
        true
    }
}
