//! The locks, atomics, threads and thread-locals of what is modelled: parking_lot's and std's, or those of a model checker.
//!
//! ```text
//!  ordinary build  ─► parking_lot, std    (names only: nothing is wrapped)
//!  model="loom"    ─► loom                every order of a few threads, and what weak memory adds to it
//!  model="shuttle" ─► shuttle             many random orders of larger things
//! ```
//!
//! A file that a model runs takes these names from here; all others go on using the originals. `tests/models.sh` runs the models.

#[cfg(any(model = "loom", model = "shuttle"))]
pub mod model;

#[cfg(any(model = "loom", model = "shuttle"))]
pub use model::{Condvar, Mutex, MutexGuard, atomic, thread, thread_local};

#[cfg(not(any(model = "loom", model = "shuttle")))]
pub(crate) use {
    parking_lot::{Mutex, MutexGuard},
    std::sync::atomic,
    std::{thread, thread_local},
};
