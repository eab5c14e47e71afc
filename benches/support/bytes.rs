//! The transport alone: bytes there and back, without RPC. One client, on one thread, for whoever serves.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bench_driver::{Caller, Part, Report, RunArgs, Stage};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rpc_transport::{Cx, Frame, Handler, ListenOptions, ListenerHandle, ReactorPool, Unframed, Url};

use crate::Failure;
use crate::args::{BytesArgs, Speaks};

#[path = "../../examples/http_plaintext/http.rs"]
mod http;

type Result<T> = std::result::Result<T, Failure>;

/// A server from which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// Makes one measurement.
///
/// # Errors
/// When a side cannot start, or a reply is wrong.
pub fn bytes(args: &BytesArgs) -> Result<Report> {
    let run = &args.run;
    if run.connections != run.in_flight || run.calls.is_some() || run.rate.is_some() {
        return Err("bytes go there and back on each connection, one time after the other: say as many --in-flight \
                    as --connections, and neither --calls nor --rate"
            .into());
    }
    let mut server = vec!["--speaks".to_owned(), args.speaks.name()];
    if let Some(reactors) = args.server_reactors {
        server.extend(["--reactors".to_owned(), reactors.to_string()]);
    }
    bench_driver::run(run, &args.speaks.name(), &server, |url, stage| start(run, args.speaks, url, stage))
}

/// What is sent, and what is due for it.
struct Exchange {
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Exchange {
    fn new(speaks: Speaks, payload: usize) -> Exchange {
        let (request, reply) = match speaks {
            Speaks::Echo => (vec![b'x'; payload], vec![b'x'; payload]),
            Speaks::Http => (
                b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n".to_vec(),
                http::HELLO.to_vec(),
            ),
        };
        Exchange { request, reply }
    }
}

/// A connection, and how far its exchange has come.
struct Line {
    socket: TcpStream,
    sent: usize,
    got: usize,
    began: Instant,
}

impl Line {
    /// Writes what is left of the request. What does not fit waits for the socket's next event.
    fn write(&mut self, exchange: &Exchange) -> Result<()> {
        while self.sent < exchange.request.len() {
            match self.socket.write(&exchange.request[self.sent..]) {
                Ok(wrote) => self.sent += wrote,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Reads what there is. Whether the reply is whole.
    fn read(&mut self, exchange: &Exchange, room: &mut [u8]) -> Result<bool> {
        loop {
            let got = match self.socket.read(room) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(got) => got,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e.into()),
            };
            if exchange.reply.get(self.got..self.got + got) != Some(&room[..got]) {
                return Err("a reply is not what is due".into());
            }
            self.got += got;
            // A short read has emptied the socket.
            if self.got == exchange.reply.len() || got < room.len() {
                return Ok(self.got == exchange.reply.len());
            }
        }
    }
}

struct Client;

impl Caller for Client {}

fn start(run: &RunArgs, speaks: Speaks, url: &str, stage: &Arc<Stage>) -> Result<Client> {
    let (poll, mut lines) = (Poll::new()?, Vec::new());
    for index in 0..run.connections {
        let socket = std::net::TcpStream::connect(url.trim_start_matches("tcp://"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        lines.push(Line { socket, sent: 0, got: 0, began: Instant::now() });
    }
    let (exchange, stage) = (Exchange::new(speaks, run.payload), Arc::clone(stage));
    thread::spawn(move || {
        let count = lines.len();
        if let Err(failure) = drive(poll, &mut lines, &exchange, &stage) {
            stage.fail(failure.to_string());
        }
        (0..count).for_each(|_| stage.end_loop());
    });
    Ok(Client)
}

fn drive(mut poll: Poll, lines: &mut [Line], exchange: &Exchange, stage: &Stage) -> Result<()> {
    let (mut events, mut room, mut under_way) = (Events::with_capacity(256), vec![0; 64 << 10], lines.len());
    while under_way > 0 {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err("nothing came for ten seconds".into());
        }
        for event in &events {
            let line = &mut lines[event.token().0];
            line.write(exchange)?; // the first request, too: a socket is writable at first
            if !event.is_readable() || !line.read(exchange, &mut room)? {
                continue;
            }
            let now = Instant::now();
            stage.record(line.began, now);
            if stage.part() == Part::Stop {
                under_way -= 1;
                continue;
            }
            (line.began, line.sent, line.got) = (now, 0, 0);
            line.write(exchange)?;
        }
    }
    Ok(())
}

/// Serves it on the transport.
pub(crate) fn listen(pool: &ReactorPool, url: &Url, speaks: Speaks) -> Result<ListenerHandle> {
    let options = ListenOptions::default();
    Ok(match speaks {
        Speaks::Echo => pool.listen(url, options, |_| (Unframed, Echo))?,
        Speaks::Http => pool.listen(url, options, |_| (http::heads(), http::Plaintext))?,
    })
}

struct Echo;

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        cx.output().write_bytes(frame.to_bytes());
    }
}
