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
