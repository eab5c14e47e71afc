//! ttrpc. Settings: `TCP_NODELAY`, its asynchronous client and server, `Bytes` payloads, no time limits.

use std::sync::Arc;

use async_trait::async_trait;
use bench_driver::Failure;
use bytes::Bytes;
use futures_util::stream;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};
use ttrpc::context::{self, Context};

use crate::echoes::{Echoes, messages};
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
    starts.loops(&clients);
    Ok(())
}

/// Without a time limit.
fn context() -> Context {
    context::with_timeout(0)
}

impl Echoes for TesteeClient {
    type Mixed = Mixed;
    type Error = ttrpc::Error;

    async fn echo(&self, payload: Bytes) -> ttrpc::Result<Bytes> {
        let request = Blob { payload, ..Blob::default() };
        Ok(self.echo(context(), &request).await?.payload)
    }

    async fn echo_mixed(&self, message: &Mixed) -> ttrpc::Result<Mixed> {
        self.echo_mixed(context(), message).await
    }

    messages!(Mixed, Item);
}
