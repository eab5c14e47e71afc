//! volo-thrift, multiplexed or with its pool of connections. Settings: `TCP_NODELAY` (its default), its feature `unsafe-codec`, `Bytes`
//! payloads, as many connections in the pool as calls in flight, no time limits of calls.

use std::time::Duration;

use bench_driver::Failure;
use bytes::Bytes;
use volo_thrift::{ClientError, ServerError};

use crate::Starts;
use crate::echoes::{Echoes, messages};
use crate::volo_net::{address, listen};

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

pub(crate) async fn serve(url: &str, multiplexed: bool) -> Result<String, Failure> {
    let (incoming, url) = listen(url).await?;
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
    starts.loops(&clients);
    Ok(())
}

impl Echoes for TesteeClient {
    type Mixed = Mixed;
    type Error = ClientError;

    async fn echo(&self, payload: Bytes) -> Result<Bytes, ClientError> {
        Ok(self.echo(Blob { payload }).await?.payload)
    }

    async fn echo_mixed(&self, message: &Mixed) -> Result<Mixed, ClientError> {
        self.echo_mixed(message.clone()).await
    }

    messages!(Mixed, Item);
}
