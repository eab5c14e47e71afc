//! The server's side of ours, and of the floor.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::{Code, Context, Error, Result, Server};
use rpc_transport::{PoolOptions, ReactorHandle, ReactorPool, ReactorStats};

use crate::args::LoadServerArgs;
use crate::idl::testee::*;
use crate::{Failure, bytes, counts, floor};

/// Answers with what it is sent.
#[derive(Debug)]
pub struct Service;

fn not_measured<T>() -> Result<T> {
    Err(Error::new(Code::Unimplemented, "this server only echoes"))
}

impl Testee for Service {
    async fn echo(&self, _: &Context, req: Blob) -> Result<Blob> {
        Ok(req)
    }

    async fn echo_mixed(&self, _: &Context, req: Mixed) -> Result<Mixed> {
        Ok(req)
    }

    async fn sleep(&self, _: &Context, _: Millis) -> Result<Empty> {
        not_measured()
    }

    async fn spin(&self, _: &Context, req: Millis) -> Result<Empty> {
        std::thread::sleep(Duration::from_millis(req.ms.into())); // what it is called for
        Ok(Empty {})
    }

    async fn panic(&self, _: &Context, _: Millis) -> Result<Empty> {
        not_measured()
    }

    async fn fail(&self, _: &Context, _: Fault) -> Result<Empty> {
        not_measured()
    }

    async fn give(&self, _: &Context, _: Size) -> Result<Blob> {
        not_measured()
    }

    async fn count(&self, _: &Context, _: Tree) -> Result<Size> {
        not_measured()
    }

    async fn sink(&self, _: &Context, _: Blob) -> Result<Size> {
        not_measured()
    }

    async fn once(&self, _: &Context, _: Nonce) -> Result<Empty> {
        not_measured()
    }

    async fn relay(&self, _: &Context, _: Hop) -> Result<Empty> {
        not_measured()
    }

    async fn beside(&self, _: &Context, _: Hop) -> Result<Heard> {
        not_measured()
    }

    async fn stats(&self, _: &Context, _: Empty) -> Result<Report> {
        not_measured()
    }
}

/// Serves until the input ends.
///
/// # Errors
/// When it cannot bind, or its output is closed.
pub fn serve(args: &LoadServerArgs) -> std::result::Result<(), Failure> {
    if let Some(core) = args.server.core {
        bench_driver::pin(core)?;
    }
    let url = args.server.url();
    if let Some(payload) = args.floor {
        let stats = Arc::new(ReactorStats::default());
        let url = floor::serve(&url, payload, args.manner, Arc::clone(&stats))?;
        return bench_driver::answer(&url, || counts::of([&*stats]));
    }
    if let Some(speaks) = args.speaks {
        let pool = ReactorPool::start(PoolOptions::default())?;
        let listener = bytes::listen(&pool, &url.parse()?, speaks)?;
        let url = listener.url().to_string();
        return bench_driver::answer(&url, || counts::of(pool.handles().iter().map(ReactorHandle::stats)));
    }
    let mut builder = Server::builder();
    if args.busy_poll > 0 {
        let mut options = PoolOptions { busy_poll: Duration::from_micros(args.busy_poll), ..PoolOptions::default() };
        options.reactors = args.reactors.unwrap_or(options.reactors);
        builder = builder.pool(Arc::new(ReactorPool::start(options)?));
    } else if let Some(reactors) = args.reactors {
        builder = builder.reactors(reactors);
    }
    let server = builder.add(TesteeServer::new(Service).blocking(["Spin"])).bind(url)?;
    let url = server.url().to_string();
    bench_driver::answer(&url, || counts::of(server.reactors().handles().iter().map(ReactorHandle::stats)))
}
