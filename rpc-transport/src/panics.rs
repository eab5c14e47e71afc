//! Where a user's panic ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code that is not ours; `None` if it panicked. The caller sees to it that nothing half done is left behind.
///
/// What was thrown is a user's value like any other, and may panic when it is dropped. That ends here, too.
#[inline]
pub fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok()
}

/// How many values that panic when they are dropped, one after the other, are dropped; the last of them is leaked.
const THROWN_ANEW: usize = 16;

#[cold]
fn discard(mut thrown: Box<dyn Any + Send>) {
    for _ in 0..THROWN_ANEW {
        match catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
            Ok(()) => return,
            Err(next) => thrown = next,
        }
    }
    std::mem::forget(thrown); // there must be an end
}

/// A place in the midst of our own code where a test can have a panic, as if there were a mistake. Nothing in an ordinary build.
#[inline(always)]
pub(crate) fn fail_point() {
    #[cfg(feature = "testing")]
    fail_points::pass();
}

/// T31: panics of our own code, while a connection's handler does something with its connection. That connection alone may end.
///
/// They stand in [`Cx`](crate::Cx), through which every handler works, and so in the midst of what client and server do for a call. Under
/// a lock there is none but where a connection takes a call, under the lock of that call's cell: it is in the table of calls before
/// any of them comes, and no lock of ours remembers a panic (`tidy.rs`). None comes while a handler is told of its end: that is what tidies up.
#[cfg(feature = "testing")]
pub(crate) mod fail_points {
    use std::cell::{Cell, RefCell};
    use std::thread;

    thread_local! {
        static DICE: RefCell<Option<(fastrand::Rng, u32)>> = const { RefCell::new(None) };
        static OPEN: Cell<bool> = const { Cell::new(false) };
        static PANICS: Cell<u64> = const { Cell::new(0) };
    }

    /// From now on one of about so many fail points that this thread passes is a panic; 0: none is.
    pub fn panic_at_times(seed: u64, one_in: u32) {
        DICE.set((one_in > 0).then(|| (fastrand::Rng::with_seed(seed), one_in)));
    }

    /// How many there have been on this thread.
    pub fn panics() -> u64 {
        PANICS.get()
    }

    /// While this lives, fail points of this thread may be panics, or none may.
    pub(crate) struct Open(bool);

    impl Open {
        pub(crate) fn new(open: bool) -> Open {
            Open(OPEN.replace(open))
        }
    }

    impl Drop for Open {
        fn drop(&mut self) {
            OPEN.set(self.0);
        }
    }

    pub(super) fn pass() {
        let hit = || DICE.with_borrow_mut(|dice| dice.as_mut().is_some_and(|(rng, one_in)| rng.u32(0..*one_in) == 0));
        // A second panic would end the process.
        if OPEN.get() && !thread::panicking() && hit() {
            PANICS.set(PANICS.get() + 1);
            panic!("as it was asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Arc;

    use super::*;

    /// Throws the next one when it is dropped, until there is none.
    struct ThrowsInDrop(u32, Arc<()>);

    impl Drop for ThrowsInDrop {
        fn drop(&mut self) {
            if self.0 > 0 {
                panic_any(ThrowsInDrop(self.0 - 1, Arc::clone(&self.1)));
            }
        }
    }

    /// Has no size, so that the one that is leaked is no memory.
    struct ThrowsForEver;

    impl Drop for ThrowsForEver {
        fn drop(&mut self) {
            panic_any(ThrowsForEver);
        }
    }

    /// T31: a payload that panics when dropped took the connection with it, or the reactor. What such a drop threw was leaked.
    #[test]
    fn a_panic_ends_here_whatever_was_thrown() {
        assert_eq!(caught(|| 7), Some(7));
        assert_eq!(caught(|| -> u32 { panic!("as it was asked to") }), None);
        let left = Arc::new(());
        for depth in 0..THROWN_ANEW as u32 {
            assert_eq!(caught(|| -> u32 { panic_any(ThrowsInDrop(depth, Arc::clone(&left))) }), None);
            assert_eq!(Arc::strong_count(&left), 1, "dropped, all {depth} of them");
        }
        assert_eq!(caught(|| -> u32 { panic_any(ThrowsForEver) }), None);
    }
}
