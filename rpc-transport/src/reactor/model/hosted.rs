//! A reactor, its thread, and callers who turn it: each call ends, and so does everybody.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::super::core::{TimerKey, try_with, with};
use super::*;

/// A reactor and its thread.
fn start(by: HostedBy) -> (ReactorHandle, thread::JoinHandle<()>) {
    let reactor = reactor(by);
    let handle = reactor.handle().clone();
    handle.give(reactor);
    let hosted = handle.clone();
    (handle, thread::spawn(move || hosted.host_on_this_thread()))
}

/// How a call comes to its end.
#[derive(Clone, Copy)]
enum Kind {
    /// In the turn that took it.
    AtOnce,
    /// By a timer of the reactor: it has work meanwhile.
    ByTimer,
    /// By a task of the reactor.
    ByTask,
}

/// A call from any thread: asks the reactor for something on its first poll, and is woken when it is done. Where the reactor drops
/// what it was asked, the call ends without.
struct Call {
    reactor: ReactorHandle,
    kind: Kind,
    cell: Option<Arc<Cell>>,
}

#[derive(Default)]
struct Cell(Mutex<(Option<bool>, Option<Waker>)>);

/// The reactor's half of a call: says how it ended, also if it is dropped.
struct Answer(Arc<Cell>, bool);

impl Drop for Answer {
    fn drop(&mut self) {
        let mut cell = self.0.0.lock();
        assert!(cell.0.replace(self.1).is_none(), "a call ends once");
        let waker = cell.1.take();
        drop(cell);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl std::task::Wake for Answer {
    fn wake(self: Arc<Self>) {}
}

impl Answer {
    fn begin(mut self, kind: Kind) {
        self.1 = true;
        match kind {
            Kind::AtOnce => drop(self),
            Kind::ByTimer => with(|core| {
                let at = core.now + Duration::from_millis(3);
                core.arm_work(at, TimerKey::Waker(Waker::from(Arc::new(self))));
            }),
            Kind::ByTask => {
                let handle = with(|core| core.handle.clone());
                handle.spawn(async move { drop(self) });
            }
        }
    }
}

impl Future for Call {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some(cell) = &self.cell {
            let mut cell = cell.0.lock();
            cell.1 = Some(cx.waker().clone());
            return cell.0.map_or(Poll::Pending, Poll::Ready);
        }
        let cell = Arc::new(Cell::default());
        cell.0.lock().1 = Some(cx.waker().clone());
        self.cell = Some(Arc::clone(&cell));
        let (kind, answer) = (self.kind, Answer(cell, false));
        if try_with(|_| ()).is_some() {
            answer.begin(kind); // this thread leads: nobody else is asked
        } else {
            self.reactor.run(move || answer.begin(kind));
        }
        Poll::Pending
    }
}

fn call(reactor: &ReactorHandle, kind: Kind) -> bool {
    reactor.block_on(Call { reactor: reactor.clone(), kind, cell: None })
}

/// B32: callers who lead, follow, and hand the lead to each other and to the thread. Each call ends, and so does everybody.
#[test]
fn host_leaders() {
    explore("host_leaders", || {
        let (reactor, hosting) = start(HostedBy::ThreadOrCallers);
        let kinds = [[Kind::AtOnce, Kind::ByTimer], [Kind::ByTask, Kind::AtOnce], [Kind::ByTimer, Kind::ByTask]];
        let callers = kinds.map(|kinds| {
            let reactor = reactor.clone();
            thread::spawn(move || kinds.into_iter().for_each(|kind| assert!(call(&reactor, kind))))
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        reactor.stop();
        hosting.join().unwrap();
    });
}

/// B32: a thread that only leaves work behind, beside a caller who leads. The work is done though nobody waits for it.
#[test]
fn host_work_left() {
    explore("host_work_left", || {
        let (reactor, hosting) = start(HostedBy::ThreadOrCallers);
        let caller = {
            let reactor = reactor.clone();
            thread::spawn(move || assert!(call(&reactor, Kind::AtOnce)))
        };
        let cells = [Kind::AtOnce, Kind::ByTimer, Kind::ByTask].map(|kind| {
            let cell = Arc::new(Cell::default());
            let answer = Answer(Arc::clone(&cell), false);
            cell.0.lock().1 = Some(crate::sync::model::Unpark::this_thread());
            reactor.run(move || answer.begin(kind));
            cell
        });
        for cell in cells {
            while cell.0.lock().0.is_none() {
                thread::park();
            }
        }
        caller.join().unwrap();
        reactor.stop();
        hosting.join().unwrap();
    });
}

/// B32: the same with one piece of work, so that the few orders are met in which the thread is called while the caller is on the way out.
#[test]
fn host_called() {
    explore("host_called", || {
        let (reactor, hosting) = start(HostedBy::ThreadOrCallers);
        let caller = {
            let reactor = reactor.clone();
            thread::spawn(move || assert!(call(&reactor, Kind::AtOnce)))
        };
        let cell = Arc::new(Cell::default());
        let answer = Answer(Arc::clone(&cell), true);
        cell.0.lock().1 = Some(crate::sync::model::Unpark::this_thread());
        reactor.run(move || drop(answer));
        while cell.0.lock().0.is_none() {
            thread::park();
        }
        caller.join().unwrap();
        reactor.stop();
        hosting.join().unwrap();
    });
}

/// B16, I22: calls meet the end of the reactor, whoever turns it then. Each ends, done or not, and the threads end.
#[test]
fn host_stop() {
    explore("host_stop", || {
        let (reactor, hosting) = start(HostedBy::ThreadOrCallers);
        let callers = [Kind::AtOnce, Kind::ByTimer].map(|kind| {
            let reactor = reactor.clone();
            thread::spawn(move || {
                call(&reactor, kind);
                call(&reactor, Kind::ByTask);
            })
        });
        reactor.stop();
        hosting.join().unwrap();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

/// The same for a reactor that callers do not lead, as a server's are.
#[test]
fn host_followers() {
    explore("host_followers", || {
        let (reactor, hosting) = start(HostedBy::Thread);
        let callers = [Kind::ByTask, Kind::ByTimer].map(|kind| {
            let reactor = reactor.clone();
            thread::spawn(move || {
                assert!(call(&reactor, kind));
                assert!(call(&reactor, Kind::AtOnce));
            })
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        reactor.stop();
        hosting.join().unwrap();
    });
}
