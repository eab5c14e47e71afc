//! The load generator: loops of calls against a server in a process of its own, by [`bench_driver`].
//!
//! [`floor`] is the same without RPC: raw sockets, the same bytes, the same batching.

mod args;
mod bytes;
mod cases;
mod client;
mod codec;
mod counts;
mod fleet;
pub mod floor;
mod gate;
mod idle;
#[cfg(feature = "tls")]
mod idle_tls;
mod connections;
mod instructions;
mod method;
mod page;
mod plot;
mod run;
mod server;
mod subject;
mod table;
#[cfg(feature = "tls")]
mod tls_flood;
mod transport;
mod versions;

pub use args::{
    BytesArgs, Client, CodecArgs, Command, ConnectionsArgs, FleetArgs, GateArgs, IdleArgs, InstructionsArgs, Load,
    LoadArgs, LoadServerArgs, TableArgs, TransportArgs,
};
pub use bench_driver::Failure;
pub use bytes::bytes;
pub use codec::codec;
pub use connections::connections;
pub use fleet::fleet;
pub use gate::gate;
pub use idle::idle;
pub use instructions::instructions;
pub use method::{Echo, Method, Mixed};
pub use run::run;
pub use server::{Service, serve};
pub use table::table;
#[cfg(feature = "tls")]
pub use tls_flood::{Flood, TlsFloodArgs, tls_flood};
pub use transport::transport;

/// Generated from `idl/testee.proto`.
#[allow(missing_docs, reason = "the module tree around the generated items has none")]
pub mod idl {
    rpc_core::include_idl!();
}
