//! A frame under decoding: plain slices for numbers, shared memory for `bytes` fields.

use bytes::{Buf, Bytes};

/// A part of a `Bytes`, read through [`Buf`] without touching its reference count.
///
/// Advancing moves a slice, nothing else. Only [`copy_to_bytes`](Buf::copy_to_bytes), which decoders call for a `bytes`
/// field, counts a reference: it returns a slice of the owner and copies nothing. One `Bytes` can thus hold a whole read
/// from a socket with many frames in it, each decoded through its own `FrameBuf`.
///
/// ```
/// # use bytes::{Buf, Bytes};
/// # use rpc_transport::FrameBuf;
/// let read = Bytes::from_static(b"\x05hello, and the next frame");
/// let mut frame = FrameBuf::new(&read, &read[..6]);
/// let len = usize::from(frame.get_u8());
/// let field = frame.copy_to_bytes(len);
/// assert_eq!(field, "hello");
/// assert_eq!(field.as_ptr(), read[1..].as_ptr());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FrameBuf<'a> {
    owner: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> FrameBuf<'a> {
    /// Reads `slice`, which is a part of `owner`.
    ///
    /// # Panics
    /// When `slice` is not empty and does not lie in `owner`.
    #[inline]
    pub fn new(owner: &'a Bytes, slice: &'a [u8]) -> FrameBuf<'a> {
        let (all, part) = (owner.as_ptr_range(), slice.as_ptr_range());
        assert!(
            slice.is_empty() || (all.start <= part.start && part.end <= all.end),
            "the slice does not lie in its owner"
        );
        FrameBuf { owner, rest: slice }
    }

    /// What has not been read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl Buf for FrameBuf<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.rest
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.rest.advance(n);
    }

    /// Shares the owner's memory; copies nothing.
    #[inline]
    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        assert!(n <= self.rest.len(), "{n} bytes wanted, {} left", self.rest.len());
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        self.owner.slice_ref(taken)
    }
}

/// As [`FrameBuf`], of bytes that nobody else reads: the last field of a message takes over their reference instead of counting another.
#[derive(Debug)]
pub struct OwnedBuf(Bytes);

impl From<Bytes> for OwnedBuf {
    #[inline]
    fn from(bytes: Bytes) -> OwnedBuf {
        OwnedBuf(bytes)
    }
}

impl Buf for OwnedBuf {
    #[inline]
    fn remaining(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        &self.0
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        self.0.advance(n);
    }

    /// Shares the memory; copies nothing.
    #[inline]
    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        if n == self.0.len() { std::mem::take(&mut self.0) } else { self.0.split_to(n) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_fields_are_shared() {
        let owner = Bytes::from(b"..\x00\x07field, rest".to_vec());
        let mut frame = FrameBuf::new(&owner, &owner[2..9]);
        assert_eq!(frame.get_u16(), 7);
        let field = frame.copy_to_bytes(5);
        assert_eq!((field.as_ptr(), frame.remaining()), (owner[4..].as_ptr(), 0));
        assert_eq!(frame.copy_to_bytes(0), "");
        assert_eq!(frame.rest(), b"");
    }

    #[test]
    fn the_last_field_takes_over_the_reference() {
        let bytes = Bytes::from(b"..\x00\x07field, rest".to_vec()).slice(2..);
        let at = bytes.as_ptr();
        let mut frame = OwnedBuf::from(bytes);
        assert_eq!(frame.get_u16(), 7);
        assert_eq!(frame.copy_to_bytes(5), "field");
        frame.advance(2);
        let last = frame.copy_to_bytes(4);
        assert_eq!((&last[..], last.as_ptr()), (&b"rest"[..], at.wrapping_add(9)));
        assert!(!frame.has_remaining());
        assert!(last.is_unique(), "nothing else holds the memory");
    }

    #[test]
    fn an_empty_slice_may_be_from_anywhere() {
        assert_eq!(FrameBuf::new(&Bytes::new(), b"").remaining(), 0);
    }

    #[test]
    #[should_panic(expected = "does not lie in its owner")]
    fn a_foreign_slice_is_refused() {
        FrameBuf::new(&Bytes::from_static(b"mine"), b"yours");
    }

    #[test]
    #[should_panic(expected = "5 bytes wanted, 4 left")]
    fn more_than_is_left_is_refused() {
        let owner = Bytes::from_static(b"four, and more");
        FrameBuf::new(&owner, &owner[..4]).copy_to_bytes(5);
    }
}
