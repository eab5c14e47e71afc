//! A server and a client in one process: what a call looks like from both sides.
//!
//! `cargo run --bin hello`

use std::time::Duration;

use rpc_core::{Context, Result, Server};

mod idl {
    rpc_core::include_idl!();
}
use idl::hello::{Greeter, GreeterClient, GreeterServer, HelloReply, HelloRequest};

struct Hello;

impl Greeter for Hello {
    async fn say_hello(&self, cx: &Context, req: HelloRequest) -> Result<HelloReply> {
        println!("server: {} says hello, and waits until {:?} from now", req.name, cx.remaining());
        if req.name.is_empty() {
            return Err(rpc_core::Error::business(422, "a name, please").with_extra("field", "name"));
        }
        Ok(HelloReply { message: format!("Hello, {}!", req.name) })
    }
}

fn main() -> Result<()> {
    let server = Server::builder().add(GreeterServer::new(Hello)).bind("tcp://127.0.0.1:0")?;
    println!("server: listening at {}", server.url());

    let greeter = GreeterClient::connect(server.url().to_string())?;
    let reply = greeter.say_hello(HelloRequest { name: "Rust".into() }).wait()?;
    println!("client: {}", reply.message);

    // Options of one call stand on the call.
    let request = HelloRequest { name: String::new() };
    let refused = greeter.say_hello(request).timeout(Duration::from_millis(50)).metadata("trace", "42").wait();
    println!("client: {}", refused.unwrap_err());

    let drained = server.shutdown();
    println!("server: stopped, {} calls cut", drained.cut_calls);
    Ok(())
}
