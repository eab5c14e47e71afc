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
    parking_lot::{Condvar, Mutex, MutexGuard},
    std::sync::atomic,
    std::{thread, thread_local},
};

/// Whether a bug that was known elsewhere is put back here, to see that a model finds it. In a model only: no other build can have it.
macro_rules! put_back {
    ($bug:tt) => {
        cfg!(all(any(model = "loom", model = "shuttle"), put_back = $bug))
    };
}
pub(crate) use put_back;
