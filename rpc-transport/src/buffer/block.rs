//! One block of memory: filled from a socket or by a writer, left as `Bytes`.

use std::io;

use bytes::buf::UninitSlice;
use bytes::{Buf, Bytes, BytesMut};

use super::pool;
use crate::sync::put_back;

/// What released memory is filled with under test.
#[cfg(feature = "testing")]
const POISON: u8 = 0xdd;

/// One `BytesMut` that belongs to this thread's pool.
///
/// ```text
///   size ─────────────────────────────────────────────┐
///   │ slices that left │ content │ spare              │
/// ```
///
/// Invariant: content and spare are touched by the owner of the block only; slices lie before them.
/// Dropping a block frees it; [`release`](Block::release) gives it back.
pub(crate) struct Block {
    buf: BytesMut,
    /// Capacity when nothing has left the block.
    size: usize,
}

impl Block {
    /// A block from this thread's pool: no content, and at least `MIN_SPARE` bytes of room. Allocates only if no block of the
    /// pool can be reclaimed.
    pub(crate) fn take() -> Block {
        pool::take()
    }

    /// A block with room for at least `len` bytes in one piece, for one large frame. Neither zeroed nor touched, so that it
    /// costs address space until bytes arrive. Allocates only if no block of the pool is large enough and unused.
    pub(crate) fn exact(len: usize) -> Block {
        pool::take_room(len)
    }

    /// The content in a block of `size`, made for it and not of the pool.
    pub(crate) fn resized(self, size: usize) -> Block {
        let mut fitting = Block::allocate(size);
        fitting.put_slice(self.as_slice());
        self.release();
        fitting
    }

    /// Whether slices of it are out, or were.
    pub(crate) fn has_left(&self) -> bool {
        self.buf.capacity() < self.size
    }

    /// Gives the block back to this thread's pool. Its content is discarded; slices that left it stay valid, and the block
    /// waits for them.
    pub(crate) fn release(mut self) {
        #[cfg(feature = "testing")]
        self.buf.fill(POISON);
        self.buf.clear();
        pool::release(self);
    }

    pub(super) fn allocate(size: usize) -> Block {
        #[cfg(feature = "testing")]
        super::census::add(1);
        Block { buf: BytesMut::with_capacity(size), size }
    }

    /// Content in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Bytes that can be added before the block is full.
    #[inline]
    pub(crate) fn spare(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Capacity of the whole block, in bytes, with what has left it.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The content.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buf
    }

    /// The content, writable: no slice of it is out.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.buf
    }

    /// Receives once into the spare capacity, at most `max` bytes. `Ok(0)` is end of file.
    ///
    /// # Errors
    /// What `recv` reports, `WouldBlock` and `Interrupted` included; and `InvalidInput` when there is no room or `max` is 0,
    /// because a read of nothing would look like end of file.
    pub(crate) fn fill_from(&mut self, socket: &socket2::SockRef<'_>, max: usize) -> io::Result<usize> {
        let spare = self.buf.spare_capacity_mut();
        let room = spare.len().min(max);
        if room == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no room to receive into"));
        }
        let read = socket.recv(&mut spare[..room])?;
        let len = self.buf.len() + read;
        // SAFETY: `recv` reported that it wrote the first `read` bytes of the spare capacity.
        unsafe { self.buf.set_len(len) };
        Ok(read)
    }

    /// Adds `src` to the content. The caller has seen that it fits; otherwise the block moves to a larger allocation.
    #[inline]
    pub(crate) fn put_slice(&mut self, src: &[u8]) {
        debug_assert!(src.len() <= self.spare(), "{} bytes into a block with room for {}", src.len(), self.spare());
        if src.len() > self.spare() {
            self.grow(src.len());
        }
        self.buf.extend_from_slice(src);
    }

    /// Adds one byte; `false` when the block is full.
    #[inline]
    pub(super) fn push(&mut self, byte: u8) -> bool {
        let Some(next) = self.buf.spare_capacity_mut().first_mut() else {
            return false;
        };
        next.write(byte);
        let len = self.buf.len() + 1;
        // SAFETY: the byte at the old length was written just now, and lies within the capacity.
        unsafe { self.buf.set_len(len) };
        true
    }

    #[cold]
    fn grow(&mut self, additional: usize) {
        self.buf.reserve(additional);
        self.size = self.buf.capacity();
    }

    /// Detaches the first `n` bytes of the content. Shares the memory: nothing is copied, and only the first split of a
    /// block's life allocates (its reference count).
    ///
    /// # Panics
    /// When `n` exceeds the content.
    #[inline]
    pub(crate) fn split_to(&mut self, n: usize) -> Bytes {
        let slice = self.buf.split_to(n);
        if put_back!("B01") {
            // SAFETY: none, that is the bug: the slice is not counted, and its memory is used again under its holder.
            return Bytes::from_static(unsafe { &*std::ptr::from_ref::<[u8]>(&slice) });
        }
        slice.freeze()
    }

    /// Drops the first `n` bytes of the content.
    #[inline]
    pub(super) fn advance(&mut self, n: usize) {
        self.buf.advance(n);
    }

    /// Drops the content beyond `len`.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
    }

    /// Discards the content; if no slice is out the block has its whole size again, and the answer is `true`.
    #[inline]
    pub(super) fn reclaim(&mut self) -> bool {
        self.buf.clear();
        #[cfg(feature = "testing")]
        let before = self.buf.capacity();
        let whole = self.buf.try_reclaim(self.size);
        #[cfg(feature = "testing")]
        self.poison(self.buf.capacity() - before);
        whole
    }

    /// T40: overwrites the first `n` bytes of an empty block, which were content or slices before. They must never be seen again.
    #[cfg(feature = "testing")]
    fn poison(&mut self, n: usize) {
        self.buf.resize(n, POISON); // not byte by byte: without optimisation that would be most of what some tests do
        self.buf.clear();
    }

    /// The spare capacity.
    #[inline]
    pub(super) fn spare_mut(&mut self) -> &mut UninitSlice {
        self.buf.spare_capacity_mut().into()
    }

    /// Makes the first `n` bytes of the spare capacity content.
    ///
    /// # Safety
    /// They were written, and `n` is at most [`spare`](Block::spare).
    #[inline]
    pub(super) unsafe fn assume_filled(&mut self, n: usize) {
        let len = self.buf.len() + n;
        // SAFETY: the caller's promise.
        unsafe { self.buf.set_len(len) };
    }
}

#[cfg(feature = "testing")]
impl Drop for Block {
    fn drop(&mut self) {
        super::census::add(-1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::os::unix::net::UnixStream;

    use socket2::SockRef;

    use super::super::BLOCK_SIZE;
    use super::*;

    #[test]
    fn a_block_is_filled_from_a_socket_up_to_its_budget() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = SockRef::from(&socket);
        let mut block = Block::take();
        assert_eq!(block.fill_from(&socket, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"hello, world").unwrap();
        assert_eq!(block.fill_from(&socket, 5).unwrap(), 5);
        assert_eq!(block.as_slice(), b"hello");
        assert_eq!(block.fill_from(&socket, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(block.fill_from(&socket, usize::MAX).unwrap(), 7);
        assert_eq!(block.split_to(7), "hello, ");
        assert_eq!(block.as_slice(), b"world");
        drop(peer);
        assert_eq!(block.fill_from(&socket, 1).unwrap(), 0, "end of file");
        assert_eq!(block.len(), 5);
    }

    /// T40: what was released cannot be read by who gets the memory next, not even by mistake.
    #[cfg(feature = "testing")]
    #[test]
    fn released_memory_is_poisoned() {
        let mut block = Block::allocate(64);
        block.put_slice(b"slice and secret");
        let slice = block.split_to(6);
        assert!(!block.reclaim(), "a slice is out");
        drop(slice);
        assert!(block.reclaim());
        let spare = block.spare_mut();
        // SAFETY: all of it was content before, and `reclaim` has written over it.
        let was = unsafe { std::slice::from_raw_parts(spare.as_mut_ptr(), 6) };
        assert_eq!(was, [POISON; 6]);
    }

    /// B08: a full block is no end of file.
    #[test]
    fn b08_no_room_is_an_error() {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.write_all(b"something").unwrap();
        let mut block = Block::exact(BLOCK_SIZE);
        block.put_slice(&vec![0; block.spare()]);
        assert!(!block.push(1));
        let error = block.fill_from(&SockRef::from(&socket), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
