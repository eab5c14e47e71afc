//! volo-grpc. Settings: `TCP_NODELAY` (its default), no limit of streams, large windows and HTTP/2 frames, `Bytes` payloads, no compression,
//! no time limits.

use bench_driver::{Calls, Failure, Line, MethodName, Order};
use bytes::Bytes;
use volo::net::incoming::DefaultIncoming;
use volo_grpc::server::{Server, ServiceBuilder};
use volo_grpc::{Request, Response, Status};

use crate::Starts;
use crate::socket::{self, Listener};
use crate::volo_thrift_peer::address;

#[allow(warnings, clippy::all)]
mod generated {
    volo::include_service!("volo_grpc.rs");
}
use generated::volo_grpc::echo::{Blob, Item, Mixed, Testee, TesteeClient, TesteeClientBuilder, TesteeServer};

const WINDOW: u32 = 16 << 20;
/// The largest that HTTP/2 has.
const FRAME: u32 = (16 << 20) - 1;

struct Service;

impl Testee for Service {
    async fn echo(&self, request: Request<Blob>) -> Result<Response<Blob>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn echo_mixed(&self, request: Request<Mixed>) -> Result<Response<Mixed>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

pub(crate) async fn serve(url: &str) -> Result<String, Failure> {
    let (listener, url) = socket::listen(url).await?;
    let incoming = match listener {
        Listener::Tcp(listener) => DefaultIncoming::from(listener),
        Listener::Unix(listener) => DefaultIncoming::from(listener),
    };
    let server = Server::new()
        .http2_init_stream_window_size(WINDOW)
        .http2_init_connection_window_size(WINDOW)
        .http2_max_frame_size(FRAME)
        .http2_max_concurrent_streams(u32::MAX)
        .add_service(ServiceBuilder::new(TesteeServer::new(Service)).build());
    tokio::spawn(server.run(incoming));
    Ok(url)
}

pub(crate) async fn start(starts: &Starts) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..starts.run.connections {
        let builder = TesteeClientBuilder::new("echo.Testee")
            .http2_init_stream_window_size(WINDOW)
            .http2_init_connection_window_size(WINDOW)
            .http2_max_frame_size(FRAME)
            .address(address(&starts.url)?);
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
    type Error = Status;

    async fn call(&self) -> Result<Blob, Status> {
        let request = Blob { payload: self.payload.clone() };
        Ok(self.client.echo(request).await?.into_inner())
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
            quantity: line.quantity,
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
    type Error = Status;

    async fn call(&self) -> Result<Mixed, Status> {
        Ok(self.client.echo_mixed(self.message.clone()).await?.into_inner())
    }

    fn looks_right(&self, reply: &Mixed) -> bool {
        reply.id == self.message.id && reply.items.len() == self.message.items.len()
    }

    fn is_right(&self, reply: &Mixed) -> bool {
        *reply == self.message
    }
}
