//! Callers who were woken by their replies, and may make their next calls soon.

use std::time::{Duration, Instant};

use crate::conn::EARLY_FLUSH_FRAMES;

/// Calls that are enough for a write of their own, though more are expected: the peer has something to do meanwhile.
const ENOUGH: usize = 256;

/// Callers that are expected, at most.
const EXPECTED: usize = 16 * ENOUGH;

/// How often in a row a turn is put off, at most.
const MOST: u8 = 4;

/// How long a turn is put off, at most.
const LONGEST: Duration = Duration::from_millis(1);

/// When a turn had better be put off. A runtime runs who was woken last first: so the first of many callers whose replies have come would
/// have a turn, and a write, for its next call alone.
///
/// It is put off while fewer calls have come than callers were woken, as long as more of them come each time, and no more than a few
/// times. When none come, half as many are expected from then on: something else may have asked for that turn.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// Who has been woken and not made a call since, as far as numbers tell.
    woken: usize,
    /// Calls that guests have made since the last turn.
    guests: usize,
    /// How often the turn has been put off, since when, and how many calls had come the last time.
    put_off: u8,
    since: Option<Instant>,
    seen: usize,
}

impl Expected {
    /// So many callers are woken.
    pub(crate) fn woke(&mut self, callers: usize) {
        self.woken = (self.woken + callers).min(EXPECTED);
    }

    /// A guest makes a call. Whether what guests before it have written had better leave first: the peer has something to do meanwhile.
    pub(crate) fn guest(&mut self) -> bool {
        self.guests += 1;
        self.guests == EARLY_FLUSH_FRAMES + 1 && (EARLY_FLUSH_FRAMES * 4 / 3..ENOUGH).contains(&self.woken)
    }

    /// Until when to put the turn off, at most; `sent` counts the calls that wait for it, beside those of guests. If not at all, the turn takes
    /// them.
    pub(crate) fn more(&mut self, now: impl FnOnce() -> Instant, sent: impl FnOnce() -> usize) -> Option<Instant> {
        if self.woken == 0 {
            self.guests = 0;
            return None;
        }
        let calls = self.guests + sent();
        let grows = 0 < calls && calls < self.woken.min(ENOUGH) && self.put_off < MOST && calls > self.seen;
        if grows {
            let now = now();
            let until = *self.since.get_or_insert(now) + LONGEST;
            if now < until {
                (self.put_off, self.seen) = (self.put_off + 1, calls);
                return Some(until);
            }
        }
        if calls > 0 {
            let left = self.woken.saturating_sub(calls);
            let woken = if calls > self.seen { left } else { left / 2 };
            *self = Expected { woken, ..Expected::default() };
        } else {
            (self.put_off, self.since, self.seen) = (0, None, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said when so many calls have come, one look after the other: until when after the first look the turn is put off.
    fn looks(woken: usize, calls: &[usize], every: Duration) -> Vec<Option<Duration>> {
        let (mut expected, first) = (Expected::default(), Instant::now());
        expected.woke(woken);
        let mut now = first;
        let look = |calls: &usize| {
            let until = expected.more(|| now, || *calls);
            now += every;
            until.map(|until| until - first)
        };
        calls.iter().map(look).collect()
    }

    #[test]
    #[rustfmt::skip]
    fn a_turn_waits_for_those_who_were_woken() {
        let check = |woken, calls: &[usize], expected: &[bool]| {
            let put_off: Vec<_> = looks(woken, calls, Duration::ZERO).iter().map(Option::is_some).collect();
            assert_eq!(put_off, expected, "{woken} woken, {calls:?}");
        };
        //    woken  calls            put off
        check(0,    &[1, 1],                &[false, false]);                     // nobody is expected
        check(1,    &[1, 1],                &[false, false]);                     // a lone caller
        check(100,  &[1, 100],              &[true, false]);                      // all have come
        check(100,  &[1, 1, 1, 100],        &[true, false, true, false]);         // no others come: half as many are expected now
        check(1000, &[1, 2, 3, 4, 5, 1],    &[true, true, true, true, false, true]); // nor are they forgotten
        check(6,    &[1, 1, 1, 1, 1],       &[true, false, true, false, false]);  // nobody is expected any more
        check(100,  &[0, 0, 1],             &[false, false, true]);               // input has its turn
        check(100,  &[1, 2, 3, 4, 5],       &[true, true, true, true, false]);    // not for ever
        check(1000, &[256, 1, 2, 300],      &[false, true, true, false]);         // enough for a write; others are still expected
        check(300,  &[256, 44, 1],          &[false, false, false]);              // now all have come
        check(100,  &[1, 0, 1, 1],          &[true, false, true, false]);         // the count starts anew after input
    }

    /// Which of the calls of so many guests finds those before it written.
    #[test]
    fn the_first_of_many_guests_do_not_wait_for_all() {
        let early = |woken, guests| {
            let mut expected = Expected::default();
            expected.woke(woken);
            (1..=guests).filter(|_| expected.guest()).count()
        };
        assert_eq!(early(100, 50), 0, "it is they");
        assert_eq!(early(100, 51), 1);
        assert_eq!(early(100, 100), 1, "the others have a turn");
        assert_eq!(early(60, 60), 0, "the others are few");
        assert_eq!(early(300, 300), 0, "the peer has enough to do");
    }

    #[test]
    fn a_turn_is_put_off_until_a_millisecond_after_the_first_look() {
        let end = Some(LONGEST);
        assert_eq!(
            looks(100, &[1, 2, 3, 4], LONGEST / 2),
            [end, end, None, Some(LONGEST * 5 / 2)],
            "the last begins anew"
        );
    }
}
