//! Threads for work that blocks, or computes for long: what must not happen on a reactor.
//!
//! ```text
//!             ┌─ fast ─► jobs, at most `queue` ─┐
//!  run(lane) ─┤                                 ├─► `threads`, fast jobs first
//!             └─ slow ─► jobs, at most `queue` ─┘   of which at most `slow_threads` run slow ones
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::log_limit::LogLimit;
use crate::panics::caught;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, put_back};
use crate::{clock, local};

type Job = Box<dyn FnOnce() + Send>;

/// How many threads, and how much may wait for them.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The threads' names are this and a number. Default `rpc-worker`.
    pub name: String,
    /// Threads, all started at once. Default 16; at least one.
    pub threads: usize,
    /// Of those, how many may run jobs of [`Lane::Slow`] at a time: the others are always free for the fast ones. Default 8; at least one.
    pub slow_threads: usize,
    /// Jobs that may wait in each lane. Beyond them a job is refused. Default 4,096.
    pub queue: usize,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        WorkerOptions { name: "rpc-worker".to_owned(), threads: 16, slow_threads: 8, queue: 4096 }
    }
}

/// Which queue a job waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Jobs of which each is over soon. They go first.
    Fast = 0,
    /// Jobs that may take long, such as a report or an export. However many there are, they leave threads to the fast ones, which go first: while there are
    /// always fast ones to be done, slow ones wait.
    Slow = 1,
}

/// A job that was not taken. It comes back, to be run otherwise, or to say no to who waits for it.
pub struct Refused<F> {
    /// The job.
    pub job: F,
    /// The bound of the lane's queue, which is full; `None` if the pool is ending.
    pub limit: Option<usize>,
}

impl<F> fmt::Debug for Refused<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<F> fmt::Display for Refused<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => {
                write!(f, "{limit} jobs wait for a worker already: start more `threads`, or allow a longer `queue`")
            }
            None => f.write_str("the worker pool is ending"),
        }
    }
}

impl<F> std::error::Error for Refused<F> {}

/// A fixed number of threads, and a queue for each [`Lane`]. Dropping it waits for the jobs that run, unless one of them drops it; those that wait
/// are dropped.
///
/// ```
/// # use rpc_transport::{Lane, WorkerOptions, WorkerPool};
/// # fn main() -> std::io::Result<()> {
/// let workers = WorkerPool::start(WorkerOptions { threads: 2, ..WorkerOptions::default() })?;
/// let (tell, hear) = std::sync::mpsc::channel();
/// workers.run(Lane::Fast, move || tell.send(6 * 7).unwrap()).expect("the queue is not full");
/// assert_eq!(hear.recv(), Ok(42));
/// # Ok(())
/// # }
/// ```
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    limit: usize,
    slow_threads: usize,
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    lanes: [Waiting; 2],
    closed: bool,
}

/// One lane.
#[derive(Default)]
struct Waiting {
    jobs: VecDeque<(Job, Instant)>,
    running: usize,
    stats: LaneStats,
}

impl WorkerPool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system does not give them; those that had started end.
    pub fn start(options: WorkerOptions) -> io::Result<WorkerPool> {
        let shared = Arc::new(Shared {
            limit: options.queue,
            slow_threads: options.slow_threads.max(1),
            queue: Mutex::new(Queue::default()),
            filled: Condvar::new(),
        });
        let pool = WorkerPool { shared, threads: Mutex::new(Vec::new()) };
        #[cfg(feature = "testing")]
        if by_hand::IS_SO.get() {
            return Ok(pool);
        }
        for n in 0..options.threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new().name(format!("{}-{n}", options.name)).spawn(move || work(&shared))?;
            pool.threads.lock().push(thread);
        }
        Ok(pool)
    }

    /// Runs a job on one of the threads, when its turn has come. Allocates its box. A panic ends the job, not the thread. What comes of it the job
    /// has to tell by itself, for a connection by [`ConnRef::send`](crate::ConnRef::send).
    ///
    /// # Errors
    /// [`Refused`] when as many wait already as the lane's queue holds. It never blocks.
    pub fn run<F: FnOnce() + Send + 'static>(&self, lane: Lane, job: F) -> Result<(), Refused<F>> {
        let since = local::now();
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(Refused { job, limit: None });
        }
        let waiting = &mut queue.lanes[lane as usize];
        if waiting.jobs.len() >= self.shared.limit {
            waiting.stats.refused += 1;
            return Err(Refused { job, limit: Some(self.shared.limit) });
        }
        waiting.jobs.push_back((Box::new(job), since));
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    /// What a lane has done, and what it has to do.
    pub fn stats(&self, lane: Lane) -> LaneStats {
        let queue = self.shared.queue.lock();
        let waiting = &queue.lanes[lane as usize];
        LaneStats { waiting: waiting.jobs.len(), running: waiting.running, ..waiting.stats.clone() }
    }
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [fast, slow] = [Lane::Fast, Lane::Slow].map(|lane| self.stats(lane));
        f.debug_struct("WorkerPool").field("fast", &fast).field("slow", &slow).finish()
    }
}

/// See [`WorkerPool::stats`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LaneStats {
    /// Jobs that wait now.
    pub waiting: usize,
    /// Jobs that run now.
    pub running: usize,
    /// Jobs that have ended, those that panicked included.
    pub done: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs that were refused.
    pub refused: u64,
    /// From when a job was given to when it began.
    pub queue_time: Histogram,
    /// From when it began to its end.
    pub run_time: Histogram,
}

impl Queue {
    /// The next job, and its lane.
    fn take(&mut self, slow_threads: usize) -> Option<(Lane, Job)> {
        let fast = self.lanes[Lane::Fast as usize].jobs.pop_front().map(|job| (Lane::Fast, job));
        let slow = &mut self.lanes[Lane::Slow as usize];
        let next = fast.or_else(|| match slow.running < slow_threads {
            true => slow.jobs.pop_front().map(|job| (Lane::Slow, job)),
            false => None,
        });
        let (lane, (job, since)) = next?;
        let waiting = &mut self.lanes[lane as usize];
        waiting.running += 1;
        waiting.stats.queue_time.record(clock::now().saturating_duration_since(since));
        Some((lane, job))
    }

    fn ended(&mut self, lane: Lane, took: Duration, panicked: bool) {
        let Waiting { running, stats, .. } = &mut self.lanes[lane as usize];
        *running -= 1;
        stats.done += 1;
        stats.panicked += u64::from(panicked);
        stats.run_time.record(took);
    }
}

/// Takes jobs until the end. Who ends a slow one looks for the next itself: if it takes a fast one instead, a thread that slept was told of
/// that one, and finds the slow one.
fn work(shared: &Shared) {
    let mut last = None;
    loop {
        let mut queue = shared.queue.lock();
        if let Some((lane, (took, panicked))) = last.take() {
            queue.ended(lane, took, panicked);
        }
        let (lane, job) = loop {
            match queue.take(shared.slow_threads) {
                Some(job) => break job,
                None if queue.closed => return,
                None => shared.filled.wait(&mut queue),
            }
        };
        drop(queue);
        last = Some((lane, run(job)));
    }
}

/// Runs a job; how long it took, and whether it panicked.
fn run(job: Job) -> (Duration, bool) {
    let begun = clock::now();
    let panicked = caught(job).is_none();
    if panicked {
        static PANICS: LogLimit = LogLimit::new();
        if let Some(skipped) = PANICS.pass(local::now()) {
            tracing::error!(skipped, "a job on the worker pool panicked; the worker goes on");
        }
    }
    (clock::now().saturating_duration_since(begun), panicked)
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        let dropped = queue.lanes.each_mut().map(|waiting| std::mem::take(&mut waiting.jobs));
        drop(queue);
        drop(dropped);
        self.shared.filled.notify_all();
        let me = thread::current().id();
        for thread in self.threads.lock().drain(..) {
            if thread.thread().id() != me || put_back!("B25") {
                let _ = thread.join();
            }
        }
    }
}

/// Jobs that a test runs when it likes.
#[cfg(feature = "testing")]
pub(crate) mod by_hand {
    use std::cell::Cell;

    use super::{WorkerPool, run};

    thread_local! {
        pub(super) static IS_SO: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on pools that this thread starts have no threads.
    pub fn work_by_hand() {
        IS_SO.set(true);
    }

    impl WorkerPool {
        /// Jobs that have not begun.
        #[doc(hidden)]
        pub fn waiting(&self) -> usize {
            self.shared.queue.lock().lanes.iter().map(|lane| lane.jobs.len()).sum()
        }

        /// Runs the first of them, here.
        #[doc(hidden)]
        pub fn run_one(&self) {
            let taken = self.shared.queue.lock().take(usize::MAX);
            if let Some((lane, job)) = taken {
                let (took, panicked) = run(job);
                self.shared.queue.lock().ended(lane, took, panicked);
            }
        }
    }
}

#[cfg(all(test, model = "shuttle"))]
mod model {
    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use crate::sync::model::explore;

    fn start() -> WorkerPool {
        WorkerPool::start(WorkerOptions { threads: 2, slow_threads: 1, ..WorkerOptions::default() }).expect("threads")
    }

    /// Counts its end, whether it runs or is dropped.
    struct Job(Arc<AtomicUsize>);

    impl Drop for Job {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// B25, I25: jobs from two threads, and an end that comes while some wait and some run. Each job has one end, and so have the threads.
    #[test]
    fn workers_end() {
        explore("workers_end", || {
            let workers = Arc::new(start());
            let ended = Arc::new(AtomicUsize::new(0));
            let others = [(2, Lane::Fast), (1, Lane::Slow)].map(|(jobs, lane)| {
                let (workers, ended) = (Arc::clone(&workers), Arc::clone(&ended));
                thread::spawn(move || {
                    for _ in 0..jobs {
                        let job = Job(Arc::clone(&ended));
                        workers.run(lane, move || drop(job)).expect("room");
                    }
                })
            });
            others.into_iter().for_each(|other| other.join().unwrap());
            drop(workers);
            assert_eq!(ended.load(Ordering::Acquire), 3, "each job, and before the end is over");
        });
    }

    /// B25: a job is the last that holds the workers, so that they end on a thread of their own.
    #[test]
    fn workers_end_within() {
        explore("workers_end_within", || {
            let workers = Arc::new(start());
            let ended = Arc::new(AtomicUsize::new(0));
            let (last, job) = (Arc::clone(&workers), Job(Arc::clone(&ended)));
            let first = workers.run(Lane::Fast, move || {
                drop(last);
                drop(job);
            });
            first.expect("room");
            let job = Job(Arc::clone(&ended));
            workers.run(Lane::Fast, move || drop(job)).expect("room");
            drop(workers);
            while ended.load(Ordering::Acquire) < 2 {
                thread::yield_now();
            }
        });
    }

    /// Every job runs, though slow ones have to wait for each other and a thread may sleep when one of them is over.
    #[test]
    fn workers_lanes() {
        explore("workers_lanes", || {
            let (workers, ended) = (start(), Arc::new(AtomicUsize::new(0)));
            for lane in [Lane::Slow, Lane::Slow, Lane::Fast] {
                let job = Job(Arc::clone(&ended));
                workers.run(lane, move || drop(job)).expect("room");
            }
            while ended.load(Ordering::Acquire) < 3 {
                thread::yield_now();
            }
        });
    }
}
