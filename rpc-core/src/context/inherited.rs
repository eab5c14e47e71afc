//! What a call takes over from the call whose handler makes it.
//!
//! ```text
//!  runner ── enter ──► this thread's ──► Call, when it begins: deadline, persistent pairs, whom to watch
//!            (around each poll of the handler's future)
//! ```
//!
//! What is entered changes places with what the thread had, and back when the poll is over: nothing is counted, and a handler that makes no call pays for
//! two such exchanges and nothing else. What a method's slot keeps for that is allocated once; each [`Context::scope`] allocates its own.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::time::{Duration, Instant};

use rpc_transport::local;

use super::Context;
use crate::metadata::Metadata;

/// What there is to take over; by default nothing.
#[derive(Clone, Default)]
pub(crate) struct Inherited {
    deadline: Option<Instant>,
    persistent: Metadata,
    /// The call on whose cancellation the calls end that are made for it. `None` where they are dropped instead.
    watched: Option<Context>,
}

/// Whom a call takes over from.
#[derive(Default)]
pub(crate) enum Origin {
    /// The call whose handler makes it, if one does.
    #[default]
    Current,
    Of(Context),
    Nobody,
}

thread_local! {
    /// Never dropped, as who enters restores it; so no look has to see whether it has been.
    static CURRENT: ManuallyDrop<Cell<Heritage>> = const { ManuallyDrop::new(Cell::new(Heritage(None))) };
}

/// What can be entered: [`Inherited`] in a box, so that entering moves one word.
#[derive(Default)]
pub(crate) struct Heritage(Option<Box<Inherited>>);

impl Heritage {
    /// For calls of a future that is dropped when its call is cancelled.
    #[inline]
    pub(crate) fn set(&mut self, deadline: Option<Instant>, persistent: &Metadata) {
        let inherited = self.0.get_or_insert_default();
        inherited.deadline = deadline;
        if !(inherited.persistent.is_empty() && persistent.is_empty()) {
            inherited.persistent = persistent.clone();
        }
    }

    /// Lets calls that begin on this thread take over from here, until the guard is dropped.
    #[inline]
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        exchange(self);
        Entered(self)
    }

    /// What there is, if there is anything.
    #[inline]
    fn something(&self) -> Option<&Inherited> {
        self.0.as_deref().filter(|inherited| !inherited.is_nothing())
    }
}

impl From<Inherited> for Heritage {
    fn from(inherited: Inherited) -> Self {
        Heritage(Some(Box::new(inherited)))
    }
}

/// Looks at what a call would take over that begins on this thread now.
#[inline]
fn look<R>(f: impl FnOnce(&Heritage) -> R) -> R {
    CURRENT.with(|current| {
        let heritage = current.take();
        let seen = f(&heritage);
        std::mem::forget(current.replace(heritage)); // nothing stood there meanwhile
        seen
    })
}

impl Inherited {
    /// For calls of code that is not: they watch.
    pub(crate) fn watching(cx: &Context) -> Inherited {
        Inherited { deadline: cx.deadline(), persistent: cx.persistent().clone(), watched: Some(cx.clone()) }
    }

    /// What there is to take over, if there is anything.
    #[inline]
    pub(crate) fn of(origin: &Origin) -> Option<Inherited> {
        match origin {
            Origin::Nobody => None,
            Origin::Of(cx) => Some(Inherited::watching(cx)),
            Origin::Current => look(|current| current.something().cloned()),
        }
    }

    /// Whether a call that begins on this thread now takes over nothing.
    #[inline]
    pub(crate) fn is_none_here() -> bool {
        look(|current| current.something().is_none())
    }

    #[inline]
    fn is_nothing(&self) -> bool {
        self.deadline.is_none() && self.watched.is_none() && self.persistent.is_empty()
    }

    /// What is left of the deadline, in whole milliseconds as they travel: rounded down, so that each hop has less than the one
    /// before; but not to nothing.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|at| left_until(at, local::now()))
    }

    /// The pairs of a call that has `own`, which win.
    pub(crate) fn persistent(&self, mut own: Metadata) -> Metadata {
        if own.is_empty() {
            return self.persistent.clone();
        }
        for (key, value) in self.persistent.pairs() {
            if own.get(key).is_none() {
                own.insert(key.clone(), value.clone());
            }
        }
        own
    }

    pub(crate) fn watched(&self) -> Option<&Context> {
        self.watched.as_ref()
    }
}

fn left_until(deadline: Instant, now: Instant) -> Duration {
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() || left > Duration::from_millis(u32::MAX.into()) {
        return left;
    }
    Duration::from_millis((left.as_millis() as u64).max(1))
}

/// Restores what was to be taken over before.
pub(crate) struct Entered<'a>(&'a mut Heritage);

impl Entered<'_> {
    /// What was to be taken over before is so again, until the guard is dropped.
    pub(crate) fn suspend(&mut self) -> Entered<'_> {
        exchange(self.0);
        Entered(self.0)
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        exchange(self.0);
    }
}

#[inline]
fn exchange(with: &mut Heritage) {
    CURRENT.with(|current| with.0 = current.replace(Heritage(with.0.take())).0);
}

/// Polls `future` so that the calls it makes take over from `inherited`.
pub(crate) async fn scope<F: Future>(inherited: Inherited, future: F) -> F::Output {
    let mut inherited = Heritage::from(inherited);
    let mut future = pin!(future);
    poll_fn(|cx| {
        let _entered = inherited.enter();
        future.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&'static str, &'static str)]) -> Metadata {
        pairs.iter().copied().collect()
    }

    #[test]
    #[rustfmt::skip]
    fn a_hop_has_less_than_the_one_before() {
        let now = Instant::now();
        let check = |left_us: u64, expected_us: u64| {
            let left = left_until(now + Duration::from_micros(left_us), now);
            assert_eq!(left, Duration::from_micros(expected_us), "{left_us} µs left");
        };
        //    µs left      as it travels
        check(0,           0);
        check(1,           1_000);
        check(999,         1_000);
        check(1_000,       1_000);
        check(1_999,       1_000);
        check(5_000_001,   5_000_000);
        assert_eq!(left_until(now, now + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(Inherited::default().remaining(), None);
    }

    #[test]
    fn own_pairs_win() {
        let inherited = Inherited { persistent: pairs(&[("a", "theirs"), ("b", "theirs")]), ..Inherited::default() };
        assert_eq!(inherited.persistent(Metadata::new()), inherited.persistent);
        let merged = inherited.persistent(pairs(&[("a", "own"), ("c", "own")]));
        assert_eq!(merged, pairs(&[("a", "own"), ("b", "theirs"), ("c", "own")]));
    }

    #[test]
    fn what_is_entered_ends_with_its_poll_and_nests() {
        let seen = || Inherited::of(&Origin::Current).unwrap_or_default().persistent;
        let mut outer = Heritage::from(Inherited { persistent: pairs(&[("hop", "outer")]), ..Inherited::default() });
        let mut inner = Heritage::from(Inherited { persistent: pairs(&[("hop", "inner")]), ..Inherited::default() });
        {
            let _outer = outer.enter();
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _inner = inner.enter();
                assert_eq!(seen(), pairs(&[("hop", "inner")]));
                panic!("a handler's");
            }));
            assert!(panicked.is_err());
            assert_eq!(seen(), pairs(&[("hop", "outer")]), "a panic restores it, too");
        }
        assert!(seen().is_empty());
        assert_eq!(outer.0.unwrap().persistent, pairs(&[("hop", "outer")]), "and it can be entered again");
    }
}
