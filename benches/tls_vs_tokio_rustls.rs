//! What does a server's thread spend on an echo under TLS, and on a handshake: ours, and tokio-rustls with the same rustls underneath?
//!
//! On paper: both encrypt and decrypt at the same speed, 1 to 2 GB/s and direction. Ours reads up to 80 KiB at a time where rustls's own
//! buffer takes 4 KiB and doubles, copies ciphertext once less, and writes all of a turn at once; so small frames in a batch cost
//! little more than their share of a record, and large ones a third less. A handshake is mostly one signature and two multiplications on a
//! curve, 150 to 300 µs, the same on both.
//!
//! Measured on 2 cores that others used, too, ours against tokio's: 9.1 and 8.8 µs for 64 B; 21 and 15 µs for a hundred of them, where ours has
//! looked for and answered a hundred frames and tokio's side has echoed 7 KB; 62 and 92 µs for 64 KiB; 0.78 and 1.03 ms for 1 MiB; 232 and
//! 221 µs for a handshake.
//!
//! What is shown as time is the processor time of the server's only thread, not what passes: peers of both are the same, rustls over a
//! socket that blocks, and share the machine. tokio's side echoes whatever it reads; ours looks for frames. `cargo bench -p benches
//! --features tls --bench tls_vs_tokio_rustls`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpc_transport::rustls::client::Resumption;
use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::{PrivateKeyDer, ServerName};
use rpc_transport::rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use rpc_transport::{
    Cx, Frame, Handler, LengthField, LengthWidth, ListenOptions, ListenerHandle, PoolOptions, ReactorPool, TlsServer,
    Url,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Echo(LengthField);

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        self.0.write_head(frame.bytes().len(), cx.output()).expect("it was read under the same limit");
        cx.output().write_bytes(frame.to_bytes());
    }
}

/// A server with one thread, and that thread's number.
struct Server {
    name: &'static str,
    address: SocketAddr,
    thread: String,
    _ours: Option<(ReactorPool, ListenerHandle)>,
}

fn this_thread() -> String {
    let link = std::fs::read_link("/proc/thread-self").expect("a Linux");
    link.file_name().expect("the thread's number").to_string_lossy().into_owned()
}

impl Server {
    fn ours(config: ServerConfig) -> Server {
        let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() }).expect("a thread");
        let options = ListenOptions { tls: Some(TlsServer::from_rustls(config)), ..ListenOptions::default() };
        let framing = LengthField::new(LengthWidth::U32);
        let url = "tls://127.0.0.1:0".parse().expect("it is one");
        let listener = pool.listen(&url, options, move |_| (framing.clone(), Echo(framing.clone()))).expect("a port");
        let Url::Tls { port, .. } = *listener.url() else { unreachable!("it was asked for") };
        let (tell, told) = mpsc::channel();
        pool.handles()[0].run(move || tell.send(this_thread()).expect("somebody waits"));
        let (address, thread) = (([127, 0, 0, 1], port).into(), told.recv().expect("it runs"));
        Server { name: "ours", address, thread, _ours: Some((pool, listener)) }
    }

    fn tokio(config: ServerConfig) -> Server {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                tell.send((listener.local_addr().expect("bound"), this_thread())).expect("somebody waits");
                let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
                loop {
                    let (socket, _) = listener.accept().await.expect("a connection");
                    socket.set_nodelay(true).expect("TCP");
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(socket).await else { return };
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                            if stream.write_all(&buffer[..n]).await.is_err() || stream.flush().await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        });
        let (address, thread) = told.recv().expect("it runs");
        Server { name: "tokio_rustls", address, thread, _ours: None }
    }

    /// The processor time that its thread has had.
    fn spent(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).expect("a Linux");
        let first = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(first.expect("nanoseconds on a processor"))
    }

    fn peer(&self, config: &Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").expect("a name");
        let socket = TcpStream::connect(self.address).expect("it listens");
        socket.set_nodelay(true).expect("TCP");
        StreamOwned::new(ClientConnection::new(Arc::clone(config), name).expect("a client"), socket)
    }
}

fn configs() -> (ServerConfig, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    client.resumption = Resumption::disabled();
    (server.with_single_cert(vec![made.cert.der().clone()], key).expect("its own key"), Arc::new(client))
}

fn compare(c: &mut Criterion) {
    let (config, client) = configs();
    let servers = [Server::ours(config.clone()), Server::tokio(config)];
    let mut group = c.benchmark_group("tls_vs_tokio_rustls");
    //           case, frames in flight, bytes in each
    let cases = [
        ("unary_64b", 1, 64),
        ("unary_64b_x100_in_flight", 100, 64),
        ("unary_64kib", 1, 64 << 10),
        ("unary_1mib", 1, 1 << 20),
    ];
    for (case, frames, len) in cases {
        let frame = [&u32::to_be_bytes(len as u32)[..], &vec![7; len]].concat();
        let batch = frame.repeat(frames);
        group.throughput(Throughput::Elements(frames as u64));
        for server in &servers {
            let mut peer = server.peer(&client);
            let mut back = vec![0; batch.len()];
            group.bench_function(format!("{}/{case}", server.name), |b| {
                b.iter_custom(|times| {
                    let before = server.spent();
                    for _ in 0..times {
                        // In parts that cannot fill both directions: this peer does one thing at a time.
                        for (out, back) in batch.chunks(256 << 10).zip(back.chunks_mut(256 << 10)) {
                            peer.write_all(out).expect("it reads");
                            if server.name == "tokio_rustls" || batch.len() <= 256 << 10 {
                                peer.read_exact(back).expect("it answers");
                            }
                        }
                        if server.name == "ours" && batch.len() > 256 << 10 {
                            peer.read_exact(&mut back).expect("it answers when all of a frame is there");
                        }
                    }
                    let spent = server.spent() - before;
                    assert!(back == batch, "what came back is what was sent");
                    spent
                });
            });
        }
    }
    group.throughput(Throughput::Elements(1));
    for server in &servers {
        group.bench_function(format!("{}/handshake", server.name), |b| {
            b.iter_custom(|times| {
                let before = server.spent();
                for _ in 0..times {
                    let mut peer = server.peer(&client);
                    peer.write_all(&[0; 4]).expect("it reads");
                    peer.read_exact(&mut [0; 4]).expect("it answers");
                }
                server.spent() - before
            });
        });
    }
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
