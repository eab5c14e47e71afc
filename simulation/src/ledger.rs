//! What became of each call, as its caller and its handler saw it: an account of its own beside the framework's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rpc_core::{Cause, Code, Error, Result, Sent};

use rpc_transport::local;
use rpc_transport::testing::panics;

use crate::service::{self, Reply};

/// The number of calls that attackers make.
pub(crate) const ATTACKER: u64 = u64::MAX;

/// The numbers of calls made by hand begin here; nobody waits for those with a future.
const BY_HAND: u64 = 1 << 40;

/// Every call of a run, by number.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Book>);

#[derive(Default)]
struct Book {
    calls: Vec<Entry>,
    by_hand: Vec<ByHand>,
    gentle: bool,
    /// Started calls that have not ended, by client: when each must have, and its number.
    due: Vec<BTreeSet<(Duration, u64)>>,
    ended: usize,
    running: usize,
    most_running: usize,
    wrong: Option<String>,
}

#[derive(Default)]
struct Entry {
    payload: usize,
    reply: usize,
    client: usize,
    due: Option<Duration>,
    /// It must have its reply, unless its caller drops it.
    certain: bool,
    end: Option<End>,
    executions: u32,
    /// Its handler asks another server, which sees the same number.
    relayed: bool,
}

/// A call made by a peer without the framework.
#[derive(Default)]
pub(crate) struct ByHand {
    pub(crate) payload: usize,
    /// No reply is wanted, and its server has no limit by which it ends the connection: a handler that has begun ends by itself, or by
    /// its deadline.
    pub(crate) certain: bool,
    pub(crate) server: usize,
    pub(crate) timeout: Option<Duration>,
    pub(crate) executions: u32,
}

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Replied,
    Failed(Code, Sent),
    /// The caller dropped it.
    Cancelled,
}

/// Counts a handler for as long as it runs.
pub(crate) struct RunningHandler {
    ledger: Arc<Ledger>,
    number: u64,
    began: Instant,
    ended: bool,
}

impl RunningHandler {
    /// It has come to its end.
    pub(crate) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for RunningHandler {
    fn drop(&mut self) {
        let mut book = self.ledger.0.lock();
        book.running -= 1;
        let Some(call) = self.number.checked_sub(BY_HAND).and_then(|place| book.by_hand.get(place as usize)) else {
            return;
        };
        let expired = call.timeout.is_some_and(|timeout| local::now() >= self.began + timeout);
        // A panic of our own code ends its connection, and with it what runs there.
        let excused = expired || thread::panicking() || panics() > 0;
        if call.certain && !self.ended && !excused {
            let number = self.number;
            Ledger::wrong(&mut book, format!("I6: the handler of call {number}, oneway, was dropped"));
        }
    }
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Calls that were made.
    pub calls: u64,
    /// Calls with their reply.
    pub replied: u64,
    /// Calls that failed, by whatever error.
    pub failed: u64,
    /// Calls that their caller dropped.
    pub cancelled: u64,
    /// Of those that failed, how many for want of time.
    pub late: u64,
    /// Because of a limit.
    pub refused: u64,
    /// Because of the connection.
    pub cut: u64,
    /// Handlers that began.
    pub executed: u64,
}

impl Ledger {
    /// From now on nothing that a handler began may be lost.
    pub(crate) fn be_gentle(&self) {
        self.0.lock().gentle = true;
    }

    /// A call is about to be made by a client. `certain`: nothing can keep it from its reply.
    pub(crate) fn begin(&self, client: usize, payload: usize, reply: usize, certain: bool) -> u64 {
        let mut book = self.0.lock();
        book.calls.push(Entry { client, payload, reply, certain, ..Entry::default() });
        book.calls.len() as u64 - 1
    }

    /// A call is about to be made by a peer without the framework.
    pub(crate) fn begin_by_hand(&self, call: ByHand) -> u64 {
        let mut book = self.0.lock();
        book.by_hand.push(call);
        BY_HAND + book.by_hand.len() as u64 - 1
    }

    /// This server is cut, or dies, and with it whatever it has begun.
    pub(crate) fn dies(&self, server: usize) {
        self.0.lock().by_hand.iter_mut().filter(|call| call.server == server).for_each(|call| call.certain = false);
    }

    /// Its time begins. It is over with the tick at which it is due or that follows.
    pub(crate) fn start(&self, number: u64, due: Duration) {
        let mut book = self.0.lock();
        let due = Duration::from_millis(due.as_nanos().div_ceil(1_000_000) as u64);
        let Some(entry) = book.calls.get_mut(number as usize) else { return };
        entry.due = Some(due);
        let client = entry.client;
        if book.due.len() <= client {
            book.due.resize_with(client + 1, BTreeSet::new);
        }
        book.due[client].insert((due, number));
    }

    /// When the first of a client's calls must have ended, and which it is.
    pub(crate) fn first_due(&self, client: usize) -> Option<(Duration, u64)> {
        self.0.lock().due.get(client)?.first().copied()
    }

    /// A server of these clients begins to shut down: calls may fail.
    pub(crate) fn nothing_is_certain(&self, concerned: impl Fn(usize) -> bool) {
        self.0.lock().calls.iter_mut().filter(|entry| concerned(entry.client)).for_each(|entry| entry.certain = false);
    }

    /// Changes with every call that is made or ends.
    pub(crate) fn moves(&self) -> u64 {
        let book = self.0.lock();
        (book.calls.len() + book.ended) as u64
    }

    fn wrong(book: &mut Book, what: String) {
        book.wrong.get_or_insert(what);
    }

    pub(crate) fn handler_starts(self: &Arc<Self>, number: u64, payload: &[u8]) -> RunningHandler {
        let mut book = self.0.lock();
        book.running += 1;
        book.most_running = book.most_running.max(book.running);
        let known = match number.checked_sub(BY_HAND) {
            Some(place) => book.by_hand.get_mut(place as usize).map(|call| {
                call.executions += 1;
                (call.payload, call.executions, 1)
            }),
            None => book.calls.get_mut(number as usize).map(|entry| {
                entry.executions += 1;
                (entry.payload, entry.executions, if entry.relayed { 2 } else { 1 })
            }),
        };
        match known {
            None if number == ATTACKER => {}
            None => Self::wrong(&mut book, format!("I3: a handler got a call {number} that nobody made")),
            Some((_, executions, allowed)) if executions > allowed => {
                Self::wrong(&mut book, format!("I6: call {number} was executed {executions} times"));
            }
            Some((len, ..)) if service::payload(number, len) != payload => {
                Self::wrong(&mut book, format!("I3: call {number} arrived with another's payload"));
            }
            Some(_) => {}
        }
        RunningHandler { ledger: Arc::clone(self), number, began: local::now(), ended: false }
    }

    pub(crate) fn relays(&self, number: u64) {
        if let Some(entry) = self.0.lock().calls.get_mut(number as usize) {
            entry.relayed = true;
        }
    }

    /// The caller has its outcome, or has dropped the call (`None`).
    pub(crate) fn end(&self, number: u64, outcome: Option<&Result<Reply>>) {
        let mut book = self.0.lock();
        let Some(entry) = book.calls.get_mut(number as usize) else { return };
        let end = match outcome {
            None => End::Cancelled,
            Some(Ok(_)) => End::Replied,
            Some(Err(error)) => End::Failed(error.code(), error.sent()),
        };
        if let Some(before) = entry.end.replace(end) {
            return Self::wrong(&mut book, format!("I1: call {number} ended twice: {before:?}, {end:?}"));
        }
        let (due, client, certain) = (entry.due, entry.client, entry.certain);
        let expected = service::payload(number, entry.reply);
        let (executions, replied) = (entry.executions, end == End::Replied);
        book.ended += 1;
        if let Some(due) = due {
            book.due[client].remove(&(due, number));
        }
        if certain && matches!(end, End::Failed(..)) {
            Self::wrong(&mut book, format!("I20: call {number} failed, and nothing was wrong: {}", shown(outcome)));
        }
        if replied && executions == 0 {
            Self::wrong(&mut book, format!("I6: call {number} has a reply that no handler gave"));
        }
        if let Some(Ok(reply)) = outcome
            && (reply.number != number || reply.payload != expected)
        {
            Self::wrong(&mut book, format!("I3: call {number} got the reply of call {}", reply.number));
        }
        let by_peer = |error: &Error| matches!(error.cause(), Cause::Remote { .. });
        let unsaid = matches!(outcome, Some(Err(error)) if error.code() == Code::Unavailable && !by_peer(error));
        if book.gentle && executions > 0 && unsaid {
            Self::wrong(&mut book, format!("I23: call {number} was begun, and lost: {}", shown(outcome)));
        }
        if let Some(Err(error)) = outcome
            && let Some(what) = incomplete(error)
        {
            Self::wrong(&mut book, format!("I28: the error of call {number} does not say {what}: {error}"));
        }
    }

    /// What has gone wrong so far.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.0.lock().wrong.clone()
    }

    pub(crate) fn unfinished(&self) -> usize {
        let book = self.0.lock();
        book.calls.len() - book.ended
    }

    pub(crate) fn running(&self) -> usize {
        self.0.lock().running
    }

    /// To be asked when nothing is on its way any more: whoever was told "not sent" was not executed.
    pub(crate) fn audit(&self) -> Option<String> {
        let book = self.0.lock();
        let lied = |entry: &Entry| entry.executions > 0 && matches!(entry.end, Some(End::Failed(_, Sent::No)));
        let number = book.calls.iter().position(lied)?;
        Some(format!("I6: call {number} failed as not sent, and was executed: {:?}", book.calls[number].end))
    }

    pub(crate) fn outcomes(&self) -> Outcomes {
        let book = self.0.lock();
        let mut sum = Outcomes::default();
        for entry in &book.calls {
            sum.calls += 1;
            sum.executed += u64::from(entry.executions);
            match entry.end {
                Some(End::Replied) => sum.replied += 1,
                Some(End::Failed(code, _)) => {
                    sum.failed += 1;
                    match code {
                        Code::DeadlineExceeded => sum.late += 1,
                        Code::ResourceExhausted => sum.refused += 1,
                        Code::Unavailable => sum.cut += 1,
                        _ => {}
                    }
                }
                Some(End::Cancelled) => sum.cancelled += 1,
                None => {}
            }
        }
        sum
    }
}

fn shown(outcome: Option<&Result<Reply>>) -> String {
    match outcome {
        Some(Err(error)) => error.to_string(),
        _ => String::new(),
    }
}

fn incomplete(error: &Error) -> Option<&'static str> {
    let missing = [
        (error.peer().is_none(), "the peer"),
        (error.phase().is_none(), "the phase"),
        (error.method().is_empty(), "the method"),
    ];
    missing.into_iter().find_map(|(missing, what)| missing.then_some(what))
}
