//! Boxed futures whose boxes are reused: for futures whose type has no name.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Boxes of one type kept by a thread.
const KEPT: usize = 1024;

thread_local! {
    static FREE: RefCell<HashMap<TypeId, Vec<Box<dyn Any + Send>>>> = RefCell::default();
}

/// A boxed future. The box comes from this thread's pool and goes back to the pool of the thread that drops it, so that in steady
/// state nothing is allocated.
pub(crate) struct Pooled<T: 'static>(Option<Box<dyn Slot<T>>>);

trait Slot<T>: Send {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T>;
    fn recycle(self: Box<Self>);
}

struct Reusable<F>(Pin<Box<Option<F>>>);

impl<F: Future + Send + 'static> Slot<F::Output> for Reusable<F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }

    fn recycle(mut self: Box<Self>) {
        self.0.set(None);
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut() {
                let boxes = free.entry(TypeId::of::<F>()).or_default();
                if boxes.len() < KEPT {
                    boxes.push(self);
                }
            }
        });
    }
}

impl<T: 'static> Pooled<T> {
    pub(crate) fn new<F: Future<Output = T> + Send + 'static>(future: F) -> Self {
        let spare = FREE.try_with(|free| free.try_borrow_mut().ok()?.get_mut(&TypeId::of::<F>())?.pop());
        let spare = spare.ok().flatten().and_then(|boxed| boxed.downcast::<Reusable<F>>().ok());
        let mut slot = spare.unwrap_or_else(|| Box::new(Reusable(Box::pin(None))));
        slot.0.set(Some(future));
        Pooled(Some(slot))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(slot) => slot.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T: 'static> Drop for Pooled<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.recycle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn a_box_is_used_again_by_the_next_future_of_its_type() {
        fn start(n: u32) -> Pooled<u32> {
            Pooled::new(async move { n + 1 })
        }
        let address = |pooled: &Pooled<u32>| pooled.0.as_ref().map(|slot| std::ptr::from_ref(&**slot).cast::<()>());
        let mut first = start(1);
        let at = address(&first);
        assert_eq!(first.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(2));
        drop(first);
        assert_eq!(address(&start(5)), at);
    }
}
