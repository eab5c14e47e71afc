//! Calls to one peer.
//!
//! ```text
//!  stub ─► Call ─┬─ on a connection's reactor ─► ClientHandler, directly ──────────────┐
//!                └─ anywhere else ─► Outbox ─► inbox ─► ClientHandler::on_message ─────┴─► output ─► peer
//! ```
//!
//! A [`Channel`] has a fixed number of slots, each with a connection at most; connections are made when they are needed.

#[cfg(feature = "testing")]
pub(crate) mod audit;
mod builder;
mod call;
mod channel;
mod checksum;
mod control;
mod handler;
mod pooled;
mod queue;
mod refusals;
mod replies;
mod wire;

pub use builder::ChannelBuilder;
pub use call::{Call, CallFuture, Response, ResponseCall, ResponseFuture};
pub(crate) use channel::config_error;
pub use channel::{Channel, ChannelStats, Count};
