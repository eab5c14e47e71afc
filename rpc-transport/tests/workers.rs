//! Jobs on threads of their own.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rpc_transport::{Lane, Refused, WorkerOptions, WorkerPool};

const DEADLINE: Duration = Duration::from_secs(20);

fn start(threads: usize, slow_threads: usize, queue: usize) -> WorkerPool {
    let name = "test-worker".to_owned();
    WorkerPool::start(WorkerOptions { name, threads, slow_threads, queue }).expect("threads")
}

/// Jobs that say that they have begun, and end when they are told to.
struct Held {
    begun: (Sender<usize>, Receiver<usize>),
    release: Vec<Sender<()>>,
}

impl Held {
    fn new() -> Held {
        Held { begun: mpsc::channel(), release: Vec::new() }
    }

    fn run(&mut self, workers: &WorkerPool, lane: Lane) -> Result<(), Option<usize>> {
        let (number, begun, (release, released)) = (self.release.len(), self.begun.0.clone(), mpsc::channel());
        let job = move || {
            begun.send(number).expect("it is waited for");
            let _ = released.recv();
        };
        workers.run(lane, job).map_err(|refused| refused.limit)?;
        self.release.push(release);
        Ok(())
    }

    /// The numbers of the next jobs to begin, in any order.
    fn begin(&self, count: usize) -> Vec<usize> {
        let mut all: Vec<_> = (0..count).map(|_| self.begun.1.recv_timeout(DEADLINE).expect("it begins")).collect();
        all.sort_unstable();
        all
    }

    fn release(&self, number: usize) {
        self.release[number].send(()).expect("it is held");
    }
}

#[test]
fn slow_jobs_leave_threads_to_the_fast_ones() {
    let (workers, mut held) = (start(3, 2, 100), Held::new());
    for _ in 0..4 {
        held.run(&workers, Lane::Slow).unwrap();
    }
    assert_eq!(held.begin(2), [0, 1], "two threads may run slow ones");
    for _ in 0..2 {
        held.run(&workers, Lane::Fast).unwrap();
    }
    assert_eq!(held.begin(1), [4], "the third is for the fast ones");
    let [fast, slow] = [Lane::Fast, Lane::Slow].map(|lane| workers.stats(lane));
    assert_eq!((fast.running, fast.waiting, slow.running, slow.waiting), (1, 1, 2, 2));
    held.release(0);
    assert_eq!(held.begin(1), [5], "fast ones go first");
    held.release(1);
    assert_eq!(held.begin(1), [2]);
    held.release(4);
    assert_eq!(held.begin(1), [3], "a thread that slept takes what it had to leave");
    drop(held); // ends those that run
}

#[test]
fn what_has_no_room_comes_back() {
    let (workers, mut held) = (start(1, 1, 2), Held::new());
    held.run(&workers, Lane::Fast).unwrap();
    held.begin(1);
    for lane in [Lane::Fast, Lane::Slow] {
        held.run(&workers, lane).unwrap();
        held.run(&workers, lane).unwrap();
        assert_eq!(held.run(&workers, lane), Err(Some(2)), "each lane has a queue of its own");
        assert_eq!((workers.stats(lane).waiting, workers.stats(lane).refused), (2, 1));
    }
    let mut text = String::from("as it was");
    let Err(Refused { job, limit: Some(2) }) = workers.run(Lane::Fast, move || text.push('!')) else {
        panic!("it is full")
    };
    job();
    drop(held); // ends those that run
}

#[test]
fn a_panic_ends_the_job_alone_and_times_are_counted() {
    let workers = start(1, 1, 100);
    workers.run(Lane::Fast, || panic!("as it is told")).unwrap();
    let (tell, hear) = mpsc::channel();
    let name = move || tell.send(std::thread::current().name().map(str::to_owned)).expect("it is waited for");
    workers.run(Lane::Fast, name).unwrap();
    assert_eq!(hear.recv_timeout(DEADLINE).unwrap().as_deref(), Some("test-worker-0"));
    let mut held = Held::new();
    held.run(&workers, Lane::Fast).unwrap();
    held.begin(1);
    let stats = workers.stats(Lane::Fast);
    assert_eq!((stats.done, stats.panicked, stats.queue_time.total(), stats.run_time.total()), (2, 1, 3, 2));
    assert!(stats.queue_time.quantile(0.5) <= stats.queue_time.quantile(1.0));
    assert!(stats.run_time.quantile(1.0) > Duration::ZERO && stats.run_time.quantile(1.0) < DEADLINE);
}

#[test]
fn the_end_waits_for_what_runs_and_drops_what_waits() {
    let (workers, mut held) = (start(2, 1, 100), Held::new());
    let (tell, hear) = mpsc::channel();
    for _ in 0..2 {
        held.run(&workers, Lane::Fast).unwrap();
    }
    held.begin(2);
    let (dropped, ran) = (Dropped(tell.clone()), tell.clone());
    let waits = move || {
        ran.send("it ran").unwrap();
        drop(dropped);
    };
    workers.run(Lane::Fast, waits).unwrap();
    let ending = std::thread::spawn(move || {
        drop(workers);
        tell.send("the end").unwrap();
    });
    assert_eq!(hear.recv_timeout(DEADLINE), Ok("it was dropped"));
    held.release(0);
    held.release(1);
    assert_eq!(hear.recv_timeout(DEADLINE), Ok("the end"));
    ending.join().unwrap();
}

struct Dropped(Sender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send("it was dropped").unwrap();
    }
}
