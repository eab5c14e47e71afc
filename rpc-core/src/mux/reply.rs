//! What a call ends with, and the cell in which a caller outside the reactor waits for it.
//!
//! A cell is pooled. Its life: the caller fills it and sends it to the connection; the connection completes it, exactly once; the
//! caller takes the outcome. Dropping the call marks the cell, so that whoever comes later knows that nobody waits.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rpc_transport::{ConnId, Message};

use super::{Request, SeqId};
use crate::error::Error;
use crate::protocol::MessageType;
use crate::protocol::ttheader::ReplyInfo;
use crate::sync::{Mutex, put_back};

/// A reply as it came: its message is decoded by the caller.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The call's number on its connection.
    pub(crate) id: SeqId,
    pub(crate) kind: MessageType,
    /// The encoded message: a slice of the read's buffer.
    pub(crate) body: Bytes,
    /// What the header says, if it says anything unusual.
    pub(crate) info: Option<Box<ReplyInfo>>,
}

/// How a call ended.
pub(crate) type Outcome = Result<Reply, Error>;

/// The meeting place of a caller outside the reactor and its connection, which `C` names.
#[derive(Debug)]
pub(crate) struct ReplyCell<C = ConnId>(Mutex<State<C>>);

impl<C> Default for ReplyCell<C> {
    fn default() -> Self {
        ReplyCell(Mutex::default())
    }
}

#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant, reason = "one pooled cell a call: a box would be an allocation")]
enum State<C> {
    #[default]
    Empty,
    /// Sent to the connection, which has not seen it.
    Submitted {
        request: Request,
        waker: Option<Waker>,
    },
    /// This connection has the request, and calls it so.
    Accepted {
        conn: C,
        seq: SeqId,
        waker: Option<Waker>,
    },
    /// The caller is gone.
    Dropped {
        seq: Option<SeqId>,
    },
    /// It never reached a connection: the caller may try another.
    Returned(Box<Request>),
    Done(Outcome),
}

/// What the caller finds.
#[derive(Debug)]
pub(crate) enum Found {
    Done(Outcome),
    /// The connection ended, or took no more calls, before any of the request was written.
    Returned(Box<Request>),
}

/// What the connection finds in a cell it was sent.
#[allow(clippy::large_enum_variant, reason = "passed on at once, never kept")]
pub(crate) enum Arrived {
    New(Request),
    /// The caller has dropped the call that has this id, or had none yet.
    Dropped(Option<SeqId>),
}

impl<C: Copy> ReplyCell<C> {
    /// The caller: puts the request in, before the cell is sent.
    pub(crate) fn submit(&self, request: Request, waker: &Waker) {
        *self.0.lock() = State::Submitted { request, waker: Some(waker.clone()) };
    }

    /// The caller: waits here for a call that a connection has already.
    pub(crate) fn follow(&self, conn: C, seq: SeqId, waker: &Waker) {
        *self.0.lock() = State::Accepted { conn, seq, waker: Some(waker.clone()) };
    }

    /// The caller: what came of it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Found> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } | State::Accepted { waker, .. } => {
                let same = |old: &Waker| old.will_wake(cx.waker()) || put_back!("B32-reply");
                if waker.as_ref().is_some_and(same) {
                    return Poll::Pending;
                }
                let old = waker.replace(cx.waker().clone());
                drop(state);
                drop(old); // outside of the lock: the end of a waker may run any code
                Poll::Pending
            }
            _ => match std::mem::take(&mut *state) {
                State::Done(outcome) => Poll::Ready(Found::Done(outcome)),
                State::Returned(request) => Poll::Ready(Found::Returned(request)),
                _ => Poll::Ready(Found::Done(Err(Error::cancelled()))),
            },
        }
    }

    /// The caller gives up; returns the connection that has to be told. Only that one: another knows some other call by that id.
    pub(crate) fn drop_call(&self) -> Option<C> {
        let mut state = self.0.lock();
        let (seq, tell) = match &*state {
            State::Submitted { .. } => (None, None), // the cell itself is on its way and will tell
            State::Accepted { conn, seq, .. } => (Some(*seq), Some(*conn)),
            _ => return None,
        };
        let old = std::mem::replace(&mut *state, State::Dropped { seq });
        drop(state);
        drop(old); // outside of the lock, as above
        tell
    }

    /// Whether a call on its way to a connection has been dropped.
    pub(crate) fn is_dropped(&self) -> bool {
        matches!(*self.0.lock(), State::Dropped { .. })
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
    pub(crate) fn accept(&self, conn: C, seq: SeqId) -> bool {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } => {
                let waker = waker.take();
                *state = State::Accepted { conn, seq, waker };
                true
            }
            _ => false,
        }
    }

    /// The connection: the end of the call, here at least. Returns whom to wake; `None` if nobody waits any more.
    pub(crate) fn complete(&self, found: Found) -> Option<Waker> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Submitted { waker, .. } | State::Accepted { waker, .. } => {
                let waker = waker.take();
                *state = match found {
                    Found::Done(outcome) => State::Done(outcome),
                    Found::Returned(request) => State::Returned(request),
                };
                waker
            }
            _ => None,
        }
    }
}

impl<C: Send + Sync + 'static> Message for ReplyCell<C> {
    fn undelivered(self: Arc<Self>) {
        if put_back!("B16-reply") {
            return; // what did not arrive is dropped without a word
        }
        let mut state = self.0.lock();
        if let State::Submitted { request, waker } = &mut *state {
            let (request, waker) = (std::mem::take(request), waker.take());
            *state = State::Returned(Box::new(request));
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

    fn outcome() -> Found {
        Found::Done(Err(Error::cancelled()))
    }

    #[test]
    fn a_call_completes_once_and_its_caller_is_woken_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cell = ReplyCell::default();
        cell.submit(Request::default(), &waker);
        assert!(matches!(cell.arrive(), Some(Arrived::New(_))));
        assert!(cell.accept('a', SeqId::new(0, 1)));
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
        assert!(cell.drop_call().is_none(), "the cell is on its way and tells by itself");
        assert!(cell.is_dropped());
        assert!(matches!(cell.arrive(), Some(Arrived::Dropped(None))));

        let seq = SeqId::new(3, 1);
        cell.submit(Request::default(), Waker::noop());
        assert!(matches!(cell.arrive(), Some(Arrived::New(_))));
        assert!(cell.accept('a', seq));
        assert_eq!(cell.drop_call(), Some('a'), "the connection that has it, and no other");
        assert!(cell.complete(outcome()).is_none(), "nobody waits");
        assert!(matches!(cell.arrive(), Some(Arrived::Dropped(Some(s))) if s == seq));
    }

    /// B16: what is submitted to a connection that is gone comes back; it is never silent.
    #[test]
    fn an_undelivered_call_comes_back_to_its_caller() {
        let cell = Arc::new(ReplyCell::<ConnId>::default());
        cell.submit(Request::default(), Waker::noop());
        Arc::clone(&cell).undelivered();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(cell.poll(&mut cx), Poll::Ready(Found::Returned(_))));
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use rpc_transport::sync::model::{Unpark, explore};

    use super::*;
    use crate::sync::thread;

    type Cell = Arc<ReplyCell<char>>;

    fn submitted(waker: &Waker) -> Cell {
        let cell = Cell::default();
        cell.submit(Request::default(), waker);
        cell
    }

    fn wait(cell: &ReplyCell<char>) -> Found {
        let waker = Unpark::this_thread();
        loop {
            match cell.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(found) => return found,
                Poll::Pending => thread::park(),
            }
        }
    }

    fn error() -> Found {
        Found::Done(Err(Error::cancelled()))
    }

    fn reply() -> Found {
        Found::Done(Ok(Reply { id: SeqId::new(0, 1), kind: MessageType::Reply, body: Bytes::new(), info: None }))
    }

    /// What a connection does with a cell up to the reply. Returns whether the caller got it.
    fn serve(cell: &ReplyCell<char>) -> bool {
        match cell.arrive() {
            Some(Arrived::New(_)) => {}
            Some(Arrived::Dropped(seq)) => {
                assert!(seq.is_none(), "no connection had it before");
                return false;
            }
            None => return false,
        }
        cell.accept('a', SeqId::new(0, 1)) && tell(cell.complete(reply()))
    }

    fn tell(waker: Option<Waker>) -> bool {
        let told = waker.is_some();
        if let Some(waker) = waker {
            waker.wake();
        }
        told
    }

    /// I1: a reply and a deadline meet. One of them is what the caller gets; a caller who is not woken is a deadlock here.
    #[test]
    fn reply_deadline() {
        explore("reply_deadline", || {
            let cell = submitted(Waker::noop());
            let (served, timed) = (Arc::clone(&cell), Arc::clone(&cell));
            let served = thread::spawn(move || serve(&served));
            let timed = thread::spawn(move || tell(timed.complete(error())));
            let found = wait(&cell);
            let (served, timed) = (served.join().unwrap(), timed.join().unwrap());
            assert!(served != timed, "one completion counts");
            assert_eq!(matches!(found, Found::Done(Ok(_))), served, "and it is the one that counts");
            assert!(cell.complete(error()).is_none(), "a third one is nobody's");
        });
    }

    /// B32: the call moves to another task, with another waker, while its reply comes. The last one is woken.
    #[test]
    fn reply_moved() {
        explore("reply_moved", || {
            let cell = submitted(Waker::noop());
            let there = Arc::clone(&cell);
            let there = thread::spawn(move || serve(&there));
            let found = wait(&cell);
            assert!(there.join().unwrap() && matches!(found, Found::Done(Ok(_))));
        });
    }

    /// M1: the caller gives up while the connection takes the call, answers it, and lets its time run out. Whoever has the call hears
    /// that nobody waits.
    #[test]
    fn reply_dropped() {
        explore("reply_dropped", || {
            let cell = submitted(Waker::noop());
            let (served, timed) = (Arc::clone(&cell), Arc::clone(&cell));
            let served = thread::spawn(move || serve(&served));
            let timed = thread::spawn(move || tell(timed.complete(error())));
            let told = cell.drop_call();
            let (served, timed) = (served.join().unwrap(), timed.join().unwrap());
            match told {
                Some(conn) => {
                    assert!(conn == 'a' && !served && !timed, "no end counts after the drop");
                    assert!(cell.is_dropped());
                    let arrived = cell.arrive();
                    assert!(
                        matches!(arrived, Some(Arrived::Dropped(Some(_)))),
                        "the connection that is told finds its id"
                    );
                }
                None => assert!(u8::from(served) + u8::from(timed) <= 1),
            }
        });
    }

    /// B16: the call meets the end of its connection, and its deadline: it comes back, or is over, and the caller is woken.
    #[test]
    fn reply_undelivered() {
        explore("reply_undelivered", || {
            let cell = submitted(Waker::noop());
            let (closed, timed) = (Arc::clone(&cell), Arc::clone(&cell));
            let closed = thread::spawn(move || closed.undelivered());
            let timed = thread::spawn(move || tell(timed.complete(error())));
            let found = wait(&cell);
            closed.join().unwrap();
            assert_eq!(timed.join().unwrap(), matches!(found, Found::Done(_)), "one end counts");
        });
        explore("reply_undelivered, no deadline", || {
            let cell = submitted(Waker::noop());
            let closed = Arc::clone(&cell);
            let closed = thread::spawn(move || closed.undelivered());
            assert!(matches!(wait(&cell), Found::Returned(_)));
            closed.join().unwrap();
        });
    }
}
