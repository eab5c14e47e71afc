//! For tests of this workspace: a simulated network under a virtual clock, and a look at what a reactor holds. Feature `testing`;
//! no stable API.

use crate::conn::ConnId;
use crate::handler::Handler;
use crate::local;
use crate::reactor::ReactorHandle;
use crate::reactor::core::with;

pub use crate::driver::sim::{Faults, Knobs, Network, Observer, RawListener, RawPeer, Received, Rest, Step};
pub use crate::panics::fail_points::{panic_at_times, panics};
pub use crate::reactor::audit::{ReactorAudit, audit};
#[cfg(feature = "tls")]
pub use crate::tls::{by_hand::TlsByHand, seeded as tls};
pub use crate::workers::by_hand::work_by_hand;

/// Blocks that connections of this thread's reactors have, and slices of blocks. Those that went to other threads count here until they are
/// dropped there, and then there.
pub fn blocks_out() -> usize {
    #[cfg(feature = "tls")]
    return crate::buffer::blocks_out().saturating_sub(crate::conn::secure::blocks_between());
    #[cfg(not(feature = "tls"))]
    crate::buffer::blocks_out()
}

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
