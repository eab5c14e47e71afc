//! Blocks are recycled: in steady state no way of using a buffer allocates.
//!
//! Counts are per thread, so tests do not disturb each other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::mpsc;

use bytes::{Buf, BufMut, Bytes};
use rpc_transport::{LINK_MIN, LinkBuffer};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and bytes allocated by this thread during `f`.
fn allocations(f: impl FnOnce()) -> (usize, usize) {
    let before = (COUNT.get(), BYTES.get());
    f();
    (COUNT.get() - before.0, BYTES.get() - before.1)
}

/// Runs `round` until it is warm, then again, and asks for no allocation.
#[track_caller]
fn check_steady(mut round: impl FnMut()) {
    (0..2000).for_each(|_| round()); // more than the 650 rounds after which a block of small frames is used up
    let (count, bytes) = allocations(|| (0..1000).for_each(|_| round()));
    assert_eq!((count, bytes), (0, 0), "allocations in 1000 rounds");
}

fn fill(buffer: &mut LinkBuffer, n: usize) {
    let mut room = buffer.reserve(n);
    room.put_bytes(1, n);
    room.commit();
}

#[test]
fn an_idle_buffer_owns_nothing() {
    let (count, _) = allocations(|| drop(LinkBuffer::new()));
    assert_eq!(count, 0);
    assert!(size_of::<LinkBuffer>() <= 256);
    let mut buffer = LinkBuffer::new();
    fill(&mut buffer, 100);
    assert!(buffer.skip(100));
    buffer.release_if_empty();
    assert_eq!(format!("{buffer:?}"), "LinkBuffer { len: 0, segments: 0, spare: 0 }");
}

#[test]
fn reading_and_releasing_a_pool_block() {
    let mut buffer = LinkBuffer::new();
    check_steady(|| {
        fill(&mut buffer, 3000);
        drop(buffer.next(1000));
        drop(buffer.next(2000));
        buffer.release_if_empty();
    });
}

#[test]
fn slices_held_for_some_rounds() {
    for hold in [1, 3, 50] {
        for size in [100, 5000, 60_000] {
            let mut buffer = LinkBuffer::new();
            let mut held = VecDeque::with_capacity(64);
            check_steady(|| {
                fill(&mut buffer, size);
                held.push_back(buffer.next(size));
                if held.len() > hold {
                    held.pop_front();
                }
                buffer.release_if_empty();
            });
        }
    }
}

#[test]
fn a_slice_that_is_kept_for_ever_costs_one_block() {
    let mut buffer = LinkBuffer::new();
    fill(&mut buffer, 100);
    let kept = buffer.next(1);
    check_steady(|| {
        fill(&mut buffer, 60_000);
        let n = buffer.len();
        assert!(buffer.skip(n));
        buffer.release_if_empty();
    });
    drop(kept);
}

#[test]
fn large_frames_in_exact_blocks() {
    for size in [64 * 1024 + 100, 1 << 20] {
        let mut held = VecDeque::with_capacity(8);
        check_steady(|| {
            let mut buffer = LinkBuffer::new();
            fill(&mut buffer, size);
            held.push_back(buffer.next(size));
            if held.len() > 3 {
                held.pop_front();
            }
        });
    }
}

#[test]
fn frames_of_varying_sizes_share_exact_blocks() {
    let mut size = 70_000;
    check_steady(|| {
        let mut buffer = LinkBuffer::new();
        fill(&mut buffer, size);
        size = 70_000 + (size * 7 + 13) % 200_000;
    });
}

#[test]
fn slices_dropped_on_another_thread() {
    for size in [200, 20_000, 1 << 20] {
        let (to, slices) = mpsc::sync_channel::<LinkBuffer>(4);
        let (done, dropped) = mpsc::sync_channel::<()>(4);
        let other = std::thread::spawn(move || {
            for slice in slices {
                drop(slice);
                done.send(()).unwrap();
            }
        });
        check_steady(|| {
            for _ in 0..4 {
                let mut buffer = LinkBuffer::new();
                fill(&mut buffer, size);
                buffer.seal();
                to.send(buffer).unwrap();
            }
            (0..4).for_each(|_| dropped.recv().unwrap());
        });
        drop(to);
        other.join().unwrap();
    }
}

#[test]
fn a_message_with_a_linked_field() {
    let payload = Bytes::from(vec![1; 1 << 16]);
    let mut out = LinkBuffer::new();
    check_steady(|| {
        let mut message = LinkBuffer::new();
        message.put_slice(b"header");
        message.put(payload.clone());
        message.put_slice(b"rest");
        message.seal();
        out.append(message);
        let n = out.len();
        out.advance(n);
        out.release_if_empty();
    });
}

#[test]
fn a_growing_queue_of_small_messages() {
    let mut out = LinkBuffer::new();
    check_steady(|| {
        for _ in 0..100 {
            let mut message = LinkBuffer::new();
            message.put_bytes(7, 3000);
            message.seal();
            out.append(message);
        }
        out.clear();
    });
}

#[test]
fn joining_what_spans_segments() {
    let payload = Bytes::from(vec![1; LINK_MIN]);
    let mut buffer = LinkBuffer::new();
    check_steady(|| {
        buffer.put_slice(b"head");
        buffer.write_bytes(payload.clone());
        assert!(buffer.peek(100).is_some());
        drop(buffer.next(LINK_MIN));
        buffer.clear();
    });
}

#[test]
fn one_segment_is_sliced_without_allocating() {
    let mut buffer = LinkBuffer::from(Bytes::from(vec![1; 1000]));
    drop(buffer.copy_to_bytes(1)); // the vector becomes shared
    let (count, _) = allocations(|| {
        drop(buffer.copy_to_bytes(10));
        drop(buffer.next(10));
        drop(buffer.slice(..10));
        drop(buffer.split_to(10));
        assert!(buffer.peek(500).is_some());
    });
    assert_eq!(count, 0);
}

/// B11: netpoll's `Peek` copied into caches that lived as long as the buffer.
#[test]
fn b11_peeking_again_and_again_does_not_grow() {
    let segment = Bytes::from(vec![1; LINK_MIN]);
    let mut buffer = LinkBuffer::new();
    (0..8).for_each(|_| buffer.write_bytes(segment.clone()));
    let all = buffer.len();
    // Longer by some bytes each time: every one is a new copy, but they share a few blocks.
    let (_, bytes) = allocations(|| {
        (0..all).step_by(100).for_each(|n| assert_eq!(buffer.peek(n).unwrap().len(), n));
    });
    assert!(bytes <= 6 * 64 * 1024, "{bytes} bytes allocated");
    let (count, _) = allocations(|| {
        (0..1000).for_each(|i| assert!(buffer.peek(all - 100 - i).is_some()));
    });
    assert_eq!(count, 0);
}
