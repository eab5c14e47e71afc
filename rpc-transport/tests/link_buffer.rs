//! `LinkBuffer` against the plainest model there is: a `Vec<u8>`.
//!
//! A failure prints the seed of its sequence. `LINK_BUFFER_SEQUENCES` sets how many sequences of 200 operations run.

use std::io::IoSlice;
use std::sync::mpsc;

use bytes::{Buf, BufMut, Bytes};
use rpc_transport::{LINK_MIN, LinkBuffer};

/// A small generator, so that a seed is a whole story (splitmix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Mostly small, sometimes around the limits that matter.
    fn size(&mut self) -> usize {
        match self.below(200) {
            0 => LINK_MIN - 1 + self.below(3),
            1 => 64 * 1024 - 2 + self.below(5),
            2 => self.below(100 * 1024),
            3..20 => self.below(4096),
            _ => self.below(48),
        }
    }
}

/// The bytes that are in the buffer, and before them those that were.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
    start: usize,
}

impl Model {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn len(&self) -> usize {
        self.rest().len()
    }

    fn put(&mut self, data: &[u8]) {
        if self.start > 1 << 17 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    fn front(&self, n: usize) -> Option<&[u8]> {
        self.rest().get(..n)
    }

    fn take(&mut self, n: usize) -> Option<&[u8]> {
        let taken = self.bytes[self.start..].get(..n)?;
        self.start += n;
        Some(taken)
    }
}

/// What must come out, and slices taken before that must never change.
struct Story {
    rng: Rng,
    source: Bytes,
    buffer: LinkBuffer,
    model: Model,
    held: Vec<(LinkBuffer, Vec<u8>)>,
}

impl Story {
    fn new(seed: u64, source: &Bytes) -> Story {
        Story {
            rng: Rng(seed),
            source: source.clone(),
            buffer: LinkBuffer::new(),
            model: Model::default(),
            held: Vec::new(),
        }
    }

    /// Some bytes to write.
    fn data(&mut self) -> Bytes {
        let n = self.rng.size();
        let at = self.rng.below(self.source.len() - n);
        self.source.slice(at..at + n)
    }

    /// A length to read: mostly legal, sometimes a little or far too long.
    fn wanted(&mut self) -> usize {
        match self.rng.below(16) {
            0 => self.model.len(),
            1 => self.model.len() + 1 + self.rng.below(3),
            2 => usize::MAX - self.rng.below(2),
            3..6 => self.rng.below(self.model.len() + 1),
            _ => self.rng.size().min(self.model.len()),
        }
    }

    fn step(&mut self) {
        match self.rng.below(24) {
            0..4 => {
                let data = self.data();
                self.buffer.put_slice(&data);
                self.model.put(&data);
            }
            4 => {
                for _ in 0..self.rng.below(20) {
                    let byte = self.rng.next() as u8;
                    self.buffer.put_u8(byte);
                    self.model.put(&[byte]);
                }
            }
            5 => {
                let data = self.data();
                self.model.put(&data);
                self.buffer.write_bytes(data);
            }
            6 => {
                let (a, b) = (self.data(), self.data());
                self.model.put(&a);
                self.model.put(&b);
                self.buffer.put(Buf::chain(a, b));
            }
            7 => {
                let mut other = LinkBuffer::new();
                for _ in 0..self.rng.below(4) {
                    let data = self.data();
                    self.model.put(&data);
                    if self.rng.one_in(2) { other.write_bytes(data) } else { other.put_slice(&data) }
                }
                if self.rng.one_in(2) {
                    other.seal();
                }
                self.buffer.append(other);
            }
            8 => {
                let data = self.data();
                let committed = !self.rng.one_in(4);
                let mut room = self.buffer.reserve(data.len());
                assert!(room.room() >= data.len());
                room.put_slice(&data);
                if let Some(first) = room.filled_mut().first_mut() {
                    *first = !*first;
                }
                if committed {
                    self.model.put(room.filled());
                    room.commit();
                }
            }
            9 => {
                let n = self.rng.size();
                self.buffer.put_bytes(0xA5, n);
                self.model.put(&vec![0xA5; n]);
            }
            10 | 11 => {
                let n = self.wanted();
                assert_eq!(self.buffer.peek(n), self.model.front(n), "peek {n}");
            }
            12 | 13 => {
                let n = self.wanted();
                let taken = self.buffer.next(n);
                let expected = self.model.take(n).map(<[u8]>::to_vec);
                assert_eq!(taken.as_deref(), expected.as_deref(), "next {n}");
                self.hold(taken.map(LinkBuffer::from), expected);
            }
            14 => {
                let n = self.wanted();
                assert_eq!(self.buffer.skip(n), self.model.take(n).is_some(), "skip {n}");
            }
            15 => {
                let byte = self.rng.next() as u8;
                let at = self.model.rest().iter().position(|b| *b == byte);
                let expected = at.and_then(|at| self.model.take(at + 1));
                assert_eq!(self.buffer.until(byte).as_deref(), expected, "until {byte}");
            }
            16 => {
                let (start, end) = (self.wanted(), self.wanted());
                let slice = self.buffer.slice(start..end);
                let expected = self.model.rest().get(start..end).map(<[u8]>::to_vec);
                self.hold(slice, expected);
            }
            17 => {
                let n = self.wanted();
                let taken = self.buffer.split_to(n);
                let expected = self.model.take(n).map(<[u8]>::to_vec);
                self.hold(taken, expected);
            }
            18 => {
                let n = self.wanted().min(self.model.len());
                if self.rng.one_in(2) {
                    self.model.take(n);
                    self.buffer.advance(n);
                } else {
                    assert_eq!(Some(&self.buffer.copy_to_bytes(n)[..]), self.model.take(n));
                }
            }
            19 => {
                let mut slices = [IoSlice::new(&[]); 6];
                let set = self.buffer.gather(&mut slices);
                assert_eq!(set, self.buffer.segments().min(6));
                let mut gathered = Vec::new();
                for slice in &slices[..set] {
                    gathered.extend_from_slice(slice);
                }
                assert_eq!(Some(&gathered[..]), self.model.front(gathered.len()));
            }
            20 => self.buffer.seal(),
            21 => self.buffer.release_if_empty(),
            22 if self.rng.one_in(8) => {
                self.buffer.clear();
                self.model = Model::default();
            }
            22 => {
                // Give a story's slices back, at times on another thread.
                let gone: Vec<_> = self.held.drain(self.held.len() / 2..).collect();
                for (slice, expected) in &gone {
                    assert!(*slice == expected[..], "a slice changed after it was taken");
                }
                if self.rng.one_in(400) {
                    std::thread::spawn(move || drop(gone)).join().unwrap();
                }
            }
            _ => {
                let n = self.model.len().saturating_sub(self.rng.below(30_000));
                assert!(self.buffer.skip(n));
                self.model.take(n);
            }
        }
        assert_eq!(self.buffer.len(), self.model.len());
        assert_eq!(self.buffer.is_empty(), self.model.rest().is_empty());
        assert_eq!(self.buffer.chunk().first(), self.model.rest().first());
    }

    fn hold(&mut self, slice: Option<LinkBuffer>, expected: Option<Vec<u8>>) {
        assert_eq!(slice.is_some(), expected.is_some());
        if let (Some(slice), Some(expected)) = (slice, expected) {
            assert!(slice == expected[..]);
            if self.held.len() < 16 {
                self.held.push((slice, expected));
            }
        }
    }

    fn end(self) {
        assert!(self.buffer == *self.model.rest());
        for (slice, expected) in &self.held {
            assert!(*slice == expected[..], "a slice changed after it was taken");
        }
    }
}

/// Also B23: what was not committed, or was another's, is never seen, and slices keep their content while blocks are recycled.
#[test]
fn any_sequence_of_operations_behaves_like_a_vec() {
    let sequences: u64 = std::env::var("LINK_BUFFER_SEQUENCES").map_or(10_000, |n| n.parse().unwrap());
    let mut rng = Rng(1);
    let source: Bytes = (0..256 * 1024).map(|_| rng.next() as u8).collect();
    for seed in 0..sequences {
        let run = || {
            let mut story = Story::new(seed, &source);
            (0..200).for_each(|_| story.step());
            story.end();
        };
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// B01: two connections shared one node. Here two threads write, exchange slices, and drop them while both go on writing.
#[test]
fn b01_no_piece_of_memory_has_two_owners() {
    let (to_a, from_b) = mpsc::sync_channel::<(LinkBuffer, u8)>(64);
    let (to_b, from_a) = mpsc::sync_channel::<(LinkBuffer, u8)>(64);
    let connection = |to: mpsc::SyncSender<(LinkBuffer, u8)>, from: mpsc::Receiver<(LinkBuffer, u8)>, own: u8| {
        move || {
            let mut rng = Rng(own.into());
            for round in 0..2000u32 {
                let mark = own ^ (round as u8 & 0x7f);
                let mut buffer = LinkBuffer::new();
                buffer.put_bytes(mark, 1 + rng.size());
                let n = buffer.len();
                let slice = buffer.slice(n / 2..).unwrap();
                if rng.one_in(2) {
                    buffer.seal();
                }
                // A full queue, or a peer that is done: drop it here.
                let _ = to.try_send((slice, mark));
                let _ = to.try_send((buffer, mark));
                for (theirs, mark) in from.try_iter().take(3) {
                    assert!(theirs == *vec![mark; theirs.len()]);
                }
            }
            drop(to);
            for (theirs, mark) in from {
                assert!(theirs == *vec![mark; theirs.len()]);
            }
        }
    };
    let other = std::thread::spawn(connection(to_b, from_b, 0x80));
    connection(to_a, from_a, 0)();
    other.join().unwrap();
}

/// B03: whatever was done to a buffer before, every call returns.
#[test]
fn b03_every_call_in_every_state_returns() {
    fn with(change: impl FnOnce(&mut LinkBuffer)) -> LinkBuffer {
        let mut buffer = LinkBuffer::new();
        buffer.put_slice(b"head");
        buffer.write_bytes(large(1));
        buffer.put_slice(b"tail");
        change(&mut buffer);
        buffer
    }
    let states: [fn() -> LinkBuffer; 9] = [
        LinkBuffer::new,
        LinkBuffer::default,
        || LinkBuffer::from(Bytes::new()),
        || with(|_| {}),
        || with(|buffer| buffer.clear()),
        || with(|buffer| buffer.seal()),
        || with(|buffer| drop(std::mem::take(buffer))),
        || with(|buffer| drop(buffer.split_to(LINK_MIN + 8))),
        || {
            with(|buffer| {
                buffer.clear();
                buffer.release_if_empty();
            })
        },
    ];
    let calls: [fn(&mut LinkBuffer); 20] = [
        |buffer| assert_eq!(buffer.len() >= 5, buffer.peek(5).is_some()),
        |buffer| drop(buffer.next(5)),
        |buffer| assert_eq!(buffer.len() >= 5, buffer.skip(5)),
        |buffer| drop(buffer.until(b'l')),
        |buffer| drop(buffer.slice(2..5)),
        |buffer| drop(buffer.split_to(5)),
        |buffer| drop(buffer.copy_to_bytes(buffer.len())),
        |buffer| buffer.advance(buffer.len()),
        |buffer| buffer.clear(),
        |buffer| buffer.seal(),
        |buffer| buffer.release_if_empty(),
        |buffer| buffer.reserve(100_000).commit(),
        |buffer| drop(buffer.reserve(0)),
        |buffer| buffer.put_u8(1),
        |buffer| buffer.put_slice(&[2; 70_000]),
        |buffer| buffer.put(&b"three"[..]),
        |buffer| buffer.write_bytes(Bytes::new()),
        |buffer| buffer.append(LinkBuffer::from(large(4))),
        |buffer| assert_eq!(buffer.gather(&mut []), 0),
        |buffer| assert!(!buffer.chunk_mut().as_mut_ptr().is_null()),
    ];
    for state in states {
        for first in calls {
            for second in calls {
                let mut buffer = state();
                first(&mut buffer);
                second(&mut buffer);
                let n = buffer.len();
                assert_eq!(buffer.copy_to_bytes(n).len(), n);
            }
        }
    }
}

fn large(byte: u8) -> Bytes {
    Bytes::from(vec![byte; LINK_MIN])
}

#[test]
fn reading_within_a_segment_keeps_the_memory() {
    let memory = large(7);
    let mut buffer = LinkBuffer::new();
    buffer.put_slice(b"head");
    buffer.write_bytes(memory.clone());
    buffer.put_slice(b"tail");
    assert_eq!(buffer.segments(), 3);
    let head = buffer.peek(4).unwrap().as_ptr();
    assert_eq!(buffer.next(4).unwrap().as_ptr(), head);
    let shared = buffer.slice(10..20).unwrap();
    assert_eq!(shared.chunk().as_ptr(), memory[10..].as_ptr());
    assert_eq!(buffer.next(100).unwrap().as_ptr(), memory.as_ptr());
    assert_eq!(buffer.copy_to_bytes(100).as_ptr(), memory[100..].as_ptr());
    let mut rest = buffer.split_to(LINK_MIN - 200 + 2).unwrap();
    assert_eq!(rest.next(8).unwrap().as_ptr(), memory[200..].as_ptr());
    assert_eq!(buffer, b"il");
}

#[test]
fn small_writes_are_copied_and_large_ones_linked() {
    let small = Bytes::from(vec![1; LINK_MIN - 1]);
    let mut buffer = LinkBuffer::new();
    buffer.write_bytes(small.clone());
    assert_ne!(buffer.chunk().as_ptr(), small.as_ptr());
    let mut buffer = LinkBuffer::new();
    buffer.put(large(2));
    buffer.put(small.clone());
    buffer.put(small);
    assert_eq!(buffer.segments(), 2, "the two small ones are one segment");
}

/// What is read from a source that somebody keeps is read: `put` of the rest ends.
#[test]
fn a_borrowed_source_is_consumed_whatever_its_length() {
    for len in [0, 1, LINK_MIN - 1, LINK_MIN, 3 * LINK_MIN] {
        let (mut buffer, mut source) = (LinkBuffer::new(), Bytes::from(vec![9; len]));
        buffer.put((&mut source).take(len / 3));
        assert_eq!(source.len(), len - len / 3, "{len}");
        buffer.put(&mut source);
        assert!(source.is_empty(), "{len}");
        assert_eq!(buffer, &vec![9; len][..]);
    }
}

#[test]
fn appending_many_small_buffers_makes_one_segment() {
    let mut out = LinkBuffer::new();
    for i in 0..100u8 {
        let mut message = LinkBuffer::new();
        message.put_bytes(i, 50);
        message.seal();
        out.append(message);
    }
    assert!(out.segments() <= 2, "{out:?}");
    assert_eq!(out.len(), 5000);
}

#[test]
fn appending_moves_large_segments() {
    let memory = large(3);
    let mut message = LinkBuffer::from(memory.clone());
    message.put_bytes(0, LINK_MIN);
    let written = {
        let mut slices = [IoSlice::new(&[]); 2];
        message.gather(&mut slices);
        slices[1].as_ptr()
    };
    let mut out = LinkBuffer::new();
    out.put_slice(b"before");
    out.append(message);
    assert!(out.skip(6));
    assert_eq!(out.next(LINK_MIN).unwrap().as_ptr(), memory.as_ptr());
    assert_eq!(out.next(LINK_MIN).unwrap().as_ptr(), written);
}

#[test]
fn linking_goes_on_in_the_same_block() {
    let mut buffer = LinkBuffer::new();
    buffer.put_slice(b"head");
    let head = buffer.chunk().as_ptr();
    buffer.write_bytes(large(1));
    buffer.put_slice(b"tail");
    assert!(buffer.skip(4 + LINK_MIN));
    assert_eq!(buffer.chunk().as_ptr(), head.wrapping_add(4));
}

#[test]
fn peek_joins_once() {
    let mut buffer = LinkBuffer::new();
    for i in 0..5 {
        buffer.write_bytes(large(i));
    }
    let joined = buffer.peek(3 * LINK_MIN + 1).unwrap().as_ptr();
    assert_eq!(buffer.peek(3 * LINK_MIN + 1).unwrap().as_ptr(), joined);
    assert_eq!(buffer.peek(10).unwrap().as_ptr(), joined);
    assert_eq!(buffer.segments(), 3);
    assert_eq!(buffer.next(3 * LINK_MIN + 1).unwrap().as_ptr(), joined);
    assert_eq!(buffer.len(), 2 * LINK_MIN - 1);
}

#[test]
fn reserved_room_is_contiguous_at_any_size() {
    for n in [0, 1, 4096, 4097, 65_536, 65_537, 1 << 20] {
        let mut buffer = LinkBuffer::new();
        buffer.put_slice(b"x");
        let mut room = buffer.reserve(n);
        assert!(room.room() >= n);
        room.put_zeroed(n).fill(9);
        room.commit();
        assert!(buffer.skip(1));
        assert_eq!(buffer.chunk().len(), n, "one piece of {n}");
        assert!(buffer.chunk().iter().all(|byte| *byte == 9));
    }
}

#[test]
fn what_is_not_committed_never_shows() {
    let mut buffer = LinkBuffer::new();
    buffer.put_slice(b"kept");
    buffer.reserve(10).put_slice(b"discarded");
    assert_eq!(buffer, b"kept");
    let mut header = buffer.reserve(4);
    header.put_u32(0);
    header.filled_mut().copy_from_slice(b"len!");
    header.commit();
    assert_eq!(buffer, b"keptlen!");
}

#[test]
fn an_emptied_buffer_writes_from_the_start_of_its_block_again() {
    let mut buffer = LinkBuffer::new();
    buffer.put_slice(b"first");
    let start = buffer.chunk().as_ptr();
    for _ in 0..1000 {
        let n = buffer.len();
        buffer.advance(n);
        buffer.put_bytes(1, 60_000);
        assert_eq!(buffer.chunk().as_ptr(), start);
    }
}

/// B10: lengths that do not fit any arithmetic.
#[test]
fn b10_lengths_beyond_everything_are_refused() {
    let mut buffer = LinkBuffer::from(Bytes::from_static(b"abc"));
    assert_eq!(buffer.peek(usize::MAX), None);
    assert_eq!(buffer.next(usize::MAX), None);
    assert!(!buffer.skip(usize::MAX));
    assert!(buffer.split_to(usize::MAX).is_none());
    assert!(buffer.slice(..=usize::MAX).is_none());
    assert!(buffer.slice((std::ops::Bound::Excluded(usize::MAX), std::ops::Bound::Unbounded)).is_none());
    assert!(buffer.slice(3..4).is_none());
    assert_eq!(buffer, b"abc");
    assert!(buffer.remaining_mut() > 1 << 30);
}

#[test]
fn a_sealed_buffer_can_be_dropped_anywhere() {
    fn assert_send_sync<T: Send + Sync>(_: &T) {}
    let mut buffer = LinkBuffer::new();
    buffer.put_slice(b"request");
    buffer.seal();
    assert_send_sync(&buffer);
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 7, segments: 1, spare: 0 }");
    std::thread::spawn(move || assert_eq!(buffer, b"request")).join().unwrap();
}
