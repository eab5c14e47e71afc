//! Two kinds of work compared by the processor time they take.

use std::time::Duration;

/// Rounds that are measured, and how many more where the result is not as it should be.
const ROUNDS: usize = 5;
const MOST: usize = 30;

/// The least processor time of each, measured by turns, until the two compare well or there have been many rounds. What else the machine
/// does adds to a measurement and takes nothing from it: more of them come nearer to the truth, from above.
pub(crate) fn least(
    mut one: impl FnMut() -> Duration,
    mut two: impl FnMut() -> Duration,
    compare_well: impl Fn(Duration, Duration) -> bool,
) -> (Duration, Duration) {
    let mut least = (Duration::MAX, Duration::MAX);
    for round in 1..=MOST {
        least = (least.0.min(one()), least.1.min(two()));
        if round >= ROUNDS && compare_well(least.0, least.1) {
            break;
        }
    }
    least
}
