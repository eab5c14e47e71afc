//! A server that is replaced by a new process, which goes on with its listening sockets.

use rpc_transport::upgrade::{Upgrade, UpgradeError};

use super::handle::{Drained, ServerHandle};

/// How a server was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The process that goes on.
    pub pid: u32,
    /// How this one's connections ended.
    pub drained: Drained,
}

impl ServerHandle {
    /// Starts a new process, hands it the listening sockets, waits until it accepts there, and then shuts this server down as
    /// [`ServerHandle::shutdown`] does. Nobody is refused meanwhile: who connects waits in the sockets' queues, which both
    /// processes share. Established connections are not handed over. Clients with control frames are told to leave, and others as in any
    /// shutdown; they come back to the same address.
    ///
    /// The new process gets the sockets when it binds the same addresses, written the same way, and is ready when it calls
    /// [`ServerHandle::serve`] or [`ServerHandle::ready`]. An address that it does not bind is closed here. A [`ServerHandle::serve`] that
    /// waits in this process returns when it is over, so that `main` ends.
    ///
    /// # Errors
    /// The new process could not be started, ended, took longer than [`Upgrade::timeout`], or is not what it says; it has been killed then, and
    /// this server goes on as if nothing had been. So it does when another upgrade is under way. A server that is shut down meanwhile ends without a
    /// new process.
    ///
    /// # Panics
    /// As [`ServerHandle::shutdown`].
    pub fn upgrade(&self, how: &Upgrade) -> Result<Upgraded, UpgradeError> {
        self.must_not_wait_for_itself("upgrade");
        let pid = self.hand_over(how)?;
        Ok(Upgraded { pid, drained: self.shutdown() })
    }

    /// Says that this server serves: to the process that it takes over from, if there is one, and to systemd. Not needed before
    /// [`ServerHandle::serve`], which does so. Of several servers in a process, the last one that is bound. See
    /// [`rpc_transport::upgrade::ready`] for what it waits for.
    ///
    /// # Errors
    /// The process before does not let go; this one ought to end then.
    pub fn ready(&self) -> crate::Result<()> {
        rpc_transport::upgrade::ready().map_err(crate::Error::from)
    }
}
