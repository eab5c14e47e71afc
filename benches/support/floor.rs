//! The floor F: an echo over raw sockets with the bytes, the thread layout and the batching of the RPC, and no RPC.
//!
//! Frames have the sizes that calls of `Echo` have; only their ids change. A side reads, handles every whole frame, and writes
//! once; after [`EARLY`] frames of a short read it writes once more, as the transport does. Large frames are not copied.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, event::Source};
use prost::Message;
use rpc_core::protocol::Form;
use rpc_core::protocol::ttheader::{ReplyHead, ReplyKind, RequestHead, RequestHeadSpec};
use rpc_transport::ReactorStats;

use crate::idl::testee::Blob;
use crate::stage::{Part, Stage};
use crate::{Failure, RunArgs};

/// Frames after which a side writes early.
const EARLY: usize = 50;
/// Bodies from this size on are gathered from where they lie.
const LARGE: usize = 8 << 10;
/// Where a frame has its id.
const ID: usize = 8;

type Result<T> = std::result::Result<T, Failure>;

trait Socket: Read + Write + Source + Send {}
impl<S: Read + Write + Source + Send> Socket for S {}

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

/// One side of a connection: frames of `theirs` bytes in, heads with an id and bodies out.
struct Pipe {
    socket: Box<dyn Socket>,
    stats: Arc<ReactorStats>,
    theirs: usize,
    input: Vec<u8>,
    filled: usize,
    head: Vec<u8>,
    body: Vec<u8>,
    /// Heads, each with its body if that is small.
    out: VecDeque<Vec<u8>>,
    /// Bytes of the first of them, and its body, that have been written.
    written: usize,
    writable: bool,
}

impl Pipe {
    fn new(socket: Box<dyn Socket>, stats: &Arc<ReactorStats>, theirs: usize, head: Vec<u8>, body: Vec<u8>) -> Pipe {
        let input = vec![0; theirs.max(64 << 10)];
        let (stats, out) = (Arc::clone(stats), VecDeque::new());
        Pipe { socket, stats, theirs, input, filled: 0, head, body, out, written: 0, writable: true }
    }

    fn send(&mut self, id: [u8; 4]) {
        let mut frame = match self.out.pop_back() {
            Some(frame) if self.body.len() < LARGE => frame,
            last => {
                self.out.extend(last);
                Vec::new()
            }
        };
        let start = frame.len();
        frame.extend_from_slice(&self.head);
        frame[start + ID..start + ID + 4].copy_from_slice(&id);
        if self.body.len() < LARGE {
            frame.extend_from_slice(&self.body);
        }
        self.out.push_back(frame);
    }

    /// Reads, and calls `on_frame` for each frame, until a read comes up short.
    fn turn(&mut self, mut on_frame: impl FnMut(&mut Pipe, [u8; 4]) -> Result<()>) -> Result<bool> {
        loop {
            // A large frame is read to its end and no further, so that the next one starts at the front.
            let room = if self.body.len() < LARGE { self.input.len() } else { self.theirs };
            let asked = room - self.filled;
            let read = match self.socket.read(&mut self.input[self.filled..room]) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.stats.empty_reads.add(1);
                    break;
                }
                Err(e) => return Err(e.into()),
            };
            self.stats.reads.add(1);
            self.filled += read;
            let (mut at, mut frames) = (0, 0);
            while self.filled - at >= self.theirs {
                let frame = &self.input[at..at + self.theirs];
                let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize + 4;
                if length != self.theirs || frame[length - 1] != self.body[self.body.len() - 1] {
                    return Err("a frame is not what was expected".into());
                }
                let id = [frame[ID], frame[ID + 1], frame[ID + 2], frame[ID + 3]];
                on_frame(self, id)?;
                at += self.theirs;
                frames += 1;
                if frames == EARLY && read < asked {
                    self.flush()?;
                }
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
            if read < asked {
                break;
            }
        }
        self.flush()?;
        Ok(true)
    }

    /// Writes what waits, as far as there is room.
    fn flush(&mut self) -> Result<()> {
        while self.writable && !self.out.is_empty() {
            let body: &[u8] = if self.body.len() < LARGE { &[] } else { &self.body };
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(32);
            for frame in self.out.iter().take(16) {
                slices.extend([IoSlice::new(frame), IoSlice::new(body)]);
            }
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, self.written);
            let offered: usize = rest.iter().map(|slice| slice.len()).sum();
            let wrote = match (body.is_empty(), self.socket.write_vectored(rest)) {
                (_, Ok(wrote)) => wrote,
                (_, Err(e)) if e.kind() == ErrorKind::WouldBlock => 0,
                (_, Err(e)) => return Err(e.into()),
            };
            self.stats.writes.add(1);
            self.writable = wrote == offered;
            self.written += wrote;
            while let Some(len) =
                self.out.front().map(|frame| frame.len() + body.len()).filter(|len| *len <= self.written)
            {
                self.written -= len;
                self.out.pop_front();
            }
        }
        Ok(())
    }
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

    /// What it has done.
    pub(crate) fn stats(&self) -> &ReactorStats {
        &self.stats
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
