//! Calls at fixed times: the open loop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use parking_lot::Mutex;

use crate::Failure;

/// The thread that hands out the times sleeps at least this long, so that it leaves the processor to those who are measured. Calls that
/// fall due meanwhile begin late, by as much for everybody, and the delay counts.
const NAP: Duration = Duration::from_micros(50);

/// Calls that are due and not begun. With more of them the callers do not keep up at all.
const BACKLOG: usize = 1_000_000;

/// Hands out the times at which calls are due.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    queue: Mutex<Queue>,
    /// When the first call that counts can be due, and the first that does not any more.
    counts: [OnceLock<Instant>; 2],
    fell_behind: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    due: VecDeque<Instant>,
    /// Loops without a call to make.
    waiting: Vec<Waker>,
    /// No more calls fall due. Those that are due are still made: they are the late ones, which must not be left out.
    over: bool,
}

impl Pacer {
    /// Starts the thread; it ends with the pacer, or with [`Pacer::stop`].
    pub(crate) fn start(rate: f64) -> Result<Arc<Pacer>, Failure> {
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(format!("a rate of {rate} calls a second").into());
        }
        let pacer = Arc::new(Pacer::default());
        let weak = Arc::downgrade(&pacer);
        thread::Builder::new().name("pacer".to_owned()).spawn(move || hand_out(&weak, rate))?;
        Ok(pacer)
    }

    /// When the next call is due; `None` when there is none any more.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Instant>> {
        let mut queue = self.queue.lock();
        match queue.due.pop_front() {
            None if !queue.over => {
                queue.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    /// Calls that fall due from now on count.
    pub(crate) fn count(&self) {
        self.counts[0].get_or_init(Instant::now);
    }

    /// No more calls fall due.
    pub(crate) fn stop(&self) {
        self.counts[1].get_or_init(Instant::now);
        let mut queue = self.queue.lock();
        queue.over = true;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether a call that was due then counts.
    pub(crate) fn counted(&self, due: Instant) -> bool {
        let [from, to] = &self.counts;
        from.get().is_some_and(|from| *from <= due) && to.get().is_none_or(|to| due < *to)
    }

    /// Whether more calls were due than could ever be made.
    pub(crate) fn fell_behind(&self) -> bool {
        self.fell_behind.load(Ordering::Relaxed)
    }
}

fn hand_out(pacer: &Weak<Pacer>, rate: f64) {
    let _ = prctl::set_timerslack(1); // else each nap is 50 µs longer
    let start = Instant::now();
    let mut count = 0_u64;
    let at = |count: u64| start + Duration::from_secs_f64(count as f64 / rate);
    loop {
        // Until the next call is due: this is the clock of the measurement.
        thread::sleep(at(count).saturating_duration_since(Instant::now()).max(NAP));
        let Some(pacer) = pacer.upgrade() else { return };
        let now = Instant::now();
        let mut queue = pacer.queue.lock();
        if queue.over {
            return;
        }
        while at(count) <= now {
            queue.due.push_back(at(count));
            count += 1;
        }
        if queue.due.len() > BACKLOG {
            drop(queue);
            pacer.fell_behind.store(true, Ordering::Relaxed);
            return pacer.stop();
        }
        // One for each call that is due; a loop that ends meanwhile takes one without being woken.
        let first = queue.waiting.len().saturating_sub(queue.due.len());
        let woken = queue.waiting.split_off(first);
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
    }
}
