//! What the loops of a measurement share: whether to go on, and where results go.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};

use crate::Failure;
use crate::pacer::Pacer;

/// A loop compares every so many replies byte for byte.
const SAMPLE: u64 = 64;

/// The part of a measurement that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// Calls are made and not counted.
    WarmUp = 0,
    /// Calls are counted.
    Measure = 1,
    /// No more calls.
    Stop = 2,
}

/// One measurement, seen from its loops. A process makes one.
pub struct Stage {
    part: AtomicU8,
    /// Calls of each loop, if they are counted instead of timed.
    calls: Option<u64>,
    failures: Mutex<Vec<String>>,
    histograms: Mutex<Vec<Arc<Mutex<Histogram<u64>>>>>,
    running: Mutex<usize>,
    ended: Condvar,
    seen: AtomicUsize,
    /// Tells when calls are due, in an open loop.
    pacer: Option<Arc<Pacer>>,
}

thread_local! {
    static MINE: RefCell<Option<Arc<Mutex<Histogram<u64>>>>> = const { RefCell::new(None) };
}

impl Stage {
    pub(crate) fn new(loops: usize, calls: Option<u64>, rate: Option<f64>) -> Result<Arc<Stage>, Failure> {
        Ok(Arc::new(Stage {
            part: AtomicU8::new(Part::WarmUp as u8),
            calls: calls.map(|calls| calls.div_ceil(loops as u64)),
            failures: Mutex::default(),
            histograms: Mutex::default(),
            running: Mutex::new(loops),
            ended: Condvar::new(),
            seen: AtomicUsize::new(0),
            pacer: rate.map(Pacer::start).transpose()?,
        }))
    }

    pub(crate) fn enter(&self, part: Part) {
        self.part.store(part as u8, Ordering::Relaxed);
        match (&self.pacer, part) {
            (Some(pacer), Part::Measure) => pacer.count(),
            (Some(pacer), Part::Stop) => pacer.stop(),
            _ => {}
        }
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
        if self.pacer.as_ref().is_some_and(|pacer| pacer.fell_behind()) {
            return Err("the calls do not keep up with the rate".into());
        }
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

    /// Takes the time of a call that has ended now, if it counts: in a closed loop by the time of its end, in an open one by the time it
    /// was due.
    pub fn record(&self, started: Instant, now: Instant) {
        let counts = match &self.pacer {
            None => self.part() == Part::Measure,
            Some(pacer) => pacer.counted(started),
        };
        if counts {
            self.keep(now.saturating_duration_since(started));
        }
    }

    /// Each thread has a histogram of its own, so that its lock is never contended.
    fn keep(&self, latency: Duration) {
        MINE.with_borrow_mut(|mine| {
            let mine = mine.get_or_insert_with(|| {
                let fresh = Arc::new(Mutex::new(histogram()));
                self.histograms.lock().push(Arc::clone(&fresh));
                fresh
            });
            mine.lock().saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        });
    }

    /// The part that runs now.
    pub fn part(&self) -> Part {
        match self.part.load(Ordering::Relaxed) {
            0 => Part::WarmUp,
            1 => Part::Measure,
            _ => Part::Stop,
        }
    }

    /// Calls of each loop, if they are counted instead of timed.
    pub fn calls(&self) -> Option<u64> {
        self.calls
    }

    /// Whether calls are due at fixed times.
    pub fn is_open(&self) -> bool {
        self.pacer.is_some()
    }

    /// In an open loop: when the next call is due; `None` when there is none any more, and in a closed loop.
    pub fn poll_due(&self, cx: &Context<'_>) -> Poll<Option<Instant>> {
        self.pacer.as_ref().map_or(Poll::Ready(None), |pacer| pacer.poll_next(cx))
    }

    /// Ends the measurement with an error.
    pub fn fail(&self, why: String) {
        self.failures.lock().push(why);
    }

    /// A loop has come to its end.
    pub fn end_loop(&self) {
        *self.running.lock() -= 1;
        self.ended.notify_all();
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("the bounds are legal")
}

/// One loop's view: begins with its first call, and ends the loop when it is dropped.
pub struct Laps {
    stage: Arc<Stage>,
    done: u64,
    /// When the call that runs was due.
    started: Instant,
    /// Loops look at different calls.
    offset: u64,
}

impl Laps {
    /// A loop's begin.
    pub fn start(stage: &Arc<Stage>) -> Laps {
        let offset = stage.seen.fetch_add(1, Ordering::Relaxed) as u64;
        Laps { stage: Arc::clone(stage), done: 0, started: Instant::now(), offset }
    }

    /// Whether there is another call to make; in an open loop it is waited for.
    pub async fn goes_on(&mut self) -> bool {
        if !self.stage.is_open() {
            return self.goes_on_at_once();
        }
        let due = poll_fn(|cx| self.stage.poll_due(cx)).await;
        self.started = due.unwrap_or(self.started);
        due.is_some()
    }

    /// As [`Laps::goes_on`], for loops that block their thread.
    pub fn goes_on_blocking(&mut self) -> bool {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        if !self.stage.is_open() {
            return self.goes_on_at_once();
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut goes_on = pin!(self.goes_on());
        loop {
            match goes_on.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(goes_on) => return goes_on,
                Poll::Pending => thread::park(),
            }
        }
    }

    /// In a closed loop.
    fn goes_on_at_once(&self) -> bool {
        match self.stage.calls {
            Some(calls) => self.done < calls,
            None => self.stage.part() != Part::Stop,
        }
    }

    /// Whether this reply is to be compared with what is expected.
    pub fn is_sample(&self) -> bool {
        (self.done + self.offset).is_multiple_of(SAMPLE)
    }

    /// A call has ended well: its time, and the start of the next one. One clock read a call.
    pub fn lap(&mut self) {
        self.done += 1;
        if self.stage.calls.is_none() {
            let now = Instant::now();
            self.stage.record(self.started, now);
            self.started = now;
        }
    }

    /// Ends the measurement with an error.
    pub fn fail(&self, why: impl ToString) {
        self.stage.fail(why.to_string());
    }
}

impl Drop for Laps {
    fn drop(&mut self) {
        self.stage.end_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::{Calls, repeat_blocking};

    const STALL: Duration = Duration::from_millis(200);

    /// Calls that take no time, but for one that takes [`STALL`].
    struct Stalls(AtomicBool);

    impl Calls for Stalls {
        type Reply = ();
        type Error = Failure;

        async fn call(&self) -> Result<(), Failure> {
            Ok(())
        }

        fn looks_right(&self, (): &()) -> bool {
            true
        }

        fn is_right(&self, (): &()) -> bool {
            true
        }
    }

    /// Latencies of one loop that stalls, in a measurement that ends `until` after its begin.
    fn measured(rate: Option<f64>, until: Duration) -> Histogram<u64> {
        let stage = Stage::new(1, None, rate).expect("a stage");
        stage.enter(Part::Measure);
        let (laps, stalls) = (Laps::start(&stage), Stalls(AtomicBool::new(false)));
        let call = |stalls: &Stalls| {
            if !stalls.0.swap(true, Ordering::Relaxed) {
                thread::sleep(STALL); // the stall itself
            }
            Ok(())
        };
        let caller = thread::spawn(move || repeat_blocking(stalls, call, laps));
        thread::sleep(until); // the span that is measured
        stage.enter(Part::Stop);
        caller.join().expect("the loop");
        stage.latencies().expect("its latencies")
    }

    fn longer_than_half_the_stall(latencies: &Histogram<u64>) -> u64 {
        latencies.count_between(STALL.as_nanos() as u64 / 2, u64::MAX)
    }

    #[test]
    fn in_a_closed_loop_a_stall_is_one_call() {
        let slow = longer_than_half_the_stall(&measured(None, STALL * 2));
        assert!((1..5).contains(&slow), "{slow}: one, and few more on a busy machine");
    }

    #[test]
    fn in_an_open_loop_a_stall_counts_for_each_call_that_falls_due_meanwhile() {
        let latencies = measured(Some(1000.0), STALL * 2);
        let slow = longer_than_half_the_stall(&latencies);
        assert!(slow >= 95, "{slow} of the 200 calls of the stall waited for more than half of it");
        assert!(latencies.len() >= 360, "{} of 400 calls: those of the stall are 200", latencies.len());
    }

    #[test]
    fn calls_that_are_due_and_not_begun_at_the_end_are_not_left_out() {
        let latencies = measured(Some(1000.0), STALL / 2);
        assert!(latencies.len() >= 90, "{} of 100 calls; the stall outlasts the measurement", latencies.len());
        let slow = longer_than_half_the_stall(&latencies);
        assert!(slow >= 90, "{slow}: all waited for its second half");
    }
}
