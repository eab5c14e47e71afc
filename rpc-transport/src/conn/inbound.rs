//! What arrived and is not handled yet.
//!
//! ```text
//!   batch: whole frames, frozen     block: what follows, contiguous up to the frame's end
//!   [frame][frame][frame]           [partial frame ........|   spare   ]
//! ```
//!
//! A frame is always contiguous: when the block has no room for the rest of a frame, what came of it moves once to a
//! block that has. An idle connection owns neither.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::buffer::{BLOCK_SIZE, Block};

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

    /// There are frames to hand up without reading.
    pub(crate) fn has_frames(&self) -> bool {
        !self.batch.is_empty() || self.more_frames
    }

    /// The block for the next read and how many bytes to ask for.
    pub(crate) fn room(&mut self) -> (&mut Block, usize) {
        let mut most = if self.eager { BLOCK_SIZE } else { FIRST_READ };
        match self.block.take() {
            None => {
                self.block = Some(Block::take());
                self.reading_large = false;
                if self.last_was_large {
                    most = READ_AFTER_LARGE;
                }
            }
            Some(block) => {
                let large = self.need > BLOCK_SIZE / 2;
                let missing = self.need.saturating_sub(block.len());
                self.block = Some(if missing > block.spare() || block.spare() < MIN_READ {
                    self.moved += block.len();
                    moved(block, self.need)
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
        let since = self.partial_since?;
        let arrived = self.block.as_ref().map_or(0, Block::len) as u64;
        let paid_for = Duration::from_millis(arrived.saturating_mul(1000) / MIN_RATE + 1);
        since.checked_add(limit.min(paid_for.max(RATE_AFTER))) // `None`: never
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

    /// Gives an empty block back; notes whether a frame is incomplete.
    pub(crate) fn settle(&mut self, now: Instant) {
        if self.block.as_ref().is_some_and(Block::is_empty) {
            self.block.take().expect("checked").release();
            self.need = 0;
        }
        if self.block.is_none() {
            self.partial_since = None;
        } else if self.partial_since.is_none() {
            self.partial_since = Some(now);
        }
    }
}

/// The content of `block` in a block with room for `need` bytes in all.
fn moved(block: Block, need: usize) -> Block {
    let fresh = Block::take();
    let room = need.max(block.len() + MIN_READ) + READ_AFTER_LARGE;
    let mut roomy = if fresh.spare() >= room {
        fresh
    } else {
        fresh.release();
        Block::exact(room)
    };
    roomy.put_slice(block.as_slice());
    block.release();
    roomy
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
}
