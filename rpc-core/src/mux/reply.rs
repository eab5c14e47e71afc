//! What a call ends with, and the cell in which a caller outside the reactor waits for it.
//!
//! A cell is pooled. Its life: the caller waits at it and posts the call; a connection accepts the call and completes the cell, exactly
//! once; the caller takes the outcome. Dropping the call marks the cell, so that whoever comes later knows that nobody waits.

use std::cell::RefCell;
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

impl Reply {
    /// Takes it, and leaves nothing of it but its id and kind.
    pub(crate) fn take(&mut self) -> Reply {
        let (body, info) = (std::mem::take(&mut self.body), self.info.take());
        Reply { id: self.id, kind: self.kind, body, info }
    }
}

/// How a call ended.
pub(crate) type Outcome = Result<Reply, Error>;

/// Cells that a thread keeps.
const MOST_KEPT: usize = 1024;

thread_local! {
    static KEPT: RefCell<Vec<Arc<ReplyCell>>> = const { RefCell::new(Vec::new()) };
}

/// The meeting place of a caller outside the reactor and its connection, which `C` names.
#[derive(Debug)]
pub(crate) struct ReplyCell<C = ConnId>(Mutex<State<C>>);

impl<C> Default for ReplyCell<C> {
    fn default() -> Self {
        ReplyCell(Mutex::default())
    }
}

#[derive(Debug, Default)]
enum State<C> {
    #[default]
    Empty,
    /// The caller waits. The connection that has accepted the call, and what it calls it.
    Waiting {
        at: Option<(C, SeqId)>,
        waker: Option<Waker>,
    },
    /// The caller is gone; the call's id, if a connection had accepted it.
    Dropped(Option<SeqId>),
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

impl ReplyCell {
    /// One that this thread has kept, or a new one.
    pub(crate) fn take() -> Arc<ReplyCell> {
        let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop());
        kept.ok().flatten().unwrap_or_default()
    }

    /// Keeps it for the next call that begins on this thread, unless somebody else holds it.
    pub(crate) fn keep(mut self: Arc<Self>) {
        if Arc::get_mut(&mut self).is_some() {
            let _ = KEPT.try_with(|kept| {
                if let Ok(mut kept) = kept.try_borrow_mut()
                    && kept.len() < MOST_KEPT
                {
                    kept.push(self);
                }
            });
        }
    }
}

impl<C> ReplyCell<C> {
    /// The caller: waits here for a call that it is about to post.
    pub(crate) fn wait(&self, waker: &Waker) {
        *self.0.lock() = State::Waiting { at: None, waker: Some(waker.clone()) };
    }

    /// The caller: waits here for a call that a connection has already.
    pub(crate) fn follow(&self, conn: C, seq: SeqId, waker: &Waker) {
        *self.0.lock() = State::Waiting { at: Some((conn, seq)), waker: Some(waker.clone()) };
    }

    /// The caller: what came of it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Found> {
        let mut state = self.0.lock();
        if let State::Waiting { waker, .. } = &*state {
            let same = |old: &Waker| old.will_wake(cx.waker()) || put_back!("B32-reply");
            if waker.as_ref().is_some_and(same) {
                return Poll::Pending;
            }
            drop(state);
            let mut other = Some(cx.waker().clone()); // outside of the lock, as its end is: both may run any code
            state = self.0.lock();
            if let State::Waiting { waker, .. } = &mut *state {
                std::mem::swap(waker, &mut other);
                drop(state);
                return Poll::Pending;
            }
        }
        match std::mem::take(&mut *state) {
            State::Done(outcome) => Poll::Ready(Found::Done(outcome)),
            State::Returned(request) => Poll::Ready(Found::Returned(request)),
            _ => Poll::Ready(Found::Done(Err(Error::cancelled()))),
        }
    }

    /// The caller gives up; returns the connection that has to be told. Only that one: another knows some other call by that id.
    pub(crate) fn drop_call(&self) -> Option<C>
    where
        C: Copy,
    {
        let mut state = self.0.lock();
        let State::Waiting { at, .. } = &*state else { return None };
        let (seq, tell) = at.map(|(conn, seq)| (seq, conn)).unzip(); // nobody is told of a call on its way: it is not accepted
        let old = std::mem::replace(&mut *state, State::Dropped(seq));
        drop(state);
        drop(old); // outside of the lock, as above
        tell
    }

    #[cfg(test)]
    pub(crate) fn is_dropped(&self) -> bool {
        matches!(*self.0.lock(), State::Dropped(_))
    }

    /// The connection, which was told that the caller is gone: what id the call had.
    pub(crate) fn dropped(&self) -> Option<SeqId> {
        match *self.0.lock() {
            State::Dropped(seq) => seq,
            _ => None,
        }
    }

    /// The connection: gives the call an id, unless its caller is gone; that cannot go meanwhile. `submit` runs under the cell's lock and
    /// must not end the call. An error is the caller's to be told, by [`complete`](ReplyCell::complete).
    pub(crate) fn accept<E>(&self, conn: C, submit: impl FnOnce() -> Result<SeqId, E>) -> Result<(), E> {
        if let State::Waiting { at, .. } = &mut *self.0.lock() {
            *at = Some((conn, submit()?));
        }
        Ok(())
    }

    /// The end of the call, here at least. Returns whom to wake; `None` if nobody waits any more.
    pub(crate) fn complete(&self, found: Found) -> Option<Waker> {
        let mut state = self.0.lock();
        let State::Waiting { waker, .. } = &mut *state else { return None };
        let waker = waker.take();
        *state = match found {
            Found::Done(outcome) => State::Done(outcome),
            Found::Returned(request) => State::Returned(request),
        };
        waker
    }
}

/// What is sent is that the caller is gone. Where no connection hears it, nobody needs to.
impl<C: Send + Sync + 'static> Message for ReplyCell<C> {
    fn undelivered(self: Arc<Self>) {}
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
        cell.wait(&waker);
        assert_eq!(cell.accept('a', || Ok::<_, ()>(SeqId::new(0, 1))), Ok(()));
        cell.complete(outcome()).expect("the caller waits").wake();
        assert!(cell.complete(outcome()).is_none(), "I1: a second completion is nobody's");
        let mut cx = Context::from_waker(&waker);
        assert!(matches!(cell.poll(&mut cx), Poll::Ready(Found::Done(_))));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_call_is_told_to_the_connection_that_has_it() {
        let seq = SeqId::new(3, 1);
        let cell = ReplyCell::default();
        cell.wait(Waker::noop());
        assert_eq!(cell.drop_call(), None, "no connection has it");
        assert!(cell.is_dropped());
        assert_eq!(cell.accept('a', || -> Result<_, ()> { panic!("a call that nobody waits for") }), Ok(()));
        assert_eq!(cell.dropped(), None);

        let cell = ReplyCell::default();
        cell.wait(Waker::noop());
        assert_eq!(cell.accept('a', || Ok::<_, ()>(seq)), Ok(()));
        assert_eq!(cell.drop_call(), Some('a'), "the connection that has it, and no other");
        assert!(cell.complete(outcome()).is_none(), "nobody waits");
        assert_eq!(cell.dropped(), Some(seq));
    }

    #[test]
    fn what_no_connection_accepts_is_the_caller_s_to_hear() {
        let cell = ReplyCell::<char>::default();
        cell.wait(Waker::noop());
        assert_eq!(cell.accept('a', || Err("full")), Err("full"));
        assert!(cell.complete(outcome()).is_some(), "it waits still");
    }

    #[test]
    fn a_cell_is_used_again_when_nobody_else_holds_it() {
        let first = ReplyCell::take();
        let (at, held) = (Arc::as_ptr(&first), Arc::clone(&first));
        first.keep();
        let second = ReplyCell::take();
        assert_ne!(Arc::as_ptr(&second), at, "somebody may write to that one");
        drop(second);
        held.keep();
        assert_eq!(Arc::as_ptr(&ReplyCell::take()), at);
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
        cell.wait(waker);
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
        let mut accepted = false;
        let submit = || {
            accepted = true;
            Ok::<_, ()>(SeqId::new(0, 1))
        };
        assert_eq!(cell.accept('a', submit), Ok(()));
        accepted && tell(cell.complete(reply()))
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
                    assert!(cell.dropped().is_some(), "the connection that is told finds its id");
                }
                None => assert!(u8::from(served) + u8::from(timed) <= 1),
            }
        });
    }
}
