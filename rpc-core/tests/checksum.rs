//! Payloads with CRC-32C in their headers, on real sockets.

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::{Cause, Channel, Code, Sent, Server};
use support::{Blob, EchoClient, EchoServer, Raw, call_apart, peer, read_raw};

const LIMIT: Duration = Duration::from_secs(20);

fn call(channel: &Channel, payload: &'static [u8]) -> rpc_core::Result<Bytes> {
    call_apart(channel, payload, LIMIT).recv_timeout(2 * LIMIT).expect("an outcome")
}

/// Payloads with checksums in both directions; what was changed on the way is an error of that call, not of its connection.
#[test]
fn checksums_find_what_was_changed_on_the_way() {
    let server = Server::builder().checksum(true).reactors(1).add(EchoServer::new()).bind("tcp://127.0.0.1:0");
    let server = server.expect("bound");
    // A proxy that changes a byte of every payload that asks for it, in the direction it asks for.
    let behind = server.url().to_string();
    let url = peer(move |_, client| {
        let server = TcpStream::connect(behind.strip_prefix("tcp://").expect("TCP")).expect("it listens");
        let pump = |mut from: TcpStream, mut to: TcpStream, mark: &'static [u8]| {
            while let Some(Raw { mut frame, .. }) = read_raw(&mut from) {
                if frame.ends_with(mark) {
                    *frame.last_mut().expect("not empty") ^= 1;
                }
                if to.write_all(&frame).is_err() {
                    return;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        };
        let (from, to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
        std::thread::spawn(move || pump(from, to, b"damage request"));
        pump(server, client, b"damage reply");
    });
    let channel = Channel::builder(&url).connections(1).checksum(true).build().expect("a channel");
    assert_eq!(call(&channel, b"whole").expect("a reply"), "whole");
    let large = Bytes::from(vec![7; 300_000]);
    let echo = EchoClient(channel.clone());
    let reply = echo.blob(Blob { payload: large.clone() }).wait().expect("a reply of several blocks");
    assert_eq!(reply.payload, large);

    let error = call(&channel, b"damage request").expect_err("it was changed");
    assert_eq!((error.code(), error.sent()), (Code::DataLoss, Sent::No), "{error}");
    assert!(error.to_string().contains("its header says"), "{error}");
    assert_eq!((server.stats().glitches, channel.stats().glitches.get()), (1, 0));

    let error = call(&channel, b"damage reply").expect_err("it was changed");
    assert_eq!((error.code(), error.sent()), (Code::DataLoss, Sent::Maybe), "{error}");
    assert!(matches!(error.cause(), Cause::Corrupt(_)));
    assert_eq!((server.stats().glitches, channel.stats().glitches.get()), (1, 1));

    assert_eq!(call(&channel, b"whole").expect("a reply"), "whole");
    assert_eq!(channel.stats().connects.get(), 1, "the connection stays");

    // Who does not look does not see: without the option nothing is compared.
    let plain = Channel::builder(&url).connections(1).build().expect("a channel");
    assert_eq!(call(&plain, b"damage reply").expect("a reply"), "damage replx");
}
