//! Names and numbers chosen to fall into one bucket of a hash table (T42). There is no table that a peer's ids fill, the tables that
//! its names are looked up in are the services' own and keyed by SipHash, and metadata is a list with a limit: so nothing here should
//! cost more than random names do.
//!
//! Names that collide under SipHash with random keys cannot be had, and those here collide under simpler hashes. That no table of ours has such
//! a one is no finding of this test: it is a rule in `rpc-core/tests/tidy.rs`.

use std::io::Write;
use std::time::Duration;

use testee::{Scene, raw};

use crate::attack;
use crate::cost::least;

/// Requests a measurement makes, and how many are under way at a time.
const REQUESTS: usize = 4_000;
const BATCH: usize = 500;

/// The `n`-th of a family of names of one length with one hash for each polynomial in 31, as `Aa` and `BB` have: the hash of Java's
/// strings and of many a hand-written table.
fn colliding(n: usize) -> String {
    (0..12).map(|bit| if n >> bit & 1 == 0 { "Aa" } else { "BB" }).collect()
}

/// A name of the same length with no plan behind it.
fn random(n: usize) -> String {
    let mut state = n as u64 + 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'A' + (state % 52) as u8 % 58)
    };
    (0..24).map(letter).collect()
}

#[test]
fn the_families_are_what_they_are_said_to_be() {
    let hash = |name: String| name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    let hashes = |family: fn(usize) -> String| {
        let mut hashes: Vec<_> = (0..4_096).map(family).map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes.len()
    };
    assert_eq!(hashes(colliding), 1);
    assert!(hashes(random) > 4_000);
    let mut names: Vec<_> = (0..4_096).map(colliding).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 4_096);
}

/// Processor time that these requests cost the server.
fn cost(scene: &Scene, request: impl Fn(usize) -> Vec<u8>) -> Duration {
    let mut socket = scene.dial();
    let before = scene.server.cpu();
    for from in (0..REQUESTS).step_by(BATCH) {
        socket.write_all(&(from..from + BATCH).flat_map(&request).collect::<Vec<_>>()).expect("sent");
        for _ in 0..BATCH {
            raw::read_bytes(&mut socket).expect("a frame").expect("a reply");
        }
    }
    scene.server.cpu() - before
}

#[test]
fn t42_chosen_names_cost_what_random_ones_do() {
    type Request = fn(&dyn Fn(usize) -> String, &dyn Fn(usize) -> i32, usize) -> Vec<u8>;
    fn metadata(name: &dyn Fn(usize) -> String, n: usize) -> Vec<(String, String)> {
        (0..100).map(|i| (format!("RPC_PERSIST_{}", name(i * 40 + n % 40)), String::new())).collect()
    }
    let families: [(&str, Request); 3] = [
        ("method names", |name, _, n| raw::request(1, &name(n), b"")),
        ("ids", |_, id, n| raw::request(id(n), "Sleep", &raw::number(20))),
        ("metadata keys", |name, _, n| {
            raw::ttheader(1, 1, &raw::strings(&metadata(name, n)), &raw::framed(raw::CALL, "Echo", 1, b""))
        }),
    ];
    // Sixteen bits shared by all: one bucket of any table of a power of two.
    let (in_order, strided) = (|n: usize| n as i32 + 1, |n: usize| (n as i32 + 1) << 16);
    attack("T42").pace(Duration::from_millis(50)).run(|scene| {
        let mut said = Vec::new();
        for (what, request) in families {
            let is_alike = |plain: Duration, chosen: Duration| chosen <= plain * 2 + Duration::from_millis(5);
            let (plain, chosen) = least(
                || cost(scene, |n| request(&random, &in_order, n)),
                || cost(scene, |n| request(&colliding, &strided, n)),
                is_alike,
            );
            assert!(is_alike(plain, chosen), "{what}: {chosen:?}, plain ones {plain:?}");
            said.push(format!("{what} {chosen:?} (random {plain:?})"));
        }
        format!(
            "processor time of {REQUESTS} requests with names that collide under polynomials in 31, and ids with equal low bits: {}; that tables are \
             keyed at random is held by tidy.rs",
            said.join(", ")
        )
    });
}
