//! A line for every call.

use std::time::Instant;

use super::{Middleware, Next, Payload};
use crate::context::Context;
use crate::error::Result;

/// Logs each call by `tracing`: method, sizes and time at level DEBUG, failures at WARN. Allocates nothing of its own; what the
/// subscriber does with an event is the subscriber's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Logging;

impl Middleware for Logging {
    async fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> Result<Payload> {
        let started = Instant::now();
        let sent = req.len();
        let reply = next.run(cx, req).await;
        let micros = started.elapsed().as_micros() as u64;
        match &reply {
            Ok(reply) => tracing::debug!(method = %cx.method(), request = sent, reply = reply.len(), micros, "call"),
            Err(error) => tracing::warn!(method = %cx.method(), request = sent, %error, micros, "call failed"),
        }
        reply
    }
}
