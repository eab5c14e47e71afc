//! Tells of reactors that are held: of handlers that block, or compute for long, where they should not.
//!
//! It looks from outside, so that it costs a reactor nothing but two stores a handler, and so that a handler that never comes back is
//! reported, too. What it sees is a reactor that is in the very turn it was in when it looked last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rpc_transport::{LogLimit, ReactorHandle};

use super::shared::OnReactor;
use crate::codegen::MethodDescriptor;

/// Whether a handler of one method is being polled on one reactor just now.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Polling(AtomicBool);

impl Polling {
    #[inline]
    pub(crate) fn set(&self, polling: bool) {
        self.0.store(polling, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The thread that looks. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    end: Arc<End>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct End {
    asked: Mutex<bool>,
    wake: Condvar,
}

/// A reactor, and what was seen of it last.
pub(crate) struct Watched {
    reactor: ReactorHandle,
    here: Arc<OnReactor>,
    /// The turn it was in; `None` while it waits for events.
    turn: Option<u64>,
    told: bool,
}

impl Watched {
    pub(crate) fn new(reactor: ReactorHandle, here: Arc<OnReactor>) -> Watched {
        Watched { reactor, here, turn: None, told: false }
    }

    fn look(&mut self, threshold: Duration) {
        let turn = self.reactor.turn();
        if turn.is_none() || turn != self.turn {
            (self.turn, self.told) = (turn, false);
            return;
        }
        // Once a turn, however long it is.
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        self.reactor.stats().stalls.add(1);
        static STALLS: LogLimit = LogLimit::new();
        if let Some(skipped) = STALLS.pass(Instant::now()) {
            let (reactor, method) = (self.reactor.name(), Holder(&self.here));
            tracing::warn!(reactor, %method, ?threshold, skipped, "a reactor is held; mark methods that block as blocking");
        }
    }
}

/// The method whose handler is being polled.
pub(super) struct Holder<'a>(pub(super) &'a OnReactor);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.polling.iter().find(|(_, polling)| polling.get()) {
            Some((method, _)) => method.fmt(f),
            None => f.write_str("none of the server's: a task or a closure"),
        }
    }
}

/// A method, and whether it is being polled.
pub(crate) type PollingMethod = (&'static MethodDescriptor, Arc<Polling>);

impl Watchdog {
    /// Looks every `threshold`: what holds a reactor for twice as long is seen for certain.
    pub(crate) fn start(mut watched: Vec<Watched>, threshold: Duration) -> std::io::Result<Watchdog> {
        let end = Arc::<End>::default();
        let seen = Arc::clone(&end);
        let watch = move || {
            let mut asked = seen.asked.lock();
            while !*asked {
                if seen.wake.wait_for(&mut asked, threshold).timed_out() {
                    watched.iter_mut().for_each(|one| one.look(threshold));
                }
            }
        };
        let thread = thread::Builder::new().name("rpc-watchdog".to_owned()).spawn(watch)?;
        Ok(Watchdog { end, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.end.asked.lock() = true;
        self.end.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rpc_transport::{PoolOptions, ReactorPool};

    use super::*;
    use crate::server::shared::Table;

    static SPIN: MethodDescriptor = MethodDescriptor::new("t", "Test", "Spin");

    #[test]
    fn a_held_reactor_is_told_of_once_and_its_holder_named() {
        let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() }).expect("a reactor");
        let reactor = pool.handles()[0].clone();
        let polling = Arc::<Polling>::default();
        let here = Arc::new(OnReactor::new(Table::default(), vec![(&SPIN, Arc::clone(&polling))]));
        let mut watched = Watched::new(reactor.clone(), Arc::clone(&here));
        for stalls in 1..=3 {
            let (tell, told) = mpsc::channel();
            let (release, held) = mpsc::channel::<()>();
            reactor.run(move || {
                let _ = tell.send(());
                let _ = held.recv();
            });
            told.recv().expect("it is held");
            for _ in 0..5 {
                watched.look(Duration::from_millis(1));
            }
            assert_eq!(reactor.stats().stalls.get(), stalls, "once, however often one looks");
            drop(release);
            while reactor.turn().is_some() {
                thread::yield_now();
            }
            watched.look(Duration::from_millis(1));
        }
        assert!(Holder(&here).to_string().starts_with("none"));
        polling.set(true);
        assert_eq!(Holder(&here).to_string(), "t.Test/Spin");
    }

    /// It ends with its server, at once.
    #[test]
    fn it_does_not_outlive_its_owner() {
        let watchdog = Watchdog::start(Vec::new(), Duration::MAX).expect("a thread");
        let end = Arc::downgrade(&watchdog.end);
        drop(watchdog);
        assert_eq!(end.strong_count(), 0);
    }
}
