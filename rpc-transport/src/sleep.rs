//! A future that waits, for code on a reactor and anywhere else.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::local;
use crate::reactor::ReactorPool;
use crate::reactor::core::{TimerKey, try_with, with};
use crate::timer::TimerId;

/// Waits for `duration` without blocking its thread. On a reactor it is that reactor's timer; elsewhere it is a timer
/// of [`ReactorPool::global`]. Ends at most a millisecond late, never early.
pub fn sleep(duration: Duration) -> Sleep {
    let now = local::now();
    Sleep { at: now.checked_add(duration).unwrap_or(now + Duration::from_secs(1 << 31)), state: State::New }
}

/// See [`sleep`].
#[derive(Debug)]
pub struct Sleep {
    at: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    New,
    Here(TimerId),
    Elsewhere,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if local::now() >= self.at {
            return Poll::Ready(());
        }
        self.disarm();
        let (at, waker) = (self.at, cx.waker().clone());
        let mut waker = Some(waker);
        let here = try_with(|core| waker.take().map(|waker| core.arm_work(at, TimerKey::Waker(waker))));
        self.state = match (here.flatten(), waker) {
            (Some(timer), _) => State::Here(timer),
            (None, Some(waker)) => {
                let arm = move || {
                    with(|core| core.arm_work(at, TimerKey::Waker(waker)));
                };
                match ReactorPool::global() {
                    Ok(pool) => pool.next().run(arm),
                    Err(error) => {
                        tracing::error!(%error, "no reactor for a timer: the sleep ends at once");
                        return Poll::Ready(());
                    }
                }
                State::Elsewhere
            }
            (None, None) => State::New,
        };
        Poll::Pending
    }
}

impl Sleep {
    fn disarm(&mut self) {
        if let State::Here(timer) = std::mem::replace(&mut self.state, State::New) {
            try_with(|core| core.disarm_work(timer));
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
