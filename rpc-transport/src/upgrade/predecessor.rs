//! The new process's side: it takes the sockets, says that it is ready, and accepts when the old one says `go`.

use std::io;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::control::{Control, Fault};
use super::inherited::untaken;
use super::listening::ListeningSocket;
use super::message::{MAX_SOCKETS, Message};
use super::notify::tell;
use crate::listener::ListenerHandle;

/// Where the old process can be reached: its number, a colon, and the path of its socket.
pub(super) const VARIABLE: &str = "RPC_UPGRADE";

/// The old process sends its sockets within this time. It has them at hand.
const SOCKETS_WITHIN: Duration = Duration::from_secs(10);

/// And says `go`, or is gone, within this time: it waits for [`Upgrade::settle`](super::Upgrade::settle), a minute at most.
const GO_WITHIN: Duration = Duration::from_secs(90);

/// The process before, until it has left.
struct Predecessor {
    control: Control,
    /// Listeners that wait for it, and whether nobody else accepts there then.
    held: Vec<(ListenerHandle, bool)>,
}

static PREDECESSOR: Mutex<Option<Predecessor>> = Mutex::new(None);

/// From its sockets to its `go`.
static TAKING_OVER: AtomicBool = AtomicBool::new(false);

/// What the process before hands over, with the addresses it was asked for by; nothing where there is none. Called once.
pub(super) fn sockets() -> io::Result<Vec<(String, ListeningSocket)>> {
    let Some(variable) = std::env::var_os(VARIABLE) else { return Ok(Vec::new()) };
    let variable = variable.to_string_lossy();
    let Some((pid, path)) = variable.split_once(':') else { return Ok(Vec::new()) };
    if pid != parent_id().to_string() {
        return Ok(Vec::new()); // meant for this process's parent, or the one that started it is gone
    }
    let explain = |why: String| io::Error::other(format!("cannot take over from process {pid}: {why}"));
    let control = Control::connect(Path::new(path)).map_err(|e| explain(format!("{path}: {e}")))?;
    let peer = control.peer()?;
    let uid = rustix::process::geteuid().as_raw();
    if peer.pid.to_string() != pid || peer.uid != uid {
        return Err(explain(format!("process {} of user {} is there, not of user {uid}", peer.pid, peer.uid)));
    }
    let sockets = receive(&control).map_err(|fault| explain(describe(&fault).to_string()))?;
    tracing::info!(from = pid, sockets = sockets.len(), "taking over");
    TAKING_OVER.store(true, Ordering::Release);
    *PREDECESSOR.lock() = Some(Predecessor { control, held: Vec::new() });
    Ok(sockets)
}

fn receive(control: &Control) -> Result<Vec<(String, ListeningSocket)>, Fault> {
    use super::message::MessageError::{Garbage, OutOfTurn};
    let until = Instant::now() + SOCKETS_WITHIN;
    control.send(&Message::Hello, None, until)?;
    let mut sockets = Vec::new();
    loop {
        match control.receive(until)? {
            (Message::Socket { asked, sole }, Some(fd)) if sockets.len() < MAX_SOCKETS => {
                let mut socket = ListeningSocket::given(fd, sole)?;
                socket.hold();
                sockets.push((asked, socket));
            }
            (Message::End(count), None) if usize::from(count) == sockets.len() => return Ok(sockets),
            (Message::Socket { .. } | Message::End(_), _) => return Err(Fault::Message(Garbage)),
            (other, _) => return Err(Fault::Message(OutOfTurn(other.name()))),
        }
    }
}

/// A listener that accepts when the process before has said `go`; at once where there is none any more.
pub(crate) fn hold(listener: &ListenerHandle, sole: bool) {
    match PREDECESSOR.lock().as_mut() {
        Some(predecessor) => predecessor.held.push((listener.clone(), sole)),
        None => listener.begin(sole),
    }
}

/// Whether this process does not accept yet on what it was handed.
pub(super) fn is_taking_over() -> bool {
    TAKING_OVER.load(Ordering::Acquire)
}

/// Says that this process serves: to the process that it takes over from, which drains and ends then, and to systemd (`READY=1`, if
/// `NOTIFY_SOCKET` is set). Its listeners on sockets that were handed over accept from now on. Call it when all addresses are bound
/// and everything that handlers need is there; [`ServerHandle::serve`] of `rpc-core` calls it. Later calls do nothing but tell systemd.
///
/// Blocks until the process before says `go`, for its [`Upgrade::settle`](super::Upgrade::settle). If that one is gone this one goes on alone.
///
/// [`ServerHandle::serve`]: https://docs.rs/rpc-core
///
/// # Errors
/// The process before is there, and says something else or, for 90 s, nothing. This one has no sockets then, and ought to end.
pub fn ready() -> io::Result<()> {
    // Not held while it waits: who binds another address meanwhile is to be served at once.
    let Some(Predecessor { control, held }) = PREDECESSOR.lock().take() else {
        tell("READY=1");
        return Ok(());
    };
    let until = Instant::now() + GO_WITHIN;
    let before = control.peer()?.pid;
    let left = untaken();
    if !left.is_empty() {
        tracing::warn!(sockets = left.len(), "handed over and not asked for: they end with the process before");
    }
    let heard = control.send(&Message::Ready { left }, None, until).and_then(|()| control.receive(until));
    match heard {
        Ok((Message::Go, _)) => {}
        Err(Fault::Closed) if is_gone(before) => tracing::warn!("the process before is gone: going on alone"),
        Ok((other, _)) => return Err(io::Error::other(format!("the process before said `{}`", other.name()))),
        Err(fault) => return Err(io::Error::new(io::ErrorKind::TimedOut, describe(&fault))),
    }
    for (listener, sole) in &held {
        listener.begin(*sole);
    }
    TAKING_OVER.store(false, Ordering::Release);
    // It may be gone, which changes nothing any more.
    let _ = control.send(&Message::Serving, None, until);
    tell(&format!("MAINPID={}\nREADY=1", std::process::id()));
    Ok(())
}

/// Whether that process has ended, which has started this one. Its sockets are closed a moment before its children have another parent; and one that
/// goes on without this process closes them, too, but then this one is about to be killed.
fn is_gone(before: u32) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    while std::os::unix::process::parent_id() == before {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1)); // nothing tells of another parent
    }
    true
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::System(e) => e.to_string(),
        Fault::Closed => "it has closed the connection".to_owned(),
        Fault::Late | Fault::Cancelled => "it took too long".to_owned(),
        Fault::Message(e) => e.to_string(),
    }
}
