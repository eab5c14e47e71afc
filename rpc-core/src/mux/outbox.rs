//! Calls on their way to a connection, from callers that do not turn its reactor.
//!
//! A caller encodes its message by itself, and adds the call to what waits already; who finds nothing waiting tells the connection. So a
//! connection hears once of many calls, and takes all of them at once. The idea is netpoll's `mux.ShardQueue` and brpc's write queue.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;

use bytes::BufMut;
use rpc_transport::{ConnId, LINK_MIN, LinkBuffer, Message, caught};

use super::tickets::Walk;
use super::{Body, Found, ReplyCell, Request, Spec, Ticket, TicketQueue};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard, put_back, thread_local};

/// Bytes of small messages that wait at most; a message beyond them has memory of its own. Given up calls leave theirs behind
/// until the connection looks: so much, at most.
const STAGED: usize = 256 << 10;

/// What a mail keeps memory for, in bytes, calls and large messages; up to four times as much, if it has that already.
const KEPT_STAGED: usize = 64 << 10;
const KEPT_CALLS: usize = 1024;
const KEPT_LINKS: usize = 32;

thread_local! {
    /// Where a caller encodes its message: not under the lock, since code of a user's may run, and not in memory of its own.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls that wait for their connection, which their cells call `C`.
#[derive(Debug)]
pub(crate) struct Outbox<C = ConnId> {
    mail: Mutex<Mail<C>>,
    /// How many wait, for who only wants to know about that.
    waiting: AtomicUsize,
}

/// Calls out of an outbox, oldest first. Those that are in it when it is dropped go back to their callers.
#[derive(Debug)]
pub(crate) struct Mail<C = ConnId> {
    calls: TicketQueue<Call<C>>,
    /// How far its calls have been taken out, by [`next`](Mail::next); they stay where they are meanwhile.
    walk: Walk,
    /// The connection has been told and has not looked since.
    announced: bool,
    /// Small messages, one after the other.
    staged: Vec<u8>,
    /// Large ones; which of the places are free.
    links: Vec<LinkBuffer>,
    free_links: Vec<usize>,
}

#[derive(Debug)]
struct Call<C> {
    /// Gone when the call has been taken out.
    cell: Option<Arc<ReplyCell<C>>>,
    spec: Spec,
    place: Place,
}

/// Where the message of a call is.
#[derive(Debug)]
enum Place {
    Staged(Range<usize>),
    /// The link with this index.
    Link(usize),
}

/// A call that comes out of an outbox.
pub(crate) struct Posted<'a, C = ConnId> {
    pub(crate) cell: Arc<ReplyCell<C>>,
    pub(crate) spec: &'a mut Spec,
    pub(crate) body: PostedBody<'a>,
}

/// The encoded message of such a call.
pub(crate) enum PostedBody<'a> {
    Staged(&'a [u8]),
    Link(&'a mut LinkBuffer),
}

impl<C> Default for Outbox<C> {
    fn default() -> Self {
        Outbox { mail: Mutex::default(), waiting: AtomicUsize::new(0) }
    }
}

impl<C> Default for Mail<C> {
    fn default() -> Self {
        Mail {
            calls: TicketQueue::default(),
            walk: Walk::default(),
            announced: false,
            staged: Vec::new(),
            links: Vec::new(),
            free_links: Vec::new(),
        }
    }
}

impl<C> Outbox<C> {
    /// Adds a call. True if the connection must be told.
    pub(crate) fn post<B: Body>(&self, cell: Arc<ReplyCell<C>>, spec: Spec, body: B) -> (Ticket, bool) {
        // Too early: the connection may look, and find nothing, before the call is there.
        let early = put_back!("B32-outbox").then(|| self.mail.lock().announce());
        let (mut mail, place) = with_encoded(body, |body| match body {
            PostedBody::Staged(small) => self.stage(small),
            PostedBody::Link(link) => {
                let mut mail = self.mail.lock();
                let place = mail.link(std::mem::take(link));
                (mail, place)
            }
        });
        let ticket = mail.calls.next_ticket();
        mail.calls.push(Call { cell: Some(cell), spec, place });
        self.waiting.store(mail.calls.len(), Ordering::Relaxed);
        (ticket, early.unwrap_or_else(|| mail.announce()))
    }

    /// The lock, and a place for a small message.
    fn stage(&self, message: &[u8]) -> (MutexGuard<'_, Mail<C>>, Place) {
        let mut mail = self.mail.lock();
        if let Some(place) = mail.stage(message) {
            return (mail, place);
        }
        drop(mail);
        let link = link_of(message); // allocates: not under the lock
        let mut mail = self.mail.lock();
        let place = mail.link(link);
        (mail, place)
    }

    /// Takes all calls; `into` is empty and lends its memory.
    pub(crate) fn take(&self, into: &mut Mail<C>) {
        let mut mail = self.mail.lock();
        into.calls.go_on_after(&mail.calls);
        std::mem::swap(&mut *mail, into);
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// A caller has given up a call: if it is still here, it goes, and its message with it.
    pub(crate) fn remove(&self, ticket: Ticket) {
        let mut mail = self.mail.lock();
        let gone = mail.remove(ticket);
        self.waiting.store(mail.calls.len(), Ordering::Relaxed);
        drop(mail);
        drop(gone); // outside of the lock: a message may hold memory whose end runs any code
    }
}

impl<C> Mail<C> {
    /// True if that has not been done since the connection looked last.
    fn announce(&mut self) -> bool {
        !std::mem::replace(&mut self.announced, true)
    }

    /// A place for a small message, if there is one.
    fn stage(&mut self, message: &[u8]) -> Option<Place> {
        let start = self.staged.len();
        if start + message.len() > STAGED {
            return None;
        }
        self.staged.extend_from_slice(message);
        Some(Place::Staged(start..self.staged.len()))
    }

    /// A place for a large one.
    fn link(&mut self, link: LinkBuffer) -> Place {
        if let Some(free) = self.free_links.pop() {
            self.links[free] = link;
            return Place::Link(free);
        }
        self.links.push(link);
        Place::Link(self.links.len() - 1)
    }

    fn remove(&mut self, ticket: Ticket) -> Option<(Call<C>, LinkBuffer)> {
        let call = self.calls.remove(ticket)?;
        if self.calls.is_empty() {
            self.staged.clear();
        }
        let link = match call.place {
            Place::Link(index) => {
                self.free_links.push(index);
                std::mem::take(&mut self.links[index])
            }
            Place::Staged(_) => LinkBuffer::new(),
        };
        Some((call, link))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_walked(&self.walk)
    }

    /// Takes the oldest call out.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Posted<'_, C>> {
        let Call { cell, spec, place } = self.calls.walk(&mut self.walk)?;
        let body = match place {
            Place::Staged(range) => PostedBody::Staged(&self.staged[range.start..range.end]),
            Place::Link(index) => PostedBody::Link(&mut self.links[*index]),
        };
        Some(Posted { cell: cell.take()?, spec, body })
    }

    /// All calls have been taken out: makes the memory ready for others, unless a burst has made it large.
    pub(crate) fn recycle(&mut self) {
        self.announced = false;
        self.calls.clear();
        self.walk = Walk::default();
        self.staged.clear();
        self.links.clear();
        self.free_links.clear();
        keep(&mut self.staged, KEPT_STAGED);
        keep(&mut self.links, KEPT_LINKS);
        keep(&mut self.free_links, KEPT_LINKS);
        if self.calls.capacity() > 4 * KEPT_CALLS {
            self.calls.shrink_to(KEPT_CALLS);
        }
    }
}

/// Encodes a message here and now, and hands it on: a small one in memory of this thread's.
#[inline(always)]
pub(crate) fn with_encoded<B: Body, R>(body: B, f: impl FnOnce(PostedBody<'_>) -> R) -> R {
    if body.len() >= LINK_MIN {
        return f(PostedBody::Link(&mut body.into_link()));
    }
    // Taken, not borrowed: encoding a message may make a call, for all we know.
    let mut small = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    small.clear();
    body.copy(&mut small);
    let result = f(PostedBody::Staged(&small));
    _ = SCRATCH.try_with(|scratch| scratch.replace(small));
    result
}

/// Gives an empty vector's memory back, but for some, if it has several times as much.
fn keep<T>(vec: &mut Vec<T>, most: usize) {
    if vec.capacity() > 4 * most {
        vec.shrink_to(most);
    }
}

fn link_of(message: &[u8]) -> LinkBuffer {
    let mut link = LinkBuffer::new();
    link.put_slice(message);
    link.seal();
    link
}

impl<C> Posted<'_, C> {
    /// No connection takes it: its caller may try another. Returns whom to wake.
    pub(crate) fn give_back(self) -> Option<Waker> {
        let Posted { cell, spec, body } = self;
        let spec = Spec { extra: std::mem::take(&mut spec.extra), ..*spec };
        cell.complete(Found::Returned(Box::new(Request { spec, body: body.into_link() })))
    }
}

impl<C> Drop for Mail<C> {
    fn drop(&mut self) {
        while let Some(posted) = self.next() {
            if let Some(waker) = posted.give_back() {
                caught(|| waker.wake()); // or the callers behind it would never hear of theirs
            }
        }
    }
}

impl<C: Send + Sync + 'static> Message for Outbox<C> {
    fn undelivered(self: Arc<Self>) {
        let mut mail = Mail::default();
        self.take(&mut mail);
        if put_back!("B16-reply") {
            mail.calls = TicketQueue::default(); // what did not arrive is dropped without a word
        }
    }

    fn count(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Body for PostedBody<'_> {
    fn len(&self) -> usize {
        match self {
            PostedBody::Staged(bytes) => bytes.len(),
            PostedBody::Link(link) => link.len(),
        }
    }

    fn write(self, out: &mut LinkBuffer) {
        match self {
            PostedBody::Staged(bytes) => out.put_slice(bytes),
            PostedBody::Link(link) => out.append(std::mem::take(link)),
        }
    }

    fn copy(self, out: &mut Vec<u8>) {
        match self {
            PostedBody::Staged(bytes) => out.extend_from_slice(bytes),
            PostedBody::Link(link) => std::mem::take(link).copy(out),
        }
    }

    fn into_link(self) -> LinkBuffer {
        match self {
            PostedBody::Staged(bytes) => link_of(bytes),
            PostedBody::Link(link) => std::mem::take(link),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::codegen::MethodDescriptor;
    use crate::mux::Encoded;

    static METHOD: MethodDescriptor = MethodDescriptor::new("test", "Outbox", "Post");

    fn spec() -> Spec {
        Spec { method: &METHOD, extra: Vec::new(), timeout: Duration::ZERO, deadline: Instant::now() }
    }

    fn cell() -> Arc<ReplyCell> {
        let cell = ReplyCell::take();
        cell.wait(Waker::noop());
        cell
    }

    fn message(len: usize) -> Encoded<'static, Vec<u8>> {
        Encoded::new(Box::leak(Box::new(vec![7; len])))
    }

    /// What a call's message is when it has been sent.
    fn sent(body: impl Body) -> (usize, Vec<u8>) {
        let (len, mut link, mut bytes) = (body.len(), LinkBuffer::new(), Vec::new());
        body.write(&mut link);
        link.copy(&mut bytes);
        (len, bytes)
    }

    fn returned(cell: &ReplyCell) -> Option<Vec<u8>> {
        match cell.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Found::Returned(request)) => Some(sent(request.body).1),
            _ => None,
        }
    }

    #[test]
    fn the_first_tells_and_all_go_in_order() {
        let outbox = Outbox::default();
        let lens = [0, 1, LINK_MIN, 100, LINK_MIN - 4, 2 * LINK_MIN, 3];
        for round in 0..3 {
            for (n, len) in lens.into_iter().enumerate() {
                assert_eq!(outbox.post(cell(), spec(), message(len)).1, n == 0, "round {round}, call {n}");
            }
            assert_eq!(outbox.count(), lens.len());
            let mut mail = Mail::default();
            outbox.take(&mut mail);
            assert_eq!(outbox.count(), 0);
            for len in lens {
                let expected = sent(message(len));
                assert_eq!(sent(mail.next().unwrap().body), expected);
            }
            assert!(mail.next().is_none());
            mail.recycle();
        }
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let (outbox, mut mail) = (Outbox::default(), Mail::default());
        for len in [10, LINK_MIN - 4, LINK_MIN] {
            (0..5 * KEPT_CALLS).for_each(|_| _ = outbox.post(cell(), spec(), message(len)));
            outbox.take(&mut mail);
            std::iter::from_fn(|| mail.next().map(drop)).for_each(drop);
            mail.recycle();
            let capacity = [mail.staged.capacity(), mail.calls.capacity(), mail.links.capacity()];
            let most = [4 * KEPT_STAGED, 4 * KEPT_CALLS, 4 * KEPT_LINKS];
            assert!(capacity.iter().zip(most).all(|(capacity, most)| *capacity <= most), "{capacity:?}");
        }
    }

    /// B16: what is posted to a connection that is gone comes back; it is never silent.
    #[test]
    fn an_undelivered_call_comes_back_to_its_caller() {
        let outbox = Arc::new(Outbox::default());
        let cells = [10, LINK_MIN].map(|len| {
            let cell = cell();
            _ = outbox.post(Arc::clone(&cell), spec(), message(len));
            (cell, sent(message(len)).1)
        });
        Arc::clone(&outbox).undelivered();
        for (cell, message) in cells {
            assert_eq!(returned(&cell), Some(message));
        }
        assert!(outbox.post(cell(), spec(), message(1)).1, "the next one tells again");
    }

    /// A connection's handler that panics in the middle of its mail must not take the rest of the calls with it.
    #[test]
    fn calls_that_nobody_took_out_come_back() {
        let (outbox, mut mail) = (Outbox::default(), Mail::default());
        let [taken, left] = [(); 2].map(|()| cell());
        for cell in [&taken, &left] {
            _ = outbox.post(Arc::clone(cell), spec(), message(5));
        }
        outbox.take(&mut mail);
        drop(mail.next());
        drop(mail);
        assert!(returned(&taken).is_none());
        assert_eq!(returned(&left), Some(sent(message(5)).1));
    }

    /// A caller whose waker panics does not take the others with it.
    #[test]
    fn a_waker_that_panics_keeps_nobody_from_its_call() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("in a waker, on purpose");
            }
        }
        let outbox = Arc::new(Outbox::default());
        let cells = [Waker::from(Arc::new(Panics)), Waker::noop().clone()].map(|waker| {
            let cell = ReplyCell::take();
            cell.wait(&waker);
            _ = outbox.post(Arc::clone(&cell), spec(), message(5));
            cell
        });
        outbox.undelivered();
        assert!(cells.iter().all(|cell| returned(cell).is_some()));
    }

    /// I10: calls that are given up while their connection does not look leave no more than a bounded rest of them behind.
    #[test]
    fn calls_that_are_given_up_take_their_messages_with_them() {
        let outbox = Outbox::default();
        let give_up = |len| {
            let (ticket, first) = outbox.post(cell(), spec(), message(len));
            outbox.remove(ticket);
            outbox.remove(ticket);
            first
        };
        let lens = [100, LINK_MIN - 4, 3 * LINK_MIN];
        assert!(give_up(9));
        assert!(lens.iter().cycle().take(1000).all(|len| !give_up(*len)), "it has been told, and has not looked");
        assert_eq!((outbox.count(), outbox.mail.lock().staged.len()), (0, 0));
        let (ticket, _) = outbox.post(cell(), spec(), message(9));
        lens.iter().cycle().take(1000).for_each(|len| _ = give_up(*len));
        assert_eq!(outbox.count(), 1);

        let mut mail = Mail::default();
        outbox.take(&mut mail);
        let held = mail.staged.len() + mail.links.iter().map(Body::len).sum::<usize>();
        assert!(held <= STAGED && mail.links.len() <= 1 && mail.calls.len() == 1, "{held} bytes");
        outbox.remove(ticket);
        assert_eq!(sent(mail.next().unwrap().body), sent(message(9)), "what has been taken is not there any more");
        assert!(mail.next().is_none());
    }

    /// A ticket names one call for ever: not another that waits when that one has gone on its way.
    #[test]
    fn a_call_is_not_given_up_in_place_of_another() {
        let (outbox, mut mail) = (Outbox::default(), Mail::default());
        let (gone, _) = outbox.post(cell(), spec(), message(1));
        outbox.take(&mut mail);
        _ = outbox.post(cell(), spec(), message(2));
        outbox.remove(gone);
        assert_eq!(outbox.count(), 1);
    }

    /// Whoever gives up first, second, …: the others keep their places and their messages.
    #[test]
    fn calls_are_given_up_in_any_order() {
        let lens = [1, LINK_MIN, 2, 2 * LINK_MIN, 3];
        for given_up in 0..1 << lens.len() {
            for backwards in [false, true] {
                let outbox = Outbox::default();
                let mut calls: Vec<_> = lens
                    .into_iter()
                    .enumerate()
                    .map(|(n, len)| (given_up >> n & 1 == 1, outbox.post(cell(), spec(), message(len)).0))
                    .collect();
                if backwards {
                    calls.reverse();
                }
                calls.iter().filter(|(gone, _)| *gone).for_each(|(_, ticket)| outbox.remove(*ticket));
                let mut mail = Mail::default();
                outbox.take(&mut mail);
                for (n, len) in lens.into_iter().enumerate().filter(|(n, _)| given_up >> n & 1 == 0) {
                    assert_eq!(sent(mail.next().unwrap().body), sent(message(len)), "call {n} of {given_up:b}");
                }
                assert!(mail.next().is_none());
            }
        }
    }

    /// A message may make a call when it is encoded, for all we know.
    #[test]
    fn a_call_within_the_encoding_of_another() {
        struct Nested<'a>(&'a Outbox);
        impl Body for Nested<'_> {
            fn len(&self) -> usize {
                1
            }
            fn write(self, _: &mut LinkBuffer) {}
            fn copy(self, out: &mut Vec<u8>) {
                assert!(self.0.post(cell(), spec(), message(3)).1);
                out.push(1);
            }
            fn into_link(self) -> LinkBuffer {
                LinkBuffer::new()
            }
        }
        let outbox = Outbox::default();
        assert!(!outbox.post(cell(), spec(), Nested(&outbox)).1, "the inner one was first");
        let mut mail = Mail::default();
        outbox.take(&mut mail);
        assert_eq!(sent(mail.next().unwrap().body), sent(message(3)));
        assert_eq!(sent(mail.next().unwrap().body), (1, vec![1]));
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use std::task::{Context, Poll};
    use std::time::{Duration, Instant};

    use rpc_transport::sync::model::{Unpark, explore};

    use super::*;
    use crate::codegen::MethodDescriptor;
    use crate::error::Error;
    use crate::mux::{Encoded, SeqId};
    use crate::sync::thread;

    static METHOD: MethodDescriptor = MethodDescriptor::new("test", "Outbox", "Post");

    /// An outbox that stays when a model fails: the checker cannot bear it that calls are given back then.
    fn outbox() -> Arc<Outbox<char>> {
        let outbox = Arc::default();
        std::mem::forget(Arc::clone(&outbox));
        outbox
    }

    /// A caller: posts a call, and tells the connection if it is the first. What the connection does when it is told runs here, as it
    /// does for who turns the reactor. Waits for the end of the call.
    fn call(outbox: &Arc<Outbox<char>>, told: fn(&Arc<Outbox<char>>)) -> Found {
        let waker = Unpark::this_thread();
        let (_, cell) = post(outbox, &waker, told);
        loop {
            match cell.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(found) => return found,
                Poll::Pending => thread::park(),
            }
        }
    }

    fn post(outbox: &Arc<Outbox<char>>, waker: &Waker, told: fn(&Arc<Outbox<char>>)) -> (Ticket, Arc<ReplyCell<char>>) {
        let cell = Arc::new(ReplyCell::default());
        cell.wait(waker);
        let spec = Spec { method: &METHOD, extra: Vec::new(), timeout: Duration::ZERO, deadline: Instant::now() };
        let (ticket, first) = outbox.post(Arc::clone(&cell), spec, Encoded::new(&vec![7_u8]));
        if first {
            told(outbox);
        }
        (ticket, cell)
    }

    /// The connection takes what is there, and ends every call.
    fn serve(outbox: &Arc<Outbox<char>>) {
        let mut mail = Mail::default();
        outbox.take(&mut mail);
        while let Some(posted) = mail.next() {
            assert_eq!(posted.cell.accept('a', || Ok::<_, ()>(SeqId::new(0, 1))), Ok(()));
            if let Some(waker) = posted.cell.complete(Found::Done(Err(Error::cancelled()))) {
                waker.wake();
            }
        }
    }

    /// Two callers, one of whom tells for both perhaps: each call ends in this way, or it waits for ever, which is a deadlock here.
    fn both_end(model: &'static str, told: fn(&Arc<Outbox<char>>), ends: fn(&Found) -> bool) {
        explore(model, move || {
            let outbox = outbox();
            let other = Arc::clone(&outbox);
            let other = thread::spawn(move || call(&other, told));
            assert!(ends(&call(&outbox, told)));
            assert!(ends(&other.join().unwrap()));
            assert_eq!(outbox.count(), 0);
        });
    }

    /// Each call is taken.
    #[test]
    fn outbox_post() {
        both_end("outbox_post", serve, |found| matches!(found, Found::Done(_)));
    }

    /// A caller gives up while another posts, and while the connection looks: nothing of the call stays, and the other call is served.
    #[test]
    fn outbox_remove() {
        explore("outbox_remove", || {
            let outbox = outbox();
            let other = Arc::clone(&outbox);
            let other = thread::spawn(move || {
                let (ticket, cell) = post(&other, &Unpark::this_thread(), serve);
                if cell.drop_call().is_none() {
                    other.remove(ticket);
                }
            });
            assert!(matches!(call(&outbox, serve), Found::Done(_)));
            other.join().unwrap();
            assert_eq!(outbox.count(), 0);
        });
    }

    /// B16: calls meet the end of their connection: each comes back.
    #[test]
    fn reply_undelivered() {
        let undelivered = |outbox: &Arc<Outbox<char>>| Arc::clone(outbox).undelivered();
        both_end("reply_undelivered", undelivered, |found| matches!(found, Found::Returned(_)));
    }
}
