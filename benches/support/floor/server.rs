//! The server of the floor.

use std::io;
use std::sync::Arc;
use std::thread;

use mio::net::{TcpListener, UnixListener};
use mio::{Events, Interest, Poll, Token};
use rpc_transport::ReactorStats;

use super::pipe::{Pipe, Socket};
use super::{Manner, Result, frames, interest};

/// Answers frames on a thread of its own; returns the address.
///
/// # Errors
/// When it cannot bind.
pub fn serve(url: &str, payload: usize, manner: Manner, stats: Arc<ReactorStats>) -> Result<String> {
    let mut poll = Poll::new()?;
    let [_, frames] = frames(payload, manner)?;
    let mut accept: Box<dyn FnMut() -> io::Result<Box<dyn Socket>> + Send>;
    let bound;
    if let Some(path) = url.strip_prefix("unix:") {
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
    let interest = interest(url);
    thread::spawn(move || -> Result<()> {
        let mut pipes: Vec<Option<Pipe>> = Vec::new();
        let mut events = Events::with_capacity(256);
        loop {
            stats.polls.add(1);
            poll.poll(&mut events, manner.wait())?;
            for event in &events {
                let Some(place) = pipes.get_mut(event.token().0) else {
                    while let Ok(mut socket) = accept() {
                        poll.registry().register(&mut *socket, Token(pipes.len()), interest)?;
                        pipes.push(Some(Pipe::new(socket, &stats, frames.clone())));
                    }
                    continue;
                };
                let Some(pipe) = place else { continue };
                pipe.writable |= event.is_writable();
                if !pipe.turn(Pipe::send).unwrap_or(false) {
                    *place = None;
                }
            }
        }
    });
    Ok(bound)
}
