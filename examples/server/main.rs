//! The hello service in a process of its own; SIGTERM or Ctrl-C lets running calls end.
//!
//! `cargo run --bin server` (or with an address: `tcp://0.0.0.0:7000`, `unix:hello.sock`); then `cargo run --bin client`.

use rpc_core::{Context, Error, Result, Server};

mod idl {
    rpc_core::include_idl!();
}
use idl::hello::{Greeter, GreeterServer, HelloReply, HelloRequest};

struct Hello;

impl Greeter for Hello {
    async fn say_hello(&self, _: &Context, req: HelloRequest) -> Result<HelloReply> {
        if req.name.is_empty() {
            return Err(Error::business(422, "a name, please").with_extra("field", "name"));
        }
        Ok(HelloReply { message: format!("Hello, {}!", req.name) })
    }
}

fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "tcp://127.0.0.1:7000".to_owned());
    let server = Server::builder().add(GreeterServer::new(Hello)).bind(url)?;
    println!("LISTENING {}", server.url());
    let drained = server.serve()?;
    println!("stopped, {} calls cut", drained.cut_calls);
    Ok(())
}
