//! Calls that a handler makes: what they take over from the call it handles, as stories of A, who calls B, who calls C.

mod support;

use std::future::{Future, pending, poll_fn};
use std::io::Write;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::codegen::Blocking;
use rpc_core::transport::{PoolOptions, ReactorPool};
use rpc_core::{Channel, Code, Context, Error, Logging, Metadata, Result, Sent, Server, ServerHandle, sleep};
use support::{AnyServer, Blob, EchoClient, raw_request};

const LIMIT: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Tells that it was dropped, unless the handler that has it came to its end.
struct Flag(Option<Sender<&'static str>>);

impl Drop for Flag {
    fn drop(&mut self) {
        if let Some(tell) = &self.0 {
            let _ = tell.send("dropped");
        }
    }
}

/// What a handler sees of its call.
#[derive(Debug)]
struct Seen {
    who: Bytes,
    /// The time it was given.
    timeout: Option<Duration>,
    persistent: Metadata,
    transient: Metadata,
}

impl Seen {
    fn of(cx: &Context, req: &Blob) -> Seen {
        let timeout = cx.deadline().map(|at| at - cx.started());
        Seen {
            who: req.payload.clone(),
            timeout,
            persistent: cx.persistent().clone(),
            transient: cx.transient().clone(),
        }
    }
}

fn pairs(pairs: &[(&'static str, &'static str)]) -> Metadata {
    pairs.iter().copied().collect()
}

fn named(name: &'static str) -> Blob {
    Blob { payload: Bytes::from_static(name.as_bytes()) }
}

fn pool(callers_may_lead: bool) -> Arc<ReactorPool> {
    let options = PoolOptions { reactors: 1, callers_may_lead, ..PoolOptions::default() };
    Arc::new(ReactorPool::start(options).expect("a reactor"))
}

fn bind(service: AnyServer) -> ServerHandle {
    Server::builder().reactors(1).add(service).bind("tcp://127.0.0.1:0").expect("bound")
}

fn on_workers(mut service: AnyServer) -> AnyServer {
    let mut blocking = Blocking::default();
    blocking.all();
    service.blocking = blocking;
    service
}

/// C: tells what it sees and echoes; calls of "held" are never answered.
fn observer() -> (ServerHandle, Receiver<Seen>) {
    let (tell, seen) = mpsc::channel();
    let tell = Mutex::new(tell);
    let service = AnyServer::new(move |cx, req: Blob| {
        tell.lock().unwrap().send(Seen::of(&cx, &req)).expect("the test looks");
        async move {
            if req.payload == "held" {
                pending::<()>().await;
            }
            (cx, Ok(req))
        }
    });
    (bind(service), seen)
}

fn to(server: &ServerHandle, pool: &Arc<ReactorPool>) -> EchoClient {
    let channel = Channel::builder(server.url().to_string()).connections(1).pool(Arc::clone(pool));
    EchoClient(channel.build().expect("a channel"))
}

/// Runs a future on a thread of its own, without an executor.
fn elsewhere<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Receiver<T> {
    let (tell, hear) = mpsc::channel();
    thread::spawn(move || {
        let pool = pool(false);
        let _ = tell.send(pool.handles()[0].block_on(future));
    });
    hear
}

/// Waits for what another thread sends, without blocking this one.
async fn hear<T: Send + 'static>(from: Receiver<T>) -> T {
    loop {
        match from.try_recv() {
            Ok(value) => return value,
            Err(mpsc::TryRecvError::Empty) => sleep(Duration::from_millis(1)).await, // between questions
            Err(gone) => panic!("{gone}"),
        }
    }
}

/// Polls two futures as one, as `join` does, with wakers of its own.
async fn join<T>(mut one: Boxed<T>, mut two: Boxed<T>) -> (T, T) {
    let (mut first, mut second) = (None, None);
    poll_fn(|cx| {
        for (future, result) in [(&mut one, &mut first), (&mut two, &mut second)] {
            if result.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *result = Some(value);
            }
        }
        if first.is_some() && second.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (first.expect("ready"), second.expect("ready"))
}

/// How B's handler calls C.
type How = fn(Arc<EchoClient>, Context) -> Boxed<Result<()>>;

#[rustfmt::skip]
const WAYS: &[(&str, bool, How)] = &[
    // what B does                          on workers  how
    ("awaits at once",                      false, |c, _| Box::pin(async move { c.blob(named("c")).await.map(drop) })),
    ("awaits later, as a pending task",     false, |c, _| Box::pin(async move {
        sleep(Duration::from_millis(1)).await; // makes it a pending task
        c.blob(named("c")).await.map(drop)
    })),
    ("asks for the response",               false, |c, _| Box::pin(async move { c.blob(named("c")).response().await.map(drop) })),
    ("awaits on a worker",                  true,  |c, _| Box::pin(async move { c.blob(named("c")).await.map(drop) })),
    ("waits on a worker",                   true,  |c, _| Box::pin(async move { c.blob(named("c")).wait().map(drop) })),
    ("joins two",                           false, |c, _| Box::pin(async move {
        let other = Arc::clone(&c);
        let one: Boxed<_> = Box::pin(async move { c.blob(named("c")).await });
        let two: Boxed<_> = Box::pin(async move { other.blob(named("c")).await });
        let (one, two) = join(one, two).await;
        one.and(two).map(drop)
    })),
    ("names a timeout that is longer",      false, |c, _| Box::pin(async move { c.blob(named("c")).timeout(LIMIT).await.map(drop) })),
    ("sends one call elsewhere",            false, |c, cx| Box::pin(async move {
        hear(elsewhere(async move { c.blob(named("c")).inherit(&cx).await.map(drop) })).await
    })),
    ("sends a whole future elsewhere",      false, |c, cx| Box::pin(async move {
        let future = async move { c.blob(named("c")).await.map(drop) };
        hear(elsewhere(cx.scope(future))).await
    })),
];

/// The story that each way has to tell.
fn tell(way: &str, blocking: bool, how: How, client_is_local: bool, layered: bool) {
    let (c, seen_by_c) = observer();
    let (tell, seen_by_b) = mpsc::channel();
    let (tell, client) = (Mutex::new(tell), Arc::new(OnceLock::new()));
    let to_c: Arc<OnceLock<Arc<EchoClient>>> = Arc::clone(&client);
    let mut service = AnyServer::new(move |cx: Context, req: Blob| {
        tell.lock().unwrap().send(Seen::of(&cx, &req)).expect("the test looks");
        let c = Arc::clone(to_c.get().expect("set before the first call"));
        async move {
            let result = how(c, cx.clone()).await;
            (cx, result.map(|()| req))
        }
    });
    if blocking {
        service = on_workers(service);
    }
    let b = match layered {
        false => bind(service),
        true => {
            Server::builder().reactors(1).layer(Logging).layer(Logging).add(service).bind("tcp://127.0.0.1:0").unwrap()
        }
    };
    let reactors = if client_is_local { Arc::clone(b.reactors()) } else { pool(true) };
    assert!(client.set(Arc::new(to(&c, &reactors))).is_ok());

    let a = to(&b, &pool(true));
    let call = a.blob(named("b")).timeout(4 * SECOND).persistent("TENANT", "acme").persistent("RetryReq", "1");
    call.metadata("HOP", "first").wait().unwrap_or_else(|error| panic!("{way}: {error}"));

    let at_b = seen_by_b.recv_timeout(LIMIT).expect("B was called");
    let at_c = seen_by_c.recv_timeout(LIMIT).expect("C was called");
    assert_eq!(at_b.timeout, Some(4 * SECOND), "{way}");
    // A call made at once, in the turn that received the request, has all of it.
    assert!(at_c.timeout <= at_b.timeout, "{way}: {:?}", at_c.timeout);
    if blocking || way.contains("later") {
        assert!(at_c.timeout < at_b.timeout, "{way}: {:?}", at_c.timeout);
    }
    assert!(at_c.timeout > Some(Duration::ZERO), "{way}");
    let travels = pairs(&[("TENANT", "acme"), ("RetryReq", "1")]);
    assert_eq!((&at_b.persistent, &at_c.persistent), (&travels, &travels), "{way}");
    assert_eq!((at_b.transient, at_c.transient), (pairs(&[("HOP", "first")]), Metadata::new()), "{way}");
}

#[test]
fn deadline_and_persistent_pairs_travel_on_and_transient_ones_do_not() {
    for (way, blocking, how) in WAYS {
        for local in [true, false] {
            // A worker of B waits for C; the reactor of B must not be the one it waits for.
            tell(way, *blocking, *how, local, false);
        }
        tell(way, *blocking, *how, true, true);
    }
}

/// Code around calls, at both ends, makes calls of its own: they are as much the handler's as any.
#[test]
fn middleware_sees_what_is_inherited() {
    struct Witness(Mutex<Sender<(Option<Duration>, Metadata)>>);
    impl rpc_core::Middleware for Witness {
        async fn call<N: rpc_core::Next>(
            &self,
            cx: &Context,
            req: rpc_core::Payload,
            next: N,
        ) -> Result<rpc_core::Payload> {
            let seen = (cx.deadline().map(|at| at - cx.started()), cx.persistent().clone());
            self.0.lock().unwrap().send(seen).expect("the test looks");
            next.run(cx, req).await
        }
    }
    let (c, seen_by_c) = observer();
    let (tell, seen) = mpsc::channel();
    let channel = Channel::builder(c.url().to_string()).layer(Logging).layer(Witness(Mutex::new(tell)));
    let to_c = Arc::new(EchoClient(channel.layer(Logging).build().unwrap()));
    let b = bind(AnyServer::new(move |cx, req| {
        let c = Arc::clone(&to_c);
        async move { (cx, c.blob(req).persistent("OWN", "b").await) }
    }));
    let a = to(&b, &pool(true));
    a.blob(named("b")).timeout(2 * SECOND).persistent("TENANT", "acme").wait().expect("an echo");
    let (timeout, persistent) = seen.recv_timeout(LIMIT).expect("it ran");
    let at_c = seen_by_c.recv_timeout(LIMIT).expect("C was called");
    assert!(timeout <= Some(2 * SECOND) && at_c.timeout <= timeout, "{timeout:?} {:?}", at_c.timeout);
    assert_eq!(persistent, pairs(&[("TENANT", "acme"), ("OWN", "b")]));
    assert_eq!(at_c.persistent, persistent);
}

#[test]
fn what_a_call_says_itself_wins_and_a_detached_one_takes_over_nothing() {
    let (c, seen_by_c) = observer();
    let to_c = Arc::new(to(&c, &pool(false)));
    let b = bind(AnyServer::new(move |cx, req| {
        let c = Arc::clone(&to_c);
        async move {
            let own = c.blob(named("own")).timeout(SECOND).persistent("TENANT", "other").persistent("TRACE", "");
            let own = own.metadata("HOP", "second").await;
            let detached = c.blob(named("detached")).detached().await;
            (cx, own.and(detached).map(|_| req))
        }
    }));
    let a = to(&b, &pool(true));
    let call = a.blob(named("b")).timeout(4 * SECOND).persistent("TENANT", "acme").persistent("TRACE", "1");
    call.persistent("ZONE", "z").metadata("HOP", "first").wait().expect("both calls succeed");
    let own = seen_by_c.recv_timeout(LIMIT).expect("C was called");
    assert_eq!((own.timeout, own.transient), (Some(SECOND), pairs(&[("HOP", "second")])));
    assert_eq!(own.persistent, pairs(&[("TENANT", "other"), ("ZONE", "z")]), "an empty value takes a pair away");
    let detached = seen_by_c.recv_timeout(LIMIT).expect("C was called twice");
    assert_eq!((detached.who, detached.timeout), (Bytes::from("detached"), Some(5 * SECOND)));
    assert!(detached.persistent.is_empty() && detached.transient.is_empty());
}

/// A handler may go on after its caller's deadline; its calls do not begin.
#[test]
fn after_the_deadline_no_call_begins() {
    let (c, _seen) = observer();
    let (tell, outcomes) = mpsc::channel();
    let (tell, to_c) = (Mutex::new(tell), Arc::new(to(&c, &pool(false))));
    let handlers_client = Arc::clone(&to_c);
    let b = bind(on_workers(AnyServer::new(move |cx: Context, req| {
        let (c, tell) = (Arc::clone(&handlers_client), tell.lock().unwrap().clone());
        async move {
            let at = cx.deadline().expect("A said so");
            thread::sleep(at.saturating_duration_since(Instant::now())); // the deadline that is tested
            let inherit = elsewhere({
                let (c, cx) = (Arc::clone(&c), cx.clone());
                async move { c.blob(named("elsewhere")).inherit(&cx).await }
            });
            let results = [c.blob(named("waits")).wait(), c.blob(named("awaits")).await, inherit.recv().expect("ends")];
            results.into_iter().for_each(|result| tell.send(result).expect("the test looks"));
            (cx, Ok(req))
        }
    })));
    let a = to(&b, &pool(true));
    let _ = a.blob(named("b")).timeout(Duration::from_millis(50)).wait(); // whichever clock is first
    for _ in 0..3 {
        let error = outcomes.recv_timeout(LIMIT).expect("it ends").unwrap_err();
        assert_eq!((error.code(), error.sent()), (Code::DeadlineExceeded, Sent::No), "{error}");
    }
    assert_eq!(to_c.0.stats().connects.get(), 0, "not even a connection was made");
}

#[test]
fn the_deadline_of_the_caller_ends_the_calls_of_its_handler() {
    let (c, _seen) = observer();
    for blocking in [false, true] {
        let (tell, outcomes) = mpsc::channel();
        let (tell, to_c) = (Mutex::new(tell), Arc::new(to(&c, &pool(true))));
        let mut service = AnyServer::new(move |cx: Context, _| {
            let (c, tell) = (Arc::clone(&to_c), tell.lock().unwrap().clone());
            async move {
                let mut flag = Flag(Some(tell.clone()));
                let result = match blocking {
                    true => c.blob(named("held")).timeout(LIMIT).wait(),
                    false => c.blob(named("held")).timeout(LIMIT).await,
                };
                assert_eq!(result.as_ref().map_err(Error::code), Err(Code::DeadlineExceeded));
                let _ = tell.send("in time");
                drop(flag.0.take());
                (cx, result)
            }
        });
        if blocking {
            service = on_workers(service);
        }
        let b = bind(service);
        let a = to(&b, &pool(true));
        let error = a.blob(named("b")).timeout(Duration::from_millis(100)).wait().unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        let outcome = outcomes.recv_timeout(LIMIT).expect("it ends");
        // On a reactor the handler may be dropped before its call ends by itself.
        assert!(outcome == "in time" || (!blocking && outcome == "dropped"), "{outcome}");
    }
}

/// A goes away while B waits for C: nothing of B goes on for it.
#[test]
fn when_the_caller_is_gone_so_are_the_calls_made_for_it() {
    let (c, seen_by_c) = observer();
    let to_c = Arc::new(to(&c, &pool(true)));
    #[rustfmt::skip]
    let ways: [(bool, How, &str); 5] = [
        // on workers, how, what becomes of it
        (false, |c, _| Box::pin(async move { c.blob(named("held")).timeout(LIMIT).await.map(drop) }), "dropped"),
        (true,  |c, _| Box::pin(async move { c.blob(named("held")).timeout(LIMIT).await.map(drop) }), "cancelled"),
        (true,  |c, _| Box::pin(async move { c.blob(named("held")).timeout(LIMIT).wait().map(drop) }), "cancelled"),
        (false, |c, cx| Box::pin(async move {
            hear(elsewhere(async move { c.blob(named("held")).timeout(LIMIT).inherit(&cx).await.map(drop) })).await
        }), "dropped"),
        (true,  |c, cx| Box::pin(async move {
            elsewhere(cx.scope(async move { c.blob(named("held")).timeout(LIMIT).await.map(drop) })).recv().expect("ends")
        }), "cancelled"),
    ];
    for (blocking, how, expected) in ways {
        let (tell, fate) = mpsc::channel();
        let (tell, c) = (Mutex::new(tell), Arc::clone(&to_c));
        let mut service = AnyServer::new(move |cx: Context, req: Blob| {
            let (c, tell) = (Arc::clone(&c), tell.lock().unwrap().clone());
            async move {
                let mut flag = Flag(Some(tell.clone()));
                let outcome = how(c, cx.clone()).await;
                assert_eq!(outcome.map_err(|e| (e.code(), e.sent())), Err((Code::Cancelled, Sent::Maybe)));
                assert!(cx.is_cancelled());
                let _ = tell.send("cancelled");
                drop(flag.0.take());
                (cx, Ok(req))
            }
        });
        if blocking {
            service = on_workers(service);
        }
        let b = bind(service);
        let url = b.url().to_string();
        let mut a = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).expect("it listens");
        a.write_all(&raw_request(1, b"b")).expect("written");
        assert_eq!(seen_by_c.recv_timeout(LIMIT).expect("C was called").who, "held");
        drop(a);
        assert_eq!(fate.recv_timeout(LIMIT), Ok(expected));
    }
}

/// A goes away, and C hears of it though A never knew of C: B's call is dropped, which cancels it at C. C has answered B before, so
/// that both know that they speak control frames.
#[test]
fn the_end_of_a_caller_reaches_the_last_handler() {
    let (tell, fate) = mpsc::channel();
    let (began, begun) = mpsc::channel();
    let (tell, began) = (Mutex::new(tell), Mutex::new(began));
    let c = bind(AnyServer::new(move |cx, req: Blob| {
        let (tell, began) = (tell.lock().unwrap().clone(), began.lock().unwrap().clone());
        async move {
            if req.payload == "held" {
                let _flag = Flag(Some(tell));
                began.send(()).expect("the test looks");
                pending::<()>().await;
            }
            (cx, Ok(req))
        }
    }));
    let to_c = Arc::new(to(&c, &pool(true)));
    to_c.blob(named("first")).timeout(LIMIT).wait().expect("answered");
    let b = bind(AnyServer::new(move |cx, req: Blob| {
        let to_c = Arc::clone(&to_c);
        async move {
            let _ = to_c.blob(named("held")).timeout(LIMIT).await;
            (cx, Ok(req))
        }
    }));
    let url = b.url().to_string();
    let mut a = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).expect("it listens");
    a.write_all(&raw_request(1, b"b")).expect("written");
    begun.recv_timeout(LIMIT).expect("C's handler begins");
    let gone_at = Instant::now();
    drop(a);
    assert_eq!(fate.recv_timeout(LIMIT), Ok("dropped"), "C's handler");
    assert!(gone_at.elapsed() < LIMIT / 2, "by cancellation, not by its deadline");
}

/// Work that a handler has sent elsewhere hears that its call is cancelled, and nothing when it has been answered.
#[test]
fn work_elsewhere_hears_of_the_end() {
    for (payload, expected) in [("held", true), ("answered", false)] {
        let (tell, contexts) = mpsc::channel();
        let tell = Mutex::new(tell);
        let b = bind(AnyServer::new(move |cx: Context, req: Blob| {
            tell.lock().unwrap().send(cx.clone()).expect("the test looks");
            async move {
                if req.payload == "held" {
                    pending::<()>().await;
                }
                (cx, Ok(req))
            }
        }));
        let url = b.url().to_string();
        let mut a = TcpStream::connect(url.strip_prefix("tcp://").unwrap()).expect("it listens");
        a.write_all(&raw_request(1, payload.as_bytes())).expect("written");
        let cx = contexts.recv_timeout(LIMIT).expect("it runs");
        let mut cancelled = cx.cancelled();
        if expected {
            assert!(Pin::new(&mut cancelled).poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending());
            drop(a);
            elsewhere(cancelled).recv_timeout(LIMIT).expect("it ends");
        } else {
            support::read_raw(&mut a).expect("a reply");
            drop(a);
            b.shutdown();
        }
        assert_eq!(cx.is_cancelled(), expected, "{payload}");
    }
}

/// A blocking caller may turn the client's reactor meanwhile, and poll what others have put there: none of that is its handler's.
#[test]
fn a_worker_that_leads_hands_nothing_to_others() {
    let (c, seen_by_c) = observer();
    let to_c = Arc::new(to(&c, &pool(true)));
    let (tell, polled_on) = mpsc::channel();
    let tell = Mutex::new(tell);
    let b = bind(on_workers(AnyServer::new(move |cx, req| {
        let (c, tell) = (Arc::clone(&to_c), tell.lock().unwrap().clone());
        async move {
            for _ in 0..5 {
                c.blob(named("own")).wait().expect("an echo"); // so that the reactor's thread stands back
            }
            let (reactor, others) = (c.0.reactors().next().expect("it has one").clone(), Arc::clone(&c));
            let here = thread::current().id();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(5)); // the worker may wait by then; if not, there is another round
                reactor.spawn(async move {
                    let _ = tell.send(thread::current().id() == here);
                    let _ = others.blob(named("others")).await;
                });
            });
            let held = c.blob(named("held")).timeout(Duration::from_millis(100)).wait();
            assert_eq!(held.unwrap_err().code(), Code::DeadlineExceeded);
            (cx, Ok(req))
        }
    })));
    let a = to(&b, &pool(true));
    let mut on_the_worker = false;
    for _ in 0..100 {
        a.blob(named("b")).persistent("TENANT", "acme").wait().expect("an echo");
        on_the_worker |= polled_on.recv_timeout(LIMIT).expect("the task runs");
        for _ in 0..7 {
            let seen = seen_by_c.recv_timeout(LIMIT).expect("C was called");
            let expected = (seen.who != "others").then_some("acme");
            assert_eq!(seen.persistent.text("TENANT"), expected, "{:?}", seen.who);
        }
        if on_the_worker {
            return;
        }
    }
    panic!("the worker never turned the reactor");
}
