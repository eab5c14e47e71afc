//! ttrpc. Settings: `TCP_NODELAY`, its asynchronous client and server, `Bytes` payloads, no time limits.

use std::sync::Arc;

use async_trait::async_trait;
use bench_driver::{Calls, Failure, Line, MethodName, Order};
use bytes::Bytes;
use futures_util::stream;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};
use ttrpc::context::{self, Context};

use crate::{Starts, socket};

#[allow(warnings, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}
use generated::echo::{Blob, Item, Mixed};
use generated::echo_ttrpc::{Testee, TesteeClient, create_testee};

struct Service;

#[async_trait]
impl Testee for Service {
    async fn echo(&self, _: &TtrpcContext, request: Blob) -> ttrpc::Result<Blob> {
        Ok(request)
    }

    async fn echo_mixed(&self, _: &TtrpcContext, request: Mixed) -> ttrpc::Result<Mixed> {
        Ok(request)
    }
}

pub(crate) async fn serve(url: &str) -> Result<String, Failure> {
    let (listener, url) = socket::listen(url).await?;
    let sockets = stream::unfold(listener, |listener| async {
        let socket = listener.accept().await;
        Some((socket, listener))
    });
    let service = create_testee(Arc::new(Service));
    let mut server = Server::new().add_listener(Listener::new(sockets)).register_service(service);
    server.start().await?;
    std::mem::forget(server); // it ends with the process
    Ok(url)
}

pub(crate) async fn start(starts: &Starts) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..starts.run.connections {
        let socket = socket::connect(&starts.url).await?;
        clients.push(TesteeClient::new(Client::new(Socket::new(socket))));
    }
    match starts.method() {
        MethodName::Echo => starts.spawn(&clients, starts.payloads(), |client, payload| Echo { client, payload }),
        MethodName::Mixed => starts.spawn(&clients, starts.orders(), EchoMixed::new),
    }
    Ok(())
}

/// Without a time limit.
fn context() -> Context {
    context::with_timeout(0)
}

struct Echo {
    client: TesteeClient,
    payload: Bytes,
}

impl Calls for Echo {
    type Reply = Blob;
    type Error = ttrpc::Error;

    async fn call(&self) -> ttrpc::Result<Blob> {
        let request = Blob { payload: self.payload.clone(), ..Blob::default() };
        self.client.echo(context(), &request).await
    }

    fn looks_right(&self, reply: &Blob) -> bool {
        reply.payload.len() == self.payload.len()
    }

    fn is_right(&self, reply: &Blob) -> bool {
        reply.payload == self.payload
    }
}

struct EchoMixed {
    client: TesteeClient,
    message: Mixed,
}

impl EchoMixed {
    fn new(client: TesteeClient, order: Order) -> Self {
        let item = |line: Line| Item {
            sku: line.sku,
            quantity: line.quantity,
            price: line.price,
            tags: line.tags,
            ..Item::default()
        };
        let message = Mixed {
            id: order.id,
            created_ms: order.created_ms,
            items: order.lines.into_iter().map(item).collect(),
            labels: order.labels.into_iter().collect(),
            paid: order.paid,
            ..Mixed::default()
        };
        EchoMixed { client, message }
    }
}

impl Calls for EchoMixed {
    type Reply = Mixed;
    type Error = ttrpc::Error;

    async fn call(&self) -> ttrpc::Result<Mixed> {
        self.client.echo_mixed(context(), &self.message).await
    }

    fn looks_right(&self, reply: &Mixed) -> bool {
        reply.id == self.message.id && reply.items.len() == self.message.items.len()
    }

    fn is_right(&self, reply: &Mixed) -> bool {
        *reply == self.message
    }
}
