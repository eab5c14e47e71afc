//! What a call ends with, and the cell in which a caller outside the reactor waits for it.
//!
//! A cell is pooled. Its life: the caller fills it and sends it to the connection; the connection completes it, exactly once; the
//! caller takes the outcome. Dropping the call marks the cell, so that whoever comes later knows that nobody waits.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use rpc_transport::Message;

use super::SeqId;
use crate::client::Request;
use crate::error::Error;
use crate::protocol::MessageType;
use crate::protocol::ttheader::ReplyInfo;

/// A reply as it came: its message is decoded by the caller.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: MessageType,
    /// The encoded message: a slice of the read's buffer.
    pub(crate) body: Bytes,
    /// What the header says, if it says anything unusual.
    pub(crate) info: Option<Box<ReplyInfo>>,
}

/// How a call ended.
pub(crate) type Outcome = Result<Reply, Error>;

/// The meeting place of a caller outside the reactor and its connection.
#[derive(Debug, Default)]
pub(crate) struct ReplyCell(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    /// Sent to the connection, which has not seen it.
    Submitted {
        request: Request,
        waker: Option<Waker>,
    },
    /// The connection has the request.
    Accepted {
        seq: SeqId,
        waker: Option<Waker>,
    },
    /// The caller is gone.
    Dropped {
        seq: Option<SeqId>,
    },
    /// It never reached a connection: the caller may try another.
    Returned(Request),
    Done(Outcome),
}

/// What the caller finds.
#[allow(clippy::large_enum_variant, reason = "passed on at once, never kept")]
pub(crate) enum Found {
    Done(Outcome),
    /// The connection was gone before it saw the request.
    Returned(Request),
}

/// What the connection finds in a cell it was sent.
#[allow(clippy::large_enum_variant, reason = "passed on at once, never kept")]
pub(crate) enum Arrived {
    New(Request),
    /// The caller has dropped the call that has this id, or had none yet.
    Dropped(Option<SeqId>),
}

impl ReplyCell {
    /// The caller: puts the request in, before the cell is sent.
    pub(crate) fn submit(&self, request: Request, waker: &Waker) {
        *self.0.lock() = State::Submitted { request, waker: Some(waker.clone()) };
    }

    /// The caller: what came of it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Found> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } | State::Accepted { waker, .. } => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            _ => match std::mem::take(&mut *state) {
                State::Done(outcome) => Poll::Ready(Found::Done(outcome)),
                State::Returned(request) => Poll::Ready(Found::Returned(request)),
                _ => Poll::Ready(Found::Done(Err(Error::cancelled()))),
            },
        }
    }

    /// The caller gives up; true if the connection has to be told.
    pub(crate) fn drop_call(&self) -> bool {
        let mut state = self.0.lock();
        let (seq, tell) = match &*state {
            State::Submitted { .. } => (None, false), // the cell itself is on its way and will tell
            State::Accepted { seq, .. } => (Some(*seq), true),
            _ => return false,
        };
        *state = State::Dropped { seq };
        tell
    }

    /// The connection: opens a cell it was sent.
    pub(crate) fn arrive(&self) -> Option<Arrived> {
        let mut state = self.0.lock();
        match std::mem::take(&mut *state) {
            State::Submitted { request, waker } => {
                *state = State::Submitted { request: Request::default(), waker };
                Some(Arrived::New(request))
            }
            State::Dropped { seq } => Some(Arrived::Dropped(seq)),
            other => {
                *state = other;
                None
            }
        }
    }

    /// The connection: the call has this id now. False if the caller is gone.
    pub(crate) fn accept(&self, seq: SeqId) -> bool {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } => {
                let waker = waker.take();
                *state = State::Accepted { seq, waker };
                true
            }
            _ => false,
        }
    }

    /// The connection: the end of the call. Returns whom to wake; `None` if nobody waits any more.
    pub(crate) fn complete(&self, outcome: Outcome) -> Option<Waker> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } | State::Accepted { waker, .. } => {
                let waker = waker.take();
                *state = State::Done(outcome);
                waker
            }
            _ => None,
        }
    }
}

impl Message for ReplyCell {
    fn undelivered(self: Arc<Self>) {
        let mut state = self.0.lock();
        if let State::Submitted { request, waker } = &mut *state {
            let (request, waker) = (std::mem::take(request), waker.take());
            *state = State::Returned(request);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome() -> Outcome {
        Err(Error::cancelled())
    }

    #[test]
    fn a_call_completes_once_and_its_caller_is_woken_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cell = ReplyCell::default();
        cell.submit(Request::default(), &waker);
        assert!(matches!(cell.arrive(), Some(Arrived::New(_))));
        assert!(cell.accept(SeqId::new(0, 1)));
        cell.complete(outcome()).expect("the caller waits").wake();
        assert!(cell.complete(outcome()).is_none(), "I1: a second completion is nobody's");
        let mut cx = Context::from_waker(&waker);
        assert!(matches!(cell.poll(&mut cx), Poll::Ready(Found::Done(_))));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_call_is_told_to_the_connection_that_has_it() {
        let cell = ReplyCell::default();
        cell.submit(Request::default(), Waker::noop());
        assert!(!cell.drop_call(), "the cell is on its way and tells by itself");
        assert!(matches!(cell.arrive(), Some(Arrived::Dropped(None))));

        let seq = SeqId::new(3, 1);
        cell.submit(Request::default(), Waker::noop());
        assert!(matches!(cell.arrive(), Some(Arrived::New(_))));
        assert!(cell.accept(seq));
        assert!(cell.drop_call());
        assert!(cell.complete(outcome()).is_none(), "nobody waits");
        assert!(matches!(cell.arrive(), Some(Arrived::Dropped(Some(s))) if s == seq));
    }

    /// B16: what is submitted to a connection that is gone comes back; it is never silent.
    #[test]
    fn an_undelivered_call_comes_back_to_its_caller() {
        let cell = Arc::new(ReplyCell::default());
        cell.submit(Request::default(), Waker::noop());
        Arc::clone(&cell).undelivered();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(cell.poll(&mut cx), Poll::Ready(Found::Returned(_))));
    }
}
