//! The tokio runtime in whose context handlers run: feature `tokio`. Without the feature it is nothing, and costs nothing.
//!
//! Handlers stay on their reactors; what is entered is a thread-local of tokio's, around each poll. So timers, sockets and tasks of
//! tokio work in a handler, and are driven by the runtime's own threads, which wake the handler's task.

#[cfg(feature = "tokio")]
use super::builder::ServerBuilder;
#[cfg(feature = "tokio")]
use crate::middleware::Middleware;

/// A runtime, or none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtime {
    #[cfg(feature = "tokio")]
    handle: Option<tokio::runtime::Handle>,
}

#[cfg(feature = "tokio")]
impl<M: Middleware> ServerBuilder<M> {
    /// Runs handlers in the context of a tokio runtime, so that what needs one works in them: its timers, sockets and tasks, and the
    /// libraries above them. Handlers stay on their reactors, or on the worker pool; the runtime's own threads do the rest, so it has to
    /// be one that is driven: a multi-thread one, or one that some thread blocks on. What a handler spawns is not dropped with
    /// it; wrap it in [`Context::scope`](crate::Context::scope). Feature `tokio`. Default: none.
    pub fn runtime(mut self, handle: tokio::runtime::Handle) -> Self {
        self.settings.runtime = Runtime { handle: Some(handle) };
        self
    }
}

#[cfg(feature = "tokio")]
impl Runtime {
    /// Makes it this thread's until the guard is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> impl Sized {
        self.handle.as_ref().map(tokio::runtime::Handle::enter)
    }
}

#[cfg(not(feature = "tokio"))]
impl Runtime {
    #[inline]
    pub(crate) fn enter(&self) -> impl Sized {}
}
