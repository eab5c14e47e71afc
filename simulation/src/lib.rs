//! The real reactors, connections, clients and servers over a simulated network under a virtual clock.
//!
//! ```text
//!   seed ─► Plan: limits, manners of the network, who does what when
//!             └─► World: servers, clients, callers ─► Network::step ─► every invariant ─► next step
//!                                                                └─► Ledger: what became of each call
//! ```
//!
//! A seed is a run, always the same one, to the byte: what happens is folded into [`Report::trace`]. What fails prints its seed and
//! the command that shows it again. Runs are short and many: some hundred calls each, with faults at any moment, limits of one
//! to three, reads of one byte, ids that come round. In one run of four what speaks TCP speaks TLS over it, whose every byte follows from
//! the seed, too.

mod bare;
mod frames;
mod ledger;
mod line;
mod pipeliner;
mod plan;
mod sealed;
mod service;
mod wire;
mod witness;
mod world;

use std::sync::Once;
use std::thread;

pub use ledger::Outcomes;
pub use world::{Report, Violation};

/// Runs a seed, on a thread of its own: nothing that a thread keeps from one run reaches the next.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(seed: u64) -> Result<Report, Violation> {
    run_printing(seed, false)
}

/// As [`run`]; prints every step if asked to.
///
/// # Errors
/// As [`run`].
pub fn run_printing(seed: u64, prints: bool) -> Result<Report, Violation> {
    alone(seed, false, move || world::World::new(seed, prints).run(seed))
}

/// Runs a seed of the transport alone, between handlers that do anything at any moment: the hash of its trace.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run_bare(seed: u64, prints: bool) -> Result<u64, Violation> {
    alone(seed, true, move || bare::run(seed, prints))
}

fn alone<T: Send + 'static>(
    seed: u64,
    bare: bool,
    run: impl FnOnce() -> Result<T, Violation> + Send + 'static,
) -> Result<T, Violation> {
    static QUIET: Once = Once::new();
    // Handlers panic because they were told to; what is not expected is told by the run.
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"as it was asked for") {
                usual(info);
            }
        }));
    });
    match thread::Builder::new().spawn(run).map(thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        _ => Err(Violation { seed, what: "I30: it panicked".to_owned(), at: Default::default(), step: 0, bare }),
    }
}
