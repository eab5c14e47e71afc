//! What a piece of work costs on this thread: memory at its peak, and processor time.
//!
//! Both are counted by thread, so that other threads and a busy machine do not matter. Time is judged by the best of many
//! runs, against a limit that leaves room for sanitizers and builds without optimisation: it finds work that is not linear in its
//! input, not work that is a little slow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What a piece of work may cost, in bytes and in nanoseconds at full speed.
#[derive(Debug, Clone, Copy)]
struct Budget {
    memory: usize,
    memory_per_byte: usize,
    time: u64,
    time_per_byte: u64,
}

/// Finding frames and reading headers: beside twice the input one block of a connection.
const FRAMING: Budget = Budget { memory: 64 * 1024, memory_per_byte: 2, time: 50_000, time_per_byte: 20 };

/// Decoding protobuf: an empty message of two bytes becomes a struct.
const PROTOBUF: Budget = Budget { memory_per_byte: 64, ..FRAMING };

/// Generating code: a name of the input stands in many places of the output, which is held as descriptors, as a model, as tokens, and
/// as text. One reading of the well-known types comes before.
const GENERATING: Budget = Budget { memory: 1 << 20, memory_per_byte: 4096, time: 5_000_000, time_per_byte: 20_000 };

/// A conversation: what its ends and the network between them need, a few blocks, the largest frame, and its bytes where they are sent,
/// carried, read, answered and compared.
const CONVERSING: Budget = Budget { memory: 256 * 1024, memory_per_byte: 8, time: 2_000_000, time_per_byte: 20 };
/// For each piece of it, with all that is looked at after it.
const TIME_PER_PIECE: u64 = 100_000;

/// A story of buffers and their models: both hold what was written, and it is copied to be compared. The longest content of a buffer
/// may be looked at in each step.
const STORY: Budget = Budget { memory: 64 * 1024, memory_per_byte: 4, time: 100_000, time_per_byte: 20 };
const TIME_PER_STEP: u64 = 400_000;

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
    FRAMING.run(input, work)
}

/// Runs `work` on `input` bytes under the budget of decoded messages: 64 times the input in memory, and time linear in it.
pub fn protobuf<T>(input: usize, work: impl FnMut() -> T) -> T {
    PROTOBUF.run(input, work)
}

/// Runs `work` on `input` bytes of IDL under the budget of a code generator: linear, with large factors.
pub fn generating<T>(input: usize, work: impl FnMut() -> T) -> T {
    GENERATING.run(input, work)
}

/// Runs a conversation of `pieces` pieces with `input` bytes in all, over a simulated network, once: what it holds is bounded by its
/// bytes and by what one frame may announce, and its time by both.
pub fn conversation<T>(input: usize, pieces: usize, work: impl FnOnce() -> T) -> T {
    let budget = Budget { time: CONVERSING.time + TIME_PER_PIECE * pieces as u64, ..CONVERSING };
    let (result, taken) = budget.remembers(input, work);
    budget.is_in_time(input, taken);
    result
}

/// Runs a story of buffers that says how many steps it had and how many bytes it wrote: besides those they may hold so many blocks.
pub fn story(blocks: usize, work: impl FnOnce() -> (usize, usize)) {
    let before = cpu_nanos();
    let ((steps, written), peak) = peak(work);
    let taken = cpu_nanos() - before;
    let budget = Budget { memory: STORY.memory * blocks, time: STORY.time + TIME_PER_STEP * steps as u64, ..STORY };
    budget.has_room(written, peak);
    budget.is_in_time(written, taken);
}

impl Budget {
    fn run<T>(self, input: usize, mut work: impl FnMut() -> T) -> T {
        let (result, taken) = self.remembers(input, &mut work);
        if taken > self.limit(input) {
            self.is_in_time(input, best_time(TRIES, || drop(work())));
        }
        result
    }

    /// Holds to the budget of memory; says how long it took.
    fn remembers<T>(self, input: usize, work: impl FnOnce() -> T) -> (T, u64) {
        let before = cpu_nanos();
        let (result, peak) = peak(work);
        let taken = cpu_nanos() - before;
        self.has_room(input, peak);
        (result, taken)
    }

    fn has_room(self, input: usize, peak: usize) {
        let memory = self.memory + self.memory_per_byte * input;
        assert!(peak <= memory, "{input} bytes of input held {peak} bytes of memory, at most {memory} are allowed");
    }

    fn limit(self, input: usize) -> u64 {
        SLOWED * (self.time + self.time_per_byte * input as u64)
    }

    fn is_in_time(self, input: usize, taken: u64) {
        let limit = self.limit(input);
        assert!(taken <= limit, "{input} bytes of input took {taken} ns at best, at most {limit} are allowed");
    }
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
