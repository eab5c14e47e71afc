//! Peers that misbehave, one test a row of the table of attacks (T1, T3, …), each against a testee in a process of its own.
//!
//! During each a polite client on another connection has every call answered, and afterwards the server is alive, its memory and its
//! descriptors are what they were: [`Attack`] looks to that, and prints one line of evidence. The whole table:
//!
//! ```text
//! cargo test -p examples --test attacks -- --nocapture
//! RPC_TEST_SIZE=full cargo test --release -p examples --test attacks -- --nocapture --test-threads 1
//! ```

mod bytes;
mod calls;
mod connections;
mod cost;
mod hashes;
mod headers;
mod messages;
mod neighbours;
mod replies;
mod servers;
#[cfg(feature = "tls")]
mod tls;

use testee::Attack;

const BIN: &str = env!("CARGO_BIN_EXE_testee");

/// An attack on the testee.
fn attack(row: &str) -> Attack<'_> {
    Attack::new(BIN, row)
}
