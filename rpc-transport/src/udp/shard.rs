//! One socket, as a task of its reactor: it is woken by the socket's events, and by who sends from elsewhere.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::outbox::{ENTRY, Outbox};
use super::{DatagramCx, DatagramHandler, SocketShared};
use crate::driver::{CloseHow, Key};
use crate::local;
use crate::reactor::core::{TimerKey, with};
use crate::reactor::{LocalTask, ReactorHandle, guarded};

/// Reads of a batch that may fail, and how long the socket is left alone then.
const MOST_FAILURES: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Datagrams that are read, and of other threads sent, before others have their turn.
const BATCH: usize = 64;

pub(super) struct Shard<H> {
    pub(super) key: Key,
    pub(super) shared: Arc<SocketShared>,
    pub(super) handler: H,
    pub(super) make: Arc<dyn Fn(&ReactorHandle) -> H + Send + Sync>,
    pub(super) room: Vec<u8>,
    pub(super) outbox: Outbox,
}

impl<H: DatagramHandler> Shard<H> {
    /// Sends what others want to be sent, at most a batch. Whether there may be more; `None` if the socket is not wanted any more.
    fn collect(&mut self) -> Option<bool> {
        for _ in 0..BATCH {
            let mut mailbox = self.shared.mailbox.lock();
            if mailbox.closed {
                return None;
            }
            let Some((datagram, to)) = mailbox.letters.pop_front() else { return Some(false) };
            mailbox.bytes -= datagram.len() + ENTRY;
            drop(mailbox);
            let sent = self.outbox.send(&datagram, to, || datagram.clone(), self.shared.kernel(self.key));
            let _ = self.shared.counted(sent); // who sent it has gone on
        }
        Some(true)
    }

    /// Runs the handler's code; whether there is still a handler.
    fn hand_up(&mut self, f: impl FnOnce(&mut H, &mut DatagramCx<'_>, &[u8])) -> bool {
        let Shard { key, shared, handler, make, room, outbox } = self;
        let mut cx = DatagramCx { key: *key, outbox, shared, now: local::now() };
        if guarded("a handler of datagrams", || f(handler, &mut cx, room)).is_some() {
            return true;
        }
        let anew = guarded("the maker of a handler of datagrams", || make(&shared.reactor));
        anew.map(|anew| *handler = anew).is_some()
    }

    /// Reads what has come, at most a batch. Whether there may be more; `None` if there is no handler any more.
    fn read(&mut self, waker: &Waker) -> Option<bool> {
        let (mut any, mut more, mut failed) = (false, true, 0);
        for _ in 0..BATCH {
            let got = with(|core| core.driver.recv_from(self.key, &mut self.room));
            match got {
                Ok((len, _)) if len == self.room.len() => self.shared.counters.oversize.add(1),
                Ok((len, from)) => {
                    self.shared.counters.received.add(1);
                    self.shared.counters.bytes_in.add(len as u64);
                    any = true;
                    if !self.hand_up(|handler, cx, room| handler.on_datagram(cx, &room[..len], from)) {
                        return None;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // Of one datagram, and told once; or else the system has no memory, or does not let us, and may not for long.
                Err(_) => {
                    self.shared.counters.errors.add(1);
                    failed += 1;
                    if failed == MOST_FAILURES {
                        with(|core| core.arm_work(core.now + PAUSE, TimerKey::Waker(waker.clone())));
                        more = false;
                        break;
                    }
                }
            }
        }
        if any && !self.hand_up(|handler, cx, _| handler.on_batch_end(cx)) {
            return None;
        }
        Some(more)
    }
}

impl<H: DatagramHandler> LocalTask for Shard<H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.flush(self.shared.kernel(self.key));
        let Some(more) = self.collect().and_then(|more| Some(self.read(cx.waker())? | more)) else {
            return Poll::Ready(());
        };
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<H> Drop for Shard<H> {
    fn drop(&mut self) {
        self.shared.mailbox.lock().closed = true;
        with(|core| core.driver.close(self.key, CloseHow::Graceful));
    }
}
