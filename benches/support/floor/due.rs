//! When the next call of an open loop is due, for a thread that waits for sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bench_driver::Stage;

/// Takes calls that are due; when there is none, the poller is woken for the next one.
pub(super) struct Due {
    bell: Arc<Bell>,
    waker: Waker,
    over: bool,
}

struct Bell {
    poller: mio::Waker,
    /// Whether it is going to ring.
    set: AtomicBool,
}

impl Due {
    pub(super) fn new(poller: mio::Waker, stage: &Stage) -> Due {
        let bell = Arc::new(Bell { poller, set: AtomicBool::new(false) });
        Due { waker: Waker::from(Arc::clone(&bell)), bell, over: !stage.is_open() }
    }

    /// The time at which the next call is due, if it is.
    pub(super) fn next(&mut self, stage: &Stage) -> Option<Instant> {
        if self.over || self.bell.set.swap(true, Ordering::Relaxed) {
            return None;
        }
        match stage.poll_due(&Context::from_waker(&self.waker)) {
            Poll::Pending => None,
            Poll::Ready(due) => {
                self.bell.set.store(false, Ordering::Relaxed);
                self.over = due.is_none();
                due
            }
        }
    }

    /// Whether none will be due any more.
    pub(super) fn are_over(&self) -> bool {
        self.over
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.set.store(false, Ordering::Relaxed);
        let _ = self.poller.wake(); // it fails when nobody polls any more
    }
}
