//! How large a test is to be, from its environment.

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
