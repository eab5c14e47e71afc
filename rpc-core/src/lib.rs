//! Requests and replies: typed calls over a few long-lived connections, many at a time on each.
//!
//! ```text
//!  client                                                         server
//!  stub ─► middleware ─► Channel ─► ids, deadlines ─┐      ┌─► Router ─► middleware ─► your trait
//!                                                   ▼      │
//!                                    TTHeader + Kitex Protobuf over rpc-transport
//! ```
//!
//! Services come from `.proto` files by `rpc-codegen` in a `build.rs`:
//!
//! ```ignore
//! mod idl { rpc_core::include_idl!(); }
//! use idl::hello::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest};
//!
//! struct Hello;
//! impl Greeter for Hello {
//!     async fn say_hello(&self, _cx: &Context, req: HelloRequest) -> rpc_core::Result<HelloReply> {
//!         Ok(HelloReply { message: format!("Hello, {}!", req.name) })
//!     }
//! }
//!
//! let server = Server::builder().add(GreeterServer::new(Hello)).bind("tcp://127.0.0.1:0")?;
//! let greeter = GreeterClient::connect(server.url().to_string())?;
//! let reply = greeter.say_hello(HelloRequest { name: "Rust".into() }).wait()?;
//! ```
//!
//! Handlers run on the reactor of their connection and must not block it; methods that block are marked and run on a worker pool.
//! A call can be awaited on any executor, or waited for without one.
#![forbid(unsafe_code)]

mod client;
#[doc(hidden)]
pub mod codegen;
mod context;
mod error;
mod glitch;
mod limits;
mod metadata;
mod middleware;
mod mux;
#[doc(hidden)]
pub mod protocol;
mod server;
mod status;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;

pub use client::{
    Call, CallFuture, Channel, ChannelBuilder, ChannelStats, Count, Response, ResponseCall, ResponseFuture,
};
pub use codegen::{MethodDescriptor, ServiceDescriptor};
pub use context::{Cancelled, Context};
pub use error::{Cause, ConfigError, Error, Peer, Phase, Refusal, Result, Sent};
pub use limits::Limits;
pub use metadata::Metadata;
pub use middleware::{Logging, Middleware, Next, Payload, Stack};
pub use protocol::ttheader::{HeaderError, HeaderLimits, InfoError};
pub use protocol::{Corrupt, KitexFraming, ProtocolError, Spoken};
/// The transport underneath: reactors, sockets, buffers.
pub use rpc_transport as transport;
pub use rpc_transport::sleep;
#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub use rpc_transport::upgrade::{Upgrade, UpgradeError};
#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub use server::Upgraded;
pub use server::{Drained, Monitor, Server, ServerBuilder, ServerHandle, ServerStats, Services};
pub use status::{BizStatus, Code, exception_of, type_id};

/// Includes what `rpc_codegen::compile` made in `build.rs`: a module tree that follows the packages.
#[macro_export]
macro_rules! include_idl {
    () => {
        include!(concat!(env!("OUT_DIR"), "/rpc_idl.rs"));
    };
}
