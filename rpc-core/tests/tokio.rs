//! The feature `tokio`: what needs a runtime works in a handler, and a runtime's threads turn a client's reactor.

mod support;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::codegen::Blocking;
use rpc_core::{Channel, Code, Context, Error, Result, Server, ServerHandle};
use support::{AnyServer, Blob, EchoClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

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
    tokio::time::sleep(Duration::from_millis(2)).await;
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
