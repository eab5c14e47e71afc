//! Bytes and frames: a multi-reactor transport that knows sockets and threads, not requests.
//!
//! ```text
//!  socket ─► driver ─► Block ─► Framing ─► Handler::on_frame      (one reactor: one thread, one poller,
//!  socket ◄─ driver ◄─ LinkBuffer ◄───────── Cx::output            its connections, timers, local tasks)
//! ```
//!
//! A server of any framed protocol is one [`Handler`] and a [`Framing`]; see [`ReactorPool::listen`] and the example
//! `echo_raw`. A client is a handler, too: [`Connector`].
//!
//! * [`LinkBuffer`]: a chain of shared blocks, read and written without copying.
//! * [`LengthField`]: the framing most protocols use; [`Line`], [`Delimiter`], [`FixedLength`]: others; [`Unframed`]: whatever has come.
//! * [`ReactorPool`], [`ReactorHandle`]: N reactors; run futures and closures on them.
//! * [`ReactorPool::snapshot`], [`ReactorPool::observe`]: what an operator asks of reactors that run.
//! * [`local`]: what code on a reactor can do beyond its own connection.

mod buffer;
mod clock;
mod config;
mod conn;
mod connector;
mod cores;
pub mod diagnose;
mod driver;
mod error;
mod framing;
mod handler;
mod histogram;
mod listener;
pub mod local;
mod log_limit;
mod panics;
mod reactor;
mod sleep;
mod socket;
mod stats;
#[cfg(any(model = "loom", model = "shuttle"))]
#[doc(hidden)]
pub mod sync;
#[cfg(not(any(model = "loom", model = "shuttle")))]
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
#[cfg(feature = "tls")]
mod tls;
mod udp;
#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub mod upgrade;
mod url;
mod workers;

pub use buffer::{FrameBuf, LINK_MIN, LinkBuffer, OwnedBuf, Reserved};
pub use config::{ConnLimits, ListenLimits, Placement};
pub use conn::{ConnId, ConnRef, Cx, NotWritten};
pub use connector::Connector;
pub use diagnose::{Observation, Snapshot, SnapshotOptions};
pub use error::CloseReason;
pub use framing::{
    DEFAULT_MAX_FRAME_SIZE, Delimiter, FixedLength, FrameError, Framing, LengthField, LengthWidth, Line, Next, Span,
    Unframed,
};
#[cfg(feature = "tokio")]
pub use framing::{FrameCodec, WholeFrame};
pub use handler::{Frame, Handler, Load, Message};
pub use listener::{Accepted, ListenOptions, ListenerHandle};
pub use log_limit::LogLimit;
pub use panics::caught;
pub use reactor::{
    BUSY_POLL_MAX, GLOBAL_MAX, LocalTask, PoolOptions, ReactorHandle, ReactorPool, ReservedTask, TaskId, Timer,
};
#[cfg(feature = "tls")]
pub use rustls;
pub use sleep::{Sleep, sleep};
pub use socket::{Keepalive, SocketOptions};
pub use stats::{Counter, MemoryBudget, ReactorStats};
pub use timer::{TimerId, TimerWheel};
#[cfg(feature = "tls")]
pub use tls::{
    TlsClient, TlsClientBuilder, TlsConfigError, TlsError, TlsErrorKind, TlsIdentity, TlsPeer, TlsRoots, TlsServer,
    TlsServerBuilder,
};
pub use udp::{DatagramCx, DatagramHandler, SendError, UdpHandle, UdpOptions, UdpStats};
pub use url::{Endpoint, Url, UrlError};
pub use workers::{Lane, LaneStats, Refused, WorkerOptions, WorkerPool};
