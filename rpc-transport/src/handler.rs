//! The one way up: what a connection tells the code that uses it.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::buffer::FrameBuf;
use crate::conn::Cx;
use crate::error::CloseReason;

/// What happens on one connection. A value of this type belongs to the connection and runs on its reactor: every
/// method gets `&mut self`, none may block.
///
/// Output is written to [`Cx::output`]; it leaves in one gathered write at the end of the reactor's turn.
#[allow(unused_variables)]
pub trait Handler: Send + 'static {
    /// The connection is established. It is the first call, except that [`Handler::on_message`] may come before it
    /// while a client is still connecting; what is written before is sent after.
    fn on_open(&mut self, cx: &mut Cx<'_>) {}

    /// A batch of frames follows: the frames of one read.
    fn on_batch(&mut self, cx: &mut Cx<'_>) {}

    /// Whether the frame at the front may be handed up now. If not, it and what is behind it wait as after [`Cx::pause`], until
    /// [`Cx::resume`]. So a handler that is full goes on reading until something comes that it has no room for.
    #[inline]
    fn takes(&mut self, frame: Frame<'_>) -> bool {
        true
    }

    /// One whole frame. It is borrowed; [`Frame::to_bytes`] keeps it without a copy.
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>);

    /// The batch is over.
    fn on_batch_end(&mut self, cx: &mut Cx<'_>) {}

    /// Somebody sent a message by [`ConnRef::send`](crate::ConnRef::send).
    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {}

    /// A timer armed by [`Cx::arm`] or [`Cx::remind`] has come due; `key` is the one it was armed with.
    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {}

    /// Output that had reached `write_high` is down to `write_low`: what waits can be written.
    fn on_drained(&mut self, cx: &mut Cx<'_>) {}

    /// The peer writes no more, and every frame that it sent has been handed up. `false`, the default, ends the connection with
    /// [`CloseReason::PeerClosed`] once the output is written. `true` goes on: nothing more comes from the peer, but it may read, as peers do that
    /// only close their side of it. Then the connection ends with the same reason when this side is [finished](Cx::finish), too, when it
    /// is [closed](Cx::close), or by its limits: `write_stall_timeout` while there is output, `idle_timeout` while there is none and the handler
    /// [holds no work](Handler::is_idle). Nothing else tells of a peer that is gone, but for a reset, or the end of a Unix socket.
    ///
    /// Asked once, and not while the connection is [paused](Cx::pause). Not asked in the midst of a frame, which is
    /// [`CloseReason::CutShort`], nor when the peer resets the connection. Under TLS a `close_notify` ends the peer's side, and what comes behind it
    /// is not read; the end of the socket without one can be anybody's doing, and is `CloseReason::Tls`.
    fn on_eof(&mut self, cx: &mut Cx<'_>) -> bool {
        false
    }

    /// The listener that accepted this connection is shutting down: finish what is under way, then
    /// [`Cx::close`]. The default closes once the output is written.
    fn on_shutdown(&mut self, cx: &mut Cx<'_>) {
        cx.close(CloseReason::Local("the server is shutting down"));
    }

    /// Whether the connection holds no work, so that `idle_timeout` may close it.
    fn is_idle(&self) -> bool {
        true
    }

    /// Since when it holds no work, if the bytes that come and go do not tell: a peer that only shows that it is there, again and
    /// again, does not keep a connection from `idle_timeout`. Asked only if [`Handler::is_idle`].
    fn idle_since(&self) -> Option<Instant> {
        None
    }

    /// What it has to do, for who asks by [`ReactorPool::snapshot`](crate::ReactorPool::snapshot). Default: it does not say.
    fn load(&self) -> Load {
        Load::default()
    }

    /// The socket has been closed, and the peer hears nothing more. `true` if there is work that is to end all the same: then the
    /// handler stays until [`Handler::is_idle`], with its messages and timers, and [`Handler::on_close`] comes then. An accepted
    /// connection counts as one of its listener's until that moment, is asked to finish by a shutdown, and ends at once when it is cut.
    /// Not asked of a connection that lingers, which this side has closed, see [`Cx::close`], nor at the end of its reactor.
    fn outlasts(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) -> bool {
        false
    }

    /// The connection is over: the last call, made exactly once, for whatever reason. The handler is dropped after it, though the
    /// socket of an accepted connection may stay a little longer: see [`Cx::close`].
    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {}
}

/// What a handler has to do, as far as it says: [`Handler::load`]. What it does not say is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls, or whatever its work is, under way.
    pub in_flight: Option<usize>,
    /// What waits for its turn, and has not been begun.
    pub queued: Option<usize>,
    /// Frames that it has taken, since the connection was made.
    pub frames_in: Option<u64>,
    /// Frames that it has written.
    pub frames_out: Option<u64>,
}

/// What [`ConnRef::send`](crate::ConnRef::send) carries to a connection's [`Handler::on_message`]. Sending a value that is in an
/// `Arc` already allocates nothing.
pub trait Message: Any + Send + Sync {
    /// The connection ended before the message reached it.
    fn undelivered(self: Arc<Self>);

    /// How many requests it stands for. Asked under a lock of the reactor's: it must do nothing but say so.
    #[doc(hidden)]
    fn count(&self) -> usize {
        1
    }
}

/// One whole frame, borrowed from the buffer of a read. Several frames of one read share their memory.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    owner: &'a Bytes,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(crate) fn new(owner: &'a Bytes, bytes: &'a [u8]) -> Self {
        Frame { owner, bytes }
    }

    /// The frame's bytes, in one piece.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The frame as an owned slice of the read's buffer: no copy, one reference count. It keeps the whole buffer
    /// (at most 64 KiB, or the frame itself if that is larger) alive.
    #[inline]
    pub fn to_bytes(&self) -> Bytes {
        self.owner.slice_ref(self.bytes)
    }

    /// The buffer of the read that the frame lies in, with the frames beside it.
    #[inline]
    pub fn owner(&self) -> &'a Bytes {
        self.owner
    }

    /// An owned slice of a part of this frame's bytes: no copy.
    ///
    /// # Panics
    /// If `part` is not within this frame.
    #[inline]
    pub fn slice(&self, part: &[u8]) -> Bytes {
        self.owner.slice_ref(part)
    }

    /// A reader over a part of this frame, from which `bytes` fields are taken without a copy.
    ///
    /// # Panics
    /// If `part` is not within this frame.
    #[inline]
    pub fn reader(&self, part: &'a [u8]) -> FrameBuf<'a> {
        FrameBuf::new(self.owner, part)
    }
}
