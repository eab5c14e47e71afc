//! The blocks of one thread that nobody writes to.
//!
//! ```text
//!              release                          release, slices out and little room left
//!   Block ───────────────► free (LIFO)    Block ───────────────► lent (oldest asked first)
//!   take  ◄───────────────                take  ◄─────────────── once `try_reclaim` succeeds
//!
//!   Block over BLOCK_SIZE ◄──────────────► exact (LIFO, bounded in blocks and bytes)
//! ```
//!
//! All lists are bounded; what does not fit is dropped, and its memory goes when the last slice goes.
//! During the destruction of a thread's locals there is no pool any more: blocks are then allocated and dropped.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::Block;
use crate::sync::thread_local;

/// Size of a pool block in bytes. A small `bytes` field that outlives its call pins this much.
pub(crate) const BLOCK_SIZE: usize = 64 * 1024;

/// Least spare capacity, in bytes, of a block that [`Block::take`] returns; a block with less is not worth a read.
pub(crate) const MIN_SPARE: usize = 4 * 1024;

/// Most blocks that wait to be used, a thread: 4 MiB, less under a small budget.
const FREE_MAX: usize = 64;

/// Most blocks that wait for their slices, a thread: 8 MiB, less under a small budget. Beyond it the one that has waited longest is given up.
const LENT_MAX: usize = 128;

/// Most lent blocks asked in one `take`; those that refuse go to the end of the queue.
const ASK_MAX: usize = 8;

/// What even the smallest budget leaves of either, a thread: 256 KiB. The pool serves everything on its thread for as long as that lives,
/// and without a spare block each connection's read would allocate one, because of one server that has perhaps long gone.
const SPARE_MIN: usize = 4;

/// Most exact blocks kept, a thread.
const EXACT_MAX: usize = 32;

/// Most bytes kept in exact blocks, a thread; less under a small budget. A frame of more than that is never kept.
const EXACT_BYTES_MAX: usize = 16 * 1024 * 1024;

thread_local! {
    static POOL: RefCell<BlockPool> = const { RefCell::new(BlockPool::new()) };
}

/// A block with at least [`MIN_SPARE`] of room.
pub(super) fn take() -> Block {
    with_pool(BlockPool::take).unwrap_or_else(|| Block::allocate(BLOCK_SIZE))
}

/// A block with at least `len` of room.
pub(super) fn take_room(len: usize) -> Block {
    let size = size_for(len);
    with_pool(|pool| pool.take_room(len)).unwrap_or_else(|| Block::allocate(size))
}

/// Takes back a block without content.
pub(super) fn release(block: Block) {
    // Without a pool (thread teardown) the closure is dropped, and the block with it.
    let _ = POOL.try_with(move |pool| pool.borrow_mut().release(block));
}

/// Tells this thread's pool of a budget of bytes for connections: from now on its spare blocks are in proportion to the smallest
/// one, but for a few. What waits here is resident and counted nowhere, so it must stay little beside what is counted.
pub(crate) fn bound(budget: usize) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if budget < pool.budget {
            pool.budget = budget;
            pool.trim();
        }
    });
}

fn with_pool(f: impl FnOnce(&mut BlockPool) -> Option<Block>) -> Option<Block> {
    POOL.try_with(|pool| f(&mut pool.borrow_mut())).ok().flatten()
}

/// Capacity to allocate for `len` bytes: rounded up by at most an eighth, so that frames of about one size share blocks.
fn size_for(len: usize) -> usize {
    if len <= BLOCK_SIZE {
        return BLOCK_SIZE;
    }
    let step = (1usize << len.ilog2()) / 8;
    len.checked_next_multiple_of(step).unwrap_or(len)
}

struct BlockPool {
    free: Vec<Block>,
    lent: VecDeque<Block>,
    exact: Vec<Block>,
    exact_bytes: usize,
    /// See [`bound`].
    budget: usize,
}

impl BlockPool {
    const fn new() -> BlockPool {
        BlockPool { free: Vec::new(), lent: VecDeque::new(), exact: Vec::new(), exact_bytes: 0, budget: usize::MAX }
    }

    fn free_max(&self) -> usize {
        (self.budget / 64 / BLOCK_SIZE).clamp(SPARE_MIN, FREE_MAX)
    }

    fn lent_max(&self) -> usize {
        (self.budget / 32 / BLOCK_SIZE).clamp(SPARE_MIN, LENT_MAX)
    }

    fn exact_bytes_max(&self) -> usize {
        EXACT_BYTES_MAX.min(self.budget / 16)
    }

    /// Gives up what is over the bounds, the oldest first.
    fn trim(&mut self) {
        let (free, lent) = (self.free_max(), self.lent_max());
        self.free.drain(..self.free.len().saturating_sub(free));
        self.lent.drain(..self.lent.len().saturating_sub(lent));
        while self.exact.len() > EXACT_MAX || self.exact_bytes > self.exact_bytes_max() {
            let oldest = self.exact.remove(0);
            self.exact_bytes -= oldest.size();
        }
    }

    fn take(&mut self) -> Option<Block> {
        // The warmest block first, though part of it may be out: more frames in one block mean fewer blocks pinned.
        while let Some(mut block) = self.free.pop() {
            if block.reclaim() || block.spare() >= MIN_SPARE {
                return Some(block);
            }
            self.lend(block);
        }
        self.ask_lent()
    }

    fn take_room(&mut self, len: usize) -> Option<Block> {
        if len > BLOCK_SIZE {
            return self.take_exact(len);
        }
        let has_room = |block: &mut Block| {
            block.reclaim();
            block.spare() >= len
        };
        let room = self.free.iter_mut().rposition(has_room);
        match room {
            Some(i) => Some(self.free.remove(i)),
            None => self.ask_lent(),
        }
    }

    fn take_exact(&mut self, len: usize) -> Option<Block> {
        // Up to twice the size: a 1 MiB block under a 70 KiB frame would be missing when the next 1 MiB frame comes.
        let fits = |block: &Block| block.size() >= len && block.size() / 2 <= len;
        let i = self.exact.iter_mut().rposition(|block| fits(block) && block.reclaim())?;
        let block = self.exact.remove(i);
        self.exact_bytes -= block.size();
        Some(block)
    }

    fn ask_lent(&mut self) -> Option<Block> {
        for _ in 0..self.lent.len().min(ASK_MAX) {
            let mut block = self.lent.pop_front()?;
            if block.reclaim() {
                return Some(block);
            }
            self.lent.push_back(block);
        }
        None
    }

    fn release(&mut self, mut block: Block) {
        if block.size() < BLOCK_SIZE {
            return; // made to measure
        }
        if block.size() > BLOCK_SIZE {
            self.keep_exact(block);
        } else if block.spare() >= MIN_SPARE || block.reclaim() {
            self.keep_free(block); // whoever takes it asks whether all of it can be had
        } else {
            self.lend(block);
        }
    }

    fn keep_free(&mut self, block: Block) {
        if self.free.len() < self.free_max() {
            self.free.push(block);
        }
    }

    fn lend(&mut self, block: Block) {
        self.lent.push_back(block);
        if self.lent.len() > self.lent_max() {
            self.lent.pop_front();
        }
    }

    fn keep_exact(&mut self, block: Block) {
        if block.size() > self.exact_bytes_max() {
            return; // it would only push out all others
        }
        self.exact_bytes += block.size();
        self.exact.push(block);
        self.trim();
    }
}

/// Blocks that this thread's pool holds.
#[cfg(feature = "testing")]
pub(super) fn held() -> usize {
    POOL.with(|pool| {
        let pool = pool.borrow();
        pool.free.len() + pool.lent.len() + pool.exact.len()
    })
}

/// What this thread's pool holds, for tests.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolCounts {
    pub(crate) free: usize,
    pub(crate) lent: usize,
    pub(crate) exact: usize,
    pub(crate) exact_bytes: usize,
}

#[cfg(test)]
pub(crate) fn counts() -> PoolCounts {
    POOL.with(|pool| {
        let pool = pool.borrow();
        PoolCounts {
            free: pool.free.len(),
            lent: pool.lent.len(),
            exact: pool.exact.len(),
            exact_bytes: pool.exact_bytes,
        }
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Runs in a thread of its own, and so with an empty pool.
    fn with_empty_pool(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn filled(n: usize) -> Block {
        let mut block = Block::exact(n);
        block.put_slice(&vec![1; n]);
        block
    }

    fn lists() -> (usize, usize, usize) {
        let PoolCounts { free, lent, exact, .. } = counts();
        (free, lent, exact)
    }

    /// T28: the spare blocks of every thread came on top of a small budget, 20 MiB a thread beside one of 32 MiB.
    #[test]
    fn a_small_budget_keeps_the_pool_small() {
        with_empty_pool(|| {
            let fill = || {
                let some: Vec<_> = (0..40).map(|_| (filled(10), filled(1 << 20))).collect();
                some.into_iter().for_each(|(small, large)| {
                    small.release();
                    large.release();
                });
            };
            fill();
            let PoolCounts { free, exact_bytes, .. } = counts();
            assert!(free == 40 && exact_bytes >= 14 << 20, "{:?}", counts());
            bound(32 << 20);
            bound(256 << 20); // a larger one of somebody else's changes nothing
            for _ in 0..2 {
                let PoolCounts { free, exact_bytes, .. } = counts();
                assert!((1..=8).contains(&free) && exact_bytes <= 2 << 20, "{:?}", counts());
                fill();
            }
            bound(1);
            fill();
            assert_eq!(
                (lists(), counts().exact_bytes),
                ((SPARE_MIN, 0, 0), 0),
                "a few are left for all others on the thread"
            );
            let taken: Vec<_> = (0..SPARE_MIN + 1).map(|_| Block::take()).collect();
            assert_eq!(lists(), (0, 0, 0));
            let slices: Vec<_> = taken
                .into_iter()
                .map(|mut block| {
                    block.put_slice(&[0; BLOCK_SIZE]);
                    let slice = block.split_to(BLOCK_SIZE);
                    block.release();
                    slice
                })
                .collect();
            assert_eq!((slices.len(), lists()), (SPARE_MIN + 1, (0, SPARE_MIN, 0)));
        });
    }

    #[test]
    fn a_block_is_used_again_when_its_slices_are_gone() {
        with_empty_pool(|| {
            let mut block = filled(BLOCK_SIZE);
            let slice = block.split_to(BLOCK_SIZE);
            block.release();
            assert_eq!(lists(), (0, 1, 0));
            let other = Block::take();
            assert_eq!(lists(), (0, 1, 0), "the lent block was asked, and refused");
            let memory = slice.as_ptr();
            drop(slice);
            let mut again = Block::take();
            assert_eq!((again.spare(), lists()), (BLOCK_SIZE, (0, 0, 0)));
            again.put_slice(b"x");
            assert_eq!(again.as_slice().as_ptr(), memory);
            again.release();
            other.release();
            assert_eq!(lists(), (2, 0, 0));
        });
    }

    #[test]
    fn the_rest_of_a_block_is_used_while_slices_are_out() {
        with_empty_pool(|| {
            let mut block = filled(1000);
            let slice = block.split_to(1000);
            block.release();
            assert_eq!(lists(), (1, 0, 0));
            let rest = Block::take();
            assert_eq!(rest.spare(), BLOCK_SIZE - 1000);
            rest.release();
            drop(slice);
            assert_eq!(Block::take().spare(), BLOCK_SIZE);
        });
    }

    #[test]
    fn room_is_at_least_what_was_asked_for() {
        with_empty_pool(|| {
            let mut slices = Vec::new();
            for n in [1, MIN_SPARE, MIN_SPARE + 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 1 << 20, 5] {
                let mut block = filled(n);
                assert!(Block::take().spare() >= MIN_SPARE);
                slices.push(block.split_to(n));
                block.release();
            }
            assert!(slices.iter().all(|slice| slice.iter().all(|byte| *byte == 1)));
        });
    }

    #[test]
    fn an_exact_block_serves_frames_of_about_its_size() {
        with_empty_pool(|| {
            filled(1 << 20).release();
            assert_eq!(lists(), (0, 0, 1));
            let small = Block::exact(BLOCK_SIZE + 1);
            assert_eq!(lists(), (0, 0, 1), "too large for a small frame");
            let equal = Block::exact((1 << 20) - 5000);
            assert_eq!(lists(), (0, 0, 0));
            drop((small, equal));
        });
    }

    #[test]
    fn all_lists_are_bounded() {
        with_empty_pool(|| {
            let blocks: Vec<_> = (0..FREE_MAX + 9).map(|_| Block::take()).collect();
            blocks.into_iter().for_each(Block::release);
            assert_eq!(counts().free, FREE_MAX);

            let mut blocks: Vec<_> = (0..LENT_MAX + 9).map(|_| filled(BLOCK_SIZE)).collect();
            let slices: Vec<Bytes> = blocks.iter_mut().map(|block| block.split_to(BLOCK_SIZE)).collect();
            blocks.into_iter().for_each(Block::release);
            assert_eq!(counts().lent, LENT_MAX);
            drop(slices);

            let blocks: Vec<_> = (0..EXACT_MAX + 9).map(|_| Block::exact(100_000)).collect();
            blocks.into_iter().for_each(Block::release);
            assert_eq!(counts().exact, EXACT_MAX);
            let blocks: Vec<_> = (0..5).map(|_| Block::exact(5 << 20)).collect();
            blocks.into_iter().for_each(Block::release);
            assert_eq!((counts().exact, counts().exact_bytes), (3, 15 << 20));
            Block::exact(EXACT_BYTES_MAX + 1).release();
            assert_eq!((counts().exact, counts().exact_bytes), (3, 15 << 20));
        });
    }

    /// B12: nothing stays behind in the pool's books when blocks come back in any order.
    #[test]
    fn b12_books_balance_after_use() {
        with_empty_pool(|| {
            for round in 0..200 {
                let blocks: Vec<_> = (0..1 + round % 7).map(|i| Block::exact(BLOCK_SIZE + i * 40_000)).collect();
                blocks.into_iter().for_each(Block::release);
            }
            let held: usize = POOL.with(|pool| pool.borrow().exact.iter().map(Block::size).sum());
            assert_eq!(counts().exact_bytes, held);
        });
    }

    /// B23: what was in a block before cannot be seen by who takes it next.
    #[test]
    fn b23_a_recycled_block_has_no_content() {
        with_empty_pool(|| {
            for n in [10, BLOCK_SIZE, 1 << 20] {
                filled(n).release();
                let block = Block::exact(n);
                assert!(block.is_empty());
                assert_eq!(block.as_slice(), b"");
            }
        });
    }

    #[test]
    fn there_is_life_without_a_pool() {
        struct AtExit;
        impl Drop for AtExit {
            fn drop(&mut self) {
                let mut block = filled(10);
                drop(block.split_to(5));
                block.release();
            }
        }
        std::thread_local!(static LATE: AtExit = const { AtExit });
        // Destroyed after the pool, which is made later.
        std::thread::spawn(|| {
            LATE.with(|_| ());
            Block::take().release();
        })
        .join()
        .unwrap();
        std::thread::spawn(|| {
            Block::take().release();
            LATE.with(|_| ());
        })
        .join()
        .unwrap();
    }
}

/// `bytes` itself is checked by its own models; here its operations are single steps, and what goes on between them is ours.
#[cfg(all(test, model = "loom"))]
mod model {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::sync::atomic::{AtomicUsize, Ordering};
    use crate::sync::model::explore;
    use crate::sync::thread;

    /// Where another thread may go on.
    #[derive(Clone)]
    struct Step(Arc<AtomicUsize>);

    impl Step {
        fn new() -> Step {
            Step(Arc::new(AtomicUsize::new(0)))
        }

        fn take(&self) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn written(step: &Step, fill: u8, len: usize) -> Block {
        let mut block = Block::take();
        step.take();
        block.put_slice(&vec![fill; len]);
        block
    }

    fn holds(step: &Step, slice: Bytes, fill: u8) {
        for _ in 0..2 {
            assert!(slice.iter().all(|byte| *byte == fill), "a slice changed under its holder");
            step.take();
        }
    }

    /// B01, I16: slices live and die on two other threads while their block is released and used again, for little and for all of it.
    #[test]
    fn pool_slices() {
        for len in [8, BLOCK_SIZE - MIN_SPARE / 2] {
            explore(&format!("pool_slices of {len} bytes"), move || {
                let step = Step::new();
                let mut block = written(&step, 1, len);
                let slices = [block.split_to(len / 2), block.split_to(len / 2)];
                let others = slices.map(|slice| {
                    let step = step.clone();
                    thread::spawn(move || holds(&step, slice, 1))
                });
                block.release();
                step.take();
                let mut again = written(&step, 2, len);
                let mine = again.split_to(len);
                again.release();
                let last = written(&step, 3, 8);
                holds(&step, mine, 2);
                assert_eq!(last.as_slice(), [3; 8], "a block in two owners");
                last.release();
                others.into_iter().for_each(|thread| thread.join().unwrap());
            });
        }
    }

    /// B01: a block that goes to another thread belongs to that thread's pool from its release on, wherever its slices are.
    #[test]
    fn pool_handover() {
        explore("pool_handover", || {
            let step = Step::new();
            let mut block = written(&step, 1, 16);
            let slice = block.split_to(8);
            let there = {
                let step = step.clone();
                thread::spawn(move || {
                    assert_eq!(block.as_slice(), [1; 8]);
                    block.release();
                    step.take();
                    let mut again = written(&step, 2, 16);
                    step.take();
                    let sent = again.split_to(16);
                    again.release();
                    sent
                })
            };
            let own = written(&step, 3, 16);
            holds(&step, slice, 1);
            assert_eq!(own.as_slice(), [3; 16], "a block in two owners");
            own.release();
            holds(&step, there.join().unwrap(), 2);
        });
    }
}
