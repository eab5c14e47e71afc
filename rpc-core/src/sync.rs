//! The locks, atomics and threads of what is modelled: parking_lot's and std's, or those of a model checker. The transport's
//! `sync` has the whole story.

#[cfg(any(model = "loom", model = "shuttle"))]
pub(crate) use rpc_transport::sync::{Condvar, Mutex, MutexGuard, atomic, thread, thread_local};

#[cfg(not(any(model = "loom", model = "shuttle")))]
pub(crate) use {
    parking_lot::{Condvar, Mutex, MutexGuard},
    std::{sync::atomic, thread, thread_local},
};

/// Whether a bug that was known elsewhere is put back here, to see that a model finds it. In a model only: no other build can have it.
macro_rules! put_back {
    ($bug:tt) => {
        cfg!(all(any(model = "loom", model = "shuttle"), put_back = $bug))
    };
}
pub(crate) use put_back;
