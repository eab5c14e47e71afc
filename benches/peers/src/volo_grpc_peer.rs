//! volo-grpc. Settings: `TCP_NODELAY` (its default), no limit of streams, large windows and HTTP/2 frames, `Bytes` payloads, no compression,
//! no time limits.

use bench_driver::Failure;
use bytes::Bytes;
use volo_grpc::server::{Server, ServiceBuilder};
use volo_grpc::{Request, Response, Status};

use crate::Starts;
use crate::echoes::{Echoes, messages};
use crate::volo_net::{address, listen};

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
    let (incoming, url) = listen(url).await?;
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
    starts.loops(&clients);
    Ok(())
}

impl Echoes for TesteeClient {
    type Mixed = Mixed;
    type Error = Status;

    async fn echo(&self, payload: Bytes) -> Result<Bytes, Status> {
        Ok(self.echo(Blob { payload }).await?.into_inner().payload)
    }

    async fn echo_mixed(&self, message: &Mixed) -> Result<Mixed, Status> {
        Ok(self.echo_mixed(message.clone()).await?.into_inner())
    }

    messages!(Mixed, Item);
}
