//! A reactor, as a snapshot shows it.

use std::cmp::Reverse;
use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::observed::{self, During, Longest, Seen};
use super::text::{Ago, Bytes};
use super::{ConnSnapshot, left};
use crate::clock;
use crate::conn;
use crate::histogram::Histogram;
use crate::reactor::core::{Core, with};
use crate::reactor::{Question, ReactorHandle};

/// One reactor at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReactorSnapshot {
    /// Its thread's name.
    pub name: String,
    /// Its place in its pool.
    pub index: usize,
    /// Its counters.
    pub counts: ReactorCounts,
    /// What it answered.
    pub inside: Result<Inside, Silence>,
}

/// A copy of [`ReactorStats`](crate::ReactorStats), which explains them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `ReactorStats`")]
#[non_exhaustive]
pub struct ReactorCounts {
    pub polls: u64,
    pub reads: u64,
    pub writes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub wakes: u64,
    pub frames: u64,
    pub connections: u64,
    pub accepted: u64,
    pub accept_errors: u64,
    pub refused_connections: u64,
    pub task_polls: u64,
    pub stalls: u64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It did not come to it in time.
    Held {
        /// How long it was waited for.
        waited: Duration,
        /// It was in the same turn all the time: somebody holds it. Else it has more to do than it can.
        same_turn: bool,
        /// Who holds it, as far as somebody above knows.
        by: Option<String>,
    },
    /// It has stopped.
    Stopped,
}

/// What a reactor says of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inside {
    /// How long it took to come to it.
    pub answered_after: Duration,
    /// Connections, of which only some are shown.
    pub all_connections: usize,
    /// Those that have something to do at once.
    pub ready: usize,
    /// Local tasks that have not ended.
    pub tasks: usize,
    /// Timers of all kinds.
    pub timers: usize,
    /// The connections that are held up, and those that hold the most, see [`SnapshotOptions::connections`](super::SnapshotOptions); and the one
    /// of the longest stall, if it is still there.
    pub connections: Vec<ConnSnapshot>,
    /// What was seen of it since somebody observes; `None` if nobody does.
    pub seen: Option<ReactorSeen>,
}

/// What was seen of a reactor while somebody observed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReactorSeen {
    /// For how long.
    pub span: Duration,
    /// Turns, and events that they began with.
    pub turns: u64,
    #[allow(missing_docs, reason = "see above")]
    pub events: u64,
    /// The share of the time in which it did not wait for events, from 0 to 1. `None` where that cannot be told: a tokio runtime turns it.
    pub busy: Option<f64>,
    /// From the poller's report of input to the read of that connection: how long it waited for others of the same turn, and for not being
    /// read. What came while a turn was under way waited for the end of that turn, too.
    pub latency: Histogram,
    /// How long turns took, without the waiting. Not of a reactor that a tokio runtime turns.
    pub turn: Histogram,
    /// The longest time for which it came to nothing else.
    pub longest_stall: Option<Stall>,
}

/// A time in which a reactor did one thing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Stall {
    /// How long.
    pub lasted: Duration,
    /// Since its end.
    pub ago: Duration,
    /// Who it was.
    pub during: During,
    /// Frames that were handed up in that time.
    pub frames: u64,
    /// Polls of local tasks in that time: it may have been one of those, instead.
    pub task_polls: u64,
}

/// A reactor that has been asked, and what is to be compared when it does not answer.
pub(super) struct Asked {
    reactor: ReactorHandle,
    turn: Option<u64>,
    question: Question<Inside>,
}

pub(super) fn ask(reactor: &ReactorHandle, most: usize) -> Asked {
    let turn = reactor.turn();
    let question = reactor.question(move || with(|core| look(core, most)));
    Asked { reactor: reactor.clone(), turn, question }
}

impl Asked {
    pub(super) fn answer(self, asked: Instant, until: Option<Instant>) -> ReactorSnapshot {
        let Asked { reactor, turn, question } = self;
        let answer = question.hear.recv_timeout(left(until));
        let waited = clock::now().saturating_duration_since(asked);
        let inside = match answer {
            Ok(inside) => Ok(Inside { answered_after: waited, ..inside }),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                Err(Silence::Held { waited, same_turn: turn.is_some() && turn == reactor.turn(), by: None })
            }
        };
        let stats = reactor.stats();
        let counts = ReactorCounts {
            polls: stats.polls.get(),
            reads: stats.reads.get(),
            writes: stats.writes.get(),
            bytes_in: stats.bytes_in.get(),
            bytes_out: stats.bytes_out.get(),
            wakes: stats.wakes.get(),
            frames: stats.frames.get(),
            connections: stats.connections.get(),
            accepted: stats.accepted.get(),
            accept_errors: stats.accept_errors.get(),
            refused_connections: stats.refused_connections.get(),
            task_polls: stats.task_polls.get(),
            stalls: stats.stalls.get(),
        };
        ReactorSnapshot { name: reactor.name().to_owned(), index: reactor.index(), counts, inside }
    }
}

fn look(core: &mut Core, most: usize) -> Inside {
    let mut ids = core.conns.ids();
    let all_connections = core.conns.len();
    if most < ids.len() {
        let mut weighed: Vec<_> =
            ids.iter().filter_map(|id| Some((Reverse(core.conns.get(*id)?.weight()), *id))).collect();
        weighed.sort_unstable_by_key(|(weight, id)| (*weight, id.to_bits()));
        ids = weighed.into_iter().take(most).map(|(_, id)| id).collect();
    }
    let seen = observed::of(core).map(|observed| {
        let knows = !observed.is_hosted_outside();
        let (now, seen) = observed.seen();
        ReactorSeen::of(seen, now, knows)
    });
    // Who has stalled is shown, whatever else there is.
    let culprit = seen.as_ref().and_then(|seen| match seen.longest_stall?.during {
        During::Connection(id) if most > 0 => Some(id),
        _ => None,
    });
    ids.extend(culprit.filter(|id| !ids.contains(id)));
    let mut connections: Vec<_> = ids.into_iter().filter_map(|id| conn::report(core, id)).collect();
    if let Some(observed) = observed::of(core) {
        connections.iter_mut().for_each(|conn| conn.seen = Some(observed.seen_of(conn.id)));
    }
    let (ready, tasks, timers) = (core.ready.len(), core.tasks.running(), core.timers.len());
    Inside { answered_after: Duration::ZERO, all_connections, ready, tasks, timers, connections, seen }
}

impl ReactorSeen {
    fn of(seen: Seen, now: Instant, knows: bool) -> ReactorSeen {
        let span = now.saturating_duration_since(seen.since);
        let busy = 1.0 - seen.asleep.as_secs_f64() / span.as_secs_f64();
        let stall = |Longest { lasted, until, during, task_polls, frames }| Stall {
            lasted,
            ago: now.saturating_duration_since(until),
            during,
            frames,
            task_polls,
        };
        ReactorSeen {
            span,
            turns: seen.turns,
            events: seen.events,
            busy: (knows && !span.is_zero()).then_some(busy.clamp(0.0, 1.0)),
            latency: seen.latency,
            turn: seen.turn,
            longest_stall: seen.longest.map(stall),
        }
    }
}

/// A line for the reactor, one for what was seen, one for each connection.
impl fmt::Display for ReactorSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReactorSnapshot { name, counts, inside, .. } = self;
        write!(f, "reactor {name}: ")?;
        match inside {
            Ok(inside) => {
                write!(f, "{} connections, {} ready, ", inside.all_connections, inside.ready)?;
                write!(
                    f,
                    "{} tasks, {} timers, answered after {}",
                    inside.tasks,
                    inside.timers,
                    Ago(inside.answered_after)
                )?;
            }
            Err(silence) => write!(f, "{} connections, {silence}", counts.connections)?,
        }
        write!(f, "; {} turns, {} frames, ", counts.polls, counts.frames)?;
        write!(f, "{} in, {} out, {} stalls", Bytes(counts.bytes_in), Bytes(counts.bytes_out), counts.stalls)?;
        writeln!(f)?;
        let Ok(inside) = inside else { return Ok(()) };
        if let Some(seen) = &inside.seen {
            writeln!(f, "  {seen}")?;
        }
        inside.connections.iter().try_for_each(|conn| writeln!(f, "  {conn}"))?;
        match inside.all_connections.saturating_sub(inside.connections.len()) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Silence::Stopped => f.write_str("it has stopped"),
            Silence::Held { waited, same_turn, by } => {
                write!(f, "did not answer for {} ms", waited.as_millis())?;
                f.write_str(if *same_turn { ", in one turn all the time" } else { ", though it gets on" })?;
                by.as_ref().map_or(Ok(()), |by| write!(f, ": held by {by}"))
            }
        }
    }
}

impl fmt::Display for ReactorSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seen for {}: ", Ago(self.span))?;
        if let Some(busy) = self.busy {
            write!(f, "busy {:.1} %, ", 100.0 * busy)?;
        }
        write!(f, "{:.2} events a turn", self.events as f64 / self.turns.max(1) as f64)?;
        for (what, histogram) in [("input to read", &self.latency), ("turn", &self.turn)] {
            if histogram.total() > 0 {
                let [half, most] = [0.5, 0.99].map(|q| Ago(histogram.quantile(q)));
                write!(f, ", {what} p50 {half} p99 {most} max {}", Ago(histogram.longest()))?;
            }
        }
        self.longest_stall.map_or(Ok(()), |stall| write!(f, ", {stall}"))
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "longest stall {}, {} ago: ", Ago(self.lasted), Ago(self.ago))?;
        match self.during {
            During::Connection(id) => write!(f, "connection {id}")?,
            During::Datagrams => f.write_str("datagrams")?,
            During::Accepting => f.write_str("accepting")?,
            During::Commands => f.write_str("messages, closures or timers")?,
        }
        write!(f, ", {} frames", self.frames)?;
        match self.task_polls {
            0 => Ok(()),
            polls => write!(f, ", or one of {polls} polls of tasks"),
        }
    }
}
