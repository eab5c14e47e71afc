//! One connection, many calls: which id belongs to which call.
//!
//! ```text
//!  insert ─► queued ─► on the wire ─► done (local callers pick it up) ─► free
//!              │            └─► abandoned (deadline, dropped) ─ late reply ─► free
//!              └─► free
//! ```
//!
//! No I/O and no clock here: the client's connection handler drives it.

mod deadlines;
mod keepalive;
mod outbox;
mod pending;
mod reply;
mod request;
mod seq;
mod tickets;

pub(crate) use deadlines::{Deadlines, Walk};
pub(crate) use keepalive::{Keepalive, Next, Pong, Rules, TooManyPings, View};
pub(crate) use outbox::{Mail, Outbox, Posted, with_encoded};
pub(crate) use pending::{Abandon, Late, Pending};
pub(crate) use reply::{Found, Outcome, Reply, ReplyCell};
pub(crate) use request::{Body, Encoded, Request, Spec};
pub(crate) use seq::MAX_SLOTS;
pub(crate) use seq::SeqId;
#[cfg(feature = "testing")]
pub use seq::wrap_ids_after;
pub(crate) use tickets::{Ticket, TicketQueue};
