//! What the tests on real sockets share: a handler made of closures, and waiting with a deadline.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::any::Any;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rpc_transport::{
    Accepted, CloseReason, ConnId, ConnRef, Connector, Cx, Frame, Handler, LengthField, LengthWidth, ListenOptions,
    ListenerHandle, NotWritten, PoolOptions, ReactorHandle, ReactorPool, Url,
};

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn framing() -> LengthField {
    LengthField::new(LengthWidth::U32)
}

pub fn pool(reactors: usize) -> ReactorPool {
    ReactorPool::start(PoolOptions { reactors, name: "test".to_owned(), ..PoolOptions::default() }).unwrap()
}

pub fn leadable() -> ReactorPool {
    ReactorPool::start(PoolOptions {
        reactors: 1,
        name: "test".to_owned(),
        callers_may_lead: true,
        ..PoolOptions::default()
    })
    .unwrap()
}

/// `bytes` as a frame on the wire.
pub fn wire(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

pub fn reply(cx: &mut Cx<'_>, bytes: &[u8]) {
    cx.output().write_bytes(wire(bytes).into());
}

type OnCx<A> = Box<dyn FnMut(&mut Cx<'_>, A) + Send>;
type OnFrame = Box<dyn FnMut(&mut Cx<'_>, Frame<'_>) + Send>;
type OnEof = Box<dyn FnMut(&mut Cx<'_>) -> bool + Send>;
type OnClose = Box<dyn FnMut(&mut Cx<'_>, &CloseReason) + Send>;

/// A handler made of closures; without any it echoes.
#[derive(Default)]
pub struct Script {
    pub on_open: Option<OnCx<()>>,
    pub on_frame: Option<OnFrame>,
    pub on_message: Option<OnCx<Arc<dyn Any + Send + Sync>>>,
    pub on_deadline: Option<OnCx<u64>>,
    pub on_eof: Option<OnEof>,
    pub on_close: Option<OnClose>,
}

impl Script {
    pub fn new() -> Self {
        Script::default()
    }

    pub fn open(mut self, mut f: impl FnMut(&mut Cx<'_>) + Send + 'static) -> Self {
        self.on_open = Some(Box::new(move |cx, ()| f(cx)));
        self
    }

    pub fn frame(mut self, f: impl FnMut(&mut Cx<'_>, Frame<'_>) + Send + 'static) -> Self {
        self.on_frame = Some(Box::new(f));
        self
    }

    pub fn message(mut self, f: impl FnMut(&mut Cx<'_>, Arc<dyn Any + Send + Sync>) + Send + 'static) -> Self {
        self.on_message = Some(Box::new(f));
        self
    }

    pub fn deadline(mut self, f: impl FnMut(&mut Cx<'_>, u64) + Send + 'static) -> Self {
        self.on_deadline = Some(Box::new(f));
        self
    }

    pub fn eof(mut self, f: impl FnMut(&mut Cx<'_>) -> bool + Send + 'static) -> Self {
        self.on_eof = Some(Box::new(f));
        self
    }

    pub fn close(mut self, f: impl FnMut(&mut Cx<'_>, &CloseReason) + Send + 'static) -> Self {
        self.on_close = Some(Box::new(f));
        self
    }

    /// Tells every frame and the end, as text.
    pub fn told_to(self, tell: Sender<String>) -> Self {
        let end = tell.clone();
        self.frame(move |_, frame| tell.send(String::from_utf8_lossy(frame.bytes()).into_owned()).unwrap_or(()))
            .close(move |_, reason| end.send(format!("closed: {reason}")).unwrap_or(()))
    }

    /// Tells the end, as text.
    pub fn end_to(self, tell: Sender<String>) -> Self {
        self.close(move |_, reason| tell.send(reason.to_string()).unwrap_or(()))
    }
}

impl Handler for Script {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        if let Some(f) = &mut self.on_open {
            f(cx, ());
        }
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        match &mut self.on_frame {
            Some(f) => f(cx, frame),
            None => {
                framing().max_frame_size(u32::MAX).write_head(frame.bytes().len(), cx.output()).unwrap();
                cx.output().write_bytes(frame.to_bytes());
            }
        }
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        if let Some(f) = &mut self.on_message {
            f(cx, message);
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        if let Some(f) = &mut self.on_deadline {
            f(cx, key);
        }
    }

    fn on_eof(&mut self, cx: &mut Cx<'_>) -> bool {
        self.on_eof.as_mut().is_some_and(|f| f(cx))
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        if let Some(f) = &mut self.on_close {
            f(cx, reason);
        }
    }
}

pub fn listen(
    pool: &ReactorPool,
    url: &str,
    options: ListenOptions,
    make: impl Fn(&Accepted<'_>) -> Script + Send + Sync + 'static,
) -> ListenerHandle {
    pool.listen(&url.parse().unwrap(), options, move |accepted| (framing(), make(accepted))).unwrap()
}

/// A listener on a TCP port of its own.
pub fn serve(pool: &ReactorPool, make: impl Fn(&Accepted<'_>) -> Script + Send + Sync + 'static) -> ListenerHandle {
    listen(pool, "tcp://127.0.0.1:0", ListenOptions::default(), make)
}

/// A path for a Unix socket that no other test uses.
pub fn unix_url(name: &str) -> (std::path::PathBuf, String) {
    let path = std::env::temp_dir().join(format!("rpc-{name}-{}.sock", std::process::id()));
    let url = format!("unix:{}", path.display());
    (path, url)
}

/// A blocking socket, for peers that behave as the test wants.
pub fn dial(listener: &ListenerHandle) -> TcpStream {
    let (Url::Tcp { host, port } | Url::Tls { host, port }) = listener.url() else { panic!("not TCP") };
    let socket = TcpStream::connect((host.as_str(), *port)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket
}

pub fn dial_unix(path: &std::path::Path) -> UnixStream {
    let socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

pub fn read_frame(socket: &mut impl Read) -> Vec<u8> {
    let mut len = [0; 4];
    socket.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    socket.read_exact(&mut frame).unwrap();
    frame
}

pub fn call(socket: &mut (impl Read + Write), bytes: &[u8]) -> Vec<u8> {
    socket.write_all(&wire(bytes)).unwrap();
    read_frame(socket)
}

/// Connects from a reactor; returns the connection's id.
pub fn connect(reactor: &ReactorHandle, url: &Url, connector: Connector, handler: Script) -> ConnId {
    let endpoint = url.resolve().unwrap().remove(0);
    on(reactor, move || connector.connect(&endpoint, framing(), handler).unwrap())
}

/// Writes a frame to a connection, from this thread; what is heard says whether it was written.
pub fn write(conn: &ConnRef, bytes: &[u8]) -> Receiver<Result<(), NotWritten>> {
    let (tell, told) = mpsc::channel();
    conn.write(wire(bytes).into(), move |result| tell.send(result).unwrap_or(()));
    told
}

/// Runs `f` on a reactor and returns what it returns.
pub fn on<T: Send + 'static>(reactor: &ReactorHandle, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, hear) = mpsc::channel();
    reactor.run(move || tell.send(f()).unwrap_or(()));
    hear.recv_timeout(DEADLINE).expect("the reactor did not come to it")
}

/// Holds a reactor until what this gives is dropped. It stands still when this returns, and has events of nothing that happens from then on:
/// of what happened while it was on its way here it would have some, and not others.
pub fn hold(reactor: &ReactorHandle) -> mpsc::Sender<()> {
    let (go, gate) = mpsc::channel();
    let (tell, stands) = mpsc::channel();
    reactor.run(move || {
        tell.send(()).unwrap_or(());
        _ = gate.recv_timeout(DEADLINE);
    });
    hear(&stands);
    go
}

#[track_caller]
pub fn hear<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(DEADLINE).expect("nothing was heard within the deadline")
}

/// Waits until a condition holds that nothing announces, such as a counter's value.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within the deadline: {what}");
        std::thread::sleep(Duration::from_millis(1)); // between questions: nothing depends on its length
    }
}

pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count())
}

/// Runs one test of this binary in a process of its own, where it finds `CHILD` set.
pub fn in_a_process_of_its_own(test: &str, before: &[&str]) -> bool {
    if std::env::var_os("CHILD").is_some() {
        return true;
    }
    let me = std::env::current_exe().unwrap();
    let mut command = match before.split_first() {
        Some((program, args)) => {
            let mut command = std::process::Command::new(program);
            command.args(args).arg(me);
            command
        }
        None => std::process::Command::new(me),
    };
    let status = command.args(["--exact", test, "--nocapture"]).env("CHILD", "1").status().unwrap();
    assert!(status.success(), "{test} failed in its own process");
    false
}
