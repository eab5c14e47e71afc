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
        TimerId {
            index,
            generation: self.entries[index as usize].generation,
        }
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

    /// When to call [`expire`](TimerWheel::expire) next; `None` when there is no timer. Never later than the earliest timer's
    /// tick, but it may be earlier for a far one: then `expire` returns nothing and the answer becomes more precise, at most
    /// six times for one timer.
    pub fn next_at(&self) -> Option<Instant> {
        let tick = if self.heads[DUE] != NIL {
            self.tick
        } else {
            self.next_slot()?.2
        };
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
        let Entry {
            prev, next, list, ..
        } = self.entries[index as usize];
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
        self.entries.push(Entry {
            key: Some(key),
            tick,
            generation: 0,
            list: 0,
            next: NIL,
            prev: NIL,
        });
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
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).map_or(MAX_TICK, |tick| tick.min(MAX_TICK))
    }

    /// The last tick that is not after `at`.
    fn tick_before(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(millis).map_or(MAX_TICK, |tick| tick.min(MAX_TICK))
    }
}
