//! The client of the floor: all loops on one thread.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bench_driver::{Caller, Counts, Part, RunArgs, Stage};
use mio::net::{TcpStream, UnixStream};
use mio::{Events, Poll, Token};
use rpc_transport::ReactorStats;

use super::due::Due;
use super::pipe::{Frames, Pipe, Socket};
use super::{Manner, Result, SILENCE, frames, interest};
use crate::counts;

/// Whose event says that a call is due.
const DUE: Token = Token(usize::MAX);

/// Keeps `in_flight` frames on their way over raw sockets, on a thread of its own.
pub struct FloorClient {
    stats: Arc<ReactorStats>,
}

impl FloorClient {
    pub(crate) fn start(args: &RunArgs, manner: Manner, url: &str, stage: &Arc<Stage>) -> Result<FloorClient> {
        let stats = Arc::new(ReactorStats::default());
        let [frames, _] = frames(args.payload, manner)?;
        let poll = Poll::new()?;
        let mut pipes = Vec::new();
        for index in 0..args.connections {
            let mut pipe = connect(url, &stats, frames.clone())?;
            poll.registry().register(&mut *pipe.socket, Token(index), interest(url))?;
            pipes.push(pipe);
        }
        let loops = Loops {
            due: Due::new(mio::Waker::new(poll.registry(), DUE)?, stage),
            started: vec![Instant::now(); args.in_flight],
            left: stage.calls().map(|calls| calls * args.in_flight as u64),
            idle: (0..args.in_flight as u32).collect(),
            stage: Arc::clone(stage),
        };
        let (counted, stage) = (Arc::clone(&stats), Arc::clone(stage));
        thread::spawn(move || {
            let count = loops.started.len();
            if let Err(failure) = drive(poll, &mut pipes, loops, &counted, manner) {
                stage.fail(failure.to_string());
            }
            (0..count).for_each(|_| stage.end_loop());
        });
        Ok(FloorClient { stats })
    }
}

impl Caller for FloorClient {
    fn counts(&self) -> Result<Counts> {
        counts::of([&*self.stats])
    }
}

pub(super) fn connect(url: &str, stats: &Arc<ReactorStats>, frames: Frames) -> Result<Pipe> {
    let socket: Box<dyn Socket> = match url.strip_prefix("unix:") {
        Some(path) => Box::new(UnixStream::connect(path)?),
        None => {
            let socket = std::net::TcpStream::connect(url.trim_start_matches("tcp://"))?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            Box::new(TcpStream::from_std(socket))
        }
    };
    Ok(Pipe::new(socket, stats, frames))
}

/// The calls, by their ids.
struct Loops {
    /// When each began, or was due.
    started: Vec<Instant>,
    /// Calls to make, if they are counted.
    left: Option<u64>,
    /// Without a call under way.
    idle: Vec<u32>,
    due: Due,
    stage: Arc<Stage>,
}

impl Loops {
    /// Begins what can begin now.
    fn begin(&mut self, pipes: &mut [Pipe]) -> Result<()> {
        while let Some(id) = self.idle.last().copied() {
            if self.stage.is_open() {
                let Some(due) = self.due.next(&self.stage) else { break };
                self.started[id as usize] = due;
            }
            self.idle.pop();
            pipes[id as usize % pipes.len()].send(id.to_be_bytes())?;
        }
        pipes.iter_mut().try_for_each(Pipe::flush)
    }

    /// A call has ended; whether its loop makes the next one at once.
    fn ended(&mut self, id: [u8; 4]) -> Result<bool> {
        let id = u32::from_be_bytes(id);
        let start = self.started.get_mut(id as usize).ok_or("a reply has an unknown id")?;
        if let Some(left) = &mut self.left {
            *left -= 1;
            return Ok(*left >= self.started.len() as u64);
        }
        let now = Instant::now();
        self.stage.record(*start, now);
        *start = now;
        let goes_on = !self.stage.is_open() && self.stage.part() != Part::Stop;
        if !goes_on {
            self.idle.push(id);
        }
        Ok(goes_on)
    }

    fn all_have_ended(&self) -> bool {
        match self.left {
            Some(left) => left == 0,
            None => self.idle.len() == self.started.len() && self.stage.part() == Part::Stop && self.due.are_over(),
        }
    }
}

fn drive(mut poll: Poll, pipes: &mut [Pipe], mut loops: Loops, stats: &ReactorStats, manner: Manner) -> Result<()> {
    loops.begin(pipes)?;
    let mut events = Events::with_capacity(256);
    let mut heard = Instant::now();
    while !loops.all_have_ended() {
        stats.polls.add(1);
        poll.poll(&mut events, manner.wait())?;
        if events.is_empty() {
            if heard.elapsed() >= SILENCE {
                return Err("no reply came for ten seconds".into());
            }
            continue;
        }
        heard = Instant::now();
        for event in &events {
            let Some(pipe) = pipes.get_mut(event.token().0) else { continue };
            pipe.writable |= event.is_writable();
            let open = pipe.turn(|pipe, id| if loops.ended(id)? { pipe.send(id) } else { Ok(()) })?;
            if !open {
                return Err("the server closed the connection".into());
            }
        }
        if loops.stage.is_open() {
            loops.begin(pipes)?;
        }
    }
    Ok(())
}
