//! What the loops of a measurement share: whether to go on, and where results go.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};

use crate::Failure;

/// A loop compares every so many replies byte for byte.
const SAMPLE: u64 = 64;

/// The part of a measurement that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Part {
    WarmUp = 0,
    Measure = 1,
    Stop = 2,
}

/// One measurement, seen from its loops. A process makes one.
pub(crate) struct Stage {
    part: AtomicU8,
    /// Calls of each loop, if they are counted instead of timed.
    calls: Option<u64>,
    failures: Mutex<Vec<String>>,
    histograms: Mutex<Vec<Arc<Mutex<Histogram<u64>>>>>,
    running: Mutex<usize>,
    ended: Condvar,
    seen: AtomicUsize,
}

thread_local! {
    static MINE: RefCell<Option<Arc<Mutex<Histogram<u64>>>>> = const { RefCell::new(None) };
}

impl Stage {
    pub(crate) fn new(loops: usize, calls: Option<u64>) -> Arc<Stage> {
        Arc::new(Stage {
            part: AtomicU8::new(Part::WarmUp as u8),
            calls: calls.map(|calls| calls.div_ceil(loops as u64)),
            failures: Mutex::default(),
            histograms: Mutex::default(),
            running: Mutex::new(loops),
            ended: Condvar::new(),
            seen: AtomicUsize::new(0),
        })
    }

    pub(crate) fn enter(&self, part: Part) {
        self.part.store(part as u8, Ordering::Relaxed);
    }

    /// Waits for the end of all loops; false when it has not come by then.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut running = self.running.lock();
        while *running > 0 && !self.ended.wait_until(&mut running, until).timed_out() {}
        *running == 0
    }

    /// Whether all calls have succeeded up to now.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let failures = self.failures.lock();
        match failures.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} of the loops failed, the first with: {first}", failures.len()).into()),
        }
    }

    /// Latencies of all calls that ended while measuring, in nanoseconds.
    pub(crate) fn latencies(&self) -> Result<Histogram<u64>, Failure> {
        let mut sum = histogram();
        for part in &*self.histograms.lock() {
            sum.add(&*part.lock())?;
        }
        Ok(sum)
    }

    /// Each thread has a histogram of its own, so that its lock is never contended.
    pub(crate) fn record(&self, latency: Duration) {
        MINE.with_borrow_mut(|mine| {
            let mine = mine.get_or_insert_with(|| {
                let fresh = Arc::new(Mutex::new(histogram()));
                self.histograms.lock().push(Arc::clone(&fresh));
                fresh
            });
            mine.lock().saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        });
    }

    pub(crate) fn part(&self) -> Part {
        match self.part.load(Ordering::Relaxed) {
            0 => Part::WarmUp,
            1 => Part::Measure,
            _ => Part::Stop,
        }
    }

    pub(crate) fn calls(&self) -> Option<u64> {
        self.calls
    }

    pub(crate) fn fail(&self, why: String) {
        self.failures.lock().push(why);
    }

    pub(crate) fn end_loop(&self) {
        *self.running.lock() -= 1;
        self.ended.notify_all();
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("the bounds are legal")
}

/// One loop's view: begins with its first call, and ends the loop when it is dropped.
pub(crate) struct Laps {
    stage: Arc<Stage>,
    done: u64,
    started: Instant,
    /// Loops look at different calls.
    offset: u64,
}

impl Laps {
    pub(crate) fn start(stage: &Arc<Stage>) -> Laps {
        let offset = stage.seen.fetch_add(1, Ordering::Relaxed) as u64;
        Laps { stage: Arc::clone(stage), done: 0, started: Instant::now(), offset }
    }

    pub(crate) fn goes_on(&self) -> bool {
        match self.stage.calls {
            Some(calls) => self.done < calls,
            None => self.stage.part() != Part::Stop,
        }
    }

    /// Whether this reply is to be compared with what is expected.
    pub(crate) fn is_sample(&self) -> bool {
        (self.done + self.offset).is_multiple_of(SAMPLE)
    }

    /// A call has ended well: its time, and the start of the next one. One clock read a call.
    pub(crate) fn lap(&mut self) {
        self.done += 1;
        if self.stage.calls.is_none() {
            let now = Instant::now();
            if self.stage.part() == Part::Measure {
                self.stage.record(now - self.started);
            }
            self.started = now;
        }
    }

    pub(crate) fn fail(&self, why: impl ToString) {
        self.stage.fail(why.to_string());
    }
}

impl Drop for Laps {
    fn drop(&mut self) {
        self.stage.end_loop();
    }
}
