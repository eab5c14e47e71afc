//! What arrived and is not handled yet.
//!
//! ```text
//!   batch: whole frames, frozen     block: what follows, contiguous up to the frame's end
//!   [frame][frame][frame]           [partial frame ........|   spare   ]
//! ```
//!
//! A frame is always contiguous: when the block has no room for the rest of a frame, what came of it moves once to a
//! block that has. An idle connection owns neither.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::buffer::{BLOCK_SIZE, Block};
use crate::stats::{Announced, MemoryBudget};

/// The first reads of a connection ask for this much, so that at most this much of a large frame is moved.
const FIRST_READ: usize = 16 * 1024;

/// After a large frame the next read asks for no more than this, enough to learn how long the next frame is.
const READ_AFTER_LARGE: usize = 512;

/// A frame that has been incomplete for [`RATE_AFTER`] must have come at this rate, in bytes a second (slow loris).
const MIN_RATE: u64 = 1024;

/// See [`MIN_RATE`].
const RATE_AFTER: Duration = Duration::from_secs(5);

/// Below this much spare room a read is not worth its system call.
const MIN_READ: usize = 2 * 1024;

#[derive(Default)]
pub(crate) struct Inbound {
    /// Whole frames that were cut off the block and not handed up yet: the handler asked to stop.
    pub(crate) batch: Bytes,
    pub(crate) block: Option<Block>,
    /// Bytes from the start of the block at which the frame there is whole or tells more; 0: unknown.
    pub(crate) need: usize,
    /// The frame budget ended before the block did.
    pub(crate) more_frames: bool,
    /// The last read got less than it asked for.
    pub(crate) short: bool,
    /// Since when a frame has been incomplete.
    pub(crate) partial_since: Option<Instant>,
    /// A whole frame has been seen.
    pub(crate) frames_done: bool,
    /// What there is lies in memory of its size.
    fitted: bool,
    /// How much that was when the block of the frame at the front was made to fit last; 0: it has not been.
    pub(crate) fitted_at: usize,
    /// The block has room for all of a large frame, which has not come yet. Boxed: few connections have one, and idle ones pay for its room.
    pub(crate) announced: Option<Box<Announced>>,
    /// Bytes moved from block to block, not yet counted.
    pub(crate) moved: usize,
    /// A read got all it asked for: the next ones ask for more.
    eager: bool,
    /// The read under way is for the rest of a large frame.
    reading_large: bool,
    last_was_large: bool,
}

impl Inbound {
    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        self.batch.len() + self.block.as_ref().map_or(0, Block::len)
    }

    /// Bytes of memory it keeps from others: all of the block that content lies in; what has come, if that has a block of its size or one
    /// that is there for an announced frame.
    pub(crate) fn pinned(&self) -> usize {
        match (&self.block, self.len()) {
            (_, len) if self.fitted || self.announced.is_some() => len,
            (Some(block), _) => block.size(), // the batch lies in it
            (None, 0) => 0,
            (None, len) => len.max(BLOCK_SIZE),
        }
    }

    /// Bytes that it keeps from others and does not need. A large frame has room to double since it was copied last: else one that
    /// trickles would be copied as often as its peer is quiet.
    pub(crate) fn waste(&self) -> usize {
        let len = self.len();
        match len > BLOCK_SIZE && len / 2 < self.fitted_at {
            true => 0,
            false => self.pinned() - len,
        }
    }

    /// About how much more it will keep from others when so many bytes more have come.
    pub(crate) fn growth(&self, bytes: usize) -> usize {
        let Some(block) = &self.block else { return bytes.max(BLOCK_SIZE) };
        let bytes = match self.need {
            0 => bytes,
            need => bytes.min(need.saturating_sub(block.len()) + READ_AFTER_LARGE),
        };
        if self.announced.is_some() {
            return bytes;
        }
        match !self.fitted && block.spare() >= bytes {
            true => 0,
            // An exact block is larger by up to an eighth.
            false => (self.room_in_steps(block.len()) / 8 * 9).saturating_sub(self.pinned()),
        }
    }

    /// The size of the next block for content of that length: what the frame needs, and no more than twice the content.
    fn room_in_steps(&self, len: usize) -> usize {
        self.room_at_once(len).clamp(BLOCK_SIZE, 2 * len.max(BLOCK_SIZE))
    }

    fn room_at_once(&self, len: usize) -> usize {
        self.need.max(len + MIN_READ) + READ_AFTER_LARGE
    }

    /// Copies what there is into memory of its size if a quarter or less of the block is needed, or if `most` or more is wasted; not from a
    /// block that is there for an announced frame.
    pub(crate) fn shrink(&mut self, most: usize) {
        if self.waste() < most.min(self.pinned() / 4 * 3).max(1) {
            return;
        }
        self.batch = Bytes::copy_from_slice(&self.batch);
        self.block = self.block.take().map(|block| {
            let len = block.len();
            block.resized(len)
        });
        (self.fitted, self.fitted_at) = (true, self.len());
        self.moved += self.fitted_at;
    }

    /// There are frames to hand up without reading.
    pub(crate) fn has_frames(&self) -> bool {
        !self.batch.is_empty() || self.more_frames
    }

    /// The block for the next read and how many bytes to ask for.
    pub(crate) fn room(&mut self, memory: &Arc<MemoryBudget>) -> (&mut Block, usize) {
        let mut most = if self.eager { BLOCK_SIZE } else { FIRST_READ };
        match self.block.take() {
            None => {
                self.block = Some(Block::take());
                self.fitted = false;
                self.reading_large = false;
                if self.last_was_large {
                    most = READ_AFTER_LARGE;
                }
            }
            Some(block) => {
                let large = self.need > BLOCK_SIZE / 2;
                let missing = self.need.saturating_sub(block.len());
                // One that has grown as far as it may is filled first.
                let is_early = block.size() <= BLOCK_SIZE || block.has_left();
                self.block = Some(if block.spare() < MIN_READ || missing > block.spare() && is_early {
                    self.moved += block.len();
                    (self.fitted, self.announced) = (false, None);
                    self.moved(block, memory)
                } else {
                    block
                });
                self.reading_large = large;
                if large {
                    // A little more than the rest: then the read comes up short, and no second one is needed to learn that nothing
                    // is left.
                    most = missing + READ_AFTER_LARGE;
                }
            }
        }
        let block = self.block.as_mut().expect("set above");
        let most = most.min(block.spare());
        (block, most)
    }

    /// When the incomplete frame is to be given up unless more of it comes: not whole within `limit`, or too slow.
    pub(crate) fn give_up_at(&self, limit: Duration) -> Option<Instant> {
        give_up_at(self.partial_since?, self.block.as_ref().map_or(0, Block::len), limit)
    }

    /// Notes how the read went.
    pub(crate) fn after_read(&mut self, asked: usize, got: usize) {
        self.short = got < asked;
        if got > 0 {
            self.last_was_large = self.reading_large;
        }
        if !self.short && asked >= FIRST_READ {
            self.eager = true;
        }
    }

    /// The content of `block` in a block with room for the rest of its frame; or, when too much is announced by others already, in
    /// one of twice the content.
    fn moved(&mut self, block: Block, memory: &Arc<MemoryBudget>) -> Block {
        let room = self.room_at_once(block.len());
        let fresh = Block::take();
        let mut roomy = if fresh.spare() >= room {
            fresh
        } else {
            fresh.release();
            if room > BLOCK_SIZE {
                self.announced = memory.announce(self.need.saturating_sub(block.len())).map(Box::new);
            }
            Block::exact(if self.announced.is_some() { room } else { self.room_in_steps(block.len()) })
        };
        roomy.put_slice(block.as_slice());
        block.release();
        roomy
    }

    /// Gives an empty block back; notes whether a frame is incomplete.
    pub(crate) fn settle(&mut self, now: Instant) {
        if self.block.as_ref().is_some_and(Block::is_empty) {
            self.block.take().expect("checked").release();
            self.need = 0;
        }
        if self.block.is_none() {
            (self.announced, self.fitted_at) = (None, 0);
            self.partial_since = None;
        } else if self.partial_since.is_none() {
            self.partial_since = Some(now);
        }
    }
}

/// When to give up what has been incomplete since then, of which so many bytes have come. `None`: never.
pub(super) fn give_up_at(since: Instant, arrived: usize, limit: Duration) -> Option<Instant> {
    let paid_for = Duration::from_millis((arrived as u64).saturating_mul(1000) / MIN_RATE + 1);
    since.checked_add(limit.min(paid_for.max(RATE_AFTER)))
}

impl Drop for Inbound {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            block.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::field_reassign_with_default)] // a type with `Drop` has no update syntax
    fn an_unfinished_frame_is_given_up_when_it_is_late_or_slow() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let check = |arrived: usize, limit: Duration, expected: Duration| {
            let mut block = Block::exact(arrived);
            block.put_slice(&vec![0; arrived]);
            let mut inbound = Inbound::default();
            inbound.block = Some(block);
            inbound.partial_since = Some(start);
            assert_eq!(inbound.give_up_at(limit), Some(start + expected), "{arrived} bytes, {limit:?}");
        };
        //    arrived    frame_progress   given up after
        check(1, ms(30_000), ms(5_000));
        check(5 * 1024, ms(30_000), ms(5_001));
        check(10 * 1024, ms(30_000), ms(10_001));
        check(1 << 20, ms(30_000), ms(30_000));
        check(1, ms(2_000), ms(2_000));
        check(1, Duration::MAX, ms(5_000));
        assert_eq!(Inbound::default().give_up_at(ms(1)), None);
    }

    /// The start of a frame of that length.
    fn begun(arrived: usize, need: usize) -> Inbound {
        let mut block = Block::take();
        block.put_slice(&vec![7; arrived]);
        let mut inbound = Inbound::default();
        (inbound.block, inbound.need) = (Some(block), need);
        inbound
    }

    fn more(inbound: &mut Inbound, memory: &Arc<MemoryBudget>, n: usize) {
        let (block, _) = inbound.room(memory);
        block.put_slice(&vec![7; n]);
    }

    fn all_there(inbound: &Inbound, len: usize) -> bool {
        inbound.block.as_ref().is_some_and(|block| block.as_slice() == vec![7; len])
    }

    /// T28: memory that was freed is used again, and resident, so that room for what is only announced must be bounded.
    #[test]
    fn a_frame_has_all_its_room_at_once_while_little_is_announced() {
        const FRAME: usize = 600 << 10;
        let memory = Arc::new(MemoryBudget::new(8 << 20)); // an eighth for what is announced: one such frame
        let mut first = begun(1000, FRAME);
        more(&mut first, &memory, 5000);
        assert!(first.block.as_ref().is_some_and(|block| block.size() >= FRAME));
        assert_eq!((first.pinned(), first.moved), (6000, 1000), "what has come of it");

        let mut second = begun(20 << 10, FRAME);
        let mut sizes = Vec::new();
        let mut len = 20 << 10;
        while len < FRAME {
            let (block, most) = second.room(&memory);
            let n = most.min(block.spare()).min(FRAME - len);
            block.put_slice(&vec![7; n]);
            len += n;
            sizes.push(second.pinned() >> 10);
        }
        assert!(all_there(&second, FRAME));
        assert_eq!(
            (sizes.first(), second.pinned() < 2 * FRAME),
            (Some(&128), true),
            "it grows with its content: {sizes:?} KiB"
        );
        assert!(second.moved <= 2 * FRAME, "{} bytes moved", second.moved);

        drop(first);
        let mut third = begun(20 << 10, FRAME);
        more(&mut third, &memory, 1);
        assert_eq!(third.pinned(), (20 << 10) + 1, "what one gives back another has");
    }

    /// I13: a byte now and then of a large frame had all of it copied twice each time.
    #[test]
    fn a_frame_that_trickles_is_copied_when_it_doubles() {
        const LEN: usize = 5 << 20;
        let memory = Arc::new(MemoryBudget::new(8 << 20)); // of which nothing is left for what is announced
        let _others = memory.announce(8 << 20);
        let mut inbound = begun(1000, LEN);
        let mut len = 1000;
        let mut trickle = |inbound: &mut Inbound, most: usize| {
            inbound.shrink(4 << 10); // it has been quiet
            let (block, _) = inbound.room(&memory);
            let n = block.spare().min(most);
            block.put_slice(&vec![7; n]);
            len += n;
            len
        };
        while trickle(&mut inbound, 20 << 10) < LEN / 2 {}
        (0..1000).for_each(|_| _ = trickle(&mut inbound, 1));
        assert!(all_there(&inbound, len));
        assert!(inbound.moved <= 6 * len, "{} KiB moved for {} KiB", inbound.moved >> 10, len >> 10);
    }

    #[test]
    fn a_block_that_is_mostly_empty_is_given_back() {
        let memory = Arc::new(MemoryBudget::new(8 << 20));
        let mut small = begun(1000, 2000);
        assert_eq!(small.pinned(), BLOCK_SIZE);
        small.shrink(usize::MAX);
        assert_eq!(small.pinned(), 1000);
        more(&mut small, &memory, 1000);
        assert!(all_there(&small, 2000), "it goes on in another");

        let mut whole = begun(1013, 0);
        whole.batch = whole.block.as_mut().expect("begun").split_to(13);
        let mut last = begun(13, 0);
        last.batch = last.block.take().expect("begun").split_to(13);
        let mut half = begun(BLOCK_SIZE / 2, BLOCK_SIZE);
        let mut announced = begun(1000, 600 << 10);
        more(&mut announced, &memory, 1);
        //                    before      after
        let table = [
            (&mut whole, BLOCK_SIZE, 1013),
            (&mut last, BLOCK_SIZE, 13),
            (&mut half, BLOCK_SIZE, BLOCK_SIZE),
            (&mut announced, 1001, 1001),
        ];
        for (inbound, before, after) in table {
            assert_eq!(inbound.pinned(), before);
            inbound.shrink(usize::MAX);
            assert_eq!(inbound.pinned(), after);
        }
        assert_eq!((&whole.batch[..], all_there(&whole, 1000)), ([7; 13].as_slice(), true));
    }
}
