//! Whether the peer of a connection is still there, and whether it asks too often whether we are.
//!
//! ```text
//!  a call begins ─► watching ── heard within the interval, or not read ──► look again
//!                      │  ▲
//!                      │  └──── pong, or any bytes
//!                      ├─ silent for the interval ──► ping ── silent for the timeout, too ──► dead
//!                      └─ no calls under way ──► rests: no timer, so that idle connections wake nobody
//! ```
//!
//! Only connections with calls under way are watched: there somebody waits for the peer. An idle one costs nothing, and ends by
//! `idle_timeout`. Any bytes show life, not only pongs: one may stand behind a long frame. No I/O and no clock here: the connection
//! handlers of both sides drive it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::Limits;

/// Silence is counted in this many steps of `keepalive_timeout`, each seen by a look of its own. However long a turn lasts, it is one
/// step: what came meanwhile is read in the turns after it, and a wait reports only so many sockets at once.
const STEPS: u32 = 4;

/// Shortest step, so that no two of them fall into the same turn.
const MIN_STEP: Duration = Duration::from_millis(1);

/// The keepalive of one connection whose peer knows control frames.
#[derive(Debug)]
pub(crate) struct Keepalive {
    rules: Arc<Rules>,
    /// A look is due: its timer is armed.
    watching: bool,
    /// Boxed as what follows is: most connections have neither, and of idle ones there are many.
    ping: Option<Box<Ping>>,
    pings: u32,
    /// A round trip is wanted; it begins when the ping in flight has been answered.
    probe: Probe,
    /// From the first control frame on that needs it.
    theirs: Option<Box<Theirs>>,
}

/// What the peer's control frames leave behind.
#[derive(Debug, Default)]
struct Theirs {
    /// The number of its ping that has not been answered; of several only the last.
    owed: Option<u64>,
    /// When it pinged last.
    pinged: Option<Instant>,
    strikes: u32,
    /// Since when it has only shown that it is there, and how many calls there had been by then.
    quiet: Option<(Instant, u64)>,
}

/// The limits that concern it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) min_interval: Duration,
    pub(crate) strikes: u32,
}

impl Rules {
    pub(crate) fn of(limits: &Limits) -> Rules {
        Rules {
            interval: limits.keepalive_interval,
            timeout: limits.keepalive_timeout,
            min_interval: limits.keepalive_min_interval,
            strikes: limits.keepalive_strikes,
        }
    }
}

/// The one ping in flight.
#[derive(Debug)]
struct Ping {
    number: u64,
    /// Where it ends in the stream of this side.
    end: u64,
    /// The last look, or when it was put into the output.
    looked: Instant,
    /// Steps in which nothing was heard; `None` while silence cannot count: the ping is not known to be written, or the peer is not
    /// read.
    silent: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    No,
    /// Waits for the answer to the ping before.
    Wanted,
    /// The ping in flight is the probe.
    Out,
}

/// The connection, as a look finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// Calls are under way.
    pub(crate) busy: bool,
    /// When bytes last came.
    pub(crate) heard: Instant,
    /// Whether this side reads.
    pub(crate) reads: bool,
    /// Bytes of the stream that the kernel has taken.
    pub(crate) written: u64,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until the next call begins.
    Rest,
    /// Look again then.
    Look(Instant),
    /// Write a ping with this number, and say where it ends: [`Keepalive::sent`].
    Ping(u64),
    /// The peer is gone.
    Dead,
}

/// What a pong means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pong {
    /// Nobody asked.
    Unasked,
    Alive,
    /// The wanted round trip is made: what the peer sent before it saw the ping is here.
    Probed,
    /// Now the wanted round trip begins, with this number.
    Probe(u64),
}

/// The peer pinged more often than `keepalive_strikes` allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyPings;

impl Keepalive {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Keepalive { rules, watching: false, ping: None, pings: 0, probe: Probe::No, theirs: None }
    }

    /// A call begins: when to look, unless that is known already.
    #[inline]
    pub(crate) fn watch(&mut self, now: Instant) -> Option<Instant> {
        if std::mem::replace(&mut self.watching, true) { None } else { Some(now + self.rules.interval) }
    }

    /// The time for a look has come.
    pub(crate) fn look(&mut self, now: Instant, view: View) -> Next {
        self.watching = view.busy;
        if !view.busy {
            return Next::Rest;
        }
        let Rules { interval, timeout, .. } = *self.rules;
        let Some(ping) = &mut self.ping else {
            let due = view.heard + interval;
            return match view.reads {
                _ if now < due => Next::Look(due),
                false => Next::Look(now + interval), // it could not hear the answer
                true => Next::Ping(self.next_ping()),
            };
        };
        let counts = view.reads && view.written >= ping.end;
        let heard = view.heard >= ping.looked;
        ping.looked = now;
        ping.silent = match ping.silent {
            _ if !counts => None,
            Some(steps) if !heard => Some(steps + 1),
            _ => Some(0), // the first look that finds the ping written begins the count: when it left is not known
        };
        if ping.silent == Some(STEPS) { Next::Dead } else { Next::Look(now + step(timeout)) }
    }

    fn next_ping(&mut self) -> u64 {
        self.pings = self.pings.wrapping_add(1);
        self.pings.into()
    }

    /// The ping with this number has been put into the output, which ends there: when to look again.
    pub(crate) fn sent(&mut self, number: u64, end: u64, now: Instant) -> Instant {
        self.ping = Some(Box::new(Ping { number, end, looked: now, silent: None }));
        now + step(self.rules.timeout)
    }

    /// Asks for a round trip: the number of the ping to write, or `None` if it follows the one in flight.
    pub(crate) fn probe(&mut self) -> Option<u64> {
        if self.ping.is_some() {
            self.probe = Probe::Wanted;
            return None;
        }
        self.probe = Probe::Out;
        Some(self.next_ping())
    }

    pub(crate) fn on_pong(&mut self, number: u64) -> Pong {
        if self.ping.take_if(|ping| ping.number == number).is_none() {
            return Pong::Unasked;
        }
        match self.probe {
            Probe::No => Pong::Alive,
            Probe::Out => {
                self.probe = Probe::No;
                Pong::Probed
            }
            Probe::Wanted => {
                self.probe = Probe::Out;
                Pong::Probe(self.next_ping())
            }
        }
    }

    /// The peer pings. It is owed a pong.
    ///
    /// # Errors
    /// It has done so too often in less than `keepalive_min_interval`; one that keeps to it is forgiven.
    pub(crate) fn on_ping(&mut self, number: u64, now: Instant) -> Result<(), TooManyPings> {
        let theirs = self.theirs.get_or_insert_default();
        let early = theirs.pinged.is_some_and(|last| now < last + self.rules.min_interval);
        theirs.pinged = Some(now);
        theirs.strikes = if early { theirs.strikes + 1 } else { 0 };
        if theirs.strikes > self.rules.strikes {
            return Err(TooManyPings);
        }
        theirs.owed = Some(number);
        Ok(())
    }

    /// The pong to write, if one is owed; one answers all pings of a batch.
    #[inline]
    pub(crate) fn owed(&mut self) -> Option<u64> {
        self.theirs.as_mut()?.owed.take()
    }

    /// A control frame came while no call was under way, of which there have been so many: the peer only shows that it is there.
    pub(crate) fn note_quiet(&mut self, now: Instant, calls: u64) {
        let theirs = self.theirs.get_or_insert_default();
        if theirs.quiet.is_none_or(|(_, before)| before != calls) {
            theirs.quiet = Some((now, calls));
        }
    }

    /// Since when there was nothing but control frames, if it is so.
    pub(crate) fn quiet_since(&self, calls: u64) -> Option<Instant> {
        let (since, before) = self.theirs.as_ref()?.quiet?;
        (before == calls).then_some(since)
    }
}

fn step(timeout: Duration) -> Duration {
    (timeout / STEPS).max(MIN_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(4),
        min_interval: Duration::from_secs(1),
        strikes: 2,
    };

    /// A connection watched from second 0, whose look at each given second finds it so; what is done then.
    /// `heard` is a second, `written` is whether the ping has left; the ping ends at 100.
    #[track_caller]
    fn check(looks: &[(u64, bool, u64, bool, bool, &str)]) {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut keepalive = Keepalive::new(Arc::new(RULES));
        assert_eq!(keepalive.watch(start), Some(at(10)));
        assert_eq!(keepalive.watch(start), None, "a look is due already");
        for (row, (now, busy, heard, reads, written, want)) in looks.iter().copied().enumerate() {
            let view = View { busy, heard: at(heard), reads, written: if written { 100 } else { 99 } };
            let next = match keepalive.look(at(now), view) {
                Next::Look(then) => format!("look {}", then.duration_since(start).as_secs()),
                Next::Ping(number) => {
                    let then = keepalive.sent(number, 100, at(now)).duration_since(start).as_secs();
                    format!("ping {number}, look {then}")
                }
                other => format!("{other:?}"),
            };
            assert_eq!(next, want, "row {row}, second {now}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn a_silent_peer_is_asked_and_then_given_up() {
        //      now busy   heard reads  written
        check(&[(10, false, 0,   true,  true,  "Rest")]);
        check(&[(10, true,  4,   true,  true,  "look 14"), (14, true, 4, true, true, "ping 1, look 15")]);
        // the first look finds the ping written; four more hear nothing
        check(&[(10, true,  0,   true,  true,  "ping 1, look 11"), (11, true, 0, true, true, "look 12"),
                (12, true,  0,   true,  true,  "look 13"),         (13, true, 0, true, true, "look 14"),
                (14, true,  0,   true,  true,  "look 15"),         (15, true, 0, true, true, "Dead")]);
        // a turn that lasts longer than the timeout is one step, whether the ping left before it or after: the pong may be unread
        check(&[(10, true,  0,   true,  true,  "ping 1, look 11"), (60, true, 0, true, true, "look 61"),
                (120, true, 0,   true,  true,  "look 121"),        (180, true, 0, true, true, "look 181"),
                (181, true, 180, true,  true,  "look 182")]);
        // any bytes are life, and the count begins again: a pong may stand behind a long frame
        check(&[(10, true,  0,   true,  true,  "ping 1, look 11"), (11, true, 0, true, true, "look 12"),
                (12, true,  0,   true,  true,  "look 13"),         (13, true, 0, true, true, "look 14"),
                (14, true,  13,  true,  true,  "look 15"),         (15, true, 13, true, true, "look 16"),
                (16, true,  13,  true,  true,  "look 17"),         (17, true, 13, true, true, "look 18"),
                (18, true,  13,  true,  true,  "Dead")]);
        // a ping that stands in the output has not been heard
        check(&[(10, true,  0,   true,  true,  "ping 1, look 11"), (11, true, 0, true, false, "look 12"),
                (40, true,  0,   true,  false, "look 41"),         (41, true, 0, true, true, "look 42"),
                (42, true,  0,   true,  true,  "look 43"),         (43, true, 0, true, true, "look 44"),
                (44, true,  0,   true,  true,  "look 45"),         (45, true, 0, true, true, "Dead")]);
        // who is not read cannot answer
        check(&[(10, true,  0,   false, true,  "look 20"),         (20, true, 0, true, true,  "ping 1, look 21"),
                (21, true,  0,   true,  true,  "look 22"),         (22, true, 0, true, true,  "look 23"),
                (23, true,  0,   false, true,  "look 24"),         (24, true, 0, true, true,  "look 25"),
                (25, true,  0,   true,  true,  "look 26"),         (26, true, 0, true, true,  "look 27"),
                (27, true,  0,   true,  true,  "look 28"),         (28, true, 0, true, true,  "Dead")]);
        // nobody waits any more; what was counted is not forgotten
        check(&[(10, true,  0,   true,  true,  "ping 1, look 11"), (11, true, 0, true, true, "look 12"),
                (12, true,  0,   true,  true,  "look 13"),         (13, true, 0, true, true, "look 14"),
                (14, true,  0,   true,  true,  "look 15"),         (15, false, 0, true, true, "Rest"),
                (60, true,  0,   true,  true,  "Dead")]);
    }

    #[test]
    fn one_ping_is_in_flight_and_only_its_pong_counts() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(Arc::new(RULES));
        assert_eq!(keepalive.on_pong(0), Pong::Unasked);
        assert_eq!(keepalive.on_pong(1), Pong::Unasked);
        let view = View { busy: true, heard: now, reads: true, written: 0 };
        let later = now + RULES.interval;
        assert_eq!(keepalive.look(later, view), Next::Ping(1));
        keepalive.sent(1, 0, later);
        assert_eq!(keepalive.on_pong(2), Pong::Unasked);
        assert_eq!(keepalive.on_pong(1), Pong::Alive);
        assert_eq!(keepalive.on_pong(1), Pong::Unasked, "once");
    }

    #[test]
    fn a_round_trip_follows_the_ping_that_is_in_flight() {
        let now = Instant::now();
        let mut keepalive = Keepalive::new(Arc::new(RULES));
        let number = keepalive.probe().expect("nothing is in flight");
        keepalive.sent(number, 0, now);
        assert_eq!(keepalive.on_pong(number), Pong::Probed);

        let view = View { busy: true, heard: now, reads: true, written: 0 };
        let Next::Ping(first) = keepalive.look(now + RULES.interval, view) else { panic!("it is silent") };
        keepalive.sent(first, 0, now);
        assert_eq!(keepalive.probe(), None);
        let Pong::Probe(second) = keepalive.on_pong(first) else { panic!("the probe follows") };
        assert_ne!(first, second, "the old pong proves nothing about what was sent since");
        keepalive.sent(second, 0, now);
        assert_eq!(keepalive.on_pong(second), Pong::Probed);
    }

    /// T12: pings at full speed. Times in milliseconds since the first.
    #[test]
    #[rustfmt::skip]
    fn pings_in_less_than_the_least_interval_are_strikes() {
        let check = |pings: &[u64], refused_at: Option<usize>| {
            let start = Instant::now();
            let mut keepalive = Keepalive::new(Arc::new(RULES));
            let refused = pings.iter().position(|ms| keepalive.on_ping(*ms, start + Duration::from_millis(*ms)).is_err());
            assert_eq!(refused, refused_at, "{pings:?}");
            if refused_at.is_none() {
                assert_eq!(keepalive.owed(), pings.last().copied(), "one pong for all of them");
                assert_eq!(keepalive.owed(), None);
            }
        };
        check(&[0, 1000, 2000, 3000, 4000, 5000],       None);
        check(&[0, 999, 1998],                          None);
        check(&[0, 0, 0],                               None);
        check(&[0, 0, 0, 0],                            Some(3));
        check(&[0, 999, 1998, 2997],                    Some(3));
        check(&[0, 0, 0, 1000, 1000, 1000],             None);
        check(&[0, 0, 0, 1000, 1000, 1000, 1000],       Some(6));
    }

    #[test]
    fn control_frames_alone_are_no_activity() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut keepalive = Keepalive::new(Arc::new(RULES));
        assert_eq!(keepalive.quiet_since(5), None);
        keepalive.note_quiet(second(1), 5);
        keepalive.note_quiet(second(2), 5);
        assert_eq!(keepalive.quiet_since(5), Some(second(1)), "the second ping changes nothing");
        assert_eq!(keepalive.quiet_since(6), None, "a call came");
        keepalive.note_quiet(second(9), 6);
        assert_eq!(keepalive.quiet_since(6), Some(second(9)));
    }
}
