//! rpc-transport

mod buffer;
mod framing;
mod timer;

pub use buffer::{FrameBuf, LINK_MIN, LinkBuffer, Reserved};
pub use framing::{DEFAULT_MAX_FRAME_SIZE, FrameError, Framing, LengthField, LengthWidth, Next, Span};
pub use timer::{TimerId, TimerWheel};
