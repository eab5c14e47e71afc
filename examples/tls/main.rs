//! Lines echoed under TLS, on the transport alone: PEM files, whom a client has proved to be, and a certificate that is renewed under way.
//!
//! `cargo run -p examples --features tls --bin tls -- cert.pem key.pem [client-ca.pem] [url]`; then
//! `openssl s_client -connect 127.0.0.1:7005 -quiet`. The line `reload` reads the files again, and `quit` ends the connection.

use rpc_transport::{
    CloseReason, Cx, Frame, Handler, Line, ListenOptions, PoolOptions, ReactorPool, TlsConfigError, TlsIdentity,
    TlsRoots, TlsServer,
};

/// What the files say now. A client needs a certificate if there is an authority for clients.
fn read(files: &[String]) -> Result<TlsServer, TlsConfigError> {
    let tls = TlsServer::builder(TlsIdentity::from_files(&files[0], &files[1])?).alpn(["lines"]);
    match files.get(2) {
        Some(authority) => tls.client_roots(TlsRoots::from_file(authority)?).build(),
        None => tls.build(),
    }
}

struct Echo {
    tls: TlsServer,
    files: Vec<String>,
}

impl Handler for Echo {
    /// The handshake is over.
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        println!("{}: {:?}", cx.peer(), cx.tls().expect("a tls:// address"));
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        if frame.bytes() == b"reload" {
            let reloaded = read(&self.files).map(|new| self.tls.reload(&new)); // a real one reads files elsewhere
            println!("{}", reloaded.map_or_else(|error| error.to_string(), |()| "reloaded".to_owned()));
        }
        Line::new().write(frame.bytes(), cx.output()).expect("it was read under the same limit");
        if frame.bytes() == b"quit" {
            cx.close(CloseReason::Local("the client has asked for it"));
        }
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        println!("{}: {reason}", cx.peer());
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (urls, files): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with("tls://"));
    let url = urls.first().map_or("tls://127.0.0.1:7005", String::as_str).parse()?;
    let tls = read(&files)?;
    let options = ListenOptions { tls: Some(tls.clone()), ..ListenOptions::default() };
    let pool = ReactorPool::start(PoolOptions::default())?;
    let echo = move || Echo { tls: tls.clone(), files: files.clone() };
    let listener = pool.listen(&url, options, move |_| (Line::new(), echo()))?;
    println!("LISTENING {}", listener.url());
    loop {
        std::thread::park();
    }
}
