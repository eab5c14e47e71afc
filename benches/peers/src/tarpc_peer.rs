//! tarpc. Settings: `TCP_NODELAY`, bincode, `Bytes` payloads, room for every call in flight in each of its queues, and for many in what is
//! written at once.

use std::time::{Duration, Instant};

use bench_driver::Failure;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tarpc::client::RpcError;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport, server};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::Starts;
use crate::echoes::{Echoes, messages};
use crate::socket::{self, Socket};

const QUEUE: usize = 1 << 16;
const FRAME: usize = 64 << 20;
/// Bytes that may gather before they are written.
const GATHER: usize = 256 << 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    sku: String,
    quantity: u32,
    price: f64,
    tags: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    starts.loops(&clients);
    Ok(())
}

/// With a deadline, which it cannot be without: the default one ends ten seconds after the context was made.
fn context() -> context::Context {
    let mut context = context::current();
    context.deadline = Instant::now() + Duration::from_secs(5);
    context
}

impl Echoes for TesteeClient {
    type Mixed = Mixed;
    type Error = RpcError;

    async fn echo(&self, payload: Bytes) -> Result<Bytes, RpcError> {
        self.echo(context(), payload).await
    }

    async fn echo_mixed(&self, message: &Mixed) -> Result<Mixed, RpcError> {
        self.echo_mixed(context(), message.clone()).await
    }

    messages!(Mixed, Item);
}
