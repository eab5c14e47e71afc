//! The TTHeader frame: fixed part, info blocks, payload behind them.
//!
//! ```text
//!  frame ─► TtFrame::decode ─► info (raw slice) ─► equal to the last one's? keep its summary
//!                 │                                 else InfoEntries ─► RequestInfo | ReplyInfo
//!                 └─► payload ─► protocol::Payload
//!  frame ─► KnownHead::matches ─► all of it like the last one: id and message, nothing else is looked at
//!
//!  RequestHead::write, ReplyHead::write ─► header and payload head, the message follows
//! ```

mod decode;
#[allow(
    clippy::indexing_slicing,
    reason = "it writes into templates of its own making; no byte of a peer decides where"
)]
mod encode;
#[allow(clippy::indexing_slicing, reason = "its encoder writes into an array of its own")]
mod control;
mod info;
mod json;
mod known;
pub mod layout;
mod pairs;

pub use control::ControlFrame;
pub use decode::TtFrame;
pub(super) use decode::check_fixed;
pub(super) use encode::put_payload_head;
pub use encode::{CONFIRMATION, HeaderError, ReplyHead, ReplyKind, RequestHead, RequestHeadSpec, write_frame_head};
pub use info::{EXCEPTION_INFO, HeaderLimits, InfoError, REPLY_INFO, ReplyInfo, RequestInfo};
pub use known::{KnownFrame, KnownHead};
pub use pairs::{Entry, InfoEntries, StringBlock, request_metadata};
