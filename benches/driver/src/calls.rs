//! The loops, on whatever runs them.

use std::fmt::Display;
use std::future::Future;

use crate::Laps;

/// One loop's calls: all alike, and unlike those of any other loop, so that a reply that went astray is noticed.
pub trait Calls: Send + Sync + 'static {
    /// What a call ends with.
    type Reply: Send;
    /// What it fails with.
    type Error: Display + Send;

    /// Makes a call.
    fn call(&self) -> impl Future<Output = Result<Self::Reply, Self::Error>> + Send;

    /// Whether the reply looks right, at little cost: asked of every one.
    fn looks_right(&self, reply: &Self::Reply) -> bool;

    /// Whether it is right, to the last byte: asked now and then.
    fn is_right(&self, reply: &Self::Reply) -> bool;
}

/// Makes calls until the measurement ends, one after the other.
pub async fn repeat<C: Calls>(calls: C, mut laps: Laps) {
    while laps.goes_on().await {
        match calls.call().await {
            Ok(reply) if verdict(&calls, &reply, &laps) => laps.lap(),
            Ok(_) => return laps.fail(WRONG),
            Err(error) => return laps.fail(error),
        }
    }
}

/// As [`repeat`], with calls that block their thread.
pub fn repeat_blocking<C: Calls>(calls: C, call: impl Fn(&C) -> Result<C::Reply, C::Error>, mut laps: Laps) {
    while laps.goes_on_blocking() {
        match call(&calls) {
            Ok(reply) if verdict(&calls, &reply, &laps) => laps.lap(),
            Ok(_) => return laps.fail(WRONG),
            Err(error) => return laps.fail(error),
        }
    }
}

const WRONG: &str = "a reply is not what was sent";

fn verdict<C: Calls>(calls: &C, reply: &C::Reply, laps: &Laps) -> bool {
    calls.looks_right(reply) && (!laps.is_sample() || calls.is_right(reply))
}
