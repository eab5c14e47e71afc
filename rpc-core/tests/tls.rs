//! Calls at `tls://` addresses: who is who, what a failure says, what a reload and a shutdown do.

#[path = "../../rpc-transport/tests/support/certificates.rs"]
mod certificates;
mod support;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use certificates::Authority;
use rpc_core::transport::{TlsClient, TlsServer};
use rpc_core::{Channel, ChannelBuilder, Code, Error, Sent, Server, ServerBuilder, ServerHandle};
use support::*;

fn blob(len: usize) -> Blob {
    Blob { payload: Bytes::from((0..len).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<_>>()) }
}

fn serving(authority: &Authority) -> TlsServer {
    TlsServer::builder(authority.issue("localhost").identity()).build().unwrap()
}

fn trusting(authority: &Authority) -> TlsClient {
    TlsClient::builder(authority.roots()).build().unwrap()
}

fn server(tls: TlsServer) -> ServerBuilder {
    Server::builder().reactors(2).tls(tls)
}

/// The server by name, as its certificate has it.
fn by_name(server: &ServerHandle) -> String {
    server.url().to_string().replace("127.0.0.1", "localhost")
}

fn channel(server: &ServerHandle, tls: TlsClient) -> ChannelBuilder {
    Channel::builder(by_name(server)).tls(tls).timeout(Duration::from_secs(20))
}

#[test]
fn calls_of_any_size_from_a_thread_and_from_a_reactor() {
    let authority = Authority::new("tests");
    let server = server(serving(&authority)).add(EchoServer::new()).bind("tls://127.0.0.1:0").unwrap();
    assert!(server.url().to_string().starts_with("tls://127.0.0.1:"));
    let client = EchoClient(channel(&server, trusting(&authority)).build().unwrap());
    for len in [0, 1, 1000, 16 << 10, 64 << 10, 1 << 20, 5 << 20] {
        let (sent, again) = (blob(len), EchoClient(client.0.clone()));
        assert!(client.blob(sent.clone()).wait().unwrap() == sent, "{len} bytes");
        assert!(on_reactor(&client.0, async move { again.blob(sent.clone()).await.unwrap() == sent }), "{len} bytes");
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|n| assert!(client.blob(blob(n)).wait().unwrap() == blob(n))));
        }
    });
}

#[test]
fn a_handler_sees_who_calls() {
    let authority = Authority::new("tests");
    let (tell, told) = mpsc::channel();
    let echo = EchoServer::seeing(move |cx, _| {
        let tls = cx.tls().expect("a call under TLS");
        let is = |name: &[u8]| tls.certificates()[0].windows(name.len()).any(|bytes| bytes == name);
        let who = ["anna", "berta"].into_iter().find(|name| is(name.as_bytes()));
        let peer = cx.peer().unwrap().as_str().starts_with("tls://127.0.0.1:");
        tell.send((who, tls.server_name().map(str::to_owned), tls.alpn().map(<[u8]>::to_vec), peer)).unwrap();
    });
    let tls = TlsServer::builder(authority.issue("localhost").identity());
    let tls = tls.client_roots(authority.roots()).alpn(["kitex"]).build().unwrap();
    let server = server(tls).add(echo).bind("tls://127.0.0.1:0").unwrap();
    // In turns on two connections, so that no call can have what another's left behind.
    let clients = ["anna", "berta"].map(|name| {
        let tls = TlsClient::builder(authority.roots()).identity(authority.issue(name).identity()).alpn(["kitex"]);
        (name, EchoClient(channel(&server, tls.build().unwrap()).connections(1).build().unwrap()))
    });
    for _ in 0..3 {
        for (name, client) in &clients {
            client.blob(blob(1)).wait().unwrap();
            let heard = told.recv().unwrap();
            assert_eq!(heard, (Some(*name), Some("localhost".to_owned()), Some(b"kitex".to_vec()), true));
        }
    }
}

/// They take turns, each under a session of its own.
#[test]
fn the_connections_of_a_channel_share_its_calls() {
    let authority = Authority::new("tests");
    let (tell, told) = mpsc::channel();
    let echo = EchoServer::seeing(move |cx, _| {
        assert!(cx.tls().is_some(), "a call under TLS");
        tell.send(cx.peer().unwrap().as_str().to_owned()).unwrap();
    });
    let server = server(serving(&authority)).add(echo).bind("tls://127.0.0.1:0").unwrap();
    let client = EchoClient(channel(&server, trusting(&authority)).connections(4).build().unwrap());
    for _ in 0..40 {
        client.blob(blob(1)).wait().unwrap();
    }
    let mut calls = BTreeMap::<String, usize>::new();
    told.try_iter().for_each(|peer| *calls.entry(peer).or_default() += 1);
    assert_eq!(calls.values().copied().collect::<Vec<_>>(), [10; 4]);
}

#[test]
#[rustfmt::skip]
fn a_failed_call_says_why_and_what_to_do() {
    let (authority, other) = (Authority::new("tests"), Authority::new("others"));
    let mutual = TlsServer::builder(authority.issue("localhost").identity()).client_roots(authority.roots()).build().unwrap();
    let expired = TlsServer::builder(authority.issue_for_years("localhost", 2000, 2001).identity()).build().unwrap();
    let serve = |tls| server(tls).add(EchoServer::new()).bind("tls://127.0.0.1:0").unwrap();
    let (good, mutual, expired) = (serve(serving(&authority)), serve(mutual), serve(expired));
    let plain = Server::builder().reactors(1).add(EchoServer::new()).bind("tcp://127.0.0.1:0").unwrap();
    let tls_at_plain = plain.url().to_string().replace("tcp://127.0.0.1", "tls://localhost");
    let plain_at_tls = good.url().to_string().replace("tls://", "tcp://");
    let stranger = TlsClient::builder(authority.roots()).identity(other.issue("someone").identity()).build().unwrap();
    let fails = |channel: ChannelBuilder| -> Error {
        EchoClient(channel.timeout(Duration::from_secs(20)).build().unwrap()).blob(blob(1)).wait().unwrap_err()
    };
    let check = |channel: ChannelBuilder, sent: Sent, words: &[&str]| {
        let error = fails(channel);
        let text = error.to_string();
        assert_eq!((error.code(), error.sent()), (Code::Unavailable, sent), "{text}");
        assert!(words.iter().all(|words| text.contains(words)), "{text}");
    };
    let by_address = Channel::builder(good.url().to_string()).tls(trusting(&authority));
    //    the client                                                     the call      says
    check(channel(&good, trusting(&other)),                              Sent::No,     &["issued by nobody known", "add its CA"]);
    check(by_address,                                                    Sent::No,     &["is for another name", "set the server name"]);
    check(channel(&expired, trusting(&authority)),                       Sent::No,     &["has expired", "renew it"]);
    check(channel(&mutual, trusting(&authority)),                        Sent::No,     &["does not accept this side's certificate", "CertificateRequired"]);
    check(channel(&mutual, stranger),                                    Sent::No,     &["does not accept this side's certificate", "give this side one"]);
    check(Channel::builder(tls_at_plain).tls(trusting(&authority)),      Sent::No,     &["it may speak plain text"]);
    check(Channel::builder(plain_at_tls),                                Sent::Maybe,  &["looks like a TLS alert", "tls://"]);
}

#[test]
#[rustfmt::skip]
fn what_is_not_said_twice_is_refused() {
    let authority = Authority::new("tests");
    let check = |got: rpc_core::Result<()>, words: &str| {
        let text = got.expect_err("refused").to_string();
        assert!(text.contains(words), "{text}");
    };
    let tls = || serving(&authority);
    check(Server::builder().add(EchoServer::new()).bind("tls://127.0.0.1:0").map(drop),           "set `tls` of the builder");
    check(server(tls()).add(EchoServer::new()).bind("tcp://127.0.0.1:0").map(drop),               "nothing would be encrypted");
    check(Channel::connect("tls://localhost:1").map(drop),                                        "set `tls` of Channel::builder");
    check(Channel::builder("tcp://localhost:1").tls(trusting(&authority)).build().map(drop),      "nothing would be encrypted");
}

#[test]
fn one_server_has_addresses_with_and_without() {
    let authority = Authority::new("tests");
    let server = server(serving(&authority)).add(EchoServer::new());
    let server = server.bind_all(["tls://127.0.0.1:0", "tcp://127.0.0.1:0"]).unwrap();
    let [secure, plain] = server.urls().iter().map(ToString::to_string).collect::<Vec<_>>().try_into().unwrap();
    let secure = Channel::builder(secure.replace("127.0.0.1", "localhost")).tls(trusting(&authority)).build().unwrap();
    for channel in [secure, Channel::connect(plain).unwrap()] {
        assert_eq!(EchoClient(channel).blob(blob(10)).wait().unwrap(), blob(10));
    }
}

#[test]
fn a_renewed_certificate_is_for_new_connections() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let tls = serving(&old);
    let server = server(tls.clone()).add(EchoServer::new()).bind("tls://127.0.0.1:0").unwrap();
    let [before, late] =
        [&old, &old].map(|roots| EchoClient(channel(&server, trusting(roots)).connections(1).build().unwrap()));
    before.blob(blob(1)).wait().unwrap();
    tls.reload(&serving(&new));
    before.blob(blob(1)).wait().unwrap();
    assert!(late.blob(blob(1)).wait().unwrap_err().to_string().contains("issued by nobody known"));
    let after = EchoClient(channel(&server, trusting(&new)).build().unwrap());
    after.blob(blob(1)).wait().unwrap();
}

/// A shutdown waits for calls, and not for who has never finished a handshake.
#[test]
fn a_shutdown_does_not_wait_for_handshakes() {
    let authority = Authority::new("tests");
    let server = server(serving(&authority)).set("handshake_timeout", "10min").set("shutdown_grace", "10min");
    let server = server.add(EchoServer::new()).bind("tls://127.0.0.1:0").unwrap();
    let address = server.url().to_string().replace("tls://", "");
    let half_open = TcpStream::connect(address).unwrap();
    let client = EchoClient(channel(&server, trusting(&authority)).build().unwrap());
    client.blob(blob(1)).wait().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(server.shutdown().cut_connections == 0));
    assert!(told.recv_timeout(Duration::from_secs(20)).expect("the shutdown is over"));
    drop(half_open);
}
