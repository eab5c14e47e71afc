//! tarpc. Settings: `TCP_NODELAY`, bincode, `Bytes` payloads, room for every call in flight in each of its queues, and for many in what is
//! written at once.

use std::time::{Duration, Instant};

use bench_driver::{Calls, Failure, MethodName, Order};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tarpc::client::RpcError;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport, server};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Starts;
use crate::socket::{self, Socket};

const QUEUE: usize = 1 << 16;
const FRAME: usize = 64 << 20;
/// Bytes that may gather before they are written.
const GATHER: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    sku: String,
    quantity: u32,
    price: f64,
    tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mixed {
    id: String,
    created_ms: i64,
    items: Vec<Item>,
    labels: std::collections::HashMap<String, String>,
    paid: bool,
}

#[tarpc::service]
pub(crate) trait Testee {
    async fn echo(payload: Bytes) -> Bytes;
    async fn echo_mixed(message: Mixed) -> Mixed;
}

#[derive(Clone)]
struct Service;

impl Testee for Service {
    async fn echo(self, _: context::Context, payload: Bytes) -> Bytes {
        payload
    }

    async fn echo_mixed(self, _: context::Context, message: Mixed) -> Mixed {
        message
    }
}

fn framed(socket: Socket) -> Framed<Socket, LengthDelimitedCodec> {
    let mut framed = LengthDelimitedCodec::builder().max_frame_length(FRAME).new_framed(socket);
    framed.set_backpressure_boundary(GATHER);
    framed
}

pub(crate) async fn serve(url: &str) -> Result<String, Failure> {
    let (listener, url) = socket::listen(url).await?;
    tokio::spawn(async move {
        while let Ok(socket) = listener.accept().await {
            let transport = serde_transport::new(framed(socket), Bincode::default());
            let channel = BaseChannel::new(server::Config { pending_response_buffer: QUEUE }, transport);
            tokio::spawn(channel.execute(Service.serve()).for_each(|call| async move {
                tokio::spawn(call);
            }));
        }
    });
    Ok(url)
}

pub(crate) async fn start(starts: &Starts) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..starts.run.connections {
        let transport = serde_transport::new(framed(socket::connect(&starts.url).await?), Bincode::default());
        let mut config = client::Config::default();
        (config.max_in_flight_requests, config.pending_request_buffer) = (QUEUE, QUEUE);
        clients.push(TesteeClient::new(config, transport).spawn());
    }
    match starts.method() {
        MethodName::Echo => starts.spawn(&clients, starts.payloads(), |client, payload| Echo { client, payload }),
        MethodName::Mixed => starts.spawn(&clients, starts.orders(), EchoMixed::new),
    }
    Ok(())
}

/// With a deadline, which it cannot be without: the default one ends ten seconds after the context was made.
fn context() -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + Duration::from_secs(5);
    context
}

struct Echo {
    client: TesteeClient,
    payload: Bytes,
}

impl Calls for Echo {
    type Reply = Bytes;
    type Error = RpcError;

    async fn call(&self) -> Result<Bytes, RpcError> {
        self.client.echo(context(), self.payload.clone()).await
    }

    fn looks_right(&self, reply: &Bytes) -> bool {
        reply.len() == self.payload.len()
    }

    fn is_right(&self, reply: &Bytes) -> bool {
        *reply == self.payload
    }
}

struct EchoMixed {
    client: TesteeClient,
    message: Mixed,
}

impl EchoMixed {
    fn new(client: TesteeClient, order: Order) -> Self {
        let item = |line: bench_driver::Line| Item {
            sku: line.sku,
            quantity: line.quantity,
            price: line.price,
            tags: line.tags,
        };
        let message = Mixed {
            id: order.id,
            created_ms: order.created_ms,
            items: order.lines.into_iter().map(item).collect(),
            labels: order.labels.into_iter().collect(),
            paid: order.paid,
        };
        EchoMixed { client, message }
    }
}

impl Calls for EchoMixed {
    type Reply = Mixed;
    type Error = RpcError;

    async fn call(&self) -> Result<Mixed, RpcError> {
        self.client.echo_mixed(context(), self.message.clone()).await
    }

    fn looks_right(&self, reply: &Mixed) -> bool {
        reply.id == self.message.id && reply.items.len() == self.message.items.len()
    }

    fn is_right(&self, reply: &Mixed) -> bool {
        *reply == self.message
    }
}
