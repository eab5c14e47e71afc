//! Bytes at rest: where they live, who owns them, and how they are shared instead of copied.
//!
//! ```text
//!   LinkBuffer
//!   ┌ chain: read-only, oldest first ─────────────────┐ ┌ tail ──────────────────┐
//!   │ Bytes ─► Bytes ─► Bytes (linked, foreign) ─► …  │ │ Block: content ┊ spare │
//!   └────┼────────┼───────────────────────────────────┘ └─────┼──────────────────┘
//!        └────────┴── slices of earlier blocks                 │ released
//!                                                              ▼
//!                         BlockPool of this thread:  free ◄─ lent   exact
//!                                                         try_reclaim
//! ```
//!
//! * A [`Block`] is one `BytesMut`. It always stays with its thread; what leaves it is `split_to(n).freeze()`, a `Bytes`
//!   over the same memory. That allocates once in a block's life, at its first split.
//! * A block whose slices are still out waits in `lent` until `try_reclaim` says that they are gone, whichever thread
//!   dropped them. There is no hook on drop, no cross-thread return list, and no unsafe code for it.
//! * The writable part of a block and its slices never overlap, so a slice is immutable although its block is being written.
//! * A slice of one byte keeps its whole block from being reused. Blocks are [`BLOCK_SIZE`] at most (frames beyond that
//!   have a block of their own), so a `bytes` field that is kept for long pins no more than that; who keeps small ones for
//!   long copies them (`Bytes::copy_from_slice`).
//! * Memory is never zeroed, and never shown before it was written: spare capacity is reachable as `MaybeUninit` only.

mod block;
#[cfg(feature = "testing")]
mod census;
mod chain;
mod frame_buf;
mod link;
mod pool;

pub use frame_buf::{FrameBuf, OwnedBuf};
pub use link::{LINK_MIN, LinkBuffer, Reserved};

pub(crate) use block::Block;
#[cfg(feature = "testing")]
pub(crate) use census::blocks_out;
pub(crate) use pool::{BLOCK_SIZE, MIN_SPARE, bound as bound_pool};
