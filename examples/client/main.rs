//! Calls the hello service of `cargo run --bin server`, and tells its errors apart.
//!
//! `cargo run --bin client -- Rust` (or with an address, too: `-- Rust unix:hello.sock`)

use std::process::ExitCode;
use std::time::Duration;

use rpc_core::Result;

mod idl {
    rpc_core::include_idl!();
}
use idl::hello::{GreeterClient, HelloReply, HelloRequest};

fn hello(name: String, url: &str) -> Result<HelloReply> {
    let greeter = GreeterClient::connect(url)?;
    greeter.say_hello(HelloRequest { name }).timeout(Duration::from_secs(1)).wait()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "world".to_owned());
    let url = args.next().unwrap_or_else(|| "tcp://127.0.0.1:7000".to_owned());
    let error = match hello(name, &url) {
        Ok(reply) => {
            println!("{}", reply.message);
            return ExitCode::SUCCESS;
        }
        Err(error) => error,
    };
    match error.business_status() {
        Some(status) => eprintln!("the service says no: {} ({})", status.message, status.status),
        None if error.is_retryable() => {
            eprintln!("{error}\nnothing was sent; is the server running? cargo run --bin server")
        }
        None => eprintln!("{error}"),
    }
    ExitCode::FAILURE
}
