//! What happened, folded into one number.

use std::time::Duration;

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    prints: bool,
}

/// FNV-1a's prime, for a mix that is the same everywhere and for ever.
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Adds bytes to a hash.
pub(super) fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl Trace {
    pub(super) fn new(seed: u64) -> Trace {
        Trace { hash: seed ^ 0xcbf2_9ce4_8422_2325, prints: false }
    }

    pub(super) fn add(&mut self, now: Duration, what: &str, a: u64, b: u64) {
        if self.prints {
            eprintln!("{now:>14.6?} {what:<8} {a:>6} {b}");
        }
        let number = |hash: u64, n: u64| (hash ^ n).wrapping_mul(PRIME).rotate_left(29);
        self.hash = [now.as_nanos() as u64, a, b].into_iter().fold(fold(self.hash, what.as_bytes()), number);
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn prints(&self) -> bool {
        self.prints
    }

    pub(super) fn print(&mut self) {
        self.prints = true;
    }
}
