//! What is fixed for a new connection.

use std::sync::Arc;

use crate::config::ConnLimits;
use crate::listener::Admission;
use crate::reactor::ReactorHandle;
use crate::stats::MemoryBudget;
#[cfg(feature = "tls")]
use crate::tls::Session;

/// What is fixed for a new connection.
pub(crate) struct Setup {
    pub(crate) peer: Arc<str>,
    pub(crate) admission: Option<Admission>,
    pub(crate) limits: Arc<ConnLimits>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) reactor: ReactorHandle,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Box<Session>>,
}
