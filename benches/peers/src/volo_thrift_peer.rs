//! volo-thrift, multiplexed or with its pool of connections. Settings: `TCP_NODELAY` (its default), its feature `unsafe-codec`, `Bytes`
//! payloads, as many connections in the pool as calls in flight, no time limits of calls.

use std::os::unix::net::SocketAddr as UnixAddr;
use std::time::Duration;

use bench_driver::{Calls, Failure, Line, MethodName, Order};
use bytes::Bytes;
use volo::net::Address;
use volo::net::incoming::DefaultIncoming;
use volo_thrift::{ClientError, ServerError};

use crate::Starts;
use crate::socket::{self, Listener};

#[allow(warnings, clippy::all)]
mod generated {
    volo::include_service!("volo_thrift.rs");
}
use generated::volo_thrift::echo_thrift::{Blob, Item, Mixed, Testee, TesteeClient, TesteeClientBuilder, TesteeServer};

/// A thousand connections at once take longer than the 50 ms of its default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

struct Service;

impl Testee for Service {
    async fn echo(&self, request: Blob) -> Result<Blob, ServerError> {
        Ok(request)
    }

    async fn echo_mixed(&self, request: Mixed) -> Result<Mixed, ServerError> {
        Ok(request)
    }
}

/// The address that a URL names.
pub(crate) fn address(url: &str) -> Result<Address, Failure> {
    match url.strip_prefix("unix:") {
        Some(path) => Ok(Address::from(UnixAddr::from_pathname(path)?)),
        None => Ok(Address::from(url.trim_start_matches("tcp://").parse::<std::net::SocketAddr>()?)),
    }
}

pub(crate) async fn serve(url: &str, multiplexed: bool) -> Result<String, Failure> {
    let (listener, url) = socket::listen(url).await?;
    let incoming = match listener {
        Listener::Tcp(listener) => DefaultIncoming::from(listener),
        Listener::Unix(listener) => DefaultIncoming::from(listener),
    };
    tokio::spawn(TesteeServer::new(Service).multiplex(multiplexed).run(incoming));
    Ok(url)
}

pub(crate) async fn start(starts: &Starts, multiplexed: bool) -> Result<(), Failure> {
    let mut clients = Vec::new();
    let many = if multiplexed { starts.run.connections } else { 1 };
    for _ in 0..many {
        let mut builder = TesteeClientBuilder::new("testee")
            .multiplex(multiplexed)
            .rpc_timeout(None)
            .connect_timeout(Some(CONNECT_TIMEOUT))
            .address(address(&starts.url)?);
        if !multiplexed {
            builder = builder
                .pool_config(volo_thrift::transport::pool::Config::new(starts.run.in_flight, Duration::from_secs(60)));
        }
        clients.push(builder.build());
    }
    match starts.method() {
        MethodName::Echo => starts.spawn(&clients, starts.payloads(), |client, payload| Echo { client, payload }),
        MethodName::Mixed => starts.spawn(&clients, starts.orders(), EchoMixed::new),
    }
    Ok(())
}

struct Echo {
    client: TesteeClient,
    payload: Bytes,
}

impl Calls for Echo {
    type Reply = Blob;
    type Error = ClientError;

    async fn call(&self) -> Result<Blob, ClientError> {
        self.client.echo(Blob { payload: self.payload.clone() }).await
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
            sku: line.sku.into(),
            quantity: line.quantity as i32,
            price: line.price,
            tags: line.tags.into_iter().map(Into::into).collect(),
        };
        let message = Mixed {
            id: order.id.into(),
            created_ms: order.created_ms,
            items: order.lines.into_iter().map(item).collect(),
            labels: order.labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            paid: order.paid,
        };
        EchoMixed { client, message }
    }
}

impl Calls for EchoMixed {
    type Reply = Mixed;
    type Error = ClientError;

    async fn call(&self) -> Result<Mixed, ClientError> {
        self.client.echo_mixed(self.message.clone()).await
    }

    fn looks_right(&self, reply: &Mixed) -> bool {
        reply.id == self.message.id && reply.items.len() == self.message.items.len()
    }

    fn is_right(&self, reply: &Mixed) -> bool {
        *reply == self.message
    }
}
