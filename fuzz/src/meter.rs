//! What a piece of work costs on this thread: memory at its peak, and processor time.
//!
//! Both are counted by thread, so that other threads and a busy machine do not matter. Time is judged by the best of many
//! runs, against a limit that leaves room for sanitizers and builds without optimisation: it finds work that is not linear in its
//! input, not work that is a little slow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Bytes that finding frames may hold beside twice its input: one block of a connection.
const FRAMING_BASE: usize = 64 * 1024;
/// Decoded protobuf may hold this many times its input; an empty message of two bytes becomes a struct.
const PROTOBUF_FACTOR: usize = 64;
/// Time for any input, and for each of its bytes, in nanoseconds, at full speed.
const TIME_BASE: u64 = 50_000;
const TIME_PER_BYTE: u64 = 20;
/// How much slower than at full speed a target may run: coverage, sanitizers, no optimisation.
const SLOWED: u64 = 32;
/// Runs of which the fastest is judged, when the first one was too slow.
const TRIES: usize = 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes allocated less bytes freed by this thread, and the most there were.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // While a thread ends its counters are gone, and nobody looks.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both pieces may be there at once.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The most bytes that `work` held at once, beyond those that were held before it.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// Nanoseconds of processor time that this thread has used.
pub fn cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written to, and the clock exists on every system with threads.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "the thread has no clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds that `work` takes: the best of `tries`.
pub fn best_time(tries: usize, mut work: impl FnMut()) -> u64 {
    let runs = (0..tries).map(|_| {
        let before = cpu_nanos();
        work();
        cpu_nanos() - before
    });
    runs.min().unwrap_or(0)
}

/// Runs `work` on `input` bytes under the budget of framing: 64 KiB and twice the input in memory, and time linear in it.
pub fn framing<T>(input: usize, work: impl FnMut() -> T) -> T {
    within(input, FRAMING_BASE + 2 * input, work)
}

/// Runs `work` on `input` bytes under the budget of decoded messages: 64 times the input in memory, and time linear in it.
pub fn protobuf<T>(input: usize, work: impl FnMut() -> T) -> T {
    within(input, FRAMING_BASE + PROTOBUF_FACTOR * input, work)
}

fn within<T>(input: usize, memory: usize, mut work: impl FnMut() -> T) -> T {
    let before = cpu_nanos();
    let (result, peak) = peak(&mut work);
    let taken = cpu_nanos() - before;
    assert!(peak <= memory, "{input} bytes of input held {peak} bytes of memory, at most {memory} are allowed");
    let limit = SLOWED * (TIME_BASE + TIME_PER_BYTE * input as u64);
    if taken > limit {
        let best = best_time(TRIES, || drop(work()));
        assert!(best <= limit, "{input} bytes of input took {best} ns at best, at most {limit} are allowed");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_at_its_peak() {
        let ((), held) = peak(|| drop((vec![0u8; 1000], vec![0u8; 500])));
        assert_eq!(held, 1500);
        let ((), held) = peak(|| {
            drop(vec![0u8; 1000]);
            drop(vec![0u8; 500]);
        });
        assert_eq!(held, 1000);
    }

    #[test]
    #[should_panic(expected = "held 100000 bytes")]
    fn too_much_memory_is_a_finding() {
        framing(10, || drop(vec![0u8; 100_000]));
    }

    #[test]
    #[should_panic(expected = "ns at best")]
    fn too_much_time_is_a_finding() {
        let data = vec![1u8; 3000];
        let quadratic = || {
            (0..data.len())
                .map(|n| data[..n].iter().fold(0u64, |a, b| std::hint::black_box(a) + u64::from(*b)))
                .sum::<u64>()
        };
        framing(10, quadratic);
    }
}
