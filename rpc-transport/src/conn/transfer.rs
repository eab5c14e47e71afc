//! Bytes between a connection's buffers and its socket.

use std::io::{self, IoSlice};
use std::time::Instant;

use bytes::Buf;

use super::{Conn, Phase, Token};
use crate::driver::Key;
use crate::error::CloseReason;
use crate::reactor::core::with;

/// Buffers gathered into one write.
const MAX_IOVECS: usize = 64;

impl Conn {
    /// Reads once, at most `budget` bytes; 0 is end of file.
    pub(super) fn read_once(&mut self, budget: usize) -> io::Result<usize> {
        let Some(key) = self.key else { return Ok(0) };
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return self.read_secure(key, budget);
        }
        let (block, room) = self.inbound.room(&self.memory);
        let asked = room.min(budget);
        let read = with(|core| core.driver.read(key, block, asked));
        match &read {
            Ok(got) => {
                let stats = self.reactor.stats();
                stats.reads.add(1);
                stats.bytes_in.add(*got as u64);
                stats.moved_bytes.add(std::mem::take(&mut self.inbound.moved) as u64);
                self.inbound.after_read(asked, *got);
                if *got < asked && *got > 0 {
                    stats.short_reads.add(1);
                    self.readable = !clears_latch(self.hangup);
                }
            }
            Err(_) => self.inbound.settle(self.last_active),
        }
        read
    }

    /// Writes as much as the kernel takes.
    pub(super) fn write_out(&mut self) {
        let Some(key) = self.key else { return };
        if matches!(self.phase, Phase::Connecting | Phase::Lingering { .. } | Phase::Aborting(_)) {
            return;
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return self.write_secure(key);
        }
        while !self.outbound.is_empty() && self.writable {
            let (count, offered, result) = if self.outbound.segments() == 1 {
                let only = self.outbound.chunk();
                (1, only.len(), with(|core| core.driver.write(key, &[IoSlice::new(only)])))
            } else {
                let mut bufs = [IoSlice::new(&[]); MAX_IOVECS];
                let count = self.outbound.chunks_vectored(&mut bufs);
                let offered = bufs[..count].iter().map(|b| b.len()).sum();
                (count, offered, with(|core| core.driver.write(key, &bufs[..count])))
            };
            let stats = self.reactor.stats();
            stats.writes.add(1);
            stats.iovecs.add(count as u64);
            match result {
                // A socket that takes nothing, though it has room for something, would be asked for ever (B08).
                Ok(0) => return self.give_up(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let now = with(|core| core.now);
                    stats.bytes_out.add(n as u64);
                    self.written += n as u64;
                    self.outbound.advance(n);
                    self.last_active = now;
                    (self.stalled_since, self.stuck) = (None, false);
                    if n < offered {
                        self.wait_for_room(key, now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let now = with(|core| core.now);
                    self.wait_for_room(key, now);
                }
                Err(e) => return self.give_up(e),
            }
        }
        self.after_writing(key, false);
    }

    /// What follows from the output's being less; `unsent`: though something waits that is not in it.
    #[inline]
    pub(super) fn after_writing(&mut self, key: Key, unsent: bool) {
        if self.outbound.is_empty() {
            self.outbound.release_if_empty();
            if !unsent && std::mem::take(&mut self.watched) {
                let token = Token::Conn(self.id).pack();
                // Without this the connection is only woken more often than it needs.
                let _ = with(|core| core.driver.watch_writable(key, false, token));
            }
        }
        if self.outbound.len() <= self.limits.write_low {
            self.paused.by_output = false;
        }
    }

    /// Nothing can be written any more.
    pub(super) fn give_up(&mut self, e: io::Error) {
        self.phase = Phase::Aborting(match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Closing(first) => Box::new(first.reason), // the first reason counts
            _ => Box::new(CloseReason::Io(e)),
        });
    }

    pub(super) fn wait_for_room(&mut self, key: Key, now: Instant) {
        self.writable = false;
        self.stalled_since.get_or_insert(now);
        if !std::mem::replace(&mut self.watched, true) {
            let token = Token::Conn(self.id).pack();
            if let Err(e) = with(|core| core.driver.watch_writable(key, true, token)) {
                self.phase = Phase::aborting(CloseReason::Io(e));
            }
        }
    }
}

/// On epoll and kqueue a short read has emptied the socket, and data that comes later makes a new edge. After a
/// hang-up no second edge comes: then the latch stays until end of file is read.
pub(super) fn clears_latch(hangup: bool) -> bool {
    cfg!(any(
        target_os = "linux",
        target_os = "android",
        target_os = "macos",
        target_os = "ios",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "dragonfly"
    )) && !hangup
}
