//! Where a user's panic ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code that is not ours; `None` if it panicked. The caller sees to it that nothing half done is left behind.
///
/// What was thrown is a user's value like any other, and may panic when it is dropped. That ends here, too.
#[inline]
pub fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(discard).ok()
}

#[cold]
fn discard(thrown: Box<dyn std::any::Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
        std::mem::forget(second); // there must be an end
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    struct ThrowsInDrop(u32);

    impl Drop for ThrowsInDrop {
        fn drop(&mut self) {
            if self.0 > 0 && !std::thread::panicking() {
                panic_any(ThrowsInDrop(self.0 - 1));
            }
        }
    }

    /// T31: a payload that panics when dropped took the connection with it, or the reactor.
    #[test]
    fn a_panic_ends_here_whatever_was_thrown() {
        assert_eq!(caught(|| 7), Some(7));
        assert_eq!(caught(|| -> u32 { panic!("as it was asked to") }), None);
        for depth in 0..3 {
            assert_eq!(caught(|| -> u32 { panic_any(ThrowsInDrop(depth)) }), None);
        }
    }
}
