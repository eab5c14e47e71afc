//! tonic. Settings: `TCP_NODELAY`, no limit of streams, large windows and HTTP/2 frames, `Bytes` payloads, room for every call in the client's
//! queue, no compression, no time limits.

use bench_driver::{Calls, Failure, MethodName, Order};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::Starts;
use crate::socket::{self, Listener};

#[allow(missing_docs, clippy::all)]
mod idl {
    tonic::include_proto!("echo");
}
use idl::testee_client::TesteeClient;
use idl::testee_server::{Testee, TesteeServer};
use idl::{Blob, Item, Mixed};

const WINDOW: u32 = 16 << 20;
/// The largest that HTTP/2 has.
const FRAME: u32 = (16 << 20) - 1;
const MESSAGE: usize = 64 << 20;

struct Service;

#[tonic::async_trait]
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
    let service = TesteeServer::new(Service).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let server = Server::builder()
        .max_concurrent_streams(u32::MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .add_service(service);
    match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpListenerStream::new(listener).map(|socket| {
                let socket = socket?;
                socket.set_nodelay(true)?;
                std::io::Result::Ok(socket)
            });
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        Listener::Unix(listener) => {
            tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        }
    }
    Ok(url)
}

pub(crate) async fn start(starts: &Starts) -> Result<(), Failure> {
    let mut clients = Vec::new();
    for _ in 0..starts.run.connections {
        let url = starts.url.clone();
        let connector = tower::service_fn(move |_| {
            let url = url.clone();
            async move { std::io::Result::Ok(TokioIo::new(socket::connect(&url).await?)) }
        });
        let endpoint = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .buffer_size(64 << 10);
        let channel = endpoint.connect_with_connector(connector).await?;
        let client = TesteeClient::new(channel);
        clients.push(client.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE));
    }
    match starts.method() {
        MethodName::Echo => starts.spawn(&clients, starts.payloads(), |client, payload| Echo { client, payload }),
        MethodName::Mixed => starts.spawn(&clients, starts.orders(), EchoMixed::new),
    }
    Ok(())
}

struct Echo {
    client: TesteeClient<Channel>,
    payload: Bytes,
}

impl Calls for Echo {
    type Reply = Blob;
    type Error = Status;

    async fn call(&self) -> Result<Blob, Status> {
        let request = Blob { payload: self.payload.clone() };
        Ok(self.client.clone().echo(request).await?.into_inner())
    }

    fn looks_right(&self, reply: &Blob) -> bool {
        reply.payload.len() == self.payload.len()
    }

    fn is_right(&self, reply: &Blob) -> bool {
        reply.payload == self.payload
    }
}

struct EchoMixed {
    client: TesteeClient<Channel>,
    message: Mixed,
}

impl EchoMixed {
    fn new(client: TesteeClient<Channel>, order: Order) -> Self {
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
    type Error = Status;

    async fn call(&self) -> Result<Mixed, Status> {
        Ok(self.client.clone().echo_mixed(self.message.clone()).await?.into_inner())
    }

    fn looks_right(&self, reply: &Mixed) -> bool {
        reply.id == self.message.id && reply.items.len() == self.message.items.len()
    }

    fn is_right(&self, reply: &Mixed) -> bool {
        *reply == self.message
    }
}
