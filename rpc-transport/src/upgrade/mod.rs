//! Listening sockets from other processes, and for them: socket activation, and upgrades that refuse nobody. Feature `upgrade`, on Linux.
//!
//! ```text
//!                   LISTEN_FDS                 accepts                          leaves: its connections end, the sockets stay
//!  systemd ────────► inherited ─► listen_on ──────────────────────────────────────────┬──►
//!                                  old process   │ Upgrade::hand_over                 │
//!                                                │ starts                             │
//!                                                ▼        sockets      ready   go     │ serving
//!                                  new process   hello ─► listen_on ─► ready() ─► accepts ──►
//! ```
//!
//! The sockets are not copied, both processes have the same: who has connected waits in one queue, and whoever accepts next serves
//! it. The new process accepts nothing before the old one has said `go`, so one that dies before takes nobody with it. From `go` until
//! the old one leaves both accept.
//!
//! What is not handed over: connections. They end as in any shutdown, and their clients come back to the same address.

mod control;
mod error;
mod inherited;
mod listening;
mod message;
mod notify;
mod predecessor;
mod successor;

pub use error::{MessageError, UpgradeCause, UpgradeError, Waiting};
pub use inherited::inherited;
pub use listening::ListeningSocket;
#[cfg(feature = "testing")]
pub(crate) use message::rewritten;
pub use notify::notify;
pub(crate) use predecessor::hold;
pub use predecessor::ready;
pub use successor::{Canceller, Successor, Upgrade};
