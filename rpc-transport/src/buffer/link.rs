//! The buffer of a connection and of a message: a chain of shared segments, and a block being written.

use std::fmt;
use std::io::IoSlice;
use std::ops::{Bound, RangeBounds};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

use super::Block;
use super::chain::Chain;

/// From this many bytes on a segment is linked, below it copied: 8 KiB.
///
/// A linked segment costs a reference count, the end of the current segment, and an entry of the gathered write. Measured over loopback TCP, 16
/// messages a write and payloads warm in the cache, copying took 0.8 of linking's time at 2 KiB, 0.96 at 6 KiB, 1.24 at 8 KiB and 1.16 at 32 KiB. With
/// payloads that come from main memory linking does not win in time at any size, because somebody has to fetch them; it saves the memory of the copy.
pub const LINK_MIN: usize = 8 * 1024;

/// Least size, in bytes, of the block that [`LinkBuffer::shrink`] leaves.
const MIN_TAIL: usize = 4 * 1024;

/// Bytes that can be written through [`BufMut`] before it reports to be full: no frame is longer.
const MAX_LEN: usize = u32::MAX as usize;

/// A queue of bytes that shares memory instead of copying it.
///
/// Writers fill the tail or link foreign [`Bytes`]; readers take slices from the front. Both directions keep the memory where
/// it is, unless a range that spans segments is wanted in one piece. An empty buffer owns no memory after
/// [`release_if_empty`](LinkBuffer::release_if_empty), and none when new.
///
/// The tail is a 64 KiB block from the pool of the thread that writes; it goes to the pool of the thread that drops the buffer.
/// Call [`seal`](LinkBuffer::seal) before handing a buffer to another thread, so that blocks stay at home.
///
/// ```
/// # use bytes::{Buf, BufMut};
/// # use rpc_transport::LinkBuffer;
/// let mut buffer = LinkBuffer::new();
/// buffer.put_slice(b"GET /\r\n");
/// let line = buffer.until(b'\n').unwrap();
/// assert_eq!(line, "GET /\r\n");
/// assert!(buffer.is_empty());
/// ```
#[derive(Default)]
pub struct LinkBuffer {
    /// Before the tail's content.
    chain: Chain,
    tail: Option<Block>,
}

/// Looking and taking.
impl LinkBuffer {
    /// An empty buffer. It owns nothing and has allocated nothing.
    pub const fn new() -> LinkBuffer {
        LinkBuffer { chain: Chain::new(), tail: None }
    }

    /// Content in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.chain.bytes() + self.tail_len()
    }

    /// Whether there is no content.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pieces of memory that the content lies in: entries of a gathered write.
    pub fn segments(&self) -> usize {
        self.chain.segments() + usize::from(self.tail_len() > 0)
    }

    /// The first `n` bytes in one piece, without taking them; `None` when there are fewer.
    ///
    /// Copies only if they span segments, and then replaces those segments by the copy: asking again copies nothing, and at
    /// most `n` bytes are ever held for it.
    pub fn peek(&mut self, n: usize) -> Option<&[u8]> {
        if n > self.len() {
            return None;
        }
        if n > self.front().len() {
            let joined = self.join(n);
            self.chain.push_front(joined);
        }
        Some(&self.front()[..n])
    }

    /// Takes the first `n` bytes; `None` when there are fewer. Copies only if they span segments.
    #[inline]
    pub fn next(&mut self, n: usize) -> Option<Bytes> {
        if n > self.len() {
            return None;
        }
        Some(self.take_front(n))
    }

    /// Drops the first `n` bytes; `false`, and nothing dropped, when there are fewer.
    pub fn skip(&mut self, n: usize) -> bool {
        let enough = n <= self.len();
        if enough {
            self.drop_front(n);
        }
        enough
    }

    /// Takes everything through the first `delimiter`; `None` when there is none. Copies only if that spans segments.
    pub fn until(&mut self, delimiter: u8) -> Option<Bytes> {
        let n = self.find(delimiter)? + 1;
        Some(self.take_front(n))
    }

    /// The bytes of `range` as a buffer of its own that shares this one's memory; `None` when the range is not within the
    /// content. Takes and copies nothing.
    pub fn slice(&mut self, range: impl RangeBounds<usize>) -> Option<LinkBuffer> {
        let start = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at.checked_add(1)?,
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len(),
        };
        if start > end || end > self.len() {
            return None;
        }
        self.freeze_tail(); // only frozen memory can be shared
        let mut shared = LinkBuffer::new();
        let (mut skip, mut left) = (start, end - start);
        for segment in self.chain.iter() {
            if left == 0 {
                break;
            }
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let n = left.min(segment.len() - skip);
            shared.chain.push_back(segment.slice(skip..skip + n));
            (skip, left) = (0, left - n);
        }
        Some(shared)
    }

    /// Takes the first `n` bytes as a buffer of its own; `None` when there are fewer. Copies nothing.
    pub fn split_to(&mut self, n: usize) -> Option<LinkBuffer> {
        if n > self.len() {
            return None;
        }
        let mut taken = LinkBuffer::new();
        let mut left = n;
        while left > 0 {
            let part = self.take_piece(left);
            left -= part.len();
            taken.chain.push_back(part);
        }
        Some(taken)
    }

    /// Drops the content. The block that was being written stays for the next write.
    pub fn clear(&mut self) {
        self.chain.clear();
        if let Some(tail) = &mut self.tail {
            tail.reclaim();
        }
    }

    /// Points `slices` at the content, oldest first, and says how many were set: the arguments of a gathered write. Content in
    /// more pieces than `slices` has is left for the next one.
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut set = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(piece);
            set += 1;
        }
        set
    }

    /// Segments and the tail's content, none of them empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let tail = self.tail.as_ref().map(Block::as_slice).filter(|content| !content.is_empty());
        self.chain.iter().map(Bytes::as_ref).chain(tail)
    }

    /// The first piece; empty only if there is no content.
    #[inline]
    fn front(&self) -> &[u8] {
        match (self.chain.front(), &self.tail) {
            (Some(segment), _) => segment,
            (None, Some(tail)) => tail.as_slice(),
            (None, None) => &[],
        }
    }

    fn find(&self, byte: u8) -> Option<usize> {
        let mut before = 0;
        for piece in self.pieces() {
            if let Some(at) = piece.iter().position(|candidate| *candidate == byte) {
                return Some(before + at);
            }
            before += piece.len();
        }
        None
    }

    #[inline]
    fn tail_len(&self) -> usize {
        self.tail.as_ref().map_or(0, Block::len)
    }

    /// Takes `n` bytes, which are there.
    #[inline]
    fn take_front(&mut self, n: usize) -> Bytes {
        if n > self.front().len() { self.join(n) } else { self.take_piece(n) }
    }

    /// Takes up to `n` bytes from the first segment that has some. Copies nothing.
    fn take_piece(&mut self, n: usize) -> Bytes {
        if n == 0 {
            return Bytes::new();
        }
        if let Some(taken) = self.chain.take_front(n) {
            return taken;
        }
        match &mut self.tail {
            Some(tail) => tail.split_to(n.min(tail.len())),
            None => Bytes::new(),
        }
    }

    /// Takes `n` bytes, which are there and span segments, as a copy. The copy lies in a pool block, so it costs no allocation
    /// in steady state.
    #[cold]
    fn join(&mut self, n: usize) -> Bytes {
        let mut block = Block::exact(n);
        let mut left = n;
        while left > 0 {
            let piece = self.front();
            let part = left.min(piece.len());
            block.put_slice(&piece[..part]);
            self.drop_front(part);
            left -= part;
        }
        let joined = block.split_to(n);
        block.release();
        joined
    }

    /// Drops `n` bytes, which are there.
    #[inline]
    fn drop_front(&mut self, n: usize) {
        let left = if self.chain.is_empty() { n } else { n - self.chain.advance(n) };
        if left == 0 {
            return;
        }
        if let Some(tail) = &mut self.tail {
            if left < tail.len() {
                tail.advance(left);
            } else {
                tail.reclaim(); // all of it was read: write from the block's start again, if nothing else holds a part of it
            }
        }
    }
}

/// Writing.
impl LinkBuffer {
    /// Room for at least `n` bytes in one piece, to be filled and then [committed](Reserved::commit). Takes a block if the
    /// current one has less; more than a pool block's size gets a block of its own.
    pub fn reserve(&mut self, n: usize) -> Reserved<'_> {
        if self.tail.as_ref().is_none_or(|tail| tail.spare() < n) {
            self.renew_tail(n);
        }
        let block = self.tail.get_or_insert_with(Block::take);
        Reserved { start: block.len(), block }
    }

    /// Adds `bytes`: from [`LINK_MIN`] on by sharing them, below it by copying them.
    pub fn write_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < LINK_MIN {
            self.put_slice(&bytes);
        } else {
            self.link(bytes);
        }
    }

    /// Adds the content of `other`: segments from [`LINK_MIN`] on are moved, shorter ones copied, so that many small messages
    /// become one segment.
    pub fn append(&mut self, mut other: LinkBuffer) {
        if self.tail.is_none() && self.chain.is_empty() && (other.chain.is_empty() || other.len() >= LINK_MIN) {
            // Nothing of our own to keep: take over as it is.
            std::mem::swap(self, &mut other);
            return;
        }
        while let Some(segment) = other.chain.pop_front() {
            self.write_bytes(segment);
        }
        if let Some(tail) = &mut other.tail {
            if tail.len() < LINK_MIN {
                self.put_slice(tail.as_slice());
            } else {
                self.link(tail.split_to(tail.len()));
            }
        }
    }

    /// Detaches the content from this thread's block, and gives the rest of that block back to this thread's pool. The buffer
    /// then holds its content and nothing else: it can be read and dropped on any thread. Copies nothing; allocates nothing
    /// for a buffer of up to three segments.
    pub fn seal(&mut self) {
        self.freeze_tail();
        self.release_tail();
    }

    /// Gives the block back to this thread's pool if there is no content. An idle connection calls it and then owns no memory
    /// here.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() {
            self.chain.release();
            self.release_tail();
        }
    }

    /// Bytes of memory that it keeps from others: content, what is gone of the first segment, and the block being written.
    pub(crate) fn pinned(&self) -> usize {
        self.chain.pinned() + self.tail.as_ref().map_or(0, Block::size)
    }

    /// Gives the block being written back if a quarter or less of it is content. That moves to a block in proportion to all there is, so
    /// that what is added later is rarely moved again. What has left the block needs no copy: others write where there is room.
    pub(crate) fn shrink(&mut self) {
        let tail_len = self.tail_len();
        let room = (self.len() / 4).max(tail_len).max(MIN_TAIL);
        let wasteful = |tail: &mut Block| tail.size() > room && tail.len() <= tail.size() / 4;
        if let Some(tail) = self.tail.take_if(wasteful) {
            if tail.is_empty() {
                tail.release();
            } else {
                self.tail = Some(tail.resized(room));
            }
        }
    }

    /// Whether it has a block of its thread.
    #[cfg(feature = "testing")]
    pub(crate) fn has_block(&self) -> bool {
        self.tail.is_some()
    }

    /// Adds `bytes` by sharing them; the tail goes on in the same block.
    fn link(&mut self, bytes: Bytes) {
        self.freeze_tail();
        self.chain.push_back(bytes);
    }

    /// Moves the tail's content to the chain; the block keeps its spare capacity.
    fn freeze_tail(&mut self) {
        if let Some(tail) = &mut self.tail
            && !tail.is_empty()
        {
            let content = tail.split_to(tail.len());
            self.chain.push_back(content);
        }
    }

    /// Copies `src` to the end and gives the copy to be changed; `None`, and nothing is written, if the last block has no room for it.
    #[inline]
    pub fn put_in_place(&mut self, src: &[u8]) -> Option<&mut [u8]> {
        if self.tail.as_ref().is_none_or(|tail| tail.spare() < src.len()) && self.tail_with_room().spare() < src.len() {
            return None;
        }
        let tail = self.tail.as_mut()?;
        let at = tail.len();
        tail.put_slice(src);
        tail.as_mut_slice().get_mut(at..)
    }

    fn release_tail(&mut self) {
        self.tail.take().into_iter().for_each(Block::release);
    }

    /// Puts a block with room for `n` bytes, and some in any case, in the tail's place.
    #[cold]
    fn renew_tail(&mut self, n: usize) {
        self.freeze_tail();
        self.release_tail();
        self.tail = Some(if n <= super::MIN_SPARE { Block::take() } else { Block::exact(n) });
    }

    /// The tail, with room for at least one byte.
    #[inline]
    fn tail_with_room(&mut self) -> &mut Block {
        if self.tail.as_ref().is_none_or(|tail| tail.spare() == 0) {
            self.renew_tail(1);
        }
        self.tail.get_or_insert_with(Block::take)
    }

    /// Bytes that the tail has no room for.
    #[cold]
    fn put_in_blocks(&mut self, mut src: &[u8]) {
        while !src.is_empty() {
            let tail = self.tail_with_room();
            let (now, later) = src.split_at(src.len().min(tail.spare()));
            tail.put_slice(now);
            src = later;
        }
    }
}

impl Drop for LinkBuffer {
    fn drop(&mut self) {
        self.release_tail();
    }
}

impl Buf for LinkBuffer {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.front()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.gather(slices)
    }

    /// # Panics
    /// When there are fewer than `n` bytes, as [`Buf`] asks; [`skip`](LinkBuffer::skip) does not.
    #[inline]
    fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "advance by {n} of {} bytes", self.len());
        self.drop_front(n);
    }

    /// Shares memory; copies only what spans segments.
    ///
    /// # Panics
    /// When there are fewer than `n` bytes, as [`Buf`] asks; [`next`](LinkBuffer::next) does not.
    #[inline]
    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        assert!(n <= self.len(), "{n} bytes wanted, {} there", self.len());
        self.take_front(n)
    }
}

// SAFETY: `chunk_mut` is the spare capacity of the tail block and never empty; `advance_mut` adds to the content what the
// caller wrote there; nothing else moves the block between the two, because both borrow the buffer mutably.
unsafe impl BufMut for LinkBuffer {
    /// A fixed bound less the content; it is not a promise of memory.
    #[inline]
    fn remaining_mut(&self) -> usize {
        MAX_LEN.saturating_sub(self.len())
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.tail_with_room().spare_mut()
    }

    /// # Panics
    /// When `n` exceeds what `chunk_mut` offered.
    #[inline]
    unsafe fn advance_mut(&mut self, n: usize) {
        let spare = self.tail.as_ref().map_or(0, Block::spare);
        assert!(n <= spare, "{n} bytes written into room for {spare}");
        if let Some(tail) = &mut self.tail {
            // SAFETY: the caller wrote the first `n` bytes of `chunk_mut`, which is the spare capacity, and `n` fits.
            unsafe { tail.assume_filled(n) };
        }
    }

    /// Links pieces from [`LINK_MIN`] on as `src.copy_to_bytes` gives them, which for `Bytes`, `FrameBuf` and `LinkBuffer` is
    /// without a copy, and copies shorter ones.
    #[inline]
    fn put<T: Buf>(&mut self, mut src: T) {
        let n = src.remaining();
        if n < LINK_MIN && src.chunk().len() == n {
            self.put_slice(src.chunk());
            return src.advance(n);
        }
        while src.has_remaining() {
            let n = src.chunk().len();
            if n < LINK_MIN {
                self.put_slice(src.chunk());
                src.advance(n);
            } else {
                self.link(src.copy_to_bytes(n));
            }
        }
    }

    #[inline]
    fn put_slice(&mut self, src: &[u8]) {
        match &mut self.tail {
            Some(tail) if tail.spare() >= src.len() => tail.put_slice(src),
            _ => self.put_in_blocks(src),
        }
    }

    #[inline]
    fn put_u8(&mut self, byte: u8) {
        if !self.tail.as_mut().is_some_and(|tail| tail.push(byte)) {
            self.put_in_blocks(&[byte]);
        }
    }
}

impl fmt::Debug for LinkBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkBuffer")
            .field("len", &self.len())
            .field("segments", &self.segments())
            .field("spare", &self.tail.as_ref().map_or(0, Block::spare))
            .finish()
    }
}

impl From<Bytes> for LinkBuffer {
    /// Shares `bytes`, however few.
    fn from(bytes: Bytes) -> LinkBuffer {
        let mut buffer = LinkBuffer::new();
        buffer.chain.push_back(bytes);
        buffer
    }
}

impl PartialEq<[u8]> for LinkBuffer {
    fn eq(&self, mut other: &[u8]) -> bool {
        if self.len() != other.len() {
            return false;
        }
        self.pieces().all(|piece| {
            let (head, rest) = other.split_at(piece.len());
            other = rest;
            piece == head
        })
    }
}

impl PartialEq<&[u8]> for LinkBuffer {
    fn eq(&self, other: &&[u8]) -> bool {
        *self == **other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for LinkBuffer {
    fn eq(&self, other: &&[u8; N]) -> bool {
        *self == other[..]
    }
}

/// Room at the end of a [`LinkBuffer`], in one piece, from [`LinkBuffer::reserve`].
///
/// What is put here becomes content with [`commit`](Reserved::commit); dropped without it, the buffer is as it was before.
/// Until then it can be patched through [`filled_mut`](Reserved::filled_mut), such as a header's length after its body.
#[must_use = "what is not committed is discarded"]
pub struct Reserved<'a> {
    block: &'a mut Block,
    /// Content of the block that was there before.
    start: usize,
}

impl Reserved<'_> {
    /// Bytes that can still be put.
    #[inline]
    pub fn room(&self) -> usize {
        self.block.spare()
    }

    /// Puts `n` zero bytes and gives them to be written to.
    ///
    /// # Panics
    /// When there is no [`room`](Reserved::room) for them.
    pub fn put_zeroed(&mut self, n: usize) -> &mut [u8] {
        let before = self.block.len();
        self.put_bytes(0, n);
        &mut self.block.as_mut_slice()[before..]
    }

    /// What was put so far.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        &self.block.as_slice()[self.start..]
    }

    /// What was put so far, to patch it.
    #[inline]
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.block.as_mut_slice()[self.start..]
    }

    /// Makes what was put part of the buffer.
    #[inline]
    pub fn commit(mut self) {
        self.start = self.block.len();
    }
}

impl Drop for Reserved<'_> {
    #[inline]
    fn drop(&mut self) {
        self.block.truncate(self.start);
    }
}

// SAFETY: `chunk_mut` is the spare capacity of the block, and `advance_mut` adds to the content what the caller wrote there.
unsafe impl BufMut for Reserved<'_> {
    #[inline]
    fn remaining_mut(&self) -> usize {
        self.room()
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.block.spare_mut()
    }

    /// # Panics
    /// When `n` exceeds the room.
    #[inline]
    unsafe fn advance_mut(&mut self, n: usize) {
        assert!(n <= self.room(), "{n} bytes written into room for {}", self.room());
        // SAFETY: the caller wrote the first `n` bytes of `chunk_mut`, which is the spare capacity, and `n` fits.
        unsafe { self.block.assume_filled(n) };
    }

    /// # Panics
    /// When there is no room for `src`.
    #[inline]
    fn put_slice(&mut self, src: &[u8]) {
        assert!(src.len() <= self.room(), "{} bytes into room for {}", src.len(), self.room());
        self.block.put_slice(src);
    }

    /// # Panics
    /// When there is no room.
    #[inline]
    fn put_u8(&mut self, byte: u8) {
        assert!(self.block.push(byte), "a byte into room for none");
    }
}

impl fmt::Debug for Reserved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("filled", &self.filled().len()).field("room", &self.room()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::BLOCK_SIZE;
    use super::*;

    /// T28: what is counted of a peer that does not read is what its output keeps from others.
    #[test]
    fn what_is_gone_of_a_segment_and_a_half_empty_block_are_pinned() {
        let large = Bytes::from(vec![7; 100_000]);
        let mut buffer = LinkBuffer::new();
        buffer.put_slice(b"head");
        buffer.write_bytes(large.clone());
        buffer.put_slice(b"tail");
        assert_eq!((buffer.len(), buffer.pinned()), (100_008, 100_004 + BLOCK_SIZE));
        buffer.advance(90_004);
        assert_eq!((buffer.len(), buffer.pinned()), (10_004, 100_000 + BLOCK_SIZE));
        buffer.shrink();
        assert_eq!((buffer.len(), buffer.pinned()), (10_004, 100_000 + MIN_TAIL), "what is large is not copied");
        let there = buffer.pieces().map(<[u8]>::as_ptr).collect::<Vec<_>>();
        buffer.shrink();
        buffer.put_slice(b"more");
        buffer.shrink();
        assert!(buffer.pieces().map(<[u8]>::as_ptr).eq(there), "nothing is copied again");
        assert_eq!(buffer.next(10_000).map(|rest| rest.as_ptr()), Some(large[90_000..].as_ptr()));
        assert_eq!(buffer.next(8).as_deref(), Some(b"tailmore".as_slice()));
        buffer.shrink();
        buffer.release_if_empty();
        assert_eq!(buffer.pinned(), 0);
    }

    /// I13: a peer that does not take its replies, however small they are, costs no more for each than for the first.
    #[test]
    fn small_writes_are_rarely_moved_by_shrinking() {
        let (mut buffer, mut moves, mut at) = (LinkBuffer::new(), 0, std::ptr::null());
        for _ in 0..4000 {
            buffer.put_slice(&[7; 40]);
            buffer.shrink();
            let last = buffer.tail.as_ref().map_or(std::ptr::null(), |tail| tail.as_slice().as_ptr());
            moves += usize::from(std::mem::replace(&mut at, last) != last);
        }
        assert_eq!(buffer.len(), 160_000);
        assert!(moves <= 16 && buffer.segments() <= 16, "{moves} moves, {} segments", buffer.segments());
    }
}
