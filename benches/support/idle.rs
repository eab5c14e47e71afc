//! A fleet of idle connections: what taking them in costs, what each of them keeps, and how often they wake their server.
//!
//! The server and its clients are a process each, so that each has descriptors for all of them. Idle connections cost nothing but memory:
//! a wake-up a second, or less, is what is to be expected, and some 600 bytes each.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_driver::Counts;
use rpc_core::Server;
use rpc_transport::{
    Cx, Frame, Handler, LengthField, LengthWidth, ListenOptions, PoolOptions, ReactorHandle, ReactorPool,
    SnapshotOptions,
};
use serde_json::{Value, json};

use crate::args::IdleArgs;
use crate::idl::testee::TesteeServer;
use crate::server::Service;
use crate::{Failure, floor};

/// Connections made at a time, fewer than a listener's queue holds; and those before memory is looked at first, so that what they differ
/// by from all of them has no start-up in it.
const BATCH: usize = 500;

/// Bytes of what is said once on each connection.
const PAYLOAD: usize = 32;

const PLAIN: &str = "tcp://127.0.0.1:0";

/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures, and prints the result as markdown; or is the server of another process that does.
///
/// # Errors
/// When there are not enough descriptors or ports, or the server ends.
pub fn idle(args: &IdleArgs) -> Result<(), Failure> {
    if args.serve { serve(args) } else { measure(args) }
}

struct Echo(LengthField);

impl Handler for Echo {
    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let output = cx.output();
        self.0.write_head(frame.bytes().len(), output).expect("it was read under the same limit");
        output.write_bytes(frame.to_bytes());
    }
}

fn serve(args: &IdleArgs) -> Result<(), Failure> {
    let pool = Arc::new(ReactorPool::start(PoolOptions { reactors: args.reactors, ..PoolOptions::default() })?);
    let mut options = ListenOptions::default();
    let (url, certificate) = secured(args, &mut options)?;
    let (mut server, mut listener) = (None, None);
    if args.rpc {
        let builder = Server::builder().pool(Arc::clone(&pool)).set("max_connections", "1000000");
        server = Some(builder.set("max_connections_per_peer", "1000000").add(TesteeServer::new(Service)).bind(url)?);
    } else {
        options.listen.max_connections = 1_000_000;
        options.listen.max_connections_per_peer = 1_000_000;
        let framing = LengthField::new(LengthWidth::U32);
        let echo = move |_: &rpc_transport::Accepted<'_>| (framing.clone(), Echo(framing.clone()));
        listener = Some(pool.listen(&url.parse()?, options, echo)?);
    }
    let bound = server.as_ref().map(|server| server.url()).or_else(|| listener.as_ref().map(|l| l.url().clone()));
    println!("{}", bound.ok_or("nobody listens")?);
    println!("{}", json!(certificate));
    for line in io::stdin().lines() {
        let counts = Counts::now(None)?;
        let sum = |f: fn(&ReactorHandle) -> u64| pool.handles().iter().map(f).sum::<u64>();
        let mut said = json!({
            "connections": sum(|reactor| reactor.stats().connections.get()),
            "polls": sum(|reactor| reactor.stats().polls.get()),
            "cpu_us": counts.cpu_us,
            "rss_kib": counts.rss_kib,
            "switches": switches(),
        });
        if line? == "snapshot" {
            let begun = Instant::now();
            let snapshot = pool.snapshot(&SnapshotOptions { timeout: PATIENCE, ..SnapshotOptions::default() });
            said["snapshot_us"] = json!(begun.elapsed().as_micros() as u64);
            let held = Counts::now(None)?.cpu_us - counts.cpu_us;
            said["snapshot_cpu_us"] = json!(held);
            said["shown"] = json!(snapshot.to_string().lines().count());
        }
        println!("{said}");
    }
    Ok(())
}

/// Where to listen, and the certificate that clients are to trust, if there is one.
#[cfg(feature = "tls")]
fn secured(args: &IdleArgs, options: &mut ListenOptions) -> Result<(&'static str, String), Failure> {
    if !args.tls {
        return Ok((PLAIN, String::new()));
    }
    let (tls, certificate) = super::idle_tls::server()?;
    options.tls = Some(tls);
    Ok(("tls://127.0.0.1:0", certificate))
}

#[cfg(not(feature = "tls"))]
fn secured(_: &IdleArgs, _: &mut ListenOptions) -> Result<(&'static str, String), Failure> {
    Ok((PLAIN, String::new()))
}

/// How often a thread of this process has gone to sleep by itself, but for the first, which waits for questions.
fn switches() -> u64 {
    let me = std::process::id().to_string();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let others = threads.filter(|thread| thread.file_name() != *me);
    let of = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    others.filter_map(of).sum()
}

struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// It, where it listens, and whom to trust.
    fn start(args: &IdleArgs) -> Result<(Peer, String, String), Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["idle", "--serve", "--reactors", &args.reactors.to_string()]);
        command.args(args.rpc.then_some("--rpc"));
        #[cfg(feature = "tls")]
        command.args(args.tls.then_some("--tls"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the server's pipes are missing".into());
        };
        let mut peer = Peer { child, input, output: BufReader::new(output) };
        let url = peer.line()?;
        let (_, address) = url.split_once("://").ok_or_else(|| format!("the server said {url:?}"))?;
        let certificate = serde_json::from_str(&peer.line()?)?;
        Ok((peer, address.to_owned(), certificate))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("the server ended early".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn ask(&mut self, question: &str) -> Result<Value, Failure> {
        writeln!(self.input, "{question}")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // its connections are its to close
        let _ = self.child.wait();
    }
}

fn number(said: &Value, name: &str) -> Result<u64, Failure> {
    said[name].as_u64().ok_or_else(|| format!("the server did not say {name}: {said}").into())
}

/// The clients.
struct Fleet {
    address: String,
    request: Vec<u8>,
    #[cfg(feature = "tls")]
    tls: Option<super::idle_tls::Client>,
    sockets: Vec<TcpStream>,
    /// From the first connect of a batch until the server has all of it.
    connecting: Duration,
}

impl Fleet {
    /// Connects more, waits until the server has them, and makes a call on each.
    fn grow_to(&mut self, server: &mut Peer, most: usize) -> Result<(), Failure> {
        let (begun, before) = (Instant::now(), self.sockets.len());
        while self.sockets.len() < most {
            let socket = TcpStream::connect(&self.address);
            self.sockets.push(socket.map_err(|e| format!("connection {}: {e}", self.sockets.len()))?);
        }
        while number(&server.ask("")?, "connections")? < most as u64 {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the server has only {} connections", server.ask("")?["connections"]).into());
            }
        }
        self.connecting += begun.elapsed();
        for socket in &mut self.sockets[before..] {
            #[cfg(feature = "tls")]
            if let Some(tls) = &self.tls {
                call(&mut tls.over(socket)?, &self.request)?;
                continue;
            }
            call(socket, &self.request)?;
        }
        Ok(())
    }
}

fn call(socket: &mut (impl Read + Write), request: &[u8]) -> io::Result<()> {
    socket.write_all(request)?;
    let mut length = [0; 4]; // frames of both kinds begin with it
    socket.read_exact(&mut length)?;
    socket.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize])
}

fn measure(args: &IdleArgs) -> Result<(), Failure> {
    let (mut server, address, certificate) = Peer::start(args)?;
    #[cfg(not(feature = "tls"))]
    let _ = certificate;
    let request = match args.rpc {
        true => floor::request(PAYLOAD)?,
        false => [&(PAYLOAD as u32).to_be_bytes()[..], &[7; PAYLOAD]].concat(),
    };
    let mut fleet = Fleet {
        address,
        request,
        #[cfg(feature = "tls")]
        tls: args.tls.then(|| super::idle_tls::Client::new(&certificate)).transpose()?,
        sockets: Vec::with_capacity(args.connections),
        connecting: Duration::ZERO,
    };
    let first = BATCH.min(args.connections / 2);
    fleet.grow_to(&mut server, first)?;
    let few = server.ask("")?;
    fleet.connecting = Duration::ZERO;
    while fleet.sockets.len() < args.connections {
        fleet.grow_to(&mut server, (fleet.sockets.len() + BATCH).min(args.connections))?;
    }
    let many = server.ask("")?;
    // Each had a timer for its first frame, which comes once more though the frame has come.
    std::thread::sleep(ListenOptions::default().conn.first_frame_timeout + Duration::from_secs(1));
    let idle = server.ask("")?;
    std::thread::sleep(Duration::from_secs_f64(args.seconds)); // they are to be idle for so long
    let later = server.ask("")?;
    let snapshot = server.ask("snapshot")?;

    let more = |name: &str, from: &Value, to: &Value| Ok::<_, Failure>(number(to, name)? - number(from, name)?);
    let added = (args.connections - first) as f64;
    let memory = more("rss_kib", &few, &many)? as f64 * 1024.0 / added;
    let rate = |name: &str| Ok::<_, Failure>(more(name, &idle, &later)? as f64 / args.seconds);
    println!("| {} idle connections, {} reactors | |", args.connections, args.reactors);
    println!("| --- | ---: |");
    println!("| a server's memory for each, bytes | {memory:.0} |");
    println!("| taken in, a second (its clients share the machine) | {:.0} |", added / fleet.connecting.as_secs_f64());
    let each = more("cpu_us", &few, &many)? as f64 / added;
    println!("| server's processor time to take one in, and for its one call, µs | {each:.1} |");
    println!("| turns of all reactors, a second | {:.2} |", rate("polls")?);
    println!("| sleeps of all threads, a second | {:.2} |", rate("switches")?);
    println!("| processor, % | {:.3} |", rate("cpu_us")? / 1e4);
    println!("| a snapshot of them, ms | {:.2} |", number(&snapshot, "snapshot_us")? as f64 / 1e3);
    println!("| its processor time, ms | {:.2} |", number(&snapshot, "snapshot_cpu_us")? as f64 / 1e3);
    Ok(())
}
