//! The locks, atomics and threads of what is modelled: parking_lot's and std's, or those of a model checker. The transport's
//! `sync` has the whole story.

#[cfg(any(model = "loom", model = "shuttle"))]
pub(crate) use rpc_transport::sync::{Condvar, Mutex, atomic, thread};

#[cfg(not(any(model = "loom", model = "shuttle")))]
pub(crate) use {
    parking_lot::{Condvar, Mutex},
    std::{sync::atomic, thread},
};
