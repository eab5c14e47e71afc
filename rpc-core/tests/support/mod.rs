//! An echo service as the generator would write it, by hand: these tests need no build step.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rpc_core::codegen::{Blocking, MethodDescriptor, Methods, Service, ServiceDescriptor};
use rpc_core::protocol::ttheader::{CONFIRMATION, ControlFrame, ReplyInfo, TtFrame, write_frame_head};
use rpc_core::protocol::{MessageType, Payload};
use rpc_core::{Call, Channel, Code, Context, HeaderLimits, Middleware, Result, Server, ServerHandle};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Blob {
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
}

/// A `bytes` field inside a message inside a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Nested {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<Item>,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(message, optional, tag = "2")]
    pub blob: Option<Blob>,
}

pub static ECHO: ServiceDescriptor = ServiceDescriptor::new("test", "Echo", &[&ECHO_BLOB, &ECHO_NESTED]);
pub static ECHO_BLOB: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Blob");
pub static ECHO_NESTED: MethodDescriptor = MethodDescriptor::new("test", "Echo", "Nested");

pub type OnBlob = Box<dyn Fn(&Context, &Blob) + Send + Sync>;

/// Answers with what it got; `seen` looks at each request first.
pub struct EchoServer {
    pub seen: Arc<OnBlob>,
    pub blocking: Blocking,
}

impl EchoServer {
    pub fn new() -> Self {
        EchoServer::seeing(|_, _| {})
    }

    pub fn seeing(seen: impl Fn(&Context, &Blob) + Send + Sync + 'static) -> Self {
        EchoServer { seen: Arc::new(Box::new(seen)), blocking: Blocking::default() }
    }
}

impl Service for EchoServer {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        methods.unary(&ECHO_BLOB, Arc::clone(&self.seen), |seen: Arc<OnBlob>, cx: Context, req: Blob| async move {
            seen(&cx, &req);
            (seen, cx, Ok(req))
        });
        methods.unary(&ECHO_NESTED, self.seen, |seen: Arc<OnBlob>, cx: Context, req: Nested| async move {
            (seen, cx, Ok(req))
        });
    }
}

pub struct EchoClient<M = ()>(pub Channel<M>);

impl<M: Middleware> EchoClient<M> {
    pub fn blob(&self, req: Blob) -> Call<'_, M, Blob, Blob> {
        self.0.unary(&ECHO_BLOB, req)
    }

    pub fn nested(&self, req: Nested) -> Call<'_, M, Nested, Nested> {
        self.0.unary(&ECHO_NESTED, req)
    }
}

/// Runs a future on a channel's reactor and waits for it.
pub fn on_reactor<T: Send + 'static>(
    channel: &Channel<impl Middleware>,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (tell, hear) = std::sync::mpsc::channel();
    let reactor = channel.reactors().next().expect("it has one").clone();
    reactor.spawn(async move {
        let _ = tell.send(future.await);
    });
    hear.recv_timeout(std::time::Duration::from_secs(60)).expect("the reactor answers")
}

pub type Answer = Pin<Box<dyn Future<Output = (Context, Result<Blob>)> + Send>>;
pub type OnCall = Box<dyn Fn(Context, Blob) -> Answer + Send + Sync>;

/// Answers what a closure makes of each call; under the name of [`EchoServer`]'s first method.
pub struct AnyServer {
    pub handler: Arc<OnCall>,
    pub blocking: Blocking,
}

impl AnyServer {
    pub fn new<F>(handler: impl Fn(Context, Blob) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = (Context, Result<Blob>)> + Send + 'static,
    {
        let handler: OnCall = Box::new(move |cx, req| Box::pin(handler(cx, req)));
        AnyServer { handler: Arc::new(handler), blocking: Blocking::default() }
    }
}

impl Service for AnyServer {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &ECHO
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        methods.unary(
            &ECHO_BLOB,
            Arc::clone(&self.handler),
            |handler: Arc<OnCall>, cx: Context, req: Blob| async move {
                let (cx, result) = handler(cx, req).await;
                (handler, cx, result)
            },
        );
        methods.unary(
            &ECHO_NESTED,
            Arc::new(()),
            |service, cx: Context, _: Nested| async move { (service, cx, Ok(Bomb)) },
        );
    }
}

/// A message that cannot be encoded: it panics.
#[derive(Debug, Default)]
pub struct Bomb;

impl prost::Message for Bomb {
    fn encode_raw(&self, _: &mut impl bytes::BufMut) {
        panic!("a bomb, as it was asked for");
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> std::result::Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        1
    }

    fn clear(&mut self) {}
}

/// A peer written by hand: `serve` gets each connection, on a thread of its own.
pub fn peer(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("tcp://{}", listener.local_addr().expect("bound"));
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for (n, socket) in listener.incoming().flatten().enumerate() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(n, socket));
        }
    });
    url
}

/// One frame as it came, and what it says; `None` at the end of the stream.
pub struct Raw {
    pub frame: Vec<u8>,
    pub seq: i32,
    pub kind: Option<MessageType>,
    pub body: Vec<u8>,
}

pub fn read_raw(socket: &mut TcpStream) -> Option<Raw> {
    let mut frame = vec![0; 4];
    socket.read_exact(&mut frame).ok()?;
    frame.resize(4 + u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize, 0);
    socket.read_exact(&mut frame[4..]).ok()?;
    let tt = TtFrame::decode(&frame).expect("a TTHeader");
    let payload = Payload::decode(tt.payload).ok();
    let (kind, body) = payload.map_or((None, Vec::new()), |p| (Some(p.kind), p.body.to_vec()));
    Some(Raw { seq: tt.seq, kind, body, frame })
}

/// The payload of a raw [`Blob`].
pub fn blob(body: &[u8]) -> Vec<u8> {
    <Blob as prost::Message>::decode(body).expect("a blob").payload.to_vec()
}

/// A reply to a call of [`ECHO_BLOB`].
pub fn raw_reply(seq: i32, body: &[u8]) -> Vec<u8> {
    raw_frame(0, seq, MessageType::Reply, body)
}

/// A request of a multiplexing client.
pub fn raw_request(seq: i32, payload: &[u8]) -> Vec<u8> {
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::copy_from_slice(payload) });
    raw_frame(1, seq, MessageType::Call, &body)
}

/// A request of a client that awaits replies in order.
pub fn ordered_request(seq: i32, payload: &'static [u8]) -> Vec<u8> {
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(payload) });
    raw_frame(0, seq, MessageType::Call, &body)
}

/// A message to which no reply is wanted.
pub fn oneway(seq: i32, payload: &'static [u8]) -> Vec<u8> {
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(payload) });
    raw_frame(0, seq, MessageType::Oneway, &body)
}

/// A message with this body, of the method Blob.
pub fn raw_frame(flags: u16, seq: i32, kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame_head(&mut out, flags, seq, [b"", b""], kind, b"Blob", body.len()).expect("short");
    out.extend(body);
    out
}

/// A request of a multiplexing client that knows control frames.
pub fn announcing_request(seq: i32, payload: &'static [u8]) -> Vec<u8> {
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(payload) });
    let mut out = Vec::new();
    let announcement = b"\x10\0\x01\x79\x19\0\x011"; // 31001 = 1
    write_frame_head(&mut out, 1, seq, [announcement, b""], MessageType::Call, b"Blob", body.len()).expect("short");
    out.extend(body);
    out
}

/// A reply to a call of [`ECHO_BLOB`] which says that its server knows control frames.
pub fn confirming_reply(seq: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame_head(&mut out, 0, seq, [CONFIRMATION, b""], MessageType::Reply, b"Blob", body.len()).expect("short");
    out.extend(body);
    out
}

/// A control frame as its bytes.
pub fn control(frame: ControlFrame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

impl Raw {
    /// What it says, if it is a control frame.
    pub fn control(&self) -> Option<ControlFrame<'_>> {
        let tt = TtFrame::decode(&self.frame).expect("a TTHeader");
        if tt.seq == 0 { ControlFrame::decode(&tt).expect("well-formed") } else { None }
    }

    /// What its header says.
    pub fn info(&self) -> ReplyInfo {
        let tt = TtFrame::decode(&self.frame).expect("a TTHeader");
        ReplyInfo::parse(tt.info, &HeaderLimits::default()).expect("well-formed")
    }
}

/// "Connection will be closed."
pub const GOODBYE: &[u8] = b"\0\0\0\x2b\x10\0\0\0\0\0\0\0\0\x04\0\0\x01\0\x01\0\x05crrst\0\x011\0\
    \x80\x01\0\x02\0\0\0\x04none\0\0\0\0\0";

/// Makes a call on a thread of its own; the outcome comes through the channel.
pub fn call_apart(channel: &Channel, payload: &'static [u8], timeout: Duration) -> Receiver<Result<Bytes>> {
    let (tell, hear) = std::sync::mpsc::channel();
    let client = EchoClient(channel.clone());
    std::thread::spawn(move || {
        let call = client.blob(Blob { payload: Bytes::from_static(payload) }).timeout(timeout);
        let _ = tell.send(call.wait().map(|reply| reply.payload));
    });
    hear
}

/// No wait of a test is longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A socket of a client written by hand.
pub fn dial(server: &ServerHandle) -> TcpStream {
    let url = server.url().to_string();
    let socket = TcpStream::connect(url.strip_prefix("tcp://").expect("TCP")).expect("it listens");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

/// A connection on which both sides know control frames.
pub fn negotiated(server: &ServerHandle) -> TcpStream {
    let mut socket = dial(server);
    socket.write_all(&announcing_request(1, b"first")).expect("it reads");
    let reply = read_raw(&mut socket).expect("a reply");
    assert_eq!((reply.seq, reply.info().capabilities), (1, Some(1)), "the first reply confirms");
    socket
}

/// A server on one reactor, with limits by name.
pub fn bind(service: AnyServer, set: &[(&str, &str)]) -> ServerHandle {
    let builder = set.iter().fold(Server::builder().reactors(1), |builder, (name, value)| builder.set(name, value));
    builder.add(service).bind("tcp://127.0.0.1:0").expect("bound")
}

/// Whether it becomes true in time.
pub fn eventually(mut ask: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + LIMIT;
    while !ask() {
        if Instant::now() > until {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The code of an exception.
pub fn code_of(raw: &Raw) -> Option<Code> {
    (raw.kind == Some(MessageType::Exception)).then(|| raw.info().code).flatten()
}

/// A request to wait, with a deadline. With flag 1 it is of a client that multiplexes and knows control frames.
pub fn with_timeout(flags: u16, kind: MessageType, seq: i32, ms: &[u8]) -> Vec<u8> {
    let body = prost::Message::encode_to_vec(&Blob { payload: Bytes::from_static(b"waits") });
    let mut ints = b"\x10\0\x02\x79\x19\0\x011\0\x0c\0".to_vec(); // 31001 = 1, 12 = ms
    ints.push(ms.len() as u8);
    ints.extend_from_slice(ms);
    let mut out = Vec::new();
    write_frame_head(&mut out, flags, seq, [&ints, b""], kind, b"Blob", body.len()).expect("short");
    out.extend(body);
    out
}
