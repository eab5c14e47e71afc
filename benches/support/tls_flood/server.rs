//! The server of a flood: one reactor, one core, and what comes is sent back.

use std::time::{Duration, Instant};

use bench_driver::Counts;
use rpc_transport::rustls::ServerConfig;
use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::PrivateKeyDer;
use rpc_transport::{Accepted, Cx, Frame, Handler, LengthField, ListenOptions, PoolOptions, ReactorPool, TlsServer};

use super::{SERVER_CORE, framing};
use crate::Failure;

struct Echo {
    framing: LengthField,
    work: Duration,
}

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let begun = Instant::now();
        while begun.elapsed() < self.work {
            std::hint::spin_loop();
        }
        self.framing.write_head(frame.bytes().len(), cx.output()).expect("it was read under the same limit");
        cx.output().write_bytes(frame.to_bytes());
    }
}

/// Each call takes so much of its core, beside what the transport takes. Prints where it listens and, in hex, by which certificate it is known; then its counters for each line, until the input ends.
pub(super) fn serve(work: Duration) -> Result<(), Failure> {
    bench_driver::pin(SERVER_CORE)?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(ring::default_provider().into());
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key)?;
    let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() })?;
    let options = ListenOptions { tls: Some(TlsServer::from_rustls(config)), ..ListenOptions::default() };
    let echo = move |_: &Accepted<'_>| (framing(), Echo { framing: framing(), work });
    let listener = pool.listen(&"tls://127.0.0.1:0".parse()?, options, echo)?;
    let certificate: String = made.cert.der().iter().map(|byte| format!("{byte:02x}")).collect();
    let url = listener.url().to_string();
    println!("{} {certificate}", url.trim_start_matches("tls://"));
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", Counts::now(None)?.cpu_us);
    }
    Ok(())
}
