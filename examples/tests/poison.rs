//! Panics in every piece of a user's code that the framework calls (T31, B30): in a handler, in its drop, in middleware, in a waker,
//! in a closure on a reactor, and panics whose payload panics when it is dropped. The call concerned fails, and the next one works:
//! no lock is left poisoned, no slot taken, no reactor dead.

use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::time::Duration;
use std::{process, thread};

use rpc_core::{Channel, Code, Context, Middleware, Next, Payload, Result, Server, ServerHandle, sleep};
use testee::idl::hello::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest};
use testee::{Descriptors, MemoryCap, eventually, memory_cap, resident, rss_of};

const LIMIT: Duration = Duration::from_secs(10);

/// Panics when it is dropped, unless its thread panics already: a second panic would end the process, by the language's rules.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("in drop, as it was asked to");
        }
    }
}

/// Does what the name says.
struct Clumsy;

impl Greeter for Clumsy {
    async fn say_hello(&self, _: &Context, req: HelloRequest) -> Result<HelloReply> {
        match req.name.as_str() {
            "panics at once" => panic!("as it was asked to"),
            "panics later" => {
                sleep(Duration::from_millis(2)).await; // so that it is a task by then
                panic!("as it was asked to")
            }
            "panics in drop" => {
                let _guard = PanicsInDrop;
                sleep(Duration::from_millis(2)).await; // so that it is a task by then
            }
            "is dropped and panics" => {
                let _guard = PanicsInDrop;
                sleep(LIMIT * 10).await; // until it is dropped
            }
            "panics with a payload that panics" => panic_any(PanicsInDrop),
            _ => {}
        }
        Ok(HelloReply { message: req.name })
    }
}

/// Panics before or after the call it was given, if the payload says so.
struct ClumsyLayer(&'static str);

impl Middleware for ClumsyLayer {
    async fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> Result<Payload> {
        let bytes = req.into_bytes();
        let says = |what: &str| {
            let text = format!("{} {what}", self.0);
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        let (before, after, payload) = (says("panics before"), says("panics after"), says("panics badly"));
        if before {
            panic!("as it was asked to");
        }
        if payload {
            panic_any(PanicsInDrop);
        }
        let reply = next.run(cx, bytes.into()).await;
        if after {
            panic!("as it was asked to");
        }
        reply
    }
}

fn start() -> (ServerHandle, String) {
    let server = Server::builder().reactors(1).layer(ClumsyLayer("server")).add(GreeterServer::new(Clumsy));
    let server = server.bind("tcp://127.0.0.1:0").expect("a free port");
    let url = server.url().to_string();
    (server, url)
}

fn client(url: &str) -> GreeterClient {
    GreeterClient::new(Channel::builder(url).connections(1).build().expect("a channel"))
}

fn say(name: &str) -> HelloRequest {
    HelloRequest { name: name.to_owned() }
}

fn works(client: &GreeterClient, after: &str) {
    let reply = client.say_hello(say("again")).timeout(LIMIT).wait();
    assert_eq!(reply.unwrap_or_else(|e| panic!("the call after `{after}`: {e}")).message, "again");
}

/// One attack at a time: memory and descriptors are those of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs an attack on a server of this process, beside a polite client with a connection of its own; prints what `attack` says became of it,
/// of the polite client, of memory and of descriptors.
fn attack(attack: impl FnOnce(&ServerHandle, &str) -> String) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let cap = memory_cap()
        .map(|bytes| MemoryCap::new(bytes).and_then(MemoryCap::around_this_process).expect("a cap can be had"));
    let (server, url) = start();
    // What this process begins once, and the tables that the text of a panic needs.
    works(&client(&url), "nothing yet");
    let _ = catch_unwind(|| panic!("the first one, as it was asked to"));
    let (fds, rss) = (Descriptors::at_rest(process::id()), rss_of(process::id()));
    let over = AtomicBool::new(false);
    let (fate, calls) = thread::scope(|scope| {
        let polite = scope.spawn(|| {
            let (client, mut calls) = (client(&url), 0);
            while calls == 0 || !over.load(Ordering::Acquire) {
                works(&client, "whatever happened to others");
                calls += 1;
                thread::sleep(Duration::from_millis(1)); // it is not the load
            }
            calls
        });
        let end = End(&over);
        let fate = attack(&server, &url);
        drop(end);
        (fate, polite.join().expect("every polite call succeeds"))
    });
    assert!(eventually(LIMIT, || server.stats().in_flight == 0), "{:?}", server.stats());
    let left = || Descriptors::of(process::id()).beyond(&fds);
    let closed = eventually(LIMIT, || Descriptors::of(process::id()).count() == fds.count());
    let grown = rss_of(process::id()).saturating_sub(rss);
    println!(
        "T31  attacker: {fate} | polite: {calls} of {calls} calls | memory of both sides: {} KiB more | descriptors: {fds} before, {} after",
        grown / 1024,
        Descriptors::of(process::id())
    );
    assert!(closed, "descriptors: {fds} before; left over:{}", left());
    drop(cap);
    assert!(grown < resident(8 << 20), "{grown} bytes more");
}

/// So that the polite client stops even if the attack's own checks fail.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn quiet(server: &ServerHandle) {
    let idle = || server.stats().in_flight == 0 && server.stats().accepted == server.stats().replied;
    assert!(eventually(LIMIT, idle), "{:?}", server.stats());
}

#[test]
fn t31_handlers_that_panic_leave_the_next_call_well() {
    attack(|server, url| {
        let client = client(url);
        let cases = [
            "panics at once",
            "panics later",
            "panics in drop",
            "panics with a payload that panics",
            "server panics before",
            "server panics after",
            "server panics badly",
        ];
        for name in cases {
            for _ in 0..20 {
                let error = client.say_hello(say(name)).timeout(LIMIT).wait().expect_err(name);
                assert_eq!(error.code(), Code::Internal, "{name}: {error}");
                works(&client, name);
            }
        }
        quiet(server);
        format!("{} kinds of panics in handlers and middleware, 20 times each: the next call works", cases.len())
    });
}

/// A handler that is dropped because its caller is gone, or its time is over, and panics at that.
#[test]
fn t31_dropped_handlers_that_panic() {
    attack(|server, url| {
        for round in 0..10 {
            let asks = client(url);
            let error = asks.say_hello(say("is dropped and panics")).timeout(Duration::from_millis(30)).wait();
            assert_eq!(error.expect_err("it is late").code(), Code::DeadlineExceeded);
            works(&asks, "a handler that panics when its time is over");
            // Its connection ends.
            let asks = client(url);
            let mut call = Box::pin(asks.say_hello(say("is dropped and panics")).timeout(LIMIT).into_future());
            let mut cx = TaskContext::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
            assert!(eventually(LIMIT, || server.stats().in_flight == 1), "round {round}");
            drop(call);
            drop(asks);
            server.reactors().handles()[0].run(|| panic!("a closure on a reactor, as it was asked to"));
            works(&client(url), "a panic in a closure on the server's reactor");
        }
        let one_by_one = client(url);
        works(&one_by_one, "all of them");
        "20 handlers panicked when they were dropped, and 10 closures on their reactor: the next call works".to_owned()
    });
}

/// A waker of an executor that panics when it is woken.
struct PanicsWhenWoken(AtomicUsize);

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
        panic!("woken, as it was asked to");
    }
}

#[test]
fn t31_wakers_that_panic() {
    attack(|server, url| {
        let client = client(url);
        works(&client, "nothing yet");
        for _ in 0..20 {
            let waker = Arc::new(PanicsWhenWoken(AtomicUsize::new(0)));
            let mut call = pin!(client.say_hello(say("panics later")).timeout(LIMIT).into_future());
            let (shared, mut polls) = (Waker::from(Arc::clone(&waker)), 0);
            let outcome = loop {
                polls += 1;
                match call.as_mut().poll(&mut TaskContext::from_waker(&shared)) {
                    Poll::Ready(outcome) => break outcome,
                    Poll::Pending => {
                        assert!(eventually(LIMIT, || waker.0.load(Ordering::Acquire) >= polls), "it is woken");
                    }
                }
            };
            assert_eq!(outcome.expect_err("the handler panicked").code(), Code::Internal);
            works(&client, "a waker that panics");
        }
        // Two calls whose wakers panic, in one batch with one that is well.
        let waker = Waker::from(Arc::new(PanicsWhenWoken(AtomicUsize::new(0))));
        let mut batch: Vec<_> =
            (0..2).map(|_| Box::pin(client.say_hello(say("well")).timeout(LIMIT).into_future())).collect();
        let mut cx = TaskContext::from_waker(&waker);
        // The reply may be there already: such a call has ended, and must not be polled again.
        let first: Vec<_> = batch.iter_mut().map(|call| call.as_mut().poll(&mut cx)).collect();
        works(&client, "a batch of wakers that panic");
        for (first, mut call) in first.into_iter().zip(batch) {
            let outcome = match first {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => finish(call.as_mut()),
            };
            assert_eq!(outcome.expect("its reply is its own").message, "well");
        }
        quiet(server);
        "20 wakers of callers panicked, and one of two calls in a batch: each call has its own outcome".to_owned()
    });
}

/// Polls until it is ready.
fn finish<F: Future + ?Sized>(mut future: Pin<&mut F>) -> F::Output {
    let mut outcome = None;
    eventually(LIMIT, || match future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => {
            outcome = Some(value);
            true
        }
        Poll::Pending => false,
    });
    outcome.expect("it ends in time")
}

/// Middleware of the client panics in the caller's own thread: the panic is the caller's, and the channel is none the worse.
#[test]
fn t31_client_middleware_that_panics() {
    attack(|server, url| {
        let channel = Channel::builder(url).connections(1).layer(ClumsyLayer("client")).build().expect("a channel");
        let client = GreeterClient::new(channel);
        for name in ["client panics before", "client panics after", "client panics badly"] {
            for _ in 0..20 {
                let outcome = catch_unwind(AssertUnwindSafe(|| client.say_hello(say(name)).timeout(LIMIT).wait()));
                match outcome {
                    Ok(reply) => assert_eq!(reply.expect_err(name).code(), Code::Internal),
                    // One of them panics when it is dropped.
                    Err(payload) => drop(catch_unwind(AssertUnwindSafe(|| drop(payload)))),
                }
                let reply = client.say_hello(say("again")).timeout(LIMIT).wait();
                assert_eq!(reply.unwrap_or_else(|e| panic!("the call after `{name}`: {e}")).message, "again");
            }
        }
        quiet(server);
        "60 panics in middleware of a client: its caller has them, the next call works".to_owned()
    });
}
