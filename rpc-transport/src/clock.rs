//! The clock of threads that turn no reactor, and of a reactor in the middle of a turn. When a turn begins its driver is asked, which shows
//! the same.

use std::time::Instant;

#[cfg(feature = "testing")]
thread_local! {
    /// Stands for the system's clock on a thread that drives a simulated network.
    static VIRTUAL: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// In a model time stands still, as it does for its driver.
#[cfg(all(test, any(model = "loom", model = "shuttle")))]
pub(crate) fn now() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

#[cfg(not(all(test, any(model = "loom", model = "shuttle"))))]
pub(crate) fn now() -> Instant {
    #[cfg(feature = "testing")]
    if let Some(now) = VIRTUAL.get() {
        return now;
    }
    Instant::now()
}

/// Sets this thread's clock, or gives it the system's back.
#[cfg(feature = "testing")]
pub(crate) fn set(now: Option<Instant>) {
    VIRTUAL.set(now);
}
