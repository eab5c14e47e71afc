//! How large a test is to be and how much memory it allows, from its environment.

/// Whether `RPC_TEST_SIZE=full` asks for the sizes of the long run rather than those of every change.
pub fn full() -> bool {
    std::env::var_os("RPC_TEST_SIZE").is_some_and(|size| size == "full")
}

/// How many of something a test uses: `normal`, or `full` where [`full`] says so.
pub fn size(normal: usize, full: usize) -> usize {
    if self::full() { full } else { normal }
}

/// `SEED`, which chooses a test's random numbers; 1 by default.
///
/// # Panics
/// When it is no number.
pub fn seed() -> u64 {
    std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"))
}

/// Whether tests and testee were built with a sanitizer: `RPC_TEST_SANITIZER=address`, set by `.ci/long`.
pub fn sanitized() -> bool {
    std::env::var_os("RPC_TEST_SANITIZER").is_some_and(|kind| !kind.is_empty())
}

/// The resident memory of a testee that may use `bytes`. A sanitizer adds what it keeps beside each allocation, its shadow of it,
/// and what has been freed: `quarantine_size_mb=16` in `.ci/long`, and as much again for the shadow and what threads keep.
pub fn resident(bytes: u64) -> u64 {
    if sanitized() { 4 * bytes + (64 << 20) } else { bytes }
}
