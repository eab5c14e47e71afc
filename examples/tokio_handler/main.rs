//! A handler that uses what needs tokio: a timer and a socket of it, and a task. It still runs on its reactor; the runtime's threads
//! turn the client's connection, too.
//!
//! `cargo run -p examples --features tokio --bin tokio_handler`

use std::sync::Arc;
use std::time::Duration;

use rpc_core::transport::ReactorPool;
use rpc_core::{Channel, Code, Context, Error, Result, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

mod idl {
    rpc_core::include_idl!();
}
use idl::hello::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest};

/// Asks another server, which speaks a protocol of lines, for the greeting.
struct Hello {
    phrases: String,
}

impl Greeter for Hello {
    async fn say_hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        // tokio's timer ends this as well as the deadline would.
        let left = cx.remaining().unwrap_or(Duration::from_secs(1));
        let phrase = tokio::time::timeout(left, ask(&self.phrases, &req.name)).await;
        let message = phrase.map_err(|_| Error::deadline(left))?.map_err(|e| Error::other(Code::Unavailable, e))?;
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        println!("server: greets {} on the thread {thread}", req.name);
        Ok(HelloReply { message })
    }
}

async fn ask(server: &str, name: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(server).await?;
    socket.write_all(format!("{name}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// Greets whoever is named in a line.
async fn phrases(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let (from, mut to) = socket.split();
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(name)) = lines.next_line().await {
                tokio::time::sleep(Duration::from_millis(5)).await; // it thinks
                let _ = to.write_all(format!("Hello, {name}!\n").as_bytes()).await;
            }
        });
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let hello = Hello { phrases: listener.local_addr()?.to_string() };
    runtime.spawn(phrases(listener));

    let server = Server::builder().runtime(runtime.handle().clone()).add(GreeterServer::new(hello));
    let server = server.bind("tcp://127.0.0.1:0")?;
    println!("server: listening at {}", server.url());

    // A client among tasks of tokio: its reactor is one of them.
    let pool = Arc::new(ReactorPool::on_tokio(runtime.handle(), 1)?);
    let channel = Channel::builder(server.url().to_string()).pool(pool).build()?;
    let greeter = GreeterClient::new(channel);
    runtime.block_on(async {
        let greet = |name: &str| {
            let (greeter, name) = (greeter.clone(), name.to_owned());
            tokio::spawn(async move { greeter.say_hello(HelloRequest { name }).await })
        };
        for call in [greet("tokio"), greet("Rust")] {
            println!("client: {}", call.await.map_err(|e| Error::other(Code::Internal, e))??.message);
        }
        Ok::<_, Error>(())
    })?;
    println!("server: stopped, {} calls cut", server.shutdown().cut_calls);
    Ok(())
}
