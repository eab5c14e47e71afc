//! For tests of this workspace: a simulated network under a virtual clock, and a look at what a reactor holds. Feature `testing`;
//! no stable API.

use crate::conn::ConnId;
use crate::handler::Handler;
use crate::local;
use crate::reactor::ReactorHandle;
use crate::reactor::core::with;

pub use crate::buffer::blocks_out;
pub use crate::driver::sim::{Faults, Knobs, Network, Observer, RawListener, RawPeer, Received, Rest, Step};
pub use crate::panics::fail_points::{panic_at_times, panics};
pub use crate::reactor::audit::{ReactorAudit, audit};
pub use crate::workers::by_hand::work_by_hand;

/// Reads a message of a hand-over between processes, and writes it again.
///
/// # Errors
/// It is none.
#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub fn hand_over_message(bytes: &[u8]) -> Result<Vec<u8>, crate::upgrade::MessageError> {
    crate::upgrade::rewritten(bytes)
}

/// Shows each connection of a reactor that is turned by hand, if its handler is an `H`, and whether that says that it is busy.
pub fn each_handler<H: Handler>(reactor: &ReactorHandle, mut look: impl FnMut(ConnId, &mut H, bool)) {
    reactor.at_hand(|| {
        for id in with(|core| core.conns.ids()) {
            let busy = with(|core| core.conns.get(id).is_some_and(|entry| entry.is_busy()));
            local::peek::<H, _>(reactor, id, |handler| look(id, handler, busy));
        }
    });
}
