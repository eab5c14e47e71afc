//! The read-only segments of a `LinkBuffer`: a queue whose first few live in place.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;

/// Segments kept without a heap allocation: what is before a linked field, the field, and what is after it.
const INLINE: usize = 3;

/// Queues kept by a thread for chains that outgrow their place: connections with much output in flight need one every turn.
const QUEUES_KEPT: usize = 8;

/// Longest queue worth keeping, in segments.
const QUEUE_KEPT_LEN: usize = 1024;

thread_local! {
    static QUEUES: RefCell<Vec<VecDeque<Bytes>>> = const { RefCell::new(Vec::new()) };
}

fn spare_queue() -> VecDeque<Bytes> {
    QUEUES.try_with(|queues| queues.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

fn keep_queue(queue: VecDeque<Bytes>) {
    debug_assert!(queue.is_empty());
    if (1..=QUEUE_KEPT_LEN).contains(&queue.capacity()) {
        // At a thread's end there is nowhere to keep it.
        let _ = QUEUES.try_with(|queues| {
            let mut queues = queues.borrow_mut();
            if queues.len() < QUEUES_KEPT {
                queues.push(queue);
            }
        });
    }
}

/// Segments, oldest first, none of them empty.
///
/// Order is `inline[first..]` up to the first `None`, then `more`. A message with one large field needs no allocation;
/// a queue that once was longer keeps the capacity of `more`.
pub(super) struct Chain {
    inline: [Option<Bytes>; INLINE],
    first: usize,
    end: usize,
    more: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes gone from the first segment, whose memory stays until the last of it goes.
    gone: usize,
}

impl Chain {
    pub(super) const fn new() -> Chain {
        Chain { inline: [const { None }; INLINE], first: 0, end: 0, more: VecDeque::new(), bytes: 0, gone: 0 }
    }

    /// Bytes in all segments.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that its segments keep in memory.
    pub(super) fn pinned(&self) -> usize {
        self.bytes + self.gone
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn segments(&self) -> usize {
        self.end - self.first + self.more.len()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Bytes> {
        match self.inline.get(self.first) {
            Some(Some(front)) => Some(front),
            _ => self.more.front(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> + Clone {
        self.inline[self.first..self.end].iter().flatten().chain(&self.more)
    }

    /// Adds a segment; an empty one leaves no trace.
    pub(super) fn push_back(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        self.bytes += segment.len();
        if !self.more.is_empty() {
            self.more.push_back(segment);
            return;
        }
        if self.end == INLINE && self.first > 0 {
            self.inline.rotate_left(self.first);
            self.end -= self.first;
            self.first = 0;
        }
        match self.inline.get_mut(self.end) {
            Some(slot) => {
                *slot = Some(segment);
                self.end += 1;
            }
            None => {
                if self.more.capacity() == 0 {
                    self.more = spare_queue();
                }
                self.more.push_back(segment);
            }
        }
    }

    /// Adds a segment before all others.
    pub(super) fn push_front(&mut self, segment: Bytes) {
        if segment.is_empty() {
            return;
        }
        self.bytes += segment.len();
        if self.first == 0 && self.end == INLINE {
            // Make the last slot free: its segment is the one before `more`.
            if let Some(last) = self.inline[INLINE - 1].take() {
                self.more.push_front(last);
            }
            self.end -= 1;
        }
        if self.first == 0 {
            self.inline[..=self.end].rotate_right(1);
            self.end += 1;
        } else {
            self.first -= 1;
        }
        self.inline[self.first] = Some(segment);
        self.gone = 0;
    }

    pub(super) fn pop_front(&mut self) -> Option<Bytes> {
        let segment = if self.first < self.end {
            let segment = self.inline[self.first].take();
            self.first += 1;
            if self.first == self.end {
                (self.first, self.end) = (0, 0);
            }
            segment
        } else {
            self.more.pop_front()
        }?;
        self.bytes -= segment.len();
        self.gone = 0;
        Some(segment)
    }

    fn front_mut(&mut self) -> Option<&mut Bytes> {
        if self.first < self.end { self.inline[self.first].as_mut() } else { self.more.front_mut() }
    }

    /// Takes up to `n` bytes, all from the first segment. Nothing is copied.
    pub(super) fn take_front(&mut self, n: usize) -> Option<Bytes> {
        let front = self.front_mut()?;
        if n >= front.len() {
            return self.pop_front();
        }
        let taken = front.split_to(n);
        self.bytes -= n;
        Some(taken)
    }

    /// Drops up to `n` bytes and says how many.
    pub(super) fn advance(&mut self, n: usize) -> usize {
        let mut left = n;
        while left > 0 {
            let Some(front) = self.front_mut() else { break };
            if left < front.len() {
                bytes::Buf::advance(front, left);
                self.bytes -= left;
                self.gone += left;
                return n;
            }
            left -= front.len();
            self.pop_front();
        }
        n - left
    }

    /// Gives an empty chain's queue to this thread: the chain owns nothing then.
    pub(super) fn release(&mut self) {
        debug_assert!(self.is_empty());
        if self.more.capacity() > 0 {
            keep_queue(std::mem::take(&mut self.more));
        }
    }

    /// Drops all segments; what was allocated for the queue stays.
    pub(super) fn clear(&mut self) {
        self.inline = [const { None }; INLINE];
        self.more.clear();
        (self.first, self.end, self.bytes, self.gone) = (0, 0, 0, 0);
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Op {
        Back(&'static [u8]),
        Front(&'static [u8]),
        Pop,
        Take(usize),
        Advance(usize),
    }
    use Op::{Advance, Back, Front, Pop, Take};

    fn check(ops: &[Op], expected: &[&[u8]]) {
        let mut chain = Chain::new();
        for op in ops {
            match *op {
                Back(segment) => chain.push_back(Bytes::from_static(segment)),
                Front(segment) => chain.push_front(Bytes::from_static(segment)),
                Pop => drop(chain.pop_front()),
                Take(n) => drop(chain.take_front(n)),
                Advance(n) => drop(chain.advance(n)),
            }
            let total: usize = chain.iter().map(Bytes::len).sum();
            assert_eq!((chain.bytes(), chain.segments()), (total, chain.iter().count()));
            assert_eq!(chain.front(), chain.iter().next());
            assert_eq!(chain.is_empty(), chain.front().is_none());
        }
        assert!(chain.iter().eq(expected), "{:?}", chain.iter().collect::<Vec<_>>());
    }

    #[test]
    #[rustfmt::skip]
    fn segments_keep_their_order() {
        let [a, b, c, d, e]: [&'static [u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
        check(&[],                                                           &[]);
        check(&[Pop, Take(1), Advance(1), Back(b""), Front(b"")],            &[]);
        check(&[Back(a), Back(b), Back(c), Back(d), Back(e)],                &[a, b, c, d, e]);
        check(&[Front(a), Front(b), Front(c), Front(d), Front(e)],           &[e, d, c, b, a]);
        check(&[Back(a), Back(b), Back(c), Pop, Back(d)],                    &[b, c, d]);
        check(&[Back(a), Back(b), Back(c), Back(d), Pop, Back(e)],           &[b, c, d, e]);
        check(&[Back(a), Back(b), Back(c), Back(d), Pop, Pop, Pop, Front(e)], &[e, d]);
        check(&[Back(a), Back(b), Back(c), Pop, Front(d), Front(e)],         &[e, d, b, c]);
        check(&[Back(a), Back(b), Back(c), Back(d), Advance(3), Back(e)],    &[d, e]);
        check(&[Back(a), Back(b), Back(c), Back(d), Advance(9)],             &[]);
        check(&[Back(b"abc"), Back(d), Take(2), Take(9)],                    &[d]);
        check(&[Back(b"abc"), Back(d), Advance(2)],                          &[b"c", d]);
    }
}
