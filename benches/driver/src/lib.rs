//! The driver of all measurements: the same loops, checks, clocks and reports for every RPC and for the floor.
//!
//! ```text
//!  runner ─► program --json, once a case and round ─┬─► program server    `report` ─► its counters, as a line of JSON
//!                                                   └─► loops: a call, its check, the next call ─► histogram
//! ```
//!
//! In a closed loop each loop makes its next call when it has the reply to the last one, so `in_flight` loops are `in_flight` calls under
//! way. In an open loop ([`RunArgs::rate`]) calls are due at fixed times, whatever became of the earlier ones, and latency counts from then.

mod args;
mod calls;
mod counts;
mod machine;
mod pacer;
mod payload;
mod report;
mod run;
mod server;
mod stage;

pub use args::{MethodName, RunArgs, ServerArgs, Transport};
pub use calls::{Calls, repeat, repeat_blocking};
pub use counts::{Counts, SystemCalls};
pub use machine::{facts, pin};
pub use payload::{Line, Order, orders, payloads};
pub use report::{Latency, Report};
pub use run::{Caller, run};
pub use server::answer;
pub use stage::{Laps, Part, Stage};

/// What a measurement fails with: a text for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
