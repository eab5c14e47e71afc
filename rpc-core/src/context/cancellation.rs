//! Whether nobody waits for a call's reply any more, and how those who work for it elsewhere hear of that.
//!
//! Code that a reactor polls needs none of this: it is dropped. Calls of a blocking handler, and futures that a handler has sent
//! elsewhere, cannot be dropped by the reactor; they watch.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use parking_lot::Mutex;

use super::Context;

/// One call's flag, and who wants to hear of it. Set once and never unset.
#[derive(Debug, Default)]
pub(crate) struct Cancellation {
    cancelled: AtomicBool,
    /// Places are used again, so that they are as many as have ever watched at once.
    watchers: Mutex<Vec<Option<Waker>>>,
}

impl Cancellation {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        // After the flag: who registers later than this looks at the flag under the same lock, and sees it.
        let watchers = std::mem::take(&mut *self.watchers.lock());
        watchers.into_iter().flatten().for_each(Waker::wake); // outside of the lock: a waker may run any code
    }

    /// Keeps a waker in `place`, or in a new place; true if it is too late for that.
    fn watch(&self, place: &mut Option<usize>, waker: &Waker) -> bool {
        if self.is_cancelled() {
            return true;
        }
        let mut watchers = self.watchers.lock();
        if self.is_cancelled() {
            return true;
        }
        let index = *place.get_or_insert_with(|| match watchers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                watchers.push(None);
                watchers.len() - 1
            }
        });
        if watchers[index].as_ref().is_some_and(|known| known.will_wake(waker)) {
            return false;
        }
        let old = watchers[index].replace(waker.clone());
        drop(watchers);
        drop(old); // outside of the lock, as above
        false
    }

    fn unwatch(&self, place: usize) {
        let mut watchers = self.watchers.lock();
        // None is there once it has been cancelled.
        let old = watchers.get_mut(place).and_then(Option::take);
        drop(watchers);
        drop(old);
    }
}

/// Ends when a call is cancelled: [`Context::cancelled`].
#[must_use = "futures do nothing unless polled"]
pub struct Cancelled {
    cx: Context,
    place: Option<usize>,
}

impl Cancelled {
    pub(super) fn new(cx: Context) -> Self {
        Cancelled { cx, place: None }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.cx
    }
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Cancelled { cx: call, place } = &mut *self;
        if call.cancellation().watch(place, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.cx.cancellation().unwatch(place);
        }
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancelled").field(&self.cx).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_watcher_is_woken_once_and_places_are_used_again() {
        let counts: [Arc<Count>; 3] = Default::default();
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let call = Context::take();
        let mut watching: Vec<_> = wakers.iter().map(|_| call.cancelled()).collect();
        for (cancelled, waker) in watching.iter_mut().zip(&wakers) {
            for _ in 0..2 {
                assert!(Pin::new(&mut *cancelled).poll(&mut TaskContext::from_waker(waker)).is_pending());
            }
        }
        drop(watching.remove(1));
        let mut another = call.cancelled();
        assert!(Pin::new(&mut another).poll(&mut TaskContext::from_waker(Waker::noop())).is_pending());
        assert_eq!(another.place, Some(1), "the place of the one that is gone");

        call.cancel();
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [1, 0, 1]);
        assert!(Pin::new(&mut another).poll(&mut TaskContext::from_waker(Waker::noop())).is_ready());
        assert!(Pin::new(&mut call.cancelled()).poll(&mut TaskContext::from_waker(Waker::noop())).is_ready());
        drop((watching, another));
    }
}
