//! Timers of one reactor: many deadlines, most of them cancelled before they come.
//!
//! ```text
//!   insert(at) ──► level by distance, slot by time                       due (FIFO) ──► expire(now)
//!                                                                        ▲
//!   level 0  64 slots of 1 ms      ■□□■□…   slot's time reached ─────────┤
//!   level 1  64 slots of 64 ms     □■□□□…   slot's time reached: its entries move down
//!   …                                       ▲
//!   level 6  64 slots of 2^36 ms   □□□□■…   ┘
//! ```
//!
//! A hashed hierarchical wheel (Varghese and Lauck). An entry stands in the lowest level in which its tick and the wheel's
//! current tick differ by no more than that level's digit, so the slots ahead never wrap around, and the first occupied slot
//! of the lowest occupied level is the next thing to happen. A bitmap a level finds it without a walk.
//!
//! No clock, no thread and no callback here: `now` is an argument, and expired keys are handed out one by one.

use std::time::{Duration, Instant};

/// Bits of a tick that one level resolves.
const LEVEL_BITS: u32 = 6;
/// Slots a level.
const SLOTS: usize = 1 << LEVEL_BITS;
/// Levels: together they resolve 2^42 ms, 139 years.
const LEVELS: usize = 7;
/// Last tick; later deadlines are brought forward to it.
const MAX_TICK: u64 = (1 << (LEVEL_BITS * LEVELS as u32)) - 1;
/// The list of entries whose time has come, after the slots of all levels.
const DUE: usize = SLOTS * LEVELS;
/// No entry.
const NIL: u32 = u32::MAX;

/// Deadlines with a key each, ordered by time in ticks of 1 ms.
///
/// Insert and cancel cost O(1) and allocate only when more timers are alive than ever before. Expiry never comes early, and
/// at most one tick late: a deadline is rounded up to a whole tick after the wheel's creation, and `now` down to one.
/// Entries expire in the order of their ticks. A deadline more than 139 years after the wheel's creation expires then.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # use rpc_transport::TimerWheel;
/// let start = Instant::now();
/// let mut timers = TimerWheel::new(start);
/// let call = timers.insert(start + Duration::from_millis(50), "call");
/// timers.insert(start + Duration::from_millis(20), "idle");
/// assert_eq!(timers.expire(start + Duration::from_millis(30)), Some("idle"));
/// assert_eq!(timers.expire(start + Duration::from_millis(30)), None);
/// assert_eq!(timers.cancel(call), Some("call"));
/// assert_eq!(timers.next_at(), None);
/// ```
#[derive(Debug)]
pub struct TimerWheel<K> {
    start: Instant,
    /// Ticks since `start` that have been dealt with. Every entry in a level has a later tick.
    tick: u64,
    /// First entry of each slot's ring, and of the due entries.
    heads: [u32; DUE + 1],
    /// A bit for each slot of a level that has entries.
    occupied: [u64; LEVELS],
    entries: Vec<Entry<K>>,
    /// First of the unused entries, linked by `next`.
    free: u32,
    len: usize,
}

/// Names a timer from its insertion until it expires or is cancelled; harmless afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry<K> {
    /// `None` while the entry is unused.
    key: Option<K>,
    tick: u64,
    /// Counts the owners of this entry, so that an id of an earlier one finds nothing.
    generation: u32,
    /// The list it stands in.
    list: u32,
    /// Neighbours in the ring of its list.
    next: u32,
    prev: u32,
}

impl<K> TimerWheel<K> {
    /// An empty wheel, which allocates at the first insertion. Its ticks are counted from `now`.
    pub fn new(now: Instant) -> TimerWheel<K> {
        TimerWheel {
            start: now,
            tick: 0,
            heads: [NIL; DUE + 1],
            occupied: [0; LEVELS],
            entries: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    /// Timers that have neither expired nor been cancelled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no timer.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer: `key` is handed out by the first [`expire`](TimerWheel::expire) at or after `at`. A time in the past is
    /// legal and expires at once.
    ///
    /// # Panics
    /// When 2^32 - 1 timers are alive.
    pub fn insert(&mut self, at: Instant, key: K) -> TimerId {
        let tick = self.tick_after(at);
        let index = self.allocate(key, tick);
        self.place(index);
        self.len += 1;
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Removes a timer and returns its key; `None` when it has expired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<K> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation != id.generation || entry.key.is_none() {
            return None;
        }
        self.unlink(id.index);
        self.release(id.index)
    }

    /// Takes one timer whose time is at or before `now`, the earliest tick first. Called until it returns `None`, once a turn.
    /// A `now` before that of an earlier call is harmless.
    pub fn expire(&mut self, now: Instant) -> Option<K> {
        let now = self.tick_before(now);
        while self.heads[DUE] == NIL {
            match self.next_slot() {
                Some((level, slot, tick)) if tick <= now => {
                    self.tick = tick;
                    self.open(level, slot);
                }
                _ => {
                    self.tick = self.tick.max(now);
                    return None;
                }
            }
        }
        let index = self.heads[DUE];
        self.unlink(index);
        self.release(index)
    }

    /// The key of a timer that has neither expired nor been cancelled.
    pub(crate) fn get(&self, id: TimerId) -> Option<&K> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation == id.generation { entry.key.as_ref() } else { None }
    }

    /// Takes any timer, whatever its time.
    pub(crate) fn pop(&mut self) -> Option<K> {
        let index = self.entries.iter().position(|entry| entry.key.is_some())? as u32;
        self.unlink(index);
        self.release(index)
    }

    /// Cancels every timer whose key is not to be kept. Costs as much as there ever were timers alive.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        for index in 0..self.entries.len() {
            if self.entries[index].key.as_ref().is_some_and(|key| !keep(key)) {
                self.unlink(index as u32);
                self.release(index as u32);
            }
        }
    }

    /// When to call [`expire`](TimerWheel::expire) next; `None` when there is no timer. Never later than the earliest timer's
    /// tick, but it may be earlier for a far one: then `expire` returns nothing and the answer becomes more precise, at most
    /// six times for one timer.
    pub fn next_at(&self) -> Option<Instant> {
        let tick = if self.heads[DUE] != NIL { self.tick } else { self.next_slot()?.2 };
        self.start.checked_add(Duration::from_millis(tick))
    }

    /// The slot that comes next, and its time.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = LEVEL_BITS * level as u32;
        let above = self.tick >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some((level, slot, above | (slot as u64) << shift))
    }

    /// Places the entries of a slot anew, whose time is the wheel's current tick: lower, or among the due ones.
    fn open(&mut self, level: usize, slot: usize) {
        let list = level * SLOTS + slot;
        while self.heads[list] != NIL {
            let index = self.heads[list];
            self.unlink(index);
            self.place(index);
        }
    }

    /// Links an entry into the list its tick belongs to now.
    fn place(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick;
        if tick <= self.tick {
            self.link(index, DUE);
            return;
        }
        let level = ((tick ^ self.tick).ilog2() / LEVEL_BITS) as usize;
        let slot = (tick >> (LEVEL_BITS * level as u32)) as usize % SLOTS;
        self.occupied[level] |= 1 << slot;
        self.link(index, level * SLOTS + slot);
    }

    /// Adds an entry at the end of a list.
    fn link(&mut self, index: u32, list: usize) {
        let head = self.heads[list];
        let (prev, next) = if head == NIL {
            self.heads[list] = index;
            (index, index)
        } else {
            (self.entries[head as usize].prev, head)
        };
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next, entry.list) = (prev, next, list as u32);
        self.entries[prev as usize].next = index;
        self.entries[next as usize].prev = index;
    }

    /// Removes an entry from its list.
    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, list, .. } = self.entries[index as usize];
        let list = list as usize;
        if next == index {
            self.heads[list] = NIL;
            if list != DUE {
                self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            }
            return;
        }
        self.entries[prev as usize].next = next;
        self.entries[next as usize].prev = prev;
        if self.heads[list] == index {
            self.heads[list] = next;
        }
    }

    fn allocate(&mut self, key: K, tick: u64) -> u32 {
        if let Some(entry) = self.entries.get_mut(self.free as usize) {
            let index = self.free;
            self.free = entry.next;
            entry.key = Some(key);
            entry.tick = tick;
            return index;
        }
        assert!(self.entries.len() < NIL as usize, "too many timers");
        let index = self.entries.len() as u32;
        self.entries.push(Entry { key: Some(key), tick, generation: 0, list: 0, next: NIL, prev: NIL });
        index
    }

    /// Makes an unlinked entry unused.
    fn release(&mut self, index: u32) -> Option<K> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.key.take()
    }

    /// The first tick that is not before `at`.
    fn tick_after(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        let millis = since.as_secs().saturating_mul(1000);
        millis.saturating_add(since.subsec_nanos().div_ceil(1_000_000).into()).min(MAX_TICK)
    }

    /// The last tick that is not after `at`.
    fn tick_before(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        since.as_secs().saturating_mul(1000).saturating_add(since.subsec_millis().into()).min(MAX_TICK)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn years(n: u64) -> Duration {
        Duration::from_secs(n * 365 * 24 * 3600)
    }

    impl<K> TimerWheel<K> {
        /// Nothing but unused entries.
        fn assert_clean(&self) {
            assert!(self.is_empty());
            assert_eq!(self.next_at(), None);
            assert_eq!(self.occupied, [0; LEVELS]);
            assert!(self.heads.iter().all(|head| *head == NIL));
            assert!(self.entries.iter().all(|entry| entry.key.is_none()));
        }
    }

    #[test]
    fn an_empty_wheel_is_small_and_owns_nothing() {
        assert!(size_of::<TimerWheel<u64>>() <= 3 * 1024, "{}", size_of::<TimerWheel<u64>>());
        let timers = TimerWheel::<u64>::new(Instant::now());
        assert_eq!(timers.entries.capacity(), 0);
    }

    #[test]
    fn a_sweep_leaves_what_is_to_be_kept() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        for n in 0..100_u32 {
            timers.insert(start + MS * n * n, n);
        }
        timers.retain(|n| n % 10 == 7);
        assert_eq!(timers.len(), 10);
        let left: Vec<_> = std::iter::from_fn(|| timers.expire(start + years(1))).collect();
        assert_eq!(left, [7, 17, 27, 37, 47, 57, 67, 77, 87, 97]);
        timers.insert(start + years(2), 1);
        timers.insert(start + years(3), 2);
        let mut any = [timers.pop(), timers.pop(), timers.pop()];
        any.sort();
        assert_eq!(any, [None, Some(1), Some(2)]);
        timers.assert_clean();
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        for micros in [0, 1, 999, 1000, 1001, 63_999, 64_000, 64_001, 4_095_999, 4_096_000, 300_000_001] {
            let at = start + Duration::from_micros(micros);
            timers.insert(at, micros);
            if let Some(before) = at.checked_sub(Duration::from_nanos(1)).filter(|before| *before >= start) {
                assert_eq!(timers.expire(before), None, "early by a nanosecond");
            }
            assert_eq!(timers.expire(at + MS), Some(micros), "late by more than a tick");
            timers.assert_clean();
            timers = TimerWheel::new(start);
        }
    }

    #[test]
    fn the_earliest_expires_first_and_equals_in_order_of_insertion() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        for (key, at) in [(5, 70), (3, 5), (6, 5000), (1, 1), (4, 5), (2, 1)] {
            timers.insert(start + at * MS, key);
        }
        let expired: Vec<_> = std::iter::from_fn(|| timers.expire(start + 10_000 * MS)).collect();
        assert_eq!(expired, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_time_in_the_past_expires_at_once() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start + 100 * MS);
        timers.insert(start, "before the wheel");
        assert_eq!(timers.next_at(), Some(start + 100 * MS));
        assert_eq!(timers.expire(start + 100 * MS), Some("before the wheel"));
        assert_eq!(timers.expire(start + 500 * MS), None);
        timers.insert(start + 300 * MS, "before the last turn");
        assert_eq!(timers.expire(start + 500 * MS), Some("before the last turn"));
        timers.assert_clean();
    }

    /// B13: a timer that was cancelled, or whose owner is gone, leaves nothing behind.
    #[test]
    fn b13_cancelled_timers_leave_nothing() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        for round in 0..100u64 {
            let now = start + (round as u32) * 977 * MS;
            let ids: Vec<_> = (0..64).map(|i| timers.insert(now + Duration::from_millis(1 << (i % 42)), i)).collect();
            assert_eq!(timers.len(), 64);
            for (i, id) in ids.iter().enumerate() {
                assert_eq!(timers.cancel(*id), Some(i));
                assert_eq!(timers.cancel(*id), None);
            }
            timers.assert_clean();
            assert_eq!(timers.expire(now), None);
        }
        assert_eq!(timers.entries.len(), 64, "entries are used again");
    }

    #[test]
    fn a_stale_id_does_not_cancel_the_next_timer_in_its_place() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        let first = timers.insert(start, "first");
        assert_eq!(timers.expire(start), Some("first"));
        let second = timers.insert(start, "second");
        assert_eq!(first.index, second.index);
        assert_eq!(timers.cancel(first), None);
        assert_eq!(timers.cancel(second), Some("second"));
        assert_eq!(timers.cancel(TimerId { index: 77, generation: 0 }), None);
    }

    /// B35: deadlines of years, and of everything that `Instant` can hold.
    #[test]
    fn b35_far_deadlines_saturate() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        let mut farthest = start;
        for bit in (0..63).rev() {
            farthest = farthest.checked_add(Duration::from_secs(1 << bit)).unwrap_or(farthest);
        }
        for at in [start + Duration::from_secs(25 * 24 * 3600), start + years(1), start + years(100), farthest] {
            timers.insert(at, at);
        }
        assert_eq!(timers.expire(start + Duration::from_secs(24 * 24 * 3600)), None);
        let mut hops = 0;
        let mut now = start;
        let mut expired = Vec::new();
        while let Some(next) = timers.next_at() {
            assert!(next >= now);
            now = next;
            expired.extend(std::iter::from_fn(|| timers.expire(now)));
            hops += 1;
        }
        assert_eq!(expired.len(), 4);
        assert!(expired.is_sorted());
        assert!(now < start + years(140), "the farthest came after 139 years");
        assert!(hops <= 4 * 7, "{hops} wake-ups");
        timers.assert_clean();
        assert_eq!(timers.expire(farthest), None);
        timers.insert(farthest, farthest);
        assert_eq!(timers.expire(farthest), Some(farthest));
    }

    /// T32: `now` may jump, and go back.
    #[test]
    fn time_going_backwards_is_harmless() {
        let start = Instant::now();
        let mut timers = TimerWheel::new(start);
        timers.insert(start + 1000 * MS, "a");
        assert_eq!(timers.expire(start + 999 * MS), None);
        assert_eq!(timers.expire(start), None);
        assert_eq!(timers.expire(start.checked_sub(100 * MS).unwrap_or(start)), None);
        timers.insert(start + 500 * MS, "b");
        assert_eq!(timers.expire(start + 999 * MS), Some("b"));
        assert_eq!(timers.expire(start + 999 * MS), None);
        assert_eq!(timers.expire(start + 1000 * MS), Some("a"));
        timers.assert_clean();
    }

    #[test]
    fn one_timer_wakes_at_most_seven_times() {
        let start = Instant::now();
        for millis in [1, 63, 64, 5_000, 262_145, 600_000, 86_400_001, (1 << 42) - 1] {
            let mut timers = TimerWheel::new(start);
            timers.insert(start + Duration::from_millis(millis), ());
            let mut wakes = 0;
            while let Some(next) = timers.next_at() {
                wakes += 1;
                timers.expire(next);
            }
            assert!(wakes <= LEVELS, "{wakes} for {millis} ms");
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert { micros: u64 },
        Cancel { which: usize },
        Advance { micros: u64 },
        Back { micros: u64 },
    }

    fn steps() -> impl Strategy<Value = Step> {
        let near = 0u64..10_000;
        let mid = 0u64..300_000_000;
        let far = 0u64..1 << 45; // a year; 120 of them stay below the last tick
        let micros = prop_oneof![4 => near.clone(), 4 => mid.clone(), 1 => far.clone()];
        let jump = prop_oneof![6 => near, 3 => mid, 1 => far];
        prop_oneof![
            5 => micros.prop_map(|micros| Step::Insert { micros }),
            2 => any::<usize>().prop_map(|which| Step::Cancel { which }),
            3 => jump.prop_map(|micros| Step::Advance { micros }),
            1 => (0u64..100_000).prop_map(|micros| Step::Back { micros }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// The model orders by tick (as seen when the timer was set), then by insertion.
        #[test]
        fn behaves_like_an_ordered_map(steps in proptest::collection::vec(steps(), 0..120)) {
            let start = Instant::now();
            let at = |micros: u64| start + Duration::from_micros(micros);
            let mut timers = TimerWheel::new(start);
            let mut model = BTreeMap::new();
            let mut ids = Vec::new();
            let (mut now, mut latest, mut inserted) = (0u64, 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Insert { micros } => {
                        let deadline = now + micros;
                        let order = (deadline.div_ceil(1000).max(latest / 1000), inserted);
                        ids.push((timers.insert(at(deadline), inserted), order));
                        model.insert(order, deadline);
                        inserted += 1;
                    }
                    Step::Cancel { which } if !ids.is_empty() => {
                        let (id, order) = ids[which % ids.len()];
                        let expected = model.remove(&order).map(|_| order.1);
                        prop_assert_eq!(timers.cancel(id), expected);
                    }
                    Step::Cancel { .. } => {}
                    Step::Advance { micros } => now += micros,
                    Step::Back { micros } => now = now.saturating_sub(micros),
                }
                if let Some(((tick, _), _)) = model.first_key_value() {
                    let next = timers.next_at();
                    prop_assert!(next.is_some_and(|next| next <= at(tick * 1000)), "a wake-up that is too late");
                }
                if matches!(step, Step::Advance { .. } | Step::Back { .. }) {
                    latest = latest.max(now);
                    while let Some(key) = timers.expire(at(now)) {
                        let ((tick, order), deadline) = model.pop_first().expect("something expires that is not there");
                        prop_assert_eq!(key, order);
                        prop_assert!(deadline <= now || tick * 1000 <= latest, "early");
                    }
                    // Whatever is due a tick ago is gone.
                    let late = model.first_key_value().is_some_and(|((tick, _), _)| *tick <= now / 1000);
                    prop_assert!(!late, "late");
                }
                prop_assert_eq!(timers.len(), model.len());
            }
            while let Some(next) = timers.next_at() {
                while let Some(key) = timers.expire(next) {
                    prop_assert_eq!(Some(key), model.pop_first().map(|((_, order), _)| order));
                }
            }
            prop_assert!(model.is_empty());
            timers.assert_clean();
        }
    }
}
