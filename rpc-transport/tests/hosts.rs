//! Who turns a reactor: hand-over between callers and thread, tasks, timers, panics, and the end.

mod support;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rpc_transport::{Connector, LocalTask, Message, ReactorHandle, ReactorPool, local, sleep};
use support::*;

/// A future that somebody else completes.
#[derive(Default)]
struct Cell(Mutex<(bool, Option<Waker>)>);

impl Cell {
    fn set(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn wait(self: Arc<Self>) {
        poll_fn(move |cx| {
            let mut state = self.0.lock().unwrap();
            state.1 = Some(cx.waker().clone());
            if state.0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// A message for a connection whose handler sets the cell.
struct Ask(Cell, AtomicBool);

impl Message for Ask {
    fn undelivered(self: Arc<Self>) {
        self.1.store(true, Ordering::SeqCst);
        self.0.set();
    }
}

/// Ends a test that hangs, with a word about it.
fn within_deadline(f: impl FnOnce() + Send + 'static) {
    let (tell, heard) = mpsc::channel();
    let thread = thread::spawn(move || {
        f();
        tell.send(()).unwrap();
    });
    match heard.recv_timeout(DEADLINE * 2) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hung"),
        _ => thread.join().unwrap(),
    }
}

/// A follower that was given the lead forgot its own wake-up each time it looked for it, and never left.
#[test]
fn the_lead_passes_between_blocking_callers_and_no_wake_up_is_lost() {
    const THREADS: usize = 8;
    const CALLS: usize = 20_000;
    within_deadline(|| {
        let pool = leadable();
        let reactor = pool.handles()[0].clone();
        let stop = Arc::new(AtomicBool::new(false));
        let spawners: Vec<_> = (0..2)
            .map(|_| {
                let (reactor, stop) = (reactor.clone(), stop.clone());
                thread::spawn(move || {
                    let done = Arc::new(AtomicUsize::new(0));
                    let mut spawned = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let ran = done.clone();
                        reactor.spawn(async move {
                            ran.fetch_add(1, Ordering::Relaxed);
                        });
                        spawned += 1;
                        if spawned % 64 == 0 {
                            thread::yield_now();
                        }
                        while spawned - done_of(&done) > 1000 && !stop.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                    }
                    until("every spawned future ran", || done_of(&done) == spawned);
                })
            })
            .collect();
        let callers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let reactor = reactor.clone();
                thread::spawn(move || {
                    for call in 0..CALLS {
                        let cell = Arc::new(Cell::default());
                        let (wait, set) = (cell.clone().wait(), cell);
                        match (thread + call) % 3 {
                            // Completed by a task of the reactor, by a closure of it, or before anybody waits.
                            0 => reactor.block_on(async {
                                reactor.spawn(async move { set.set() });
                                wait.await;
                            }),
                            1 => reactor.block_on(async {
                                reactor.run(move || set.set());
                                wait.await;
                            }),
                            _ => {
                                set.set();
                                reactor.block_on(wait);
                            }
                        }
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        spawners.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn done_of(done: &Arc<AtomicUsize>) -> usize {
    done.load(Ordering::Relaxed)
}

/// Threads wake each other's futures, so that the waker fires while its caller leads, follows, or is in between.
#[test]
fn a_waker_that_fires_on_another_thread_reaches_whoever_leads() {
    within_deadline(|| {
        let pool = leadable();
        let reactor = pool.handles()[0].clone();
        const ROUNDS: usize = 5_000;
        let pairs: Vec<_> = (0..4)
            .flat_map(|_| {
                let cells: Arc<Vec<Arc<Cell>>> = Arc::new((0..=ROUNDS * 2).map(|_| Arc::default()).collect());
                [0, 1].map(|side| {
                    let (cells, reactor) = (cells.clone(), reactor.clone());
                    thread::spawn(move || {
                        for round in 0..ROUNDS {
                            let at = round * 2;
                            if side == 0 {
                                cells[at].set();
                                reactor.block_on(cells[at + 1].clone().wait());
                            } else {
                                reactor.block_on(cells[at].clone().wait());
                                cells[at + 1].set();
                            }
                        }
                    })
                })
            })
            .collect();
        pairs.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn blocking_callers_exchange_messages_with_a_connection() {
    within_deadline(|| {
        let pool = leadable();
        let server = pool_of_server();
        let listener = serve(&server, |_| Script::new());
        let reactor = pool.handles()[0].clone();
        let waiting: Arc<Mutex<std::collections::VecDeque<Arc<Ask>>>> = Arc::default();
        let (asked, answered) = (waiting.clone(), waiting);
        let script = Script::new()
            .message(move |cx, message| {
                asked.lock().unwrap().push_back(message.downcast::<Ask>().unwrap());
                reply(cx, b"hi");
            })
            .frame(move |_, _| {
                let ask = answered.lock().unwrap().pop_front();
                ask.unwrap().0.set();
            });
        let id = connect(&reactor, listener.url(), Connector::default(), script);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let reactor = reactor.clone();
                thread::spawn(move || {
                    for _ in 0..1_000 {
                        let ask = Arc::new(Ask(Cell::default(), AtomicBool::new(false)));
                        reactor.send(id, ask.clone());
                        let done = ask.clone();
                        reactor.block_on(poll_fn(move |cx| {
                            let mut state = done.0.0.lock().unwrap();
                            state.1 = Some(cx.waker().clone());
                            if state.0 { Poll::Ready(()) } else { Poll::Pending }
                        }));
                        assert!(!ask.1.load(Ordering::SeqCst), "undelivered");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

fn pool_of_server() -> ReactorPool {
    pool(1)
}

/// A leader whose reactor stops goes on without it, and the stop does not wait for the leader's future.
#[test]
fn block_on_survives_the_end_of_its_reactor() {
    within_deadline(|| {
        for leads in [true, false] {
            let pool = if leads { leadable() } else { pool(1) };
            let reactor = pool.handles()[0].clone();
            let (tell, polled) = mpsc::channel();
            let cell = Arc::new(Cell::default());
            let wait = cell.clone().wait();
            let blocked = thread::spawn(move || {
                let mut wait = Box::pin(wait);
                let mut tell = Some(tell);
                reactor.block_on(poll_fn(move |cx| {
                    let poll = wait.as_mut().poll(cx);
                    if let Some(tell) = tell.take() {
                        tell.send(()).unwrap();
                    }
                    poll
                }));
            });
            hear(&polled);
            drop(pool);
            cell.set();
            blocked.join().unwrap();
        }
    });
}

/// The timer of a future that a leader drives dies with the reactor; the future must hear of it.
#[test]
fn a_sleeper_outlives_the_reactor_it_slept_on() {
    within_deadline(|| {
        let pool = leadable();
        let reactor = pool.handles()[0].clone();
        let (tell, polled) = mpsc::channel();
        let start = Instant::now();
        let blocked = thread::spawn(move || {
            let mut nap = Box::pin(sleep(Duration::from_millis(200))); // the one that is tested
            reactor.block_on(poll_fn(move |cx| {
                let poll = nap.as_mut().poll(cx);
                tell.send(()).unwrap();
                poll
            }));
        });
        hear(&polled);
        drop(pool);
        blocked.join().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200));
    });
}

/// A panic of the caller's own future leaves the reactor in somebody's care.
#[test]
fn a_panic_of_a_leader_is_its_own() {
    within_deadline(|| {
        let pool = leadable();
        let reactor = pool.handles()[0].clone();
        for _ in 0..3 {
            let led = reactor.clone();
            let panicked = thread::spawn(move || led.block_on(async { panic!("on purpose") })).join();
            assert!(panicked.is_err());
            on(&reactor, || ());
            reactor.block_on(sleep(Duration::from_millis(1))); // needs its timers, and somebody who turns it
        }
    });
}

type OnPoll = Box<dyn FnOnce(&mut Context<'_>) + Send>;

struct Once(Option<OnPoll>);

impl LocalTask for Once {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(f) = self.0.take() {
            f(cx);
        }
        Poll::Ready(())
    }
}

/// The waker of a slot was lost when it fired after its task, and the slot's next task brought the reactor down.
#[test]
fn a_waker_that_outlives_its_task_is_harmless() {
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    let (tell, wakers) = mpsc::channel();
    for _ in 0..10 {
        let tell = tell.clone();
        reactor.spawn_task(Box::new(Once(Some(Box::new(move |cx: &mut Context<'_>| {
            tell.send(cx.waker().clone()).unwrap();
        })))));
        let late = hear(&wakers);
        on(reactor, || ()); // the task has been retired
        late.wake_by_ref();
        late.wake();
        on(reactor, || ());
    }
}

#[test]
fn a_task_cancelled_while_woken_leaves_its_slot_usable() {
    struct Never;
    impl LocalTask for Never {
        fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }
    let pool = pool(1);
    on(&pool.handles()[0], || {
        for _ in 0..10 {
            let reserved = local::reserve().unwrap();
            let id = reserved.id();
            reserved.waker().wake_by_ref();
            local::spawn_reserved(reserved, Box::new(Never));
            assert!(local::cancel(id).is_some());
            assert!(local::cancel(id).is_none());
        }
    });
    let ran = on(&pool.handles()[0], || local::reserve().map(local::release).is_some());
    assert!(ran);
}

/// A slot that is woken between its reservation and its task's start polls the task.
#[test]
fn a_wake_up_before_the_task_starts_counts() {
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    let reserved = on(reactor, || local::reserve().unwrap());
    reserved.waker().wake_by_ref();
    on(reactor, || ());
    let (tell, polled) = mpsc::channel();
    on(reactor, move || {
        let task = Once(Some(Box::new(move |_: &mut Context<'_>| tell.send(()).unwrap())));
        local::spawn_reserved(reserved, Box::new(task));
    });
    hear(&polled);
}

/// The address of a no-op waker is 0, as is that of the leader when there is none: the reactor then span for ever.
#[test]
fn a_no_op_waker_is_nobodys() {
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    assert!(on(reactor, || local::task_of(Waker::noop()).is_none()));
    let leadable = leadable();
    let main = leadable.handles()[0].block_on(poll_fn(|cx| Poll::Ready(local::task_of(cx.waker()))));
    let Some(main) = main else { return }; // the thread had not stood back: the caller followed
    let reactor = leadable.handles()[0].clone();
    on(&reactor, move || local::wake(main));
    on(&reactor, || ());
    let polls = reactor.stats().polls.get();
    thread::sleep(Duration::from_millis(50)); // a span in which it would spin, not one that anything waits for
    assert!(reactor.stats().polls.get() - polls < 20, "the reactor spins");
}

#[test]
fn panics_of_users_leave_the_reactor_alive() {
    struct PanicsAtTheEnd;
    impl Drop for PanicsAtTheEnd {
        fn drop(&mut self) {
            panic!("in drop, on purpose");
        }
    }
    struct PanickingWaker(mpsc::Sender<()>);
    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            self.0.send(()).unwrap();
            panic!("in a waker, on purpose");
        }
    }
    struct PanickingMessage;
    impl Message for PanickingMessage {
        fn undelivered(self: Arc<Self>) {
            panic!("in undelivered, on purpose");
        }
    }
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    reactor.run(|| panic!("in a closure, on purpose"));
    reactor.spawn(async { panic!("in a task, on purpose") });
    reactor.spawn(async {
        let _ends = PanicsAtTheEnd;
    });
    let (tell, woken) = mpsc::channel();
    let nap = on(reactor, move || {
        let waker = Waker::from(Arc::new(PanickingWaker(tell)));
        let mut nap = sleep(Duration::from_millis(1)); // its waker is what panics
        assert!(Pin::new(&mut nap).poll(&mut Context::from_waker(&waker)).is_pending());
        nap // to drop it here would take its timer back, to forget it would leak what it holds of the reactor
    });
    hear(&woken);
    drop(nap);
    // A connection of another life: nobody is there to take the message.
    let listener = serve(&pool, |_| {
        let ends = PanicsAtTheEnd;
        Script::new().frame(move |_, _| {
            let _ = &ends;
            panic!("in a handler, on purpose")
        })
    });
    let (tell, ends) = mpsc::channel();
    let id =
        connect(reactor, listener.url(), Connector::default(), Script::new().open(|cx| reply(cx, b"x")).end_to(tell));
    assert!(!hear(&ends).is_empty());
    reactor.send(id, Arc::new(PanickingMessage));
    on(reactor, || ());
    until("books are balanced", || listener.connections() == 0 && reactor.stats().connections.get() == 0);
    // The maker of handlers.
    let listener = serve(&pool, |_| panic!("in the maker, on purpose"));
    let (tell, ends) = mpsc::channel();
    connect(reactor, listener.url(), Connector::default(), Script::new().end_to(tell));
    hear(&ends);
    until("books are balanced", || listener.connections() == 0 && reactor.stats().connections.get() == 0);
    on(reactor, || ());
}

#[test]
fn a_task_is_woken_from_another_thread() {
    let pool = pool(1);
    let (tell, done) = mpsc::channel();
    let cell = Arc::new(Cell::default());
    let wait = cell.clone().wait();
    pool.handles()[0].spawn(async move {
        wait.await;
        tell.send(local::current().is_some()).unwrap();
    });
    cell.set();
    assert!(hear(&done));
}

#[test]
fn sleeping_ends_in_order_and_never_early() {
    let pool = pool(1);
    let reactor = &pool.handles()[0];
    let (tell, ends) = mpsc::channel();
    let start = Instant::now();
    for ms in [60, 20, 40, 0] {
        let tell = tell.clone();
        reactor.spawn(async move {
            sleep(Duration::from_millis(ms)).await; // what is tested
            tell.send((ms, start.elapsed() >= Duration::from_millis(ms))).unwrap();
        });
    }
    assert_eq!([0; 4].map(|_| hear(&ends)), [(0, true), (20, true), (40, true), (60, true)]);
    let start = Instant::now();
    reactor.block_on(sleep(Duration::from_millis(30))); // off the reactor: the global pool's timer
    assert!(start.elapsed() >= Duration::from_millis(30));
}

/// A sleep off a reactor armed another timer at each poll, and left it behind when it was dropped.
#[test]
fn a_dropped_or_polled_again_sleep_leaves_no_timer() {
    let counting = Arc::new(CountingWaker::default());
    let waker = Waker::from(counting.clone());
    let mut cx = Context::from_waker(&waker);
    let global = &ReactorPool::global().unwrap().handles()[0];
    for _ in 0..50 {
        let mut nap = sleep(Duration::from_secs(3600)); // never over: what is tested is its timer
        for _ in 0..10 {
            assert!(Pin::new(&mut nap).poll(&mut cx).is_pending());
        }
        on(global, || ());
    }
    on(global, || ()); // the timers have been taken back
    drop(waker);
    until("nobody holds the waker", || Arc::strong_count(&counting) == 1);
}

/// A sleep that moved to another reactor took that reactor's timer of the same number with it.
#[test]
fn a_sleep_that_moved_takes_back_its_own_timer_only() {
    let pool = pool(2);
    let [a, b] = [0, 1].map(|i| pool.handles()[i].clone());
    let (tell, ended) = mpsc::channel();
    let nap = on(&a, || {
        let mut nap = sleep(Duration::from_secs(3600)); // never over: what is tested is its timer
        assert!(Pin::new(&mut nap).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        nap
    });
    b.spawn(async move {
        sleep(Duration::from_millis(50)).await; // its timer is the one that must stay
        tell.send(()).unwrap();
    });
    on(&b, move || drop(nap));
    hear(&ended);
}

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_stopped_pool_leaves_nothing_behind() {
    if !in_a_process_of_its_own("a_stopped_pool_leaves_nothing_behind", &[]) {
        return;
    }
    ReactorPool::global().unwrap(); // its descriptors are there from the start
    let descriptors = open_descriptors();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let threads_before = threads();
    for round in 0..5 {
        let token = Arc::new(());
        let (tell, ends) = mpsc::channel();
        let (server, client) = (pool(2), leadable());
        let held = token.clone();
        let ends_here = tell.clone();
        let listener = serve(&server, move |_| {
            let held = held.clone();
            Script::new().end_to(ends_here.clone()).message(move |_, _| drop(held.clone()))
        });
        let client_reactor = client.handles()[0].clone();
        for _ in 0..8 {
            // Ping-pong for ever.
            let held = token.clone();
            let script = Script::new()
                .open(|cx| reply(cx, b"ping"))
                .end_to(tell.clone())
                .message(move |_, _| drop(held.clone()));
            connect(&client_reactor, listener.url(), Connector::default(), script);
        }
        for reactor in server.handles().iter().chain(client.handles()) {
            let held = token.clone();
            let reactor_of_task = reactor.clone();
            reactor.spawn(async move {
                let _held = (held, reactor_of_task); // a cycle: the reactor owns the task
                std::future::pending::<()>().await;
            });
            let held = token.clone();
            reactor.spawn(async move {
                sleep(Duration::from_secs(3600)).await; // outlives its reactor
                drop(held);
            });
        }
        // All of them: one that has not been accepted, or is still on its way to its reactor, has no end at the server.
        let at_server = || server.handles().iter().map(|reactor| reactor.stats().connections.get()).sum::<u64>();
        until("there is load", || at_server() == 8 && client_reactor.stats().frames.get() > 100);
        let stop = Arc::new(AtomicBool::new(false));
        let submitters: Vec<_> = (0..2)
            .map(|_| {
                let (stop, reactor) = (stop.clone(), client_reactor.clone());
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        reactor.run(|| ());
                        reactor.spawn(async {});
                    }
                })
            })
            .collect();
        if round % 2 == 0 {
            drop(server);
            drop(client);
        } else {
            drop(client);
            drop(server);
        }
        stop.store(true, Ordering::Relaxed);
        submitters.into_iter().for_each(|thread| thread.join().unwrap());
        drop(tell);
        assert_eq!(listener.connections(), 0);
        drop(listener);
        assert_eq!(ends.iter().count(), 16, "each connection ended once at either side");
        assert_eq!(Arc::strong_count(&token), 1, "handlers and tasks are gone");
        drop(client_reactor);
        assert_eq!(open_descriptors(), descriptors, "descriptors");
        until("threads are gone", || threads() == threads_before);
    }
}

/// Handlers that connect anew when their connection ends, as the pool stops: no connection begins on a reactor that ends.
#[test]
fn reconnecting_handlers_do_not_hold_up_the_end() {
    fn again(reactor: &ReactorHandle, url: &rpc_transport::Url, refused: mpsc::Sender<()>) -> Script {
        let (reactor, url) = (reactor.clone(), url.clone());
        Script::new().close(move |_, _| {
            let endpoint = url.resolve().unwrap().remove(0);
            let script = again(&reactor, &url, refused.clone());
            if Connector::default().connect(&endpoint, framing(), script).is_none() {
                refused.send(()).unwrap();
            }
        })
    }
    within_deadline(|| {
        let server = pool(1);
        let listener = serve(&server, |_| Script::new());
        let client = pool(1);
        let (tell, refused) = mpsc::channel();
        let reactor = client.handles()[0].clone();
        connect(&reactor, listener.url(), Connector::default(), again(&reactor, listener.url(), tell));
        drop(client);
        hear(&refused);
    });
}

/// A connection that fails at once must not run its handler's end inside `connect`: that would be endless recursion.
#[test]
fn failing_at_once_is_told_later_and_once() {
    let pool = pool(1);
    let reactor = pool.handles()[0].clone();
    let (path, url) = unix_url("nobody");
    let _ = std::fs::remove_file(path);
    let url: rpc_transport::Url = url.parse().unwrap();
    let (tell, ends) = mpsc::channel();
    let depth = Arc::new(AtomicUsize::new(0));
    fn attempt(url: rpc_transport::Url, left: usize, depth: Arc<AtomicUsize>, tell: mpsc::Sender<String>) {
        let endpoint = url.resolve().unwrap().remove(0);
        let running = depth.clone();
        assert_eq!(depth.fetch_add(1, Ordering::SeqCst), 0, "told inside connect");
        let script = Script::new().close(move |_, reason| {
            tell.send(reason.to_string()).unwrap();
            if left > 0 {
                attempt(url.clone(), left - 1, running.clone(), tell.clone());
            }
        });
        Connector::default().connect(&endpoint, framing(), script).unwrap();
        depth.fetch_sub(1, Ordering::SeqCst);
    }
    on(&reactor, move || attempt(url, 999, depth, tell));
    let ends: Vec<_> = ends.iter().take(1000).collect();
    assert_eq!(ends.len(), 1000);
    assert!(ends[0].starts_with("cannot connect: "), "{}", ends[0]);
}
