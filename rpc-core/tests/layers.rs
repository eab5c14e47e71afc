//! Middleware that does not simply pass a call on: each call still ends once, and the next one is none the worse.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rpc_core::{Channel, Code, Context, Error, Middleware, Next, Payload, Result, Server, sleep};
use support::{Blob, EchoClient, EchoServer};

/// Does with a call what its payload says, at the side that it is told to act on.
struct Willful {
    side: &'static [u8],
    has_panicked: AtomicBool,
}

impl Willful {
    fn at(side: &'static [u8]) -> Self {
        Willful { side, has_panicked: AtomicBool::new(false) }
    }
}

impl Middleware for Willful {
    async fn call<N: Next>(&self, cx: &Context, req: Payload, next: N) -> Result<Payload> {
        let bytes = req.into_bytes();
        let text = bytes.get(2..).unwrap_or_default(); // after the tag and the length
        let Some(act) = text.strip_prefix(self.side) else { return next.run(cx, bytes.into()).await };
        match act {
            b"refuses" => Err(Error::new(Code::PermissionDenied, "not you")),
            b"answers" => Ok(bytes.into()),
            b"waits" => {
                sleep(Duration::from_millis(5)).await; // so that the call is a pending task
                next.run(cx, bytes.into()).await
            }
            b"forgets" => {
                next.run(cx, bytes.into()).await?;
                Err(Error::new(Code::Aborted, "forgotten"))
            }
            b"gives up" => {
                drop(next.run(cx, bytes.into()));
                Err(Error::new(Code::Cancelled, "given up"))
            }
            b"panics" if !self.has_panicked.swap(true, Ordering::Relaxed) => panic!("as it was asked to"),
            _ => Ok(Bytes::from_static(b"\xff no message").into()),
        }
    }
}

#[test]
#[rustfmt::skip]
fn middleware_may_do_as_it_likes() {
    let server = Server::builder().reactors(1).layer(Willful::at(b"server ")).add(EchoServer::new());
    let server = server.bind("tcp://127.0.0.1:0").unwrap();
    let channel = Channel::builder(server.url().to_string()).connections(1).layer(Willful::at(b"client ")).build();
    let client = EchoClient(channel.unwrap());
    let check = |payload: &'static str, expected: Result<(), Code>| {
        let got = client.blob(Blob { payload: payload.into() }).timeout(Duration::from_secs(5)).wait();
        let got = got.map(|reply| assert_eq!(reply.payload, payload)).map_err(|error| error.code());
        assert_eq!(got, expected, "{payload}");
        let after = client.blob(Blob { payload: "after".into() }).wait().expect("the next call is well");
        assert_eq!(after.payload, "after");
    };
    check("client refuses",  Err(Code::PermissionDenied));
    check("server refuses",  Err(Code::PermissionDenied));
    check("client answers",  Ok(()));
    check("server answers",  Ok(()));
    check("client waits",    Ok(()));
    check("server waits",    Ok(()));
    check("client forgets",  Err(Code::Aborted));
    check("server forgets",  Err(Code::Aborted));
    check("client gives up", Err(Code::Cancelled));
    check("server gives up", Err(Code::Cancelled));
    check("client garbles",  Err(Code::Internal));
    check("server garbles",  Err(Code::Internal));
    check("server panics",   Err(Code::Internal));
    let stats = server.stats();
    assert_eq!((stats.accepted, stats.in_flight), (stats.replied, 0));
}
