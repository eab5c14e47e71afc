//! The floor F: an echo over raw sockets with the bytes, the thread layout and the batching of the RPC, and no RPC.
//!
//! Frames have the bytes that calls of `Echo` have; only their ids change, and both sides have the body at hand. A side reads,
//! handles every whole frame, and writes once; after 50 frames of a short read it writes once more, as the transport does. Large
//! bodies are not copied.

mod pipe;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bench_driver::{Caller, Counts, Part, RunArgs, Stage};
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};
use prost::Message;
use rpc_core::protocol::Form;
use rpc_core::protocol::ttheader::{ReplyHead, ReplyKind, RequestHead, RequestHeadSpec};
use rpc_transport::ReactorStats;

use self::pipe::{Pipe, Socket};
use crate::idl::testee::Blob;
use crate::{Failure, counts};

type Result<T> = std::result::Result<T, Failure>;

/// The heads of a request and of a reply, and the body both have.
fn parts(payload: usize) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let body = Blob { payload: vec![b'x'; payload].into() }.encode_to_vec();
    let (service, method) = ("Testee", "Echo");
    let spec = RequestHeadSpec {
        service,
        method,
        to_service: service,
        multiplexed: true,
        announce: true,
        ..Default::default()
    };
    let spec = RequestHeadSpec { connect_timeout_ms: Some(1000), usual_timeout_ms: 5000, ..spec };
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    RequestHead::new(&spec)?.write(&mut request, 0, Some(5000), b"", body.len())?;
    ReplyHead::new(method)?.write(&mut reply, Form::TtHeader, ReplyKind::Reply, 0, body.len(), b"")?;
    Ok((request, reply, body))
}

/// Answers frames on a thread of its own; returns the address.
///
/// # Errors
/// When it cannot bind.
pub fn serve(url: &str, payload: usize, stats: Arc<ReactorStats>) -> Result<String> {
    let mut poll = Poll::new()?;
    let unix = url.strip_prefix("unix:");
    let (request, reply, body) = parts(payload)?;
    let theirs = request.len() + body.len();
    let mut accept: Box<dyn FnMut() -> io::Result<Box<dyn Socket>> + Send>;
    let bound;
    if let Some(path) = unix {
        let mut listener = UnixListener::bind(path)?;
        poll.registry().register(&mut listener, Token(usize::MAX), Interest::READABLE)?;
        bound = url.to_owned();
        accept = Box::new(move || Ok(Box::new(listener.accept()?.0)));
    } else {
        let mut listener = TcpListener::bind(url.trim_start_matches("tcp://").parse()?)?;
        poll.registry().register(&mut listener, Token(usize::MAX), Interest::READABLE)?;
        bound = format!("tcp://{}", listener.local_addr()?);
        accept = Box::new(move || {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            Ok(Box::new(socket))
        });
    }
    let interest = if unix.is_some() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
    thread::spawn(move || -> Result<()> {
        let mut pipes: Vec<Option<Pipe>> = Vec::new();
        let mut events = Events::with_capacity(256);
        loop {
            stats.polls.add(1);
            poll.poll(&mut events, None)?;
            for event in &events {
                let Some(place) = pipes.get_mut(event.token().0) else {
                    while let Ok(mut socket) = accept() {
                        poll.registry().register(&mut *socket, Token(pipes.len()), interest)?;
                        pipes.push(Some(Pipe::new(socket, &stats, theirs, reply.clone(), body.clone())));
                    }
                    continue;
                };
                let Some(pipe) = place else { continue };
                pipe.writable |= event.is_writable();
                let goes_on = pipe.turn(|pipe, id| {
                    pipe.send(id);
                    Ok(())
                });
                if !goes_on.unwrap_or(false) {
                    *place = None;
                }
            }
        }
    });
    Ok(bound)
}

/// Keeps `in_flight` frames on their way over raw sockets, on a thread of its own.
pub struct FloorClient {
    stats: Arc<ReactorStats>,
}

impl FloorClient {
    pub(crate) fn start(args: &RunArgs, url: &str, stage: &Arc<Stage>) -> Result<FloorClient> {
        let stats = Arc::new(ReactorStats::default());
        let (request, reply, body) = parts(args.payload)?;
        let theirs = reply.len() + body.len();
        let poll = Poll::new()?;
        let mut pipes = Vec::new();
        for index in 0..args.connections {
            let interest =
                if url.starts_with("unix:") { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let mut socket: Box<dyn Socket> = match url.strip_prefix("unix:") {
                Some(path) => Box::new(UnixStream::connect(path)?),
                None => {
                    let socket = std::net::TcpStream::connect(url.trim_start_matches("tcp://"))?;
                    socket.set_nodelay(true)?;
                    socket.set_nonblocking(true)?;
                    Box::new(TcpStream::from_std(socket))
                }
            };
            poll.registry().register(&mut *socket, Token(index), interest)?;
            pipes.push(Pipe::new(socket, &stats, theirs, request.clone(), body.clone()));
        }
        let (stage, counted) = (Arc::clone(stage), Arc::clone(&stats));
        let loops = args.in_flight;
        thread::spawn(move || {
            if let Err(failure) = drive(poll, &mut pipes, loops, &stage, &counted) {
                stage.fail(failure.to_string());
            }
            (0..loops).for_each(|_| stage.end_loop());
        });
        Ok(FloorClient { stats })
    }
}

impl Caller for FloorClient {
    fn counts(&self) -> Result<Counts> {
        counts::of([&*self.stats])
    }
}

fn drive(mut poll: Poll, pipes: &mut [Pipe], loops: usize, stage: &Stage, stats: &ReactorStats) -> Result<()> {
    let mut started = vec![Instant::now(); loops];
    let mut left = stage.calls().map(|calls| calls * loops as u64);
    let mut running = loops;
    for id in 0..loops {
        pipes[id % pipes.len()].send((id as u32).to_be_bytes());
    }
    pipes.iter_mut().try_for_each(Pipe::flush)?;
    let mut events = Events::with_capacity(256);
    while running > 0 {
        stats.polls.add(1);
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        if events.is_empty() {
            return Err("no reply came for ten seconds".into());
        }
        for event in &events {
            let pipe = &mut pipes[event.token().0];
            pipe.writable |= event.is_writable();
            let open = pipe.turn(|pipe, id| {
                let start = started.get_mut(u32::from_be_bytes(id) as usize).ok_or("a reply has an unknown id")?;
                let goes_on = match &mut left {
                    Some(left) => {
                        *left -= 1;
                        *left >= loops as u64
                    }
                    None => {
                        let now = Instant::now();
                        let part = stage.part();
                        if part == Part::Measure {
                            stage.record(now - *start);
                        }
                        *start = now;
                        part != Part::Stop
                    }
                };
                if goes_on {
                    pipe.send(id);
                } else {
                    running -= 1;
                }
                Ok(())
            })?;
            if !open {
                return Err("the server closed the connection".into());
            }
        }
    }
    Ok(())
}
