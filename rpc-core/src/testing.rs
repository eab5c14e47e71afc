//! For tests of this workspace: what must hold of clients and servers between two turns of simulated reactors, and what they hold.
//! Feature `testing`; no stable API.

pub use crate::client::audit::{ChannelAudit, audit_channel};
pub use crate::mux::wrap_ids_after;
pub use crate::server::audit::{Jobs, ServerAudit, audit_server};
pub use rpc_transport::testing::work_by_hand;
