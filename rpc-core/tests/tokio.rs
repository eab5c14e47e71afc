//! The feature `tokio`: what needs a runtime works in a handler, and a runtime's threads turn a client's reactor.

mod support;

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rpc_core::KitexFraming;
use rpc_core::codegen::Blocking;
use rpc_core::protocol::ttheader::TtFrame;
use rpc_core::transport::{FrameCodec, PoolOptions, ReactorHandle, ReactorPool, WholeFrame};
use rpc_core::{Channel, Code, Context, Error, Result, Server, ServerHandle};
use support::{AnyServer, Blob, EchoClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::Framed;

const LIMIT: Duration = Duration::from_secs(20);

fn runtime(threads: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime")
}

fn channel(server: &ServerHandle) -> Channel {
    Channel::builder(server.url().to_string()).connections(1).build().expect("a channel")
}

/// Uses a timer, a socket and a task of the runtime that it is in.
async fn needs_a_runtime(echo: String, payload: Bytes) -> Result<Bytes> {
    let other = |error: std::io::Error| Error::other(Code::Internal, error);
    tokio::time::sleep(Duration::from_millis(2)).await; // needs the runtime's timers
    let mut socket = tokio::net::TcpStream::connect(echo).await.map_err(other)?;
    socket.write_all(&payload).await.map_err(other)?;
    let mut reply = vec![0; payload.len()];
    socket.read_exact(&mut reply).await.map_err(other)?;
    let doubled = tokio::spawn(async move { [reply.clone(), reply].concat() });
    doubled.await.map(Bytes::from).map_err(|error| Error::other(Code::Internal, error))
}

/// An echo over TCP, on a runtime.
fn echo(runtime: &Runtime) -> String {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    runtime.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

fn service(echo: &str, blocking: bool) -> AnyServer {
    let echo = echo.to_owned();
    let mut service = AnyServer::new(move |cx: Context, req: Blob| {
        let echo = echo.clone();
        async move {
            let thread = thread::current().name().unwrap_or_default().to_owned();
            assert!(thread.starts_with("reactor") || thread.starts_with("rpc-worker"), "{thread}");
            let result = needs_a_runtime(echo, req.payload).await;
            assert_eq!(thread::current().name(), Some(&*thread), "it stays where it is");
            (cx, result.map(|payload| Blob { payload }))
        }
    });
    if blocking {
        let mut all = Blocking::default();
        all.all();
        service.blocking = all;
    }
    service
}

#[test]
fn what_needs_a_runtime_works_in_a_handler() {
    let runtime = runtime(1);
    let echo = echo(&runtime);
    for blocking in [false, true] {
        let server = Server::builder().reactors(1).runtime(runtime.handle().clone()).add(service(&echo, blocking));
        let server = server.bind("tcp://127.0.0.1:0").expect("bound");
        let client = EchoClient(channel(&server));
        for _ in 0..20 {
            let reply = client.blob(Blob { payload: Bytes::from_static(b"ab") }).timeout(LIMIT).wait();
            assert_eq!(reply.expect("an answer").payload, "abab", "blocking: {blocking}");
        }
        let many: Vec<_> = (0..50).map(|_| support::call_apart(&client.0, b"ab", LIMIT)).collect();
        for call in many {
            assert_eq!(call.recv_timeout(LIMIT).expect("it ends").expect("an answer"), "abab");
        }
    }
}

/// Without the runtime the same handler panics, which is an error of that call; so the test above shows something.
#[test]
fn without_a_runtime_it_does_not() {
    let server = Server::builder().reactors(1).add(service("127.0.0.1:1", false)).bind("tcp://127.0.0.1:0").unwrap();
    let error = EchoClient(channel(&server)).blob(Blob::default()).wait().unwrap_err();
    assert!(error.to_string().contains("the handler panicked"), "{error}");
}

/// A handler that is dropped is dropped in the runtime's context: what it holds may need it then.
#[test]
fn a_handler_is_dropped_in_its_runtime() {
    struct Spawns(mpsc::Sender<bool>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let _ = self.0.send(tokio::runtime::Handle::try_current().is_ok());
        }
    }
    let runtime = runtime(1);
    let (tell, hear) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let service = AnyServer::new(move |cx, req| {
        let held = Spawns(tell.lock().unwrap().clone());
        async move {
            std::future::pending::<()>().await;
            drop(held);
            (cx, Ok(req))
        }
    });
    let server = Server::builder().reactors(1).runtime(runtime.handle().clone()).add(service);
    let server = server.bind("tcp://127.0.0.1:0").expect("bound");
    let error = EchoClient(channel(&server)).blob(Blob::default()).timeout(Duration::from_millis(50)).wait();
    assert_eq!(error.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(hear.recv_timeout(LIMIT), Ok(true));
}

/// Work that a handler spawns on the runtime inherits what the handler's own calls do, if it is told to.
#[test]
fn work_spawned_on_the_runtime_inherits_by_scope() {
    let runtime = runtime(2);
    let (tell, seen) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let c = AnyServer::new(move |cx: Context, req| {
        let tenant = cx.persistent().text("TENANT").map(str::to_owned);
        tell.lock().unwrap().send(tenant).expect("the test looks");
        async move { (cx, Ok(req)) }
    });
    let c = Server::builder().reactors(1).add(c).bind("tcp://127.0.0.1:0").expect("bound");
    let to_c = Arc::new(EchoClient(channel(&c)));
    let b = AnyServer::new(move |cx: Context, req: Blob| {
        let c = Arc::clone(&to_c);
        async move {
            let call = |c: Arc<EchoClient>| async move { c.blob(Blob::default()).await };
            let inherits = tokio::spawn(cx.scope(call(Arc::clone(&c))));
            let _ = inherits.await.expect("no panic");
            let _ = tokio::spawn(call(c)).await.expect("no panic");
            (cx, Ok(req))
        }
    });
    let b = Server::builder().reactors(1).runtime(runtime.handle().clone()).add(b);
    let b = b.bind("tcp://127.0.0.1:0").expect("bound");
    let call = EchoClient(channel(&b));
    call.blob(Blob::default()).persistent("TENANT", "acme").wait().expect("an echo");
    let seen: Vec<_> = (0..2).map(|_| seen.recv_timeout(LIMIT).expect("C was called")).collect();
    assert_eq!(seen, [Some("acme".to_owned()), None]);
}

/// A client whose reactor the runtime turns.
fn hosted(server: &ServerHandle, runtime: &Runtime, connections: usize) -> Arc<EchoClient> {
    let pool = Arc::new(ReactorPool::on_tokio(runtime.handle(), 1).expect("a poller"));
    let channel = Channel::builder(server.url().to_string()).connections(connections).pool(pool);
    Arc::new(EchoClient(channel.build().expect("a channel")))
}

/// Echoes, but never answers "held"; tells of each call that began.
fn echo_server() -> (ServerHandle, mpsc::Receiver<Bytes>) {
    let (tell, begun) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let service = AnyServer::new(move |cx, req: Blob| {
        let _ = tell.lock().unwrap().send(req.payload.clone());
        async move {
            if req.payload == "held" {
                std::future::pending::<()>().await;
            }
            (cx, Ok(req))
        }
    });
    (Server::builder().reactors(1).add(service).bind("tcp://127.0.0.1:0").expect("bound"), begun)
}

fn blob(text: &'static str) -> Blob {
    Blob { payload: Bytes::from_static(text.as_bytes()) }
}

#[test]
fn calls_of_tasks_are_answered_on_every_kind_of_runtime() {
    let (server, _begun) = echo_server();
    let one_thread = Builder::new_current_thread().enable_all().build().expect("a runtime");
    for runtime in [one_thread, runtime(1), runtime(4)] {
        for connections in [1, 8] {
            let client = hosted(&server, &runtime, connections);
            runtime.block_on(async {
                for _ in 0..50 {
                    assert_eq!(client.blob(blob("alone")).await.expect("an echo").payload, "alone");
                }
                let tasks: Vec<_> = (0..64_u32)
                    .map(|task| {
                        let client = Arc::clone(&client);
                        tokio::spawn(async move {
                            for n in 0..50_u32 {
                                let payload = Bytes::from([task.to_be_bytes(), n.to_be_bytes()].concat());
                                let call = client.blob(Blob { payload: payload.clone() }).timeout(LIMIT);
                                assert_eq!(call.await.expect("an echo").payload, payload);
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.expect("no call was lost or mixed up");
                }
            });
        }
    }
}

/// More events at once than a look at the poller brings: none of them may be left lying.
#[test]
fn many_connections_that_are_ready_at_once_are_all_served() {
    const CALLS: u64 = 600;
    let (server, _begun) = echo_server();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = hosted(&server, &runtime, CALLS as usize);
    runtime.block_on(async {
        for round in 1..=3 {
            let calls: Vec<_> = (0..CALLS)
                .map(|_| {
                    let client = Arc::clone(&client);
                    tokio::spawn(async move { client.blob(blob("many")).timeout(LIMIT).await })
                })
                .collect();
            while server.stats().accepted < CALLS * round {
                tokio::task::yield_now().await;
            }
            // Nothing is turned until all replies lie there: this is the runtime's only thread.
            while server.stats().replied < CALLS * round {
                thread::sleep(Duration::from_millis(1)); // between questions: nothing depends on its length
            }
            thread::sleep(Duration::from_millis(20)); // counted comes before written: nobody can be asked about the rest
            for call in calls {
                call.await.expect("no panic").expect("an echo");
            }
        }
    });
}

/// The reactor's task was polled after the first of many callers, and made a write for each call.
#[test]
fn calls_of_many_tasks_share_writes() {
    let (server, _begun) = echo_server();
    let runtime = runtime(1);
    let client = hosted(&server, &runtime, 1);
    let reactor = client.0.reactors().next().expect("it has one").clone();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let client = Arc::clone(&client);
                tokio::spawn(async move {
                    for _ in 0..20 {
                        client.blob(blob("shared")).timeout(LIMIT).await.expect("an echo");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    let writes = reactor.stats().writes.get();
    assert!(writes < 2000 / 4, "{writes} writes for 2000 calls");
}

/// The runtime's timer is never later than the reactor's next one, in whatever order deadlines come.
#[test]
fn deadlines_are_kept() {
    let (server, _begun) = echo_server();
    let runtime = runtime(1);
    let client = hosted(&server, &runtime, 1);
    runtime.block_on(async {
        let held = |ms| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.blob(blob("held")).timeout(Duration::from_millis(ms)).await })
        };
        let late = held(600_000);
        for calls in [[30, 60], [60, 30], [30, 30]].map(|ms| ms.map(held)) {
            for call in calls {
                let error = call.await.expect("no panic").expect_err("held");
                assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
            }
        }
        assert!(!late.is_finished());
        late.abort();
        client.blob(blob("after")).await.expect("an echo");
    });
}

/// Callers elsewhere are answered, too; and when the runtime ends, their calls end with it, and later ones at once.
#[test]
fn the_end_of_the_runtime_is_the_end_of_its_calls() {
    let (server, begun) = echo_server();
    for by_shutdown in [true, false] {
        let runtime = runtime(2);
        let client = hosted(&server, &runtime, 2);
        let other = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() }).expect("a reactor");
        let call = |text| {
            let (client, (tell, hear)) = (Arc::clone(&client), mpsc::channel());
            other.handles()[0].spawn(async move {
                let _ = tell.send(client.blob(blob(text)).timeout(Duration::from_secs(600)).await);
            });
            hear
        };
        assert_eq!(call("here").recv_timeout(LIMIT).expect("it ends").expect("an echo").payload, "here");
        let waits = thread::spawn({
            let client = Arc::clone(&client);
            move || client.blob(blob("held")).timeout(Duration::from_secs(600)).wait()
        });
        let held = [call("held"), call("held")];
        let mut running = 0;
        while running < 3 {
            running += usize::from(begun.recv_timeout(LIMIT).expect("it begins") == "held");
        }
        match by_shutdown {
            true => runtime.shutdown_background(),
            false => drop(runtime),
        }
        for call in held {
            let error = call.recv_timeout(LIMIT).expect("it ends").expect_err("never answered");
            assert_eq!(error.code(), Code::Unavailable, "{error}");
        }
        assert_eq!(waits.join().expect("no panic").expect_err("never answered").code(), Code::Unavailable);
        let error = call("too late").recv_timeout(LIMIT).expect("it ends").expect_err("nobody turns it");
        assert_eq!(error.code(), Code::Unavailable, "{error}");
    }
}

/// The last owner of the client lets go: its connections end, though the runtime goes on.
#[test]
fn the_end_of_the_pool_is_the_end_of_its_connections() {
    let (server, _begun) = echo_server();
    let runtime = runtime(1);
    let client = hosted(&server, &runtime, 3);
    runtime.block_on(async { client.blob(blob("once")).await.expect("an echo") });
    assert!(server.stats().connections > 0);
    drop(client);
    let started = std::time::Instant::now();
    while server.stats().connections > 0 {
        assert!(started.elapsed() < LIMIT, "its connections stay open");
        thread::sleep(Duration::from_millis(1)); // between questions: nothing depends on its length
    }
}

/// A client on a runtime of one thread, which nothing turns but the test's own waiting.
fn alone(server: &ServerHandle) -> (Runtime, Arc<EchoClient>, ReactorHandle) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = hosted(server, &runtime, 1);
    let reactor = client.0.reactors().next().expect("it has one").clone();
    runtime.block_on(async { client.blob(blob("connects")).await.expect("an echo") });
    (runtime, client, reactor)
}

/// Polls it once.
async fn waits(call: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *call).poll(cx).is_pending())).await
}

/// Who is on the only thread of the runtime that turns the reactor makes his calls there; nobody else does.
#[test]
fn tasks_of_a_runtime_of_one_thread_are_guests() {
    let (server, _begun) = echo_server();
    let calls = |client: Arc<EchoClient>| async move {
        for _ in 0..10 {
            client.blob(blob("guest")).timeout(LIMIT).await.expect("an echo");
        }
    };
    let (current, client, reactor) = alone(&server);
    let before = reactor.stats().guests.get();
    current.block_on(calls(client));
    assert_eq!(reactor.stats().guests.get() - before, 10, "all of them");

    let guests_of = |threads| {
        let runtime = runtime(threads);
        let client = hosted(&server, &runtime, 1);
        let reactor = client.0.reactors().next().expect("it has one").clone();
        let guests = || reactor.stats().guests.get();
        runtime.block_on(calls(Arc::clone(&client)));
        thread::spawn({
            let client = Arc::clone(&client);
            move || client.blob(blob("waits")).wait().expect("an echo")
        })
        .join()
        .expect("no panic");
        assert_eq!(guests(), 0, "they are on other threads");
        runtime.block_on(runtime.spawn(calls(client))).expect("no panic");
        guests()
    };
    assert_eq!(guests_of(1), 10);
    assert_eq!(guests_of(2), 0, "they would meet");
}

/// Its caller may be polled elsewhere later, or by somebody else.
#[test]
fn a_call_begun_by_a_guest_ends_wherever_it_is_polled() {
    let (server, _begun) = echo_server();
    let (runtime, client, _) = alone(&server);
    let begin = |text| {
        let mut call = client.blob(blob(text)).timeout(LIMIT).into_future();
        let pending = Pin::new(&mut call).poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending();
        assert!(pending, "its peer has not seen it");
        call
    };
    // With a waker of nobody's: who polls it next must be woken.
    let (here, there, dropped) = runtime.block_on(async { (begin("here"), begin("there"), begin("held")) });
    drop(dropped); // where nothing turns the reactor
    let here = runtime.block_on(async { tokio::time::timeout(LIMIT, here).await.expect("it is woken") });
    assert_eq!(here.expect("an echo").payload, "here");
    thread::scope(|threads| {
        let waits = threads.spawn(|| Builder::new_current_thread().build().expect("a runtime").block_on(there));
        runtime.block_on(async {
            while !waits.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(waits.join().expect("no panic").expect("an echo").payload, "there");
    });
    // The reactor goes first.
    let (polled, dropped) = runtime.block_on(async { (begin("held"), begin("held")) });
    drop(runtime);
    drop(dropped);
    let ended = Builder::new_current_thread().build().expect("a runtime").block_on(polled);
    assert_eq!(ended.expect_err("never answered").code(), Code::Unavailable);
}

/// T18: a message whose encoding panics is its caller's own trouble, on whatever connection he is a guest.
#[test]
fn a_guest_that_panics_leaves_others_their_connection() {
    let (server, _begun) = echo_server();
    let (runtime, client, _) = alone(&server);
    runtime.block_on(async {
        let mut held = client.blob(blob("held")).into_future();
        assert!(waits(&mut held).await);
        let guest = Arc::clone(&client);
        let bomb = tokio::spawn(async move { guest.0.unary::<_, Blob>(&support::ECHO_BLOB, support::Bomb).await });
        assert!(bomb.await.expect_err("it panics").is_panic());
        assert_eq!(client.blob(blob("after")).await.expect("an echo").payload, "after");
        assert!(waits(&mut held).await, "its connection is as it was");
    });
}

/// A future is polled for any reason, as in a `select!`. Who only looks for a reply makes the reactor do nothing.
#[test]
fn a_look_for_a_reply_takes_no_turn() {
    let (server, _begun) = echo_server();
    let (runtime, client, reactor) = alone(&server);
    runtime.block_on(async {
        let mut held = client.blob(blob("held")).into_future();
        assert!(waits(&mut held).await);
        client.blob(blob("echo")).await.expect("what is held was written before");
        let before = reactor.stats().polls.get();
        for _ in 0..100 {
            assert!(waits(&mut held).await);
            tokio::task::yield_now().await;
        }
        let turns = reactor.stats().polls.get() - before;
        assert!(turns <= 3, "{turns} turns for nothing");
    });
}

/// A guest does not take the time of a turn that was long ago for its own: its call would end before its time.
#[test]
fn a_guest_s_time_is_the_clock_s() {
    const WHILE: Duration = Duration::from_millis(60);
    let (server, _begun) = echo_server();
    let (runtime, client, _) = alone(&server);
    runtime.block_on(async {
        let mut first = client.blob(blob("held")).into_future();
        assert!(waits(&mut first).await, "a turn is due");
        let busy = Instant::now();
        while busy.elapsed() < WHILE {} // the runtime's only thread: no turn comes
        let begun = Instant::now();
        let error = client.blob(blob("held")).timeout(WHILE).await.expect_err("held");
        assert!(
            error.code() == Code::DeadlineExceeded && begun.elapsed() >= WHILE,
            "after {:?}: {error}",
            begun.elapsed()
        );
    });
}

/// Whoever would block the very thread that has to turn the reactor is told, instead of waiting for ever.
#[test]
fn waiting_on_a_worker_panics_and_elsewhere_it_works() {
    let (server, _begun) = echo_server();
    let runtime = runtime(1);
    let client = hosted(&server, &runtime, 1);
    assert_eq!(client.blob(blob("here")).wait().expect("an echo").payload, "here");
    let waits = |client: &Arc<EchoClient>| {
        let client = Arc::clone(client);
        move || client.blob(blob("there")).wait()
    };
    let blocking = runtime.block_on(runtime.spawn_blocking(waits(&client)));
    assert_eq!(blocking.expect("no panic").expect("an echo").payload, "there");
    let wait = waits(&client);
    let worker = runtime.block_on(runtime.spawn(async move { wait() }));
    assert!(worker.expect_err("it would wait for itself").is_panic());
    assert_eq!(client.blob(blob("after")).wait().expect("the reactor goes on").payload, "after");
}

/// A program that frames with tokio-util speaks with a server of ours.
#[test]
fn kitex_frames_by_a_codec() {
    let (server, _begun) = echo_server();
    let url = server.url().to_string();
    runtime(1).block_on(async {
        let socket =
            tokio::net::TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).await.expect("it listens");
        let mut framed = Framed::new(socket, FrameCodec::new(KitexFraming::new(1 << 20)));
        for seq in 1..=100 {
            let frame = Bytes::from(support::raw_request(seq, b"framed"));
            framed.send(WholeFrame(frame.clone())).await.expect("sent");
            let torn = frame.slice(..frame.len() - 1);
            assert!(framed.send(WholeFrame(torn)).await.is_err(), "half a frame is not sent");
            let reply = framed.next().await.expect("a frame").expect("a legal one");
            let header = TtFrame::decode(&reply).expect("a TTHeader");
            assert_eq!(header.seq, seq);
            let payload = rpc_core::protocol::Payload::decode(header.payload).expect("a reply");
            assert_eq!(support::blob(payload.body), b"framed");
        }
        assert!(framed.codec().framing().spoken().is_some());
    });
}
