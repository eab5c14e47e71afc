//! `testee server`: the service at some addresses, until a signal.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use rpc_core::transport::Placement;
use rpc_core::{Code, Error, Result, Server};
use testee::idl::testee::{SecondServer, TesteeServer};

use crate::service::{Other, Service};

/// Serves until SIGTERM or Ctrl-C, then lets running calls end; a second signal ends at once.
///
/// Prints `LISTENING <url>` for each address, and `STOPPED {…}` at the end.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// An address to serve: tcp://HOST:PORT (port 0: a free one), tls://HOST:PORT or unix:PATH; may be repeated
    #[arg(long, value_name = "URL", default_value = "tcp://127.0.0.1:0")]
    listen: Vec<String>,
    /// Reactors, each with a thread [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    reactors: Option<u16>,
    /// Threads for the method that blocks, Spin
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Where Once appends its nonces, one a line, when it starts
    #[arg(long, value_name = "FILE")]
    exec_log: Option<PathBuf>,
    /// Lets SIGPIPE end the process, as it ends programs that are not written in Rust
    #[arg(long)]
    sigpipe: bool,
    /// Checksums of payloads, CRC-32C: sent, and compared where the client sends them
    #[arg(long)]
    checksum: bool,
    /// Sets a limit, such as max_frame_size=1MiB or frame_progress=2s; may be repeated
    #[arg(long = "set", value_name = "LIMIT=VALUE", value_parser = crate::pair)]
    limits: Vec<(String, String)>,
    /// A listening socket for each reactor
    #[arg(long)]
    reuse_port: bool,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: crate::tls::Serving,
    #[cfg(feature = "upgrade")]
    #[command(flatten)]
    upgrade: crate::upgrade::Replacing,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut builder = Server::builder().workers(args.workers.into()).checksum(args.checksum);
    if let Some(n) = args.reactors {
        builder = builder.reactors(n.into());
    }
    if args.reuse_port {
        builder = builder.placement(Placement::ReusePort);
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = args.tls.server()? {
        builder = builder.tls(tls);
    }
    if args.sigpipe {
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, Arc::new(true.into()))?;
    }
    for (name, value) in &args.limits {
        builder = builder.set(name, value);
    }
    let exec_log = args.exec_log.map(|path| {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.map_err(|e| {
            Error::new(Code::InvalidArgument, format!("--exec-log {}: {e}; name a writable file", path.display()))
        })
    });
    let service = Arc::new(Service::new(exec_log.transpose()?));
    let first = TesteeServer::from_arc(Arc::clone(&service)).blocking(["Spin"]);
    let server = builder.add(SecondServer::new(Other)).add_fallback(first).bind_all(&args.listen)?;
    service.watch(server.monitor());
    let mut stdout = std::io::stdout();
    for url in server.urls() {
        writeln!(stdout, "LISTENING {url}")?;
    }
    stdout.flush()?;
    #[cfg(feature = "upgrade")]
    crate::upgrade::on_signal(&args.upgrade, &server)?;

    let monitor = server.clone();
    let drained = server.serve()?;
    let stats = monitor.stats();
    writeln!(
        stdout,
        r#"STOPPED {{"accepted":{},"replied":{},"in_flight":{},"cut_calls":{},"cut_connections":{},"ms":{}}}"#,
        stats.accepted,
        stats.replied,
        stats.in_flight,
        drained.cut_calls,
        drained.cut_connections,
        drained.elapsed.as_millis()
    )?;
    Ok(())
}
