//! The load generator: closed loops of calls against a server in a process of its own.
//!
//! ```text
//!  load table ─► load --json, once a case and round ─┬─► load server      `report` ─► its counters, as a line of JSON
//!                                                    └─► loops: a call, its check, the next call ─► histogram
//! ```
//!
//! A loop makes its next call when it has the reply to the last one, so `in_flight` loops are `in_flight` calls under way.
//! [`floor`] is the same without RPC: raw sockets, the same bytes, the same batching.

mod args;
mod client;
mod counts;
pub mod floor;
mod instructions;
mod machine;
mod method;
mod report;
mod run;
mod server;
mod stage;
mod table;

pub use args::{Client, Command, InstructionsArgs, Load, MethodName, RunArgs, ServerArgs, TableArgs, Transport};
pub use counts::Counts;
pub use instructions::instructions;
pub use machine::facts;
pub use method::{Echo, Method, Mixed};
pub use report::{Latency, Report};
pub use run::run;
pub use server::{Service, serve};
pub use table::table;

/// What the parts of the load generator fail with: a text for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Generated from `idl/testee.proto`.
#[allow(missing_docs, reason = "the module tree around the generated items has none")]
pub mod idl {
    rpc_core::include_idl!();
}
