//! Services on a port.
//!
//! ```text
//!  frame ─► ServerHandler ─► Router ─► Runner ─┬─ ready at once: reply in this turn's write
//!                                              ├─ pending: a local task of the reactor
//!                                              └─ blocking: the worker pool ─► message ─► reply
//! ```

mod address;
#[cfg(feature = "testing")]
pub(crate) mod audit;
mod builder;
mod cancel_budget;
mod control;
mod drain;
mod hand_over;
mod handle;
mod handler;
mod methods;
#[cfg(all(test, model = "shuttle", feature = "testing"))]
mod model;
mod monitor;
mod reply;
mod router;
mod runner;
mod runtime;
mod running;
mod shared;
#[cfg(all(feature = "upgrade", target_os = "linux"))]
mod upgrade;
mod watchdog;

pub use builder::{Server, ServerBuilder, Services};
pub(crate) use handle::default_pool;
pub use handle::{Drained, ServerHandle};
pub use methods::Methods;
pub use monitor::{Monitor, ServerStats};
#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub use upgrade::Upgraded;
