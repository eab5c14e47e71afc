//! Without the feature `tls`: the answers to what is asked of every connection.

use super::{Conn, Setup};

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
}
