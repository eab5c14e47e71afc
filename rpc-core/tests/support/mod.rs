//! An echo service as the generator would write it, by hand: these tests need no build step.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

use std::sync::Arc;

use bytes::Bytes;
use rpc_core::codegen::{Blocking, MethodDescriptor, Methods, Service, ServiceDescriptor};
use rpc_core::{Call, Channel, Context, Middleware};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
}

/// A `bytes` field inside a message inside a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nested {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(message, optional, tag = "2")]
    pub blob: Option<Blob>,
}

pub static ECHO: ServiceDescriptor = ServiceDescriptor::new("test", "Echo", &[&ECHO_BLOB, &ECHO_NESTED]);
pub static ECHO_BLOB: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Blob");
pub static ECHO_NESTED: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Nested");

pub type OnBlob = Box<dyn Fn(&Context, &Blob) + Send + Sync>;

/// Answers with what it got; `seen` looks at each request first.
pub struct EchoServer {
    pub seen: Arc<OnBlob>,
    pub blocking: Blocking,
}

impl EchoServer {
    pub fn new() -> Self {
        EchoServer::seeing(|_, _| {})
    }

    pub fn seeing(seen: impl Fn(&Context, &Blob) + Send + Sync + 'static) -> Self {
        EchoServer { seen: Arc::new(Box::new(seen)), blocking: Blocking::default() }
    }
}

impl Service for EchoServer {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        methods.unary(&ECHO_BLOB, Arc::clone(&self.seen), |seen: Arc<OnBlob>, cx: Context, req: Blob| async move {
            seen(&cx, &req);
            (seen, cx, Ok(req))
        });
        methods.unary(&ECHO_NESTED, self.seen, |seen: Arc<OnBlob>, cx: Context, req: Nested| async move {
            (seen, cx, Ok(req))
        });
    }
}

pub struct EchoClient<M = ()>(pub Channel<M>);

impl<M: Middleware> EchoClient<M> {
    pub fn blob(&self, req: Blob) -> Call<'_, M, Blob, Blob> {
        self.0.unary(&ECHO_BLOB, req)
    }

    pub fn nested(&self, req: Nested) -> Call<'_, M, Nested, Nested> {
        self.0.unary(&ECHO_NESTED, req)
    }
}

/// Runs a future on a channel's reactor and waits for it.
pub fn on_reactor<T: Send + 'static>(
    channel: &Channel<impl Middleware>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (tell, hear) = std::sync::mpsc::channel();
    let reactor = channel.reactors().next().expect("it has one").clone();
    reactor.spawn(async move {
        let _ = tell.send(future.await);
    });
    hear.recv_timeout(std::time::Duration::from_secs(60)).expect("the reactor answers")
}
