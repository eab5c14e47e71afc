//! Framings as codecs of tokio-util: feature `tokio`. For programs that frame with `Framed`, and speak with peers of ours.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{FrameError, Framing, LengthField, Next};

/// Any [`Framing`] as a [`Decoder`] and [`Encoder`] of tokio-util.
///
/// It decodes to what a [`Handler`](crate::Handler) would see of each frame, as a slice of the read buffer; nothing is copied. It encodes
/// [`WholeFrame`]s; and with a [`LengthField`] also contents, which it puts a head before.
///
/// Errors are [`io::Error`]s of the kind `InvalidData` that hold a [`FrameError`]. A frame over the limit is one before any memory is
/// taken for it; for a legal one the memory is taken when its length is known, and not touched before its bytes arrive.
///
/// ```
/// # use bytes::{Bytes, BytesMut};
/// # use rpc_transport::{FrameCodec, LengthField, LengthWidth};
/// # use tokio_util::codec::{Decoder, Encoder};
/// let mut codec = FrameCodec::new(LengthField::new(LengthWidth::U32).max_frame_size(1024));
/// let mut wire = BytesMut::new();
/// codec.encode(Bytes::from("hi"), &mut wire)?;
/// assert_eq!(&wire[..], b"\0\0\0\x02hi");
/// assert_eq!(codec.decode(&mut wire)?, Some(Bytes::from("hi")));
/// # Ok::<_, std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameCodec<F> {
    framing: F,
}

/// A frame as it stands on the wire, its head included. Encoding checks that it is one frame, and no more and no less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeFrame(pub Bytes);

impl<F> FrameCodec<F> {
    /// For one connection: a framing may remember what the connection speaks.
    pub fn new(framing: F) -> FrameCodec<F> {
        FrameCodec { framing }
    }

    /// The framing.
    pub fn framing(&self) -> &F {
        &self.framing
    }
}

impl<F: Framing> Decoder for FrameCodec<F> {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match self.framing.next(src).map_err(invalid)? {
            Next::Frame(span) => {
                // A framing of the user's may err: a frame past the end, or of nothing at all, is its error.
                let total = span.consumed();
                if total == 0 || total > src.len() {
                    return Err(invalid(FrameError::invalid("the framing returned a frame outside its input", src)));
                }
                src.advance(span.skip);
                let content = src.split_to(span.len).freeze();
                src.advance(span.tail);
                Ok(Some(content))
            }
            Next::More { need } => {
                src.reserve(need.saturating_sub(src.len()));
                Ok(None)
            }
        }
    }
}

impl<F: Framing + Clone> Encoder<WholeFrame> for FrameCodec<F> {
    type Error = io::Error;

    fn encode(&mut self, WholeFrame(frame): WholeFrame, dst: &mut BytesMut) -> io::Result<()> {
        // A copy looks: what this side sends says nothing of what the peer speaks.
        match self.framing.clone().next(&frame).map_err(invalid)? {
            Next::Frame(span) if span.consumed() == frame.len() && !frame.is_empty() => {
                dst.extend_from_slice(&frame);
                Ok(())
            }
            Next::Frame(_) => Err(invalid(FrameError::invalid("there are bytes behind it", &frame))),
            Next::More { .. } => Err(invalid(FrameError::invalid("it is shorter than it says", &frame))),
        }
    }
}

impl Encoder<Bytes> for FrameCodec<LengthField> {
    type Error = io::Error;

    fn encode(&mut self, content: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        self.framing.write_head(content.len(), dst).map_err(invalid)?;
        dst.extend_from_slice(&content);
        Ok(())
    }
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio_util::codec::{Framed, FramedRead};

    use super::*;
    use crate::framing::{LengthWidth, Span};

    const LIMIT: u32 = 1 << 20;

    fn codec() -> FrameCodec<LengthField> {
        FrameCodec::new(LengthField::new(LengthWidth::U32).max_frame_size(LIMIT))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn frame_error(error: &io::Error) -> &FrameError {
        error.get_ref().and_then(|inner| inner.downcast_ref()).expect("a FrameError")
    }

    #[test]
    fn framed_streams_carry_frames_whatever_the_pipe_holds() {
        for room in [1, 3, 7, 4096] {
            let (one, other) = tokio::io::duplex(room);
            let (mut one, mut other) = (Framed::new(one, codec()), Framed::new(other, codec()));
            let sizes = [0, 1, 5, 100, 10_000];
            block_on(async {
                let sends = async move {
                    for len in sizes {
                        one.send(Bytes::from(vec![len as u8; len])).await.expect("sent");
                    }
                    one.send(WholeFrame(Bytes::from_static(b"\0\0\0\x04last"))).await.expect("sent");
                    drop(one);
                };
                let receives = async {
                    for len in sizes {
                        let frame = other.next().await.expect("a frame").expect("a legal one");
                        assert_eq!(frame, vec![len as u8; len]);
                    }
                    assert_eq!(other.next().await.expect("a frame").expect("a legal one"), "last");
                    assert!(other.next().await.is_none());
                };
                tokio::join!(sends, receives);
            });
        }
    }

    #[test]
    fn an_overlong_frame_is_refused_before_memory_is_taken() {
        let mut src = BytesMut::with_capacity(64);
        src.extend_from_slice(&(LIMIT + 1).to_be_bytes());
        let before = src.capacity();
        let error = codec().decode(&mut src).expect_err("over the limit");
        assert_eq!(frame_error(&error), &FrameError::TooLarge { len: u64::from(LIMIT) + 1, limit: LIMIT.into() });
        assert_eq!(src.capacity(), before);

        let mut dst = BytesMut::new();
        let error = codec().encode(Bytes::from(vec![0; LIMIT as usize + 1]), &mut dst).expect_err("over the limit");
        assert!(matches!(frame_error(&error), FrameError::TooLarge { .. }));
        assert_eq!((dst.len(), dst.capacity()), (0, 0));

        // At the limit it is legal, and its memory is taken at once.
        let mut src = BytesMut::from(&LIMIT.to_be_bytes()[..]);
        assert_eq!(codec().decode(&mut src).expect("legal"), None);
        assert!(src.capacity() >= LIMIT as usize + 4);
    }

    #[test]
    #[rustfmt::skip]
    fn a_whole_frame_is_one_frame() {
        let check = |frame: &'static [u8], wrong: &str| {
            let mut dst = BytesMut::new();
            match codec().encode(WholeFrame(Bytes::from_static(frame)), &mut dst) {
                Ok(()) => assert_eq!((&dst[..], wrong), (frame, "")),
                Err(error) => {
                    assert!(!wrong.is_empty() && error.to_string().contains(wrong), "{error}");
                    assert!(dst.is_empty());
                }
            }
        };
        //    bytes                  what is wrong with them
        check(b"\0\0\0\x02hi",       "");
        check(b"\0\0\0\0",           "");
        check(b"\0\0\0\x02hi!",      "there are bytes behind it");
        check(b"\0\0\0\x02h",        "it is shorter than it says");
        check(b"",                   "it is shorter than it says");
        check(b"\xff\0\0\0",         "limit 1048576");
    }

    /// As a connection does: a user's framing that errs ended the program, or was asked about the same bytes for ever.
    #[test]
    fn a_framing_is_not_trusted() {
        #[derive(Clone)]
        struct Says(Span);
        impl Framing for Says {
            fn next(&mut self, _: &[u8]) -> Result<Next, FrameError> {
                Ok(Next::Frame(self.0))
            }
        }
        let most = usize::MAX;
        for (skip, len, tail) in
            [(0, 0, 0), (0, 4, 0), (4, 0, 0), (2, 2, 0), (1, 1, 2), (most, 1, 0), (most, most, most)]
        {
            let mut codec = FrameCodec::new(Says(Span { skip, len, tail }));
            let mut src = BytesMut::from(&b"abc"[..]);
            let error = codec.decode(&mut src).expect_err("no frame");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{skip}, {len}, {tail}: {error}");
            assert!(frame_error(&error).to_string().contains("outside its input") && src == "abc", "{error}");
            let error = codec.encode(WholeFrame(Bytes::from_static(b"abc")), &mut src).expect_err("no frame");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{skip}, {len}, {tail}: {error}");
            assert!(codec.encode(WholeFrame(Bytes::new()), &mut src).is_err());
        }
        let mut src = BytesMut::from(&b"abc"[..]);
        let whole =
            FrameCodec::new(Says(Span { skip: 1, len: 1, tail: 1 })).decode(&mut src).expect("within its input");
        assert_eq!(whole.expect("a frame"), "b");
        assert!(src.is_empty());
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_error() {
        let mut frames = FramedRead::new(&b"\0\0\0\x02hi\0\0\0\x02h"[..], codec());
        block_on(async {
            assert_eq!(frames.next().await.expect("a frame").expect("a legal one"), "hi");
            assert!(frames.next().await.expect("an end").is_err());
            assert!(frames.next().await.is_none());
        });
    }
}
