//! Framing and handler joined: bytes in, frames up.
//!
//! ```text
//!  Block ──► Framing::next … ──► freeze once ──► Handler::on_frame, one by one ──► output, flushed early
//!            (all whole frames)                                                  when the peer is idle
//! ```

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::{Cx, Inbound};
use crate::error::CloseReason;
use crate::framing::{FrameError, Framing, Next, Span};
use crate::handler::{Frame, Handler, Load};

/// Frames after which the output is flushed before the batch is over, if the read was short: the peer has nothing
/// more to do until it hears from us, so two cores would otherwise take turns. Measured at 32 B × 100 in flight.
pub(crate) const EARLY_FLUSH_FRAMES: usize = 50;

/// As [`EARLY_FLUSH_FRAMES`], after each so many of a large batch, whatever the read was: a peer with a thousand calls in flight has
/// the next ones written while its last ones are handled. Measured at 32 B × 1000, where it makes two fifths more calls.
const FLUSH_FRAMES: usize = 128;

/// Output, in bytes, that is flushed without waiting for the end of the batch.
const FLUSH_BYTES: usize = 256 * 1024;

/// The connection's view of what lies above it, without its types.
pub(crate) trait Pipeline: Send {
    fn on_open(&mut self, cx: &mut Cx<'_>);
    /// Hands up whole frames of `inbound`, at most `frames` of them, and says how many.
    fn on_input(&mut self, cx: &mut Cx<'_>, inbound: &mut Inbound, frames: usize) -> Result<usize, CloseReason>;
    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>);
    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64);
    fn on_drained(&mut self, cx: &mut Cx<'_>);
    fn on_eof(&mut self, cx: &mut Cx<'_>) -> bool;
    fn on_shutdown(&mut self, cx: &mut Cx<'_>);
    fn outlasts(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) -> bool;
    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason);
    fn is_idle(&self) -> bool;
    fn idle_since(&self) -> Option<Instant>;
    fn load(&self) -> Load;
    fn handler(&mut self) -> &mut dyn Any;
}

pub(crate) struct Framed<F, H> {
    pub(crate) framing: F,
    pub(crate) handler: H,
}

impl<F: Framing + 'static, H: Handler> Framed<F, H> {
    /// For what the framing does not see at a glance: few frames, so their path stays out of the others'.
    #[cold]
    #[inline(never)]
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        self.framing.next(input)
    }

    /// The frame that [`cut`](Framed::cut) has found at the front, and how far it goes.
    #[inline]
    fn again<'a>(&mut self, input: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let of = |span: Span| (&input[span.skip..][..span.len], span.consumed());
        match self.framing.whole(input) {
            Some(span) => Some(of(span)),
            None => match self.next(input) {
                Ok(Next::Frame(span)) => Some(of(span)),
                _ => None,
            },
        }
    }

    /// Cuts the whole frames off the front of the block, as one frozen batch.
    fn cut(&mut self, inbound: &mut Inbound, most: usize) -> Result<Option<CloseReason>, CloseReason> {
        let Some(block) = inbound.block.as_mut() else { return Ok(None) };
        let bytes = block.as_slice();
        let (mut end, mut frames, mut error) = (0, 0, None);
        inbound.need = 0;
        inbound.more_frames = false;
        while end < bytes.len() {
            if frames == most {
                inbound.more_frames = true;
                break;
            }
            let rest = &bytes[end..];
            let total = match self.framing.whole(rest) {
                Some(span) => span.consumed(),
                None => match self.next(rest) {
                    Ok(Next::Frame(span)) => span.consumed(),
                    Ok(Next::More { need }) => {
                        inbound.need = need;
                        break;
                    }
                    Err(e) => {
                        error = Some(CloseReason::Framing(e));
                        break;
                    }
                },
            };
            // A framing of the user's may err: a frame past the end, or of nothing at all, is its error.
            if total == 0 || total > rest.len() {
                error = Some(CloseReason::Local("the framing returned a frame outside its input"));
                break;
            }
            end += total;
            frames += 1;
        }
        if end > 0 {
            inbound.batch = block.split_to(end);
            inbound.fitted_at = 0;
        }
        Ok(error)
    }
}

impl<F: Framing + 'static, H: Handler> Pipeline for Framed<F, H> {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.handler.on_open(cx);
    }

    fn on_input(&mut self, cx: &mut Cx<'_>, inbound: &mut Inbound, frames: usize) -> Result<usize, CloseReason> {
        let mut error = None;
        let mut handled = 0;
        if inbound.batch.is_empty() {
            error = self.cut(inbound, frames)?;
        }
        if !inbound.batch.is_empty() {
            let batch: Bytes = std::mem::take(&mut inbound.batch);
            let mut rest = 0;
            self.handler.on_batch(cx);
            while rest < batch.len() && handled < frames && !cx.must_stop() {
                let Some((frame, consumed)) = self.again(&batch[rest..]) else {
                    return Err(CloseReason::Local("the framing changed its mind about a frame"));
                };
                let frame = Frame::new(&batch, frame);
                if !self.handler.takes(frame) {
                    cx.pause();
                    break;
                }
                rest += consumed; // cut() has seen that this is within the batch
                handled += 1;
                self.handler.on_frame(cx, frame);
                let early = (handled == EARLY_FLUSH_FRAMES && inbound.short) || handled % FLUSH_FRAMES == 0;
                if early || cx.output_len() >= FLUSH_BYTES {
                    cx.flush();
                }
            }
            self.handler.on_batch_end(cx);
            cx.count_frames(handled);
            if handled > 0 {
                inbound.announced = None; // it has come
                inbound.partial_since = None;
                inbound.frames_done = true;
            }
            if rest < batch.len() && !cx.is_closing() {
                inbound.batch = batch;
                inbound.batch.advance(rest);
            }
        }
        match error {
            Some(e) if inbound.batch.is_empty() => Err(e),
            deferred => {
                // The frames before the error come first; then the bytes are looked at again.
                inbound.more_frames |= deferred.is_some();
                Ok(handled)
            }
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        self.handler.on_message(cx, message);
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        self.handler.on_deadline(cx, key);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>) {
        self.handler.on_drained(cx);
    }

    fn on_eof(&mut self, cx: &mut Cx<'_>) -> bool {
        self.handler.on_eof(cx)
    }

    fn on_shutdown(&mut self, cx: &mut Cx<'_>) {
        self.handler.on_shutdown(cx);
    }

    fn outlasts(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) -> bool {
        self.handler.outlasts(cx, reason)
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        self.handler.on_close(cx, reason);
    }

    fn is_idle(&self) -> bool {
        self.handler.is_idle()
    }

    fn idle_since(&self) -> Option<Instant> {
        self.handler.idle_since()
    }

    fn load(&self) -> Load {
        self.handler.load()
    }

    fn handler(&mut self) -> &mut dyn Any {
        &mut self.handler
    }
}

/// Foreign wakers beyond this number fire after the flush instead of before it.
pub(crate) const WAKERS_AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Block;
    use crate::framing::{LengthField, LengthWidth};

    /// Counts how often it is asked.
    struct Counted(LengthField, usize);

    impl Framing for Counted {
        fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
            self.1 += 1;
            self.0.next(input)
        }
    }

    struct Nobody;

    impl Handler for Nobody {
        fn on_frame(&mut self, _: &mut Cx<'_>, _: Frame<'_>) {}
    }

    /// A search through an unfinished frame may be long: twice would be twice as long.
    #[test]
    fn a_framing_is_asked_once_for_what_has_come() {
        let mut framed = Framed { framing: Counted(LengthField::new(LengthWidth::U32), 0), handler: Nobody };
        let mut inbound = Inbound::default();
        let mut block = Block::take();
        for (n, byte) in [0, 0, 0, 2, b'a', b'b', 0].into_iter().enumerate() {
            block.put_slice(&[byte]);
            inbound.block = Some(block);
            assert!(matches!(framed.cut(&mut inbound, 9), Ok(None)));
            let asked = framed.framing.1;
            assert_eq!(asked, n + 1, "byte {n}");
            block = inbound.block.take().unwrap();
        }
        assert_eq!(inbound.batch, &[0, 0, 0, 2, b'a', b'b'][..]);
    }
}
