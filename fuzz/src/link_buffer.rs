//! `LinkBuffer` against vectors: several buffers that share memory, and the slices that were taken from them.

use std::io::IoSlice;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Buf, BufMut, Bytes};
use rpc_transport::{LINK_MIN, LinkBuffer};

use crate::meter;

/// Buffers that exchange pieces.
const BUFFERS: usize = 3;
/// Operations of one story, and bytes of one buffer: enough to fill two blocks.
const MOST_OPS: usize = 4096;
const MOST_BYTES: usize = 160 * 1024;
/// Slices held at once.
const MOST_HELD: usize = 16;
/// Blocks that the buffers and slices may hold beyond their content: each may begin and end in one of its own, and some are spare.
const MOST_BLOCKS: usize = 2 * (BUFFERS + MOST_HELD);
/// What recycled memory is filled with; it must never be seen.
const POISON: u8 = 0xdd;

/// A number of bytes: mostly few, sometimes around the limits that matter.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Size {
    Few(u8),
    Some(u16),
    AroundLink(u8),
    AroundBlock(u8),
    Blocks(u8),
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Size::Few(n) => n.into(),
            Size::Some(n) => usize::from(n) % 4096,
            Size::AroundLink(n) => LINK_MIN - 2 + usize::from(n % 5),
            Size::AroundBlock(n) => 64 * 1024 - 2 + usize::from(n % 5),
            Size::Blocks(n) => usize::from(n) * 300,
        }
    }
}

/// A length to read: a part of the content, all of it, or more.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Wanted {
    Part(Size),
    All,
    Beyond(u8),
    Max,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Op {
    Put(Size),
    PutU8(u8),
    PutBytes(Size),
    WriteBytes(Size),
    PutChain(Size, Size),
    Reserve { size: Size, commit: bool },
    AppendNew { first: Size, second: Size, seal: bool },
    AppendOther { seal: bool },
    AppendHeld(u8),
    Peek(Wanted),
    Next(Wanted),
    Skip(Wanted),
    Until(u8),
    Slice(Wanted, Wanted),
    SplitTo(Wanted),
    Advance(Wanted),
    CopyToBytes(Wanted),
    Gather(u8),
    Seal,
    ReleaseIfEmpty,
    Clear,
    Take,
    ReadHeld { held: u8, n: Wanted },
    DropHeld(u8),
    Turn(u8),
}

/// Buffers and what must be in them.
struct Story {
    buffers: [(LinkBuffer, Vec<u8>); BUFFERS],
    held: Vec<(LinkBuffer, Vec<u8>)>,
    current: usize,
    /// Where in [`fresh`] the next bytes to write are, so that no two places have equal content by accident.
    written: usize,
    /// Bytes written so far.
    total: usize,
}

/// Any sequence of operations on three buffers and sixteen slices of them: all behave like vectors, slices keep their content while
/// blocks are recycled, recycled memory is never seen, and no more of it is held than was written.
pub fn link_buffer(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let mut story = Story { buffers: Default::default(), held: Vec::new(), current: 0, written: 0, total: 0 };
    fresh();
    meter::story(MOST_BLOCKS, || {
        let mut ops = 0;
        while ops < MOST_OPS
            && !u.is_empty()
            && let Ok(op) = Op::arbitrary(&mut u)
        {
            story.step(op);
            ops += 1;
        }
        for (buffer, model) in story.buffers.iter().chain(&story.held) {
            assert!(*buffer == model[..], "the content differs at the end");
        }
        (ops, story.total)
    });
}

impl Story {
    fn buffer(&mut self) -> &mut LinkBuffer {
        &mut self.buffers[self.current].0
    }

    fn model(&mut self) -> &mut Vec<u8> {
        &mut self.buffers[self.current].1
    }

    /// Fresh bytes, none of them poison.
    fn data(&mut self, size: Size) -> Vec<u8> {
        let room = MOST_BYTES.saturating_sub(self.model().len());
        let all = fresh();
        let data = all[self.written..][..size.bytes().min(room)].to_vec();
        self.total += data.len();
        self.written = (self.written + data.len() + 1) % (all.len() - MOST_BYTES);
        data
    }

    fn wanted(&mut self, wanted: Wanted) -> usize {
        let len = self.model().len();
        match wanted {
            Wanted::Part(size) => size.bytes().min(len),
            Wanted::All => len,
            Wanted::Beyond(n) => len + 1 + usize::from(n),
            Wanted::Max => usize::MAX,
        }
    }

    /// Takes from the model's front what is there.
    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        let model = self.model();
        (n <= model.len()).then(|| model.drain(..n).collect())
    }

    fn hold(&mut self, slice: Option<LinkBuffer>, expected: Option<Vec<u8>>) {
        assert_eq!(slice.is_some(), expected.is_some());
        let (Some(slice), Some(expected)) = (slice, expected) else { return };
        assert!(slice == expected[..], "a slice with other content");
        if self.held.len() == MOST_HELD {
            self.held.remove(0);
        }
        self.held.push((slice, expected));
    }

    fn held(&mut self, index: u8) -> Option<usize> {
        (!self.held.is_empty()).then(|| usize::from(index) % self.held.len())
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Put(size) => {
                let data = self.data(size);
                self.buffer().put_slice(&data);
                self.model().extend(data);
            }
            Op::PutU8(byte) => {
                let byte = if byte == POISON { 0 } else { byte };
                self.buffer().put_u8(byte);
                self.model().push(byte);
            }
            Op::PutBytes(size) => {
                let n = self.data(size).len();
                self.buffer().put_bytes(0xa5, n);
                self.model().extend(vec![0xa5; n]);
            }
            Op::WriteBytes(size) => {
                let data = self.data(size);
                self.buffer().write_bytes(Bytes::from(data.clone()));
                self.model().extend(data);
            }
            Op::PutChain(a, b) => {
                let (a, b) = (self.data(a), self.data(b));
                self.buffer().put(Buf::chain(&a[..], &b[..]));
                self.model().extend(a);
                self.model().extend(b);
            }
            Op::Reserve { size, commit } => {
                let data = self.data(size);
                let mut room = self.buffer().reserve(data.len());
                assert!(room.room() >= data.len());
                room.put_slice(&data);
                assert_eq!(room.filled(), data);
                if commit {
                    room.commit();
                    self.model().extend(data);
                }
            }
            Op::AppendNew { first, second, seal } => {
                let (first, second) = (self.data(first), self.data(second));
                let mut other = LinkBuffer::new();
                other.put_slice(&first);
                other.write_bytes(Bytes::from(second.clone()));
                if seal {
                    other.seal();
                }
                self.buffer().append(other);
                self.model().extend(first);
                self.model().extend(second);
            }
            Op::AppendOther { seal } => {
                let other = (self.current + 1) % BUFFERS;
                if self.model().len() + self.buffers[other].1.len() > MOST_BYTES {
                    return;
                }
                let (mut buffer, model) = std::mem::take(&mut self.buffers[other]);
                if seal {
                    buffer.seal();
                }
                self.buffer().append(buffer);
                self.model().extend(model);
            }
            Op::AppendHeld(index) => {
                let Some(index) = self.held(index) else { return };
                if self.model().len() + self.held[index].1.len() > MOST_BYTES {
                    return;
                }
                let (slice, bytes) = self.held.swap_remove(index);
                self.buffer().append(slice);
                self.model().extend(bytes);
            }
            Op::Peek(wanted) => {
                let n = self.wanted(wanted);
                let expected = self.model().get(..n).map(<[u8]>::to_vec);
                assert_eq!(self.buffer().peek(n), expected.as_deref());
            }
            Op::Next(wanted) => {
                let n = self.wanted(wanted);
                let taken = self.buffer().next(n).map(LinkBuffer::from);
                let expected = self.take(n);
                self.hold(taken, expected);
            }
            Op::Skip(wanted) => {
                let n = self.wanted(wanted);
                let skipped = self.buffer().skip(n);
                assert_eq!(skipped, self.take(n).is_some());
            }
            Op::Until(byte) => {
                let end = self.model().iter().position(|candidate| *candidate == byte);
                let expected = end.and_then(|end| self.take(end + 1));
                assert_eq!(self.buffer().until(byte).as_deref(), expected.as_deref());
            }
            Op::Slice(start, end) => {
                let (start, end) = (self.wanted(start), self.wanted(end));
                let expected = self.model().get(start..end).map(<[u8]>::to_vec);
                let slice = self.buffer().slice(start..end);
                self.hold(slice, expected);
            }
            Op::SplitTo(wanted) => {
                let n = self.wanted(wanted);
                let taken = self.buffer().split_to(n);
                let expected = self.take(n);
                self.hold(taken, expected);
            }
            Op::Advance(wanted) => {
                let n = self.wanted(wanted).min(self.model().len());
                self.buffer().advance(n);
                self.take(n);
            }
            Op::CopyToBytes(wanted) => {
                let n = self.wanted(wanted).min(self.model().len());
                let copied = self.buffer().copy_to_bytes(n);
                let expected = self.take(n);
                self.hold(Some(LinkBuffer::from(copied)), expected);
            }
            Op::Gather(most) => {
                let mut slices = [IoSlice::new(&[]); 8];
                let most = usize::from(most % 9);
                let (buffer, model) = &self.buffers[self.current];
                let set = buffer.gather(&mut slices[..most]);
                assert_eq!(set, buffer.segments().min(most));
                let gathered = slices[..set].iter().map(|slice| &slice[..]).collect::<Vec<_>>().concat();
                assert!(slices[..set].iter().all(|slice| !slice.is_empty()));
                assert!(model.starts_with(&gathered) && (set == most || gathered.len() == model.len()));
            }
            Op::Seal => self.buffer().seal(),
            Op::ReleaseIfEmpty => self.buffer().release_if_empty(),
            Op::Clear => {
                self.buffer().clear();
                self.model().clear();
            }
            Op::Take => {
                let (buffer, model) = std::mem::take(&mut self.buffers[self.current]);
                self.hold(Some(buffer), Some(model));
            }
            Op::ReadHeld { held, n } => {
                let Some(index) = self.held(held) else { return };
                let (slice, bytes) = &mut self.held[index];
                let n = match n {
                    Wanted::Part(size) => size.bytes().min(bytes.len()),
                    _ => bytes.len(),
                };
                let expected: Vec<u8> = bytes.drain(..n).collect();
                assert_eq!(slice.next(n).as_deref(), Some(&expected[..]), "a slice changed after it was taken");
            }
            Op::DropHeld(index) => {
                let Some(index) = self.held(index) else { return };
                let (slice, bytes) = self.held.swap_remove(index);
                assert!(slice == bytes[..], "a slice changed after it was taken");
            }
            Op::Turn(to) => self.current = usize::from(to) % BUFFERS,
        }
        let (buffer, model) = &self.buffers[self.current];
        assert_eq!((buffer.len(), buffer.is_empty()), (model.len(), model.is_empty()));
        assert_eq!((buffer.remaining(), buffer.has_remaining()), (model.len(), !model.is_empty()));
        let chunk = buffer.chunk();
        assert!(model.starts_with(chunk) && chunk.is_empty() == model.is_empty());
    }
}

/// Bytes without a pattern, and without poison.
fn fresh() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let byte = |n: u32| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8 ^ n as u8;
        (0..1 << 20).map(byte).map(|byte| if byte == POISON { 0 } else { byte }).collect()
    })
}
