//! Without the feature `tls`: the answers to what is asked of every connection.

use super::{Conn, Cx, Setup};
use crate::error::CloseReason;

impl Cx<'_> {
    /// An accepted connection is open from the first.
    pub(crate) fn finish_when_open(&mut self) {}
}

impl Setup {
    pub(super) fn is_secure(&self) -> bool {
        false
    }
}

impl Conn {
    pub(super) fn is_quietly_secure(&self) -> bool {
        true
    }

    pub(super) fn has_unsent(&self) -> bool {
        false
    }

    pub(super) fn delivered(&self) -> u64 {
        self.written
    }

    pub(super) fn end_of_secure(&self) -> Option<CloseReason> {
        None
    }
}
