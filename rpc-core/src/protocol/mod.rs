//! The wire protocol, without I/O: bytes in, borrowed parts out; parts in, bytes out.
//!
//! ```text
//!  input ─► KitexFraming::next ─► one whole frame ─► form_of ─► TtFrame::decode ─► info ─► RequestInfo | ReplyInfo
//!            (detect.rs)                                │           └─► payload ─┐
//!                                                       └─ bare frame ───────────┴─► Payload::decode ─► message
//! ```
//!
//! Nothing here allocates for bytes that have not arrived, and no bytes make it panic. It knows no sockets, clocks or calls.

// I30: bytes of a peer never panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

#[allow(clippy::indexing_slicing, reason = "each index is cut to its table or text in the same line")]
mod checksum;
mod detect;
mod error;
mod exception;
mod header;
mod payload;
pub mod ttheader;

pub use checksum::{Checksum, Corrupt};
pub use detect::{KitexFraming, Spoken};
pub use error::{FirstBytes, ProtocolError};
pub use exception::Exception;
pub use header::{Form, form_of};
pub use payload::{MessageType, Payload};
