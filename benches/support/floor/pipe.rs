//! One side of a connection: reads, hands over every whole frame, and writes once, or once a frame.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use mio::event::Source;
use rpc_transport::ReactorStats;

use super::Result;

/// Frames after which a side writes early.
const EARLY: usize = 50;
/// Bodies from this size on are gathered from where they lie.
const LARGE: usize = 8 << 10;
/// Where a frame has its id.
const ID: usize = 8;

pub(super) trait Socket: Read + Write + Source + AsFd + Send {}
impl<S: Read + Write + Source + AsFd + Send> Socket for S {}

/// What goes out, and what comes in.
#[derive(Clone)]
pub(super) struct Frames {
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Bytes of a whole frame of the other side's.
    pub(super) theirs: usize,
    /// Each is written as soon as it is there, and none waits for others.
    pub(super) singly: bool,
}

/// One side of a connection: frames of `theirs` bytes in, heads with an id and bodies out.
pub(super) struct Pipe {
    pub(super) socket: Box<dyn Socket>,
    stats: Arc<ReactorStats>,
    theirs: usize,
    singly: bool,
    input: Vec<u8>,
    filled: usize,
    head: Vec<u8>,
    body: Vec<u8>,
    /// Heads, each with its body if that is small.
    out: VecDeque<Vec<u8>>,
    /// Bytes of the first of them, and its body, that have been written.
    written: usize,
    pub(super) writable: bool,
}

impl Pipe {
    pub(super) fn new(socket: Box<dyn Socket>, stats: &Arc<ReactorStats>, frames: Frames) -> Pipe {
        let Frames { head, body, theirs, singly } = frames;
        let input = vec![0; theirs.max(64 << 10)];
        let (stats, out) = (Arc::clone(stats), VecDeque::new());
        Pipe { socket, stats, theirs, singly, input, filled: 0, head, body, out, written: 0, writable: true }
    }

    pub(super) fn send(&mut self, id: [u8; 4]) -> Result<()> {
        let mut frame = match self.out.pop_back() {
            Some(frame) if self.body.len() < LARGE => frame,
            last => {
                self.out.extend(last);
                Vec::new()
            }
        };
        let start = frame.len();
        frame.extend_from_slice(&self.head);
        frame[start + ID..start + ID + 4].copy_from_slice(&id);
        if self.body.len() < LARGE {
            frame.extend_from_slice(&self.body);
        }
        self.out.push_back(frame);
        if self.singly { self.flush() } else { Ok(()) }
    }

    /// Reads, and calls `on_frame` for each frame, until a read comes up short.
    pub(super) fn turn(&mut self, mut on_frame: impl FnMut(&mut Pipe, [u8; 4]) -> Result<()>) -> Result<bool> {
        loop {
            // A large frame is read to its end and no further, so that the next one starts at the front.
            let room = if self.body.len() < LARGE { self.input.len() } else { self.theirs };
            let asked = room - self.filled;
            let read = match self.socket.read(&mut self.input[self.filled..room]) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.stats.empty_reads.add(1);
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            self.stats.reads.add(1);
            self.filled += read;
            let (mut at, mut frames) = (0, 0);
            while self.filled - at >= self.theirs {
                let frame = &self.input[at..at + self.theirs];
                let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize + 4;
                if length != self.theirs || self.body.last().is_some_and(|last| frame.last() != Some(last)) {
                    return Err("a frame is not what was expected".into());
                }
                let id = [frame[ID], frame[ID + 1], frame[ID + 2], frame[ID + 3]];
                on_frame(self, id)?;
                at += self.theirs;
                frames += 1;
                if frames == EARLY && read < asked {
                    self.flush()?;
                }
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
            if read < asked {
                break;
            }
        }
        self.flush()?;
        Ok(true)
    }

    /// Writes what waits, as far as there is room.
    pub(super) fn flush(&mut self) -> Result<()> {
        while self.writable && !self.out.is_empty() {
            let body: &[u8] = if self.body.len() < LARGE { &[] } else { &self.body };
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(32);
            for frame in self.out.iter().take(16) {
                slices.extend([IoSlice::new(frame), IoSlice::new(body)]);
            }
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, self.written);
            let offered: usize = rest.iter().map(|slice| slice.len()).sum();
            let wrote = match self.socket.write_vectored(rest) {
                Ok(wrote) => wrote,
                Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
                Err(e) => return Err(e.into()),
            };
            self.stats.writes.add(1);
            self.writable = wrote == offered;
            self.written += wrote;
            while let Some(len) =
                self.out.front().map(|frame| frame.len() + body.len()).filter(|len| *len <= self.written)
            {
                self.written -= len;
                self.out.pop_front();
            }
        }
        Ok(())
    }
}
