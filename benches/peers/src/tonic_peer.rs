//! tonic. Settings: `TCP_NODELAY`, no limit of streams, large windows and HTTP/2 frames, `Bytes` payloads, room for every call in the client's
//! queue, no compression, no time limits.

use bench_driver::Failure;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::Starts;
use crate::echoes::{Echoes, messages};
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
    starts.loops(&clients);
    Ok(())
}

impl Echoes for TesteeClient<Channel> {
    type Mixed = Mixed;
    type Error = Status;

    async fn echo(&self, payload: Bytes) -> Result<Bytes, Status> {
        let mut client = self.clone();
        Ok(TesteeClient::echo(&mut client, Blob { payload }).await?.into_inner().payload)
    }

    async fn echo_mixed(&self, message: &Mixed) -> Result<Mixed, Status> {
        let mut client = self.clone();
        Ok(TesteeClient::echo_mixed(&mut client, message.clone()).await?.into_inner())
    }

    messages!(Mixed, Item);
}
