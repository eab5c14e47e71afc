//! One direction of a connection: bytes on their way, bytes that have arrived, and how it ends.

use std::collections::VecDeque;
use std::time::Duration;

/// What one socket can read, now and later.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    bytes: VecDeque<u8>,
    /// Of `bytes`, how many have arrived.
    arrived: usize,
    /// Something never comes, and so no orderly end does.
    cut_short: bool,
    /// End of file has arrived.
    pub(super) finished: bool,
    /// A reset has arrived.
    pub(super) reset: bool,
    /// When the last thing that was sent arrives: nothing overtakes it.
    pub(super) last: Duration,
}

impl Pipe {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Bytes in the system: on their way and unread.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    pub(super) fn arrive(&mut self, n: usize) {
        self.arrived = (self.arrived + n).min(self.bytes.len());
    }

    /// What is on its way never comes.
    pub(super) fn lose(&mut self) {
        self.cut_short |= self.bytes.len() > self.arrived;
        self.bytes.truncate(self.arrived);
    }

    /// End of file arrives, if all that was sent before it has.
    pub(super) fn finish(&mut self) {
        self.finished |= !self.cut_short;
    }

    /// Takes at most `max` bytes that have arrived, in at most two pieces.
    pub(super) fn take(&mut self, max: usize, mut put: impl FnMut(&[u8])) -> usize {
        let n = self.arrived.min(max);
        let (front, back) = self.bytes.as_slices();
        let first = front.len().min(n);
        put(&front[..first]);
        if n > first {
            put(&back[..n - first]);
        }
        self.bytes.drain(..n);
        self.arrived -= n;
        n
    }

    /// Whether a read would say something.
    pub(super) fn is_readable(&self) -> bool {
        self.arrived > 0 || self.finished || self.reset
    }
}
