//! TLS over a connection's bytes: rustls, without I/O of its own and without a thread.
//!
//! ```text
//!            one read                whole records                        one at a time
//!  socket ──► scratch ──► Session::open ──► Inbound ──► Framing ──► Handler::on_frame
//!  socket ◄── scratch ◄── Session::seal ◄── LinkBuffer ◄── Cx::output
//!            one write           at most 64 KiB
//! ```
//!
//! A connection without TLS has no [`Session`], and nothing here runs for it. `conn/secure.rs` joins a session to its connection;
//! [`Rations`] says when a handshake may go on. Between two turns a session keeps what is less than a record, and what the kernel did
//! not take: an idle one keeps neither.
//!
//! Early data is not accepted and not sent: it can be replayed. Nothing here logs keys or content.

#[cfg(feature = "testing")]
pub(crate) mod by_hand;
mod client;
mod error;
mod identity;
mod peer;
mod rations;
#[cfg(feature = "testing")]
pub mod seeded;
mod server;
mod session;

pub use client::{TlsClient, TlsClientBuilder};
pub use error::{TlsConfigError, TlsError, TlsErrorKind};
pub use identity::{TlsIdentity, TlsRoots};
pub use peer::TlsPeer;
pub(crate) use rations::{AGAIN, AT_A_TIME, Rations, Stage, Turn};
pub use server::{TlsServer, TlsServerBuilder};
pub(crate) use session::{SCRATCH, Session};
