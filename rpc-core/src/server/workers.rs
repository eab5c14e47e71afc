//! Threads for methods that block.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use rpc_transport::{LogLimit, caught, local};

use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, put_back};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads and a queue; the queue's bound is `max_inflight`, which its users hold to.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Workers {
    pub(crate) fn start(threads: usize) -> io::Result<Workers> {
        #[cfg(feature = "testing")]
        let threads = if by_hand::IS_SO.get() { 0 } else { threads };
        let workers = Workers { shared: Arc::default(), threads: Mutex::default() };
        for n in 0..threads {
            let shared = Arc::clone(&workers.shared);
            let thread = thread::Builder::new().name(format!("rpc-worker-{n}")).spawn(move || work(&shared))?;
            workers.threads.lock().push(thread);
        }
        Ok(workers)
    }

    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        if !queue.closed {
            queue.jobs.push_back(Box::new(job));
            drop(queue);
            self.shared.filled.notify_one();
        }
    }
}

/// Jobs that a test runs when it likes.
#[cfg(feature = "testing")]
mod by_hand {
    use std::cell::Cell;
    use std::fmt;
    use std::sync::Arc;

    use super::{Workers, caught};
    use crate::server::ServerHandle;

    thread_local! {
        pub(super) static IS_SO: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on servers that this thread makes have no worker threads.
    pub fn work_by_hand() {
        IS_SO.set(true);
    }

    /// The work of a server without worker threads. It does not keep the server alive; what it still has when it is dropped never runs.
    #[derive(Clone)]
    pub struct Jobs(Arc<Workers>);

    impl Jobs {
        /// `None`: the server has no method that blocks.
        pub fn of(server: &ServerHandle) -> Option<Jobs> {
            server.shared().workers().map(|workers| Jobs(Arc::clone(workers)))
        }

        /// Jobs that have not begun.
        pub fn waiting(&self) -> usize {
            self.0.shared.queue.lock().jobs.len()
        }

        /// Runs the first of them, here.
        pub fn run_one(&self) {
            let job = self.0.shared.queue.lock().jobs.pop_front();
            if let Some(job) = job {
                let _ = caught(job);
            }
        }
    }

    impl fmt::Debug for Jobs {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} jobs", self.waiting())
        }
    }
}

#[cfg(feature = "testing")]
pub use by_hand::{Jobs, work_by_hand};

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        let job = loop {
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None if queue.closed => return,
                None => shared.filled.wait(&mut queue),
            }
        };
        drop(queue);
        if caught(job).is_none() {
            static PANICS: LogLimit = LogLimit::new();
            if let Some(skipped) = PANICS.pass(local::now()) {
                tracing::error!(skipped, "a job on the worker pool panicked; the worker goes on");
            }
        }
    }
}

/// Jobs that have not begun are dropped; those that run are waited for.
impl Drop for Workers {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.jobs);
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

#[cfg(all(test, model = "shuttle"))]
mod model {
    use rpc_transport::sync::model::explore;

    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering};

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
            let workers = Arc::new(Workers::start(2).expect("threads"));
            let ended = Arc::new(AtomicUsize::new(0));
            let others = [2, 1].map(|jobs| {
                let (workers, ended) = (Arc::clone(&workers), Arc::clone(&ended));
                thread::spawn(move || {
                    for _ in 0..jobs {
                        let job = Job(Arc::clone(&ended));
                        workers.run(move || drop(job));
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
            let workers = Arc::new(Workers::start(2).expect("threads"));
            let ended = Arc::new(AtomicUsize::new(0));
            let (last, job) = (Arc::clone(&workers), Job(Arc::clone(&ended)));
            workers.run(move || {
                drop(last);
                drop(job);
            });
            let job = Job(Arc::clone(&ended));
            workers.run(move || drop(job));
            drop(workers);
            while ended.load(Ordering::Acquire) < 2 {
                thread::yield_now();
            }
        });
    }
}
