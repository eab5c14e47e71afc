//! Services on a port.
//!
//! ```text
//!  frame ─► ServerHandler ─► Router ─► Runner ─┬─ ready at once: reply in this turn's write
//!                                              ├─ pending: a local task of the reactor
//!                                              └─ blocking: the worker pool ─► message ─► reply
//! ```

mod builder;
mod handler;
mod methods;
mod reply;
mod router;
mod runner;
mod shutdown;
mod workers;

pub use builder::{Server, ServerBuilder, Services};
pub use methods::Methods;
pub(crate) use shutdown::default_pool;
pub use shutdown::{Drained, Monitor, ServerHandle, ServerStats};
