//! A server that replaces itself: nobody who connects is refused, and no call fails.
//!
//! ```text
//! cargo run -p examples --features upgrade --bin upgrade        # prints its process id
//! cargo run --bin client -- Rust                                # calls, in another terminal, whenever you like
//! cargo build -p examples --features upgrade --bin upgrade      # change the greeting below, and build
//! kill -USR2 PID                                                # the new program goes on; the old one drains, and ends
//! ```
//!
//! The new process is what is installed now where this one was started from. It gets the listening sockets, binds "the same
//! address" to find one of them in its hands, and says that it is ready when it calls `serve`. One that crashes, hangs or is something
//! else altogether changes nothing: the old one says why, and serves on. `docs/operations.md` has systemd and containers.

use rpc_core::{Context, Result, Server, Upgrade};
use signal_hook::consts::SIGUSR2;
use signal_hook::iterator::Signals;

mod idl {
    rpc_core::include_idl!();
}
use idl::hello::{Greeter, GreeterServer, HelloReply, HelloRequest};

struct Hello;

impl Greeter for Hello {
    async fn say_hello(&self, _: &Context, req: HelloRequest) -> Result<HelloReply> {
        Ok(HelloReply { message: format!("Hello, {}, from process {}!", req.name, std::process::id()) })
    }
}

fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7000".to_owned());
    let server = Server::builder().add(GreeterServer::new(Hello)).bind(url)?;
    println!("LISTENING {}", server.url());
    println!("process {}", std::process::id());

    let (replaced, mut wishes) = (server.clone(), Signals::new([SIGUSR2])?);
    std::thread::spawn(move || {
        for _ in wishes.forever() {
            match replaced.upgrade(&Upgrade::new()) {
                Ok(upgraded) => println!("process {} goes on", upgraded.pid),
                Err(error) => eprintln!("{error}"), // and goes on itself
            }
        }
    });

    let drained = server.serve()?; // until SIGTERM, or another process goes on
    println!("stopped, {} calls cut", drained.cut_calls);
    Ok(())
}
