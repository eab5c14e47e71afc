//! How many blocks a thread has, in its pool and out of it.

use std::cell::Cell;

use super::pool;

thread_local! {
    static BLOCKS: Cell<isize> = const { Cell::new(0) };
}

pub(super) fn add(n: isize) {
    // At a thread's end there is nobody to ask any more.
    let _ = BLOCKS.try_with(|blocks| blocks.set(blocks.get() + n));
}

/// Blocks that this thread's pool has given out and not got back. Those that went to other threads count here until they are dropped
/// there, and then there.
pub(crate) fn blocks_out() -> usize {
    let pooled = pool::held();
    BLOCKS.with(Cell::get).unsigned_abs().saturating_sub(pooled)
}
