//! A model checker's locks, atomics and threads in the shape of parking_lot's and std's, and how a model is run.
//!
//! Nothing here poisons. A wait with a time limit waits without one: what saves a lost wake-up after a second must not hide it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::Duration;

#[cfg(all(model = "loom", model = "shuttle"))]
compile_error!("one model checker at a time");

#[cfg(model = "loom")]
use loom as checker;
#[cfg(model = "shuttle")]
use shuttle as checker;

/// As `std::sync::atomic`.
pub mod atomic {
    pub use super::checker::sync::atomic::*;

    /// loom orders a store and a swap of one cell only if one has seen the other, though a swap comes right after what it read: then a
    /// thread may read what had been replaced before. A store that is a swap has its place among the swaps, as it has on any machine.
    #[cfg(model = "loom")]
    #[derive(Debug)]
    pub struct AtomicU8(loom::sync::atomic::AtomicU8);

    #[cfg(model = "loom")]
    impl AtomicU8 {
        pub fn new(value: u8) -> Self {
            AtomicU8(loom::sync::atomic::AtomicU8::new(value))
        }

        pub fn load(&self, ordering: Ordering) -> u8 {
            self.0.load(ordering)
        }

        pub fn store(&self, value: u8, ordering: Ordering) {
            self.0.swap(value, ordering);
        }

        pub fn swap(&self, value: u8, ordering: Ordering) -> u8 {
            self.0.swap(value, ordering)
        }
    }
}

/// As `std::thread`.
pub mod thread {
    pub use super::checker::thread::*;
    pub use std::thread::panicking;

    #[cfg(model = "loom")]
    pub fn park_timeout(_longest: std::time::Duration) {
        park();
    }

    /// Others go on meanwhile, whatever their priorities.
    pub fn sleep(_time: std::time::Duration) {
        yield_now();
    }
}

/// As `std::thread_local!`. The checkers' own macros know no `const`.
#[doc(hidden)]
#[macro_export]
macro_rules! model_thread_local {
    () => {};
    ($(#[$attribute:meta])* $vis:vis static $name:ident: $type:ty = const { $init:expr } $(; $($others:tt)*)?) => {
        $crate::model_thread_local!($(#[$attribute])* $vis static $name: $type = $init; $($($others)*)?);
    };
    ($(#[$attribute:meta])* $vis:vis static $name:ident: $type:ty = $init:expr $(; $($others:tt)*)?) => {
        $crate::sync::model::declare! { $(#[$attribute])* $vis static $name: $type = $init }
        $($crate::model_thread_local!($($others)*);)?
    };
}
pub use checker::thread_local as declare;
pub use model_thread_local as thread_local;

/// As parking_lot's.
#[derive(Default)]
pub struct Mutex<T> {
    lock: checker::sync::Mutex<T>,
    /// The number of the guard that holds it, or 0; for who looks without taking it: a try that succeeds would make another one
    /// fail meanwhile.
    holder: AtomicUsize,
    /// Where such a look lets other threads go on.
    look: checker::sync::atomic::AtomicBool,
}

/// As parking_lot's. It is empty only within [`Condvar::wait`], and at its end.
pub struct MutexGuard<'a, T> {
    guard: Option<checker::sync::MutexGuard<'a, T>>,
    holder: &'a AtomicUsize,
    number: usize,
}

/// Of guards, from 1.
static NUMBERS: AtomicUsize = AtomicUsize::new(1);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex { lock: checker::sync::Mutex::new(value), holder: AtomicUsize::default(), look: Default::default() }
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.guard(self.lock.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.lock.try_lock() {
            Ok(guard) => Some(self.guard(guard)),
            Err(std::sync::TryLockError::Poisoned(e)) => Some(self.guard(e.into_inner())),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    pub fn is_locked(&self) -> bool {
        self.look.load(Relaxed);
        self.holder.load(Relaxed) != 0
    }

    fn guard<'a>(&'a self, guard: checker::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let number = NUMBERS.fetch_add(1, Relaxed);
        self.holder.store(number, Relaxed);
        MutexGuard { guard: Some(guard), holder: &self.holder, number }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None; // others run before this returns, and may have taken it then
        let _ = self.holder.compare_exchange(self.number, 0, Relaxed, Relaxed);
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("not within a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("not within a wait")
    }
}

/// As parking_lot's.
#[derive(Default)]
pub struct Condvar(checker::sync::Condvar);

impl Condvar {
    pub fn new() -> Self {
        Condvar(checker::sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.guard.take().expect("not within a wait");
        guard.holder.store(0, Relaxed);
        guard.guard = Some(self.0.wait(held).unwrap_or_else(|e| e.into_inner()));
        guard.holder.store(guard.number, Relaxed);
    }

    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _longest: Duration) {
        self.wait(guard);
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Wakes the thread that made it, which sleeps in [`thread::park`].
pub struct Unpark(thread::Thread);

impl Unpark {
    pub fn this_thread() -> Waker {
        Waker::from(Arc::new(Unpark(thread::current())))
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a model in every order that its threads can take with at most `LOOM_MAX_PREEMPTIONS` preemptions.
#[cfg(model = "loom")]
pub fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    loom::model(move || {
        count.fetch_add(1, Relaxed);
        model();
    });
    println!("MODEL {name}: {} executions, all there are", runs.load(Relaxed));
}

/// Runs a model in `MODEL_SCHEDULES` orders (default 10,000), half of them at random and half by priorities that change seldom.
#[cfg(model = "shuttle")]
pub fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};

    let schedules =
        std::env::var("MODEL_SCHEDULES").map_or(10_000, |n| n.parse().expect("MODEL_SCHEDULES is a number"));
    let runs = Arc::new(AtomicUsize::new(0));
    let model = Arc::new(model);
    let counted = || {
        let (count, model) = (Arc::clone(&runs), Arc::clone(&model));
        move || {
            count.fetch_add(1, Relaxed);
            model();
        }
    };
    let mut config = Config::new();
    config.silence_warnings = true; // that all orderings are taken for SeqCst: loom has the weak ones
    config.stack_size = 256 * 1024;
    Runner::new(RandomScheduler::new(schedules / 2), config.clone()).run(counted());
    Runner::new(PctScheduler::new(3, schedules - schedules / 2), config).run(counted());
    println!("MODEL {name}: {} schedules, at random and by priorities", runs.load(Relaxed));
}
