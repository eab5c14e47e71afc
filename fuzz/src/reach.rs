//! What inputs have reached: a count for each parser and each kind of event, by name.
//!
//! A corpus that stops reaching what it is there for still passes. So targets note what the product made of their input, at the place
//! where they have its answer in hand, and `tests/entry_points.rs` replays each corpus and asks.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// How often something was reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// It took its input.
    pub taken: u64,
    /// It refused its input.
    pub refused: u64,
}

thread_local! {
    static REACHED: RefCell<BTreeMap<(&'static str, &'static str), Reached>> = const { RefCell::new(BTreeMap::new()) };
}

/// An answer that says whether an input was taken.
pub(crate) trait Answer {
    fn is_taken(&self) -> bool;
}

impl<T, E> Answer for Result<T, E> {
    fn is_taken(&self) -> bool {
        self.is_ok()
    }
}

impl<T> Answer for Option<T> {
    fn is_taken(&self) -> bool {
        self.is_some()
    }
}

impl Answer for bool {
    fn is_taken(&self) -> bool {
        *self
    }
}

/// The function `name` of `file` has given this answer.
pub(crate) fn note(file: &'static str, name: &'static str, answer: &impl Answer) {
    REACHED.with_borrow_mut(|reached| {
        let reached = reached.entry((file, name)).or_default();
        match answer.is_taken() {
            true => reached.taken += 1,
            false => reached.refused += 1,
        }
    });
}

/// Something has happened on this side of a connection.
pub(crate) fn event(side: &'static str, what: &'static str) {
    note(side, what, &true);
}

/// What this thread has reached since the last call: files, or sides of a connection, and names.
pub fn take() -> BTreeMap<(&'static str, &'static str), Reached> {
    REACHED.take()
}
