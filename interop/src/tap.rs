//! A proxy between the two ends, which keeps what is said first on each connection.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rpc_core::protocol::ttheader::{Entry, HeaderLimits, InfoEntries, ReplyInfo, TtFrame};
use rpc_core::protocol::{Exception, Form, MessageType, Payload, form_of};

/// Bytes of each direction that are kept, and connections.
const KEPT: usize = 128 << 20;
const CONNECTIONS: usize = 32;

/// The longest frame that becomes a vector.
const LONGEST: usize = 512;

/// What is said first on a connection.
#[derive(Default)]
struct Said {
    by_client: Vec<u8>,
    by_server: Vec<u8>,
}

/// Listens at an address of its own until the process ends.
pub(crate) struct Tap {
    pub(crate) url: String,
    said: Arc<Mutex<Vec<Said>>>,
}

impl Tap {
    /// In front of a server.
    pub(crate) fn before(url: &str) -> io::Result<Tap> {
        let server = url.trim_start_matches("tcp://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("tcp://{}", listener.local_addr()?);
        let said = Arc::<Mutex<Vec<Said>>>::default();
        let keeps = Arc::clone(&said);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { break }; // it has gone, and so nobody listens here
                let number = {
                    let mut said = lock(&keeps);
                    said.push(Said::default());
                    said.len() - 1
                };
                for (from, to, of) in [
                    (&client, &server, (|said| &mut said.by_client) as Kept),
                    (&server, &client, |said| &mut said.by_server),
                ] {
                    let (Ok(from), Ok(to), keeps) = (from.try_clone(), to.try_clone(), Arc::clone(&keeps)) else {
                        continue;
                    };
                    thread::spawn(move || pass(from, to, |bytes| keep(&keeps, number, of, bytes)));
                }
            }
        });
        Ok(Tap { url, said })
    }

    /// Of connections with one call at a time: replies behind which the server closes, and calls that came behind those. It closes when it
    /// says so, and behind an exception: Kitex v0.11 does not say so then.
    pub(crate) fn closings(&self) -> (usize, usize) {
        let (mut closings, mut behind) = (0, 0);
        for said in lock(&self.said).iter() {
            if let Some(last) = frames(&said.by_server).position(closes) {
                closings += 1;
                behind += frames(&said.by_client).count() - (last + 1);
            }
        }
        (closings, behind)
    }

    /// Requests and their replies in hex, one pair of each shape; `> ` before what the client said, `< ` before what the server did.
    pub(crate) fn pairs(&self) -> String {
        let (mut text, mut known) = (String::new(), HashSet::new());
        for said in lock(&self.said).iter() {
            let mut replies = HashMap::new();
            for reply in frames(&said.by_server) {
                let Some(seq) = seq_of(reply) else { continue };
                if seq == 0 && known.insert((shape(reply), None)) {
                    let _ = writeln!(text, "< {}", hex(reply));
                }
                replies.entry(seq).or_insert(reply);
            }
            for request in frames(&said.by_client) {
                let Some(seq) = seq_of(request).filter(|seq| *seq != 0) else { continue };
                let reply = replies.get(&seq).copied();
                let short = request.len() <= LONGEST && reply.is_none_or(|reply| reply.len() <= LONGEST);
                if short && known.insert((shape(request), reply.map(shape))) {
                    let _ = writeln!(text, "> {}", hex(request));
                    let _ = reply.map(|reply| writeln!(text, "< {}", hex(reply)));
                }
            }
        }
        text
    }
}

type Kept = fn(&mut Said) -> &mut Vec<u8>;

fn keep(all: &Mutex<Vec<Said>>, number: usize, of: Kept, bytes: &[u8]) {
    let mut all = lock(all);
    let kept = of(&mut all[number]);
    if number < CONNECTIONS && kept.len() < KEPT {
        kept.extend_from_slice(bytes);
    }
}

/// Passes on what comes until the end, and the end.
fn pass(mut from: TcpStream, mut to: TcpStream, keep: impl Fn(&[u8])) {
    let mut room = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut room) {
        keep(&room[..len]);
        if to.write_all(&room[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write); // it may be gone already
}

fn frames(mut stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = u32::from_be_bytes(*stream.first_chunk()?) as usize;
        let (frame, rest) = stream.split_at_checked(4 + len)?;
        stream = rest;
        Some(frame)
    })
}

fn seq_of(frame: &[u8]) -> Option<i32> {
    match form_of(frame).ok()? {
        Form::TtHeader => Some(TtFrame::decode(frame).ok()?.seq),
        Form::Framed => Some(Payload::decode(frame).ok()?.seq),
    }
}

/// Whether this reply is the last of its connection.
fn closes(reply: &[u8]) -> bool {
    let Ok(tt) = TtFrame::decode(reply) else { return false };
    let says_so = ReplyInfo::parse(tt.info, &HeaderLimits::default()).is_ok_and(|info| info.closing);
    says_so || Payload::decode(tt.payload).is_ok_and(|payload| payload.kind == MessageType::Exception)
}

/// What it says without the values.
fn shape(frame: &[u8]) -> String {
    let mut text = String::new();
    let payload = match TtFrame::decode(frame) {
        Ok(tt) => {
            let _ = write!(text, "{:x}", tt.flags);
            let mut keys: Vec<String> = InfoEntries::new(tt.info)
                .map(|entry| match entry {
                    Ok(Entry::Str { key, .. }) => key.escape_ascii().to_string(),
                    Ok(Entry::Int { key, .. }) => key.to_string(),
                    Ok(Entry::Acl(_)) => "acl".to_owned(),
                    Err(error) => error.to_string(),
                })
                .collect();
            keys.sort(); // Go's maps have no order
            text += &keys.join(" ");
            tt.payload
        }
        Err(_) => frame,
    };
    if let Ok(payload) = Payload::decode(payload) {
        let _ = write!(text, " {:?}", payload.kind);
        if let (MessageType::Exception, Ok(exception)) = (payload.kind, Exception::decode(payload.body)) {
            let of = exception.message.split([' ', ':']).next().unwrap_or_default();
            let _ = write!(text, " {} {of}", exception.type_id);
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
