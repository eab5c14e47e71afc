//! A simulated network under a virtual clock: what runs above it are the real reactors.
//!
//! ```text
//!  reactor ─ SimDriver ─┐                        ┌─ SimDriver ─ reactor          sockets, listeners and what is on its
//!                       ├─ Network ─ State ──────┤                               way between them stand in `State`;
//!  reactor ─ SimDriver ─┘   step()               └─ RawPeer (a test's bytes)     time passes in `Network::step` only
//! ```
//!
//! One thread drives everything, and every choice comes from one seeded generator: the same seed makes the same run, to the
//! byte, which [`Network::trace_hash`] shows. A reactor sleeps here as it does in a poller: it is turned again when an event,
//! its waker or its next timer says so, and not otherwise, so that a wake-up that is lost stays lost.
//!
//! The model is TCP as epoll shows it: segments of any size that arrive in order, bounded buffers, short writes, FIN, reset,
//! half-close, backlogs; readiness is reported as edges, with the level of the moment.

mod driver;
mod faults;
mod knobs;
mod observer;
mod peer;
mod pipe;
mod readiness;
mod socket;
mod state;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

pub use faults::Faults;
pub use knobs::Knobs;
pub use observer::Observer;
pub use peer::{RawListener, RawPeer, Received};
pub use state::Rest;

use self::driver::SimDriver;
use self::state::State;
use super::Driver;
use crate::clock;
use crate::reactor::audit::{ReactorAudit, audit};
use crate::reactor::{ReactorHandle, ReactorPool};
use crate::url::{Endpoint, Url};

/// A simulated network. Cheap to clone. Its clock stands for the thread's while it exists: use one at a time on a thread.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    reactors: Mutex<Vec<ReactorHandle>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        clock::set(None);
    }
}

/// What a [`Network::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It turned a reactor: see [`Network::reactor`].
    Turned(usize),
    /// Something arrived, or time passed.
    Passed,
    /// Nothing will ever happen again unless somebody outside does something.
    Idle,
}

impl Network {
    /// A network whose choices follow from `seed`.
    pub fn new(seed: u64, knobs: Knobs) -> Network {
        let base = Instant::now();
        clock::set(Some(base));
        Network(Arc::new(Shared { state: Mutex::new(State::new(base, seed, knobs)), reactors: Mutex::default() }))
    }

    /// Reactors of one process on this network.
    pub fn pool(&self, name: &str, reactors: usize) -> ReactorPool {
        let drivers = (0..reactors).map(|_| {
            let index = self.state().add_driver();
            Box::new(SimDriver::new(Arc::clone(&self.0), index)) as Box<dyn Driver>
        });
        let pool = ReactorPool::by_hand(name, drivers.collect());
        self.0.reactors.lock().extend(pool.handles().iter().cloned());
        pool
    }

    /// Turns one reactor, or lets the next thing happen that is on its way.
    pub fn step(&self) -> Step {
        let chosen = {
            let mut state = self.state();
            match state.choose() {
                Some(reactor) => reactor,
                None => return if state.pass() { Step::Passed } else { Step::Idle },
            }
        };
        let handle = self.0.reactors.lock()[chosen].clone();
        self.state().awake(chosen);
        let sleeps = handle.by_hand(|reactor| {
            reactor.rouse();
            reactor.doze()
        });
        self.state().asleep(chosen, sleeps);
        Step::Turned(chosen)
    }

    /// Looks at a reactor by its number, with the network's eyes, too. `None`: it has stopped.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn audit(&self, index: usize) -> Option<Result<ReactorAudit, String>> {
        let looked = audit(&self.reactor(index))?;
        Some(looked.and_then(|audit| match self.state().deaf(index, &audit.awaited) {
            Some(deaf) => Err(format!("reactor {index}: {deaf}")),
            None => Ok(audit),
        }))
    }

    /// How long a reactor will not be turned.
    pub fn rest(&self, index: usize) -> Rest {
        self.state().rest(index)
    }

    /// A reactor by its number, in the order they were made.
    pub fn reactor(&self, index: usize) -> ReactorHandle {
        self.0.reactors.lock()[index].clone()
    }

    /// Time does not pass beyond this without a [`Step::Passed`], though nothing else happens then.
    pub fn alarm(&self, at: Duration) {
        self.state().alarm(at);
    }

    /// Lets `time` pass, with all that happens in it.
    pub fn run_for(&self, time: Duration) {
        let until = self.elapsed() + time;
        while !self.state().rest_until(until) {
            self.step();
        }
    }

    /// Virtual time since the network was made.
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed()
    }

    /// The virtual clock.
    pub fn now(&self) -> Instant {
        self.state().now()
    }

    /// A number in `0..n` from the network's generator, for the choices of who drives it.
    pub fn below(&self, n: u64) -> u64 {
        self.state().rng.u64(0..n.max(1))
    }

    /// A hash of everything that has happened.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    /// Notes something of the driver's own in the trace.
    pub fn note(&self, what: &str, a: u64, b: u64) {
        self.state().note(what, a, b);
    }

    /// Prints what happens from now on.
    pub fn print_trace(&self) {
        self.state().trace.print();
    }

    /// Prints something among the trace, if that is printed.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        let state = self.state();
        if state.trace.prints() {
            eprintln!("{:>14.6?} {}", state.elapsed(), what());
        }
    }

    /// From now on somebody looks on.
    pub fn observe(&self, observer: impl Observer + 'static) {
        self.state().observer = Some(Box::new(observer));
    }

    /// What went wrong on purpose so far.
    pub fn faults(&self) -> Faults {
        self.state().faults
    }

    /// Changes how the network behaves from now on.
    pub fn set_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.state().knobs);
    }

    /// Sockets that are open or on their way: of reactors, of raw peers, in backlogs.
    pub fn sockets(&self) -> usize {
        self.state().sockets()
    }

    /// Listeners that are open.
    pub fn listeners(&self) -> usize {
        self.state().listeners()
    }

    /// Whether somebody listens there.
    ///
    /// # Panics
    /// When the URL has no numeric address.
    pub fn is_taken(&self, url: &Url) -> bool {
        self.state().is_taken(&endpoint(url))
    }

    /// Resets one of the established connections, both ends at once; false if there is none.
    pub fn cut_one(&self) -> bool {
        self.state().cut_one()
    }

    /// One direction of one connection ends early: what is on its way arrives, then end of file.
    pub fn finish_one(&self) -> bool {
        self.state().finish_one()
    }

    /// Nothing arrives on one connection for a while.
    pub fn stall_one(&self, time: Duration) -> bool {
        self.state().stall_one(time)
    }

    /// The next `accept` calls of one listener fail: with EMFILE until `time` has passed.
    pub fn starve_of_descriptors(&self, time: Duration) {
        self.state().starve(time);
    }

    /// A peer whose bytes a test writes, connecting to `url`.
    ///
    /// # Panics
    /// When the URL has no numeric address.
    pub fn connect_raw(&self, url: &Url) -> RawPeer {
        RawPeer::connect(self, &endpoint(url))
    }

    /// A listener whose connections a test serves byte by byte.
    ///
    /// # Panics
    /// When the URL has no numeric address, or is taken.
    pub fn listen_raw(&self, url: &Url) -> RawListener {
        RawListener::new(self, &endpoint(url))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

fn endpoint(url: &Url) -> Endpoint {
    url.resolve().ok().and_then(|all| all.into_iter().next()).expect("a URL with a numeric address")
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated network at {:?}", self.elapsed())
    }
}
