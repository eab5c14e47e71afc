//! What a call costs, counted: allocations, system calls, copies. Counts repeat exactly, so they are gates.
//!
//! One test at a time: the counters are the process's.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rpc_core::codegen::{Blocking, Methods, Service, ServiceDescriptor};
use rpc_core::transport::{PoolOptions, ReactorHandle, ReactorPool};
use rpc_core::{Channel, Logging, Middleware, Server, ServerHandle};
use support::{Blob, ECHO, ECHO_BLOB, EchoClient, EchoServer, Item, Nested, on_reactor};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is the one `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn one_reactor(name: &str) -> Arc<ReactorPool> {
    let options = PoolOptions { reactors: 1, name: name.to_owned(), ..PoolOptions::default() };
    Arc::new(ReactorPool::start(options).expect("a reactor"))
}

fn url(transport: &str) -> String {
    match transport {
        "tcp" => "tcp://127.0.0.1:0".to_owned(),
        _ => format!("unix:{}/rpc-counts-{}.sock", std::env::temp_dir().display(), std::process::id()),
    }
}

/// Makes `rounds` rounds of `in_flight` calls at once on the client's reactor, and returns what a call of the second half allocated.
fn allocations_per_call<M: Middleware>(channel: Channel<M>, size: usize, in_flight: usize, rounds: u64) -> f64 {
    let client = Arc::new(EchoClient(channel.clone()));
    let payload = Bytes::from(vec![7; size]);
    let allocated = {
        let tasks: Vec<_> = (0..in_flight).map(|_| (Arc::clone(&client), payload.clone())).collect();
        let (tell, hear) = std::sync::mpsc::sync_channel(in_flight);
        let reactor = channel.reactors().next().expect("it has one").clone();
        for (client, payload) in tasks {
            let tell = tell.clone();
            reactor.spawn(async move {
                let mut before = 0;
                for round in 0..rounds {
                    if round == rounds / 2 {
                        before = ALLOCATIONS.load(Relaxed);
                    }
                    let reply = client.blob(Blob { payload: payload.clone() }).await.expect("an echo");
                    assert_eq!(reply.payload.len(), payload.len());
                }
                let after = ALLOCATIONS.load(Relaxed);
                tell.send(after - before).expect("the test listens");
            });
        }
        drop(tell);
        hear.iter().max().expect("at least one task")
    };
    allocated as f64 / (rounds / 2 * in_flight as u64) as f64
}

#[test]
fn a_call_allocates_nothing() {
    let _one = ONE_AT_A_TIME.lock();
    println!("allocations per call, client and server together, second half of the calls");
    println!("{:>6} {:>9} {:>8} {:>6} {:>8}", "", "in flight", "payload", "plain", "logging");
    for transport in ["tcp", "unix"] {
        for in_flight in [1, 100] {
            for size in [32, 1024, 16 * 1024] {
                let rounds = if in_flight == 1 { 4000 } else { 400 };
                let plain = {
                    let server = Server::builder().reactors(1).add(EchoServer::new()).bind(url(transport)).unwrap();
                    let channel = Channel::builder(server.url().to_string()).pool(one_reactor("count")).build();
                    allocations_per_call(channel.unwrap(), size, in_flight, rounds)
                };
                let logging = {
                    let server = Server::builder().reactors(1).layer(Logging).add(EchoServer::new());
                    let server = server.bind(url(transport)).unwrap();
                    let channel = Channel::builder(server.url().to_string()).pool(one_reactor("count"));
                    allocations_per_call(channel.layer(Logging).build().unwrap(), size, in_flight, rounds)
                };
                println!("{transport:>6} {in_flight:>9} {size:>8} {plain:>6.4} {logging:>8.4}");
                // Blocks and tables may still grow once or twice; a single allocation per hundred calls is a bug.
                assert!(plain < 0.01, "{transport} {in_flight} × {size} B: {plain} allocations per call");
                assert!(logging < 0.01, "{transport} {in_flight} × {size} B with logging: {logging}");
            }
        }
    }
}

/// Passes each call on to the next server, on its own reactor.
struct Relay {
    to: Arc<std::sync::OnceLock<EchoClient>>,
    blocking: Blocking,
}

impl Service for Relay {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        methods.unary(&ECHO_BLOB, self.to, |to, cx, req: Blob| async move {
            let result = to.get().expect("set before the first call").blob(req).await;
            (to, cx, result)
        });
    }
}

/// What a handler's calls inherit costs nothing.
#[test]
fn a_call_of_a_handler_allocates_nothing() {
    let _one = ONE_AT_A_TIME.lock();
    let last = Server::builder().reactors(1).add(EchoServer::new()).bind(url("tcp")).unwrap();
    let to = Arc::new(std::sync::OnceLock::new());
    let relay = Relay { to: Arc::clone(&to), blocking: Blocking::default() };
    let middle = Server::builder().reactors(1).add(relay).bind(url("tcp")).unwrap();
    let channel = Channel::builder(last.url().to_string()).pool(Arc::clone(middle.reactors())).build().unwrap();
    assert!(to.set(EchoClient(channel)).is_ok());
    let channel = Channel::builder(middle.url().to_string()).pool(one_reactor("count")).build().unwrap();
    let allocated = allocations_per_call(channel, 32, 1, 4000);
    println!("A calls B calls C: {allocated} allocations per call of A");
    assert!(allocated < 0.01, "{allocated}");
}

/// System calls of a reactor so far: waits, reads with or without a result, writes, wake-ups.
fn system_calls(reactor: &ReactorHandle) -> [u64; 5] {
    let stats = reactor.stats();
    [&stats.polls, &stats.reads, &stats.empty_reads, &stats.writes, &stats.wakes].map(|counter| counter.get())
}

#[test]
fn a_call_takes_six_system_calls() {
    let _one = ONE_AT_A_TIME.lock();
    for transport in ["tcp", "unix"] {
        let server = Server::builder().reactors(1).add(EchoServer::new()).bind(url(transport)).unwrap();
        let channel = Channel::builder(server.url().to_string()).pool(one_reactor("count")).build().unwrap();
        let client = EchoClient(channel.clone());
        let reactors = [server.reactors().handles()[0].clone(), channel.reactors().next().unwrap().clone()];
        let count = move || reactors.each_ref().map(system_calls);
        const CALLS: u64 = 1000;
        let (before, after) = on_reactor(&channel, async move {
            let payload = Bytes::from_static(&[7; 32]);
            for _ in 0..10 {
                client.blob(Blob { payload: payload.clone() }).await.unwrap();
            }
            let before = count();
            for _ in 0..CALLS {
                client.blob(Blob { payload: payload.clone() }).await.unwrap();
            }
            (before, count())
        });
        let mut all = 0.0;
        for (side, index) in [("server", 0), ("client", 1)] {
            let [polls, reads, empty, writes, wakes] =
                [0, 1, 2, 3, 4].map(|i| (after[index][i] - before[index][i]) as f64 / CALLS as f64);
            println!(
                "{transport} {side}: {polls} waits, {reads} reads, {empty} empty reads, {writes} writes, {wakes} wake-ups per call"
            );
            assert_eq!(empty, 0.0, "no read finds nothing");
            assert_eq!(wakes, 0.0, "nobody is woken by another thread");
            all += polls + reads + empty + writes + wakes;
        }
        println!("{transport}: {all} system calls per call, both ends");
        // The server may be between its write and its next wait when the client looks.
        assert!((all - 6.0).abs() < 0.01, "{transport}: {all}");
    }
}

#[test]
fn large_payloads_are_not_copied() {
    let _one = ONE_AT_A_TIME.lock();
    // What the server's handler sees: where each payload lies.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let server = EchoServer::seeing(move |_, blob| record.lock().unwrap().push(blob.payload.as_ptr() as usize));
    let server: ServerHandle = Server::builder().reactors(1).add(server).bind("tcp://127.0.0.1:0").unwrap();
    let channel = Channel::builder(server.url().to_string()).pool(one_reactor("count")).build().unwrap();
    let client = EchoClient(channel.clone());
    let moved = {
        let reactors = [server.reactors().handles()[0].clone(), channel.reactors().next().unwrap().clone()];
        move || reactors.each_ref().map(|r| r.stats().moved_bytes.get())
    };
    let at_first = moved();
    let (per_call, nested) = on_reactor(&channel, {
        let moved = moved.clone();
        async move {
            let payload = Bytes::from(vec![7; 256 * 1024]);
            let mut per_call = Vec::new();
            for _ in 0..8 {
                let before = moved();
                let reply = client.blob(Blob { payload: payload.clone() }).await.unwrap();
                assert_eq!(reply.payload, payload);
                let after = moved();
                per_call.push([0, 1].map(|i| after[i] - before[i]));
            }
            let item = |number| Item { number, blob: Some(Blob { payload: payload.clone() }) };
            let nested = Nested { items: vec![item(1), item(2)], name: "nested".to_owned() };
            let reply = client.nested(nested.clone()).await.unwrap();
            assert_eq!(reply, nested);
            // Both payloads of the reply lie in one buffer, as they stood on the wire.
            let at = |i: usize| reply.items[i].blob.as_ref().unwrap().payload.as_ptr() as usize;
            (per_call, at(1) - at(0))
        }
    });
    println!("bytes moved between buffers, [server, client]: before {at_first:?}, per call of 256 KiB {per_call:?}");
    assert!(per_call[0].iter().all(|moved| *moved <= 16 * 1024), "the first frame of a connection");
    for moved in &per_call[1..] {
        assert!(moved.iter().all(|moved| *moved <= 1024), "later frames: {per_call:?}");
    }
    let between = nested - 256 * 1024;
    assert!(between < 64, "the payloads are slices of one frame, {between} bytes apart");
    assert_eq!(seen.lock().unwrap().len(), 8);
}
