//! The old process's side: it starts the new one, hands the sockets over, and says `go` when that one is ready and lives.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::control::{Control, Door, Fault, wait_for};
use super::error::{UpgradeCause, UpgradeError, Waiting};
use super::listening::ListeningSocket;
use super::message::{MAX_SOCKETS, Message, MessageError};
use super::notify::tell;
use super::predecessor::{self, VARIABLE};
use crate::listener::ListenerHandle;

/// The longest [`Upgrade::settle`]: the new process waits a little longer.
const MAX_SETTLE: Duration = Duration::from_secs(60);

/// How long one that has closed the connection has to end, so that its status can be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a process is replaced by another that goes on with its listening sockets.
#[derive(Clone, Debug)]
pub struct Upgrade {
    program: Option<PathBuf>,
    args: Option<Vec<OsString>>,
    envs: Vec<(OsString, OsString)>,
    timeout: Duration,
    settle: Duration,
    directory: Option<PathBuf>,
}

impl Default for Upgrade {
    fn default() -> Self {
        Upgrade::new()
    }
}

impl Upgrade {
    /// To the program that is installed now where this one was started from, with the same arguments.
    pub fn new() -> Upgrade {
        remember_program();
        Upgrade {
            program: None,
            args: None,
            envs: Vec::new(),
            timeout: Duration::from_secs(60),
            settle: Duration::from_millis(200),
            directory: None,
        }
    }

    /// Another program. A script has to `exec` the server. Default: the name that this process was started by, which is a path or is
    /// looked for in `PATH`; so a symbolic link that leads elsewhere by now is followed.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Other arguments, without the program's name. Default: those of this process.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// A variable of its environment beside those of this process.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// From its start the new process must be ready, and accept, within this time. Default 60 s. Then: killed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long it has to live after it has said that it is ready, before it accepts anything: one that dies in this time takes no
    /// connection with it. Default 200 ms, at most a minute. Part of the timeout.
    #[must_use]
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settle = settle.min(MAX_SETTLE);
        self
    }

    /// Where a directory is made, for this user alone, with the socket by which the new process reaches this one; it is removed when
    /// that one has connected. Default: that for temporary files.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts the new process, hands it the sockets of these listeners, each with the address that it will ask for it by, and waits until
    /// it accepts. From then on both do: now leave ([`ListenerHandle::leave`]) the listeners that [`Successor::took`], shut down the others,
    /// and end. systemd is told about the new process (`MAINPID=`).
    ///
    /// `arm` gets what cancels it: to drop that is to cancel. It comes too late for a process that has been told to accept, and says within a
    /// second that it does.
    ///
    /// The new process has this one's standard streams and environment, but for `LISTEN_FDS` and its kin. It takes the sockets when it asks
    /// [`inherited`](super::inherited) for the same addresses, and says that it is [`ready`](super::ready).
    ///
    /// # Errors
    /// [`UpgradeError`]: nothing has changed then. The new process has been killed and reaped.
    ///
    /// # Panics
    /// On a reactor's thread, where it would wait for itself.
    pub fn hand_over<'a>(
        &self,
        listeners: impl IntoIterator<Item = (&'a str, &'a ListenerHandle)>,
        arm: impl FnOnce(Canceller),
    ) -> Result<Successor, UpgradeError> {
        static ONE: Mutex<()> = Mutex::new(());
        let program = self.program.clone().unwrap_or_else(|| remember_program().to_owned());
        let mut progress = Progress { program, pid: None, waiting: Waiting::Start };
        let Some(_one) = ONE.try_lock().filter(|_| !predecessor::is_taking_over()) else {
            return Err(progress.failed(UpgradeCause::UnderWay));
        };
        match self.try_hand_over(listeners, arm, &mut progress) {
            Ok(successor) => {
                tracing::info!(program = %progress.program.display(), pid = successor.pid, "another process goes on");
                tell(&format!("MAINPID={}", successor.pid));
                Ok(successor)
            }
            Err(cause) => Err(progress.failed(cause)),
        }
    }

    fn try_hand_over<'a>(
        &self,
        listeners: impl IntoIterator<Item = (&'a str, &'a ListenerHandle)>,
        arm: impl FnOnce(Canceller),
        progress: &mut Progress,
    ) -> Result<Successor, UpgradeCause> {
        let (reader, writer) = io::pipe()?;
        arm(Canceller(writer));
        let cancelled = Cancelled(reader);
        if wait_for(&[(cancelled.0.as_fd(), PollFlags::IN)], Instant::now())?.is_some() {
            return Err(UpgradeCause::Cancelled);
        }
        let until = far(self.timeout);
        let shared = share(listeners)?;
        let directory = self.directory.clone().unwrap_or_else(env::temp_dir);
        let door = Door::open(&directory, unforeseen()?)?;
        // Closed behind the end of a process that is not to go on: it would take that for the end of this one, and go on alone.
        let mut control = None;
        let started = self.start(&progress.program, &door, &cancelled)?;
        progress.pid = Some(started.pid());
        match self.converse(&started, door, &mut control, &shared, until, &mut progress.waiting) {
            Ok(left) => {
                let taken = taken(shared.iter().map(|shared| shared.sockets.len()), &left);
                Ok(Successor { pid: started.release(), taken })
            }
            // Its end says more than that nothing is heard of it.
            Err(UpgradeCause::Closed) => Err(started.ended().map_or(UpgradeCause::Closed, UpgradeCause::Exited)),
            Err(cause) => Err(cause),
        }
    }

    /// The whole conversation; then the numbers of the sockets that the new process has not taken.
    fn converse(
        &self,
        started: &Started<'_>,
        door: Door,
        control: &mut Option<Control>,
        shared: &[Shared<'_>],
        until: Instant,
        waiting: &mut Waiting,
    ) -> Result<Vec<u16>, UpgradeCause> {
        let cause = |fault| self.cause(fault);
        *waiting = Waiting::Connect;
        let control = control.insert(started.connected(&door, until).map_err(cause)?);
        let peer = control.peer()?;
        if (peer.pid, peer.uid) != (started.pid(), rustix::process::geteuid().as_raw()) {
            return Err(UpgradeCause::Stranger { pid: peer.pid, uid: peer.uid });
        }
        drop(door);
        started.expect(control, &Message::Hello, until).map_err(cause)?;
        let mut count = 0;
        for (asked, socket) in shared.iter().flat_map(|shared| shared.sockets.iter().map(|s| (shared.asked, s))) {
            let message = Message::Socket { asked: asked.to_owned(), sole: socket.is_sole() };
            control.send(&message, Some(socket.socket().as_fd()), until).map_err(cause)?;
            count += 1;
        }
        control.send(&Message::End(count), None, until).map_err(cause)?;

        *waiting = Waiting::Ready;
        let left = match started.hear(control, until).map_err(cause)? {
            Message::Ready { left } => left,
            other => return Err(out_of_turn(&other)),
        };

        *waiting = Waiting::Settle;
        match started.hear(control, far(self.settle).min(until)) {
            Err(Fault::Late) if Instant::now() < until => {}
            Ok(other) => return Err(out_of_turn(&other)),
            Err(fault) => return Err(cause(fault)),
        }

        *waiting = Waiting::Serve;
        control.send(&Message::Go, None, until).map_err(cause)?;
        // It may accept from here on: what cancels it now leaves it a moment to say so.
        let serving = started.expect(control, &Message::Serving, until).or_else(|fault| match fault {
            Fault::Cancelled => {
                let moment = wait_for(&[(control.as_fd(), PollFlags::IN)], far(LAST_WORDS).min(until))?;
                moment.map_or(Err(Fault::Cancelled), |_| receive_this(control, &Message::Serving, until))
            }
            other => Err(other),
        });
        serving.map_err(cause)?;
        Ok(left)
    }

    fn start<'a>(&self, program: &Path, door: &Door, cancelled: &'a Cancelled) -> io::Result<Started<'a>> {
        let mut command = Command::new(program);
        command.args(self.args.clone().unwrap_or_else(|| env::args_os().skip(1).collect()));
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
            command.env_remove(variable); // they were meant for this process
        }
        let mut address = OsString::from(format!("{}:", std::process::id()));
        address.push(door.path());
        Started::new(command.env(VARIABLE, address).spawn()?, cancelled)
    }

    fn cause(&self, fault: Fault) -> UpgradeCause {
        match fault {
            Fault::System(e) => UpgradeCause::System(e),
            Fault::Closed => UpgradeCause::Closed,
            Fault::Late => UpgradeCause::TimedOut(self.timeout),
            Fault::Cancelled => UpgradeCause::Cancelled,
            Fault::Message(e) => UpgradeCause::Message(e),
        }
    }
}

impl From<io::Error> for UpgradeCause {
    fn from(e: io::Error) -> Self {
        UpgradeCause::System(e)
    }
}

fn out_of_turn(message: &Message) -> UpgradeCause {
    UpgradeCause::Message(MessageError::OutOfTurn(message.name()))
}

/// The process that goes on.
#[derive(Clone, Debug)]
pub struct Successor {
    pid: u32,
    taken: Vec<bool>,
}

impl Successor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it serves the address of the listener at this place of those that were handed over. One that it did not ask for is
    /// this process's to close.
    pub fn took(&self, listener: usize) -> bool {
        self.taken.get(listener).copied().unwrap_or(false)
    }
}

/// Ends a hand-over that is under way when it is dropped: its new process is killed. For who stops a server that is about to be
/// replaced.
#[derive(Debug)]
pub struct Canceller(#[allow(dead_code, reason = "held for its drop")] PipeWriter);

/// Its other end, which is readable then.
struct Cancelled(PipeReader);

/// What an error tells.
struct Progress {
    program: PathBuf,
    pid: Option<u32>,
    waiting: Waiting,
}

impl Progress {
    fn failed(self, cause: UpgradeCause) -> UpgradeError {
        let Progress { program, pid, waiting } = self;
        UpgradeError { program, pid, waiting, cause }
    }
}

/// A listener's sockets, for another process.
struct Shared<'a> {
    asked: &'a str,
    sockets: Vec<ListeningSocket>,
}

fn share<'a>(listeners: impl IntoIterator<Item = (&'a str, &'a ListenerHandle)>) -> io::Result<Vec<Shared<'a>>> {
    let one = |(asked, listener): (&'a str, &'a ListenerHandle)| Ok(Shared { asked, sockets: listener.share()? });
    let shared = listeners.into_iter().map(one).collect::<io::Result<Vec<_>>>()?;
    let count = shared.iter().map(|shared| shared.sockets.len()).sum::<usize>();
    if count > MAX_SOCKETS {
        return Err(io::Error::other(format!("{count} listening sockets, at most {MAX_SOCKETS} are handed over")));
    }
    Ok(shared)
}

/// Which of the listeners, with so many sockets each, have none among those that were left.
fn taken(sockets: impl IntoIterator<Item = usize>, left: &[u16]) -> Vec<bool> {
    let mut next = 0;
    let mut all = |count: usize| {
        let numbers = next..next + count;
        next += count;
        !left.iter().any(|number| numbers.contains(&usize::from(*number)))
    };
    sockets.into_iter().map(&mut all).collect()
}

/// A new process that has not taken over yet: it is killed and reaped when this is dropped.
struct Started<'a> {
    child: Option<Child>,
    /// Readable when it has ended.
    end: OwnedFd,
    cancelled: &'a Cancelled,
}

impl<'a> Started<'a> {
    fn new(mut child: Child, cancelled: &'a Cancelled) -> io::Result<Started<'a>> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(end) => Ok(Started { child: Some(child), end, cancelled }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// It has come to the door.
    fn connected(&self, door: &Door, until: Instant) -> Result<Control, Fault> {
        self.first_of(door, until)?;
        Ok(door.accept()?)
    }

    fn hear(&self, control: &Control, until: Instant) -> Result<Message, Fault> {
        self.first_of(control, until)?;
        receive(control, until)
    }

    fn expect(&self, control: &Control, expected: &Message, until: Instant) -> Result<(), Fault> {
        self.first_of(control, until)?;
        receive_this(control, expected, until)
    }

    /// Waits for something to be heard there, or for its end.
    fn first_of(&self, there: &impl AsFd, until: Instant) -> Result<(), Fault> {
        let all = [self.cancelled.0.as_fd(), there.as_fd(), self.end.as_fd()].map(|fd| (fd, PollFlags::IN));
        match wait_for(&all, until)? {
            Some(0) => Err(Fault::Cancelled),
            Some(1) => Ok(()),
            Some(_) => Err(Fault::Closed),
            None => Err(Fault::Late),
        }
    }

    /// How it ended, if it has, or does in a moment.
    fn ended(mut self) -> Option<ExitStatus> {
        let _ = wait_for(&[(self.end.as_fd(), PollFlags::IN)], far(LAST_WORDS));
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// It goes its own way.
    fn release(mut self) -> u32 {
        self.child.take().map_or(0, |child| child.id())
    }
}

fn receive(control: &Control, until: Instant) -> Result<Message, Fault> {
    match control.receive(until)? {
        (message, None) => Ok(message),
        (_, Some(_)) => Err(Fault::Message(MessageError::Garbage)), // it has nothing to give
    }
}

fn receive_this(control: &Control, expected: &Message, until: Instant) -> Result<(), Fault> {
    match receive(control, until)? {
        message if message == *expected => Ok(()),
        other => Err(Fault::Message(MessageError::OutOfTurn(other.name()))),
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// So much later, or as late as makes no difference.
fn far(later: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(later).unwrap_or_else(|| now + Duration::from_secs(1 << 30))
}

/// A number that nobody can foresee, so that nobody can be there first.
fn unforeseen() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What this process was started by, before it changes its directory. Not `/proc/self/exe`, which goes on to name the file that was
/// replaced, or where a symbolic link led to then.
pub(super) fn remember_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let name = PathBuf::from(env::args_os().next().unwrap_or_default());
        let is_path = name.as_os_str().as_encoded_bytes().contains(&b'/');
        let found = if is_path { std::path::absolute(&name).ok() } else { None };
        match found {
            Some(path) => path,
            None if name.as_os_str().is_empty() => env::current_exe().unwrap_or_default(),
            None => name,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn a_listener_is_taken_with_all_its_sockets() {
        let check = |left: &[u16], expected: [bool; 3]| assert_eq!(taken([1, 3, 1], left), expected, "{left:?}");
        check(&[],        [true, true, true]);
        check(&[0],       [false, true, true]);
        check(&[2],       [true, false, true]);
        check(&[3, 1, 4], [true, false, false]);
        check(&[5, 9],    [true, true, true]);
    }
}
