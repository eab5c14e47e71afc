//! Slots with generations: a late event for the old owner of a slot finds nobody.

use std::fmt;

use crate::sync::put_back;

/// Names a connection of one reactor; it never names a later connection that reuses the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// Both numbers in one, for an atomic; never `u64::MAX`.
    #[inline]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// What [`to_bits`](ConnId::to_bits) gave.
    #[inline]
    pub fn from_bits(bits: u64) -> ConnId {
        ConnId { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Its slot, and how often that has been used before.
impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("rpc-transport packs a slot and a generation into one poll token and needs 64-bit pointers");

const LISTENER: usize = 1 << 31;
const TASK: usize = LISTENER | 1 << 30;

/// What a poll token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Conn(ConnId),
    Listener(usize),
    /// The local task of a socket that has no connections.
    Task(u32),
}

impl Token {
    pub(crate) fn pack(self) -> usize {
        match self {
            Token::Conn(id) => id.to_bits() as usize,
            Token::Listener(index) => LISTENER | index,
            Token::Task(slot) => TASK | slot as usize,
        }
    }

    pub(crate) fn unpack(token: usize) -> Self {
        match token & TASK {
            TASK => Token::Task((token & !TASK) as u32),
            LISTENER => Token::Listener(token & !TASK),
            _ => Token::Conn(ConnId::from_bits(token as u64)),
        }
    }
}

/// Values by [`ConnId`]. A value can be *taken out* while its own code runs, and put back: then the slab is free for
/// others to use, and a second taker finds nothing.
pub(crate) struct Slab<T> {
    /// The value that was put back last, which is mostly the one that is taken next. In its slot it counts as taken out.
    front: Option<T>,
    /// Whose place that is, be it empty or not.
    front_id: ConnId,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    state: State<T>,
}

enum State<T> {
    Free,
    Reserved,
    Out,
    In(T),
}

/// No connection has this id.
const NOBODY: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Slab { front: None, front_id: NOBODY, slots: Vec::new(), free: Vec::new() }
    }

    /// Takes a slot whose value comes by [`Slab::put`].
    pub(crate) fn reserve(&mut self) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Free });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Reserved;
        ConnId { slot, generation: entry.generation }
    }

    #[inline]
    pub(crate) fn put(&mut self, id: ConnId, value: T) {
        if id != self.front_id {
            return self.put_first(id, value);
        }
        let before = self.front.replace(value);
        debug_assert!(before.is_none(), "it was taken out");
    }

    /// As [`put`](Slab::put); what stands in front goes back to its slot.
    #[inline(never)]
    fn put_first(&mut self, id: ConnId, value: T) {
        let (before, before_id) = (self.front.take(), std::mem::replace(&mut self.front_id, NOBODY));
        if let Some(before) = before
            && let Some(slot) = self.slot(before_id)
        {
            slot.state = State::In(before);
        }
        if let Some(slot) = self.slot(id) {
            debug_assert!(matches!(slot.state, State::Out | State::Reserved));
            slot.state = State::Out;
            (self.front_id, self.front) = (id, Some(value));
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, id: ConnId) -> Option<T> {
        if id == self.front_id { self.front.take() } else { self.take_of_slot(id) }
    }

    #[inline(never)]
    fn take_of_slot(&mut self, id: ConnId) -> Option<T> {
        let slot = self.slot(id)?;
        match std::mem::replace(&mut slot.state, State::Out) {
            State::In(value) => Some(value),
            other => {
                slot.state = other;
                None
            }
        }
    }

    #[inline]
    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut T> {
        if id == self.front_id { self.front.as_mut() } else { self.get_in_slot(id) }
    }

    #[inline(never)]
    fn get_in_slot(&mut self, id: ConnId) -> Option<&mut T> {
        match &mut self.slot(id)?.state {
            State::In(value) => Some(value),
            _ => None,
        }
    }

    /// Whether the id names a value, be it taken out just now.
    pub(crate) fn is_used(&self, id: ConnId) -> bool {
        let slot = self.slots.get(id.slot as usize);
        slot.is_some_and(|slot| slot.generation == id.generation && !matches!(slot.state, State::Free))
    }

    /// Frees the slot of a value that was taken out (or never put in); its id is stale from now on.
    pub(crate) fn release(&mut self, id: ConnId) {
        if id == self.front_id {
            (self.front_id, self.front) = (NOBODY, None);
        }
        if let Some(slot) = self.slot(id) {
            debug_assert!(!matches!(slot.state, State::Free));
            slot.state = State::Free;
            slot.generation = slot.generation.wrapping_add(u32::from(!put_back!("B06"))); // or a stale id finds the next owner
            self.free.push(id.slot);
        }
    }

    /// Slots in use, those whose value is taken out included.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn ids(&self) -> Vec<ConnId> {
        let is_in = |id: &ConnId, state: &State<T>| {
            matches!(state, State::In(_)) || *id == self.front_id && self.front.is_some()
        };
        let slots = self.slots.iter().enumerate();
        let ids = slots.map(|(slot, s)| (ConnId { slot: slot as u32, generation: s.generation }, &s.state));
        ids.filter(|(id, state)| is_in(id, state)).map(|(id, _)| id).collect()
    }

    fn slot(&mut self, id: ConnId) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        (slot.generation == id.generation && !matches!(slot.state, State::Free)).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B06, T30: an event for a connection that is gone must not reach the one that got its slot.
    #[test]
    fn a_stale_id_finds_nobody() {
        let mut slab = Slab::new();
        let old = slab.reserve();
        slab.put(old, "old");
        assert_eq!(slab.take(old), Some("old"));
        assert_eq!(slab.take(old), None, "taken out: a second taker finds nothing");
        slab.release(old);
        let new = slab.reserve();
        slab.put(new, "new");
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.get(new), Some(&mut "new"));
        slab.release(old);
        assert_eq!(slab.get(new), Some(&mut "new"), "a stale release frees nothing");
        slab.put(old, "old");
        assert_eq!(slab.take(new), Some("new"), "what is put under a stale id takes nobody's place");
    }

    /// I14: who stands in front is found, taken, counted and replaced like all others.
    #[test]
    fn any_order_of_taking_and_putting_finds_each_value_under_its_own_id() {
        let mut slab = Slab::new();
        let ids: Vec<ConnId> = (0..4).map(|_| slab.reserve()).collect();
        ids.iter().enumerate().for_each(|(n, id)| slab.put(*id, n));
        let mut out = [None; 4];
        let mut random = 7_u32;
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (random >> 16) as usize % 4;
            match out[n].take() {
                Some(value) => slab.put(ids[n], value),
                None => {
                    out[n] = slab.take(ids[n]);
                    assert_eq!(out[n], Some(n));
                    assert_eq!(slab.take(ids[n]), None, "it is out");
                }
            }
            let there: Vec<ConnId> = (0..4).filter(|n| out[*n].is_none()).map(|n| ids[n]).collect();
            assert_eq!(slab.ids(), there);
            assert!((0..4).all(|n| slab.get(ids[n]).copied() == out[n].is_none().then_some(n)));
            assert!(ids.iter().all(|id| slab.is_used(*id)) && slab.len() == 4);
        }
    }

    #[test]
    fn tokens_survive_packing() {
        let mut slab = Slab::<()>::new();
        let a = slab.reserve();
        slab.release(a);
        let b = slab.reserve();
        for token in
            [Token::Conn(a), Token::Conn(b), Token::Listener(0), Token::Listener(7), Token::Task(0), Token::Task(9)]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}

#[cfg(all(test, model = "loom"))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::sync::model::explore;
    use crate::sync::{Mutex, thread};

    /// What a reactor has of connections, and what waits for it: events that the kernel reported, messages of other threads. Who they
    /// are for is decided by the slab and the token alone.
    struct Reactor {
        conns: Slab<&'static str>,
        events: Vec<(usize, &'static str)>,
        messages: Vec<(ConnId, &'static str)>,
    }

    impl Reactor {
        /// Works through what waits, as a turn does: events look at a connection, messages take it out; tells what found no
        /// connection.
        fn turn(&mut self) -> Vec<&'static str> {
            let mut nobody = Vec::new();
            for (token, meant_for) in std::mem::take(&mut self.events) {
                let Token::Conn(id) = Token::unpack(token) else { panic!("no listener here") };
                match self.conns.get(id) {
                    Some(found) => assert_eq!(*found, meant_for, "an event of one connection reached another"),
                    None => nobody.push(meant_for),
                }
            }
            for (id, meant_for) in std::mem::take(&mut self.messages) {
                match self.conns.take(id) {
                    Some(found) => {
                        assert_eq!(found, meant_for, "a message to one connection reached another");
                        self.conns.put(id, found);
                    }
                    None => nobody.push(meant_for),
                }
            }
            nobody
        }
    }

    /// B06, T30: late events and messages of a connection, from two threads, while it ends and another one gets its slot.
    #[test]
    fn slab_late_events() {
        explore("slab_late_events", || {
            let mut conns = Slab::new();
            let old = conns.reserve();
            conns.put(old, "old");
            let reactor = Arc::new(Mutex::new(Reactor { conns, events: Vec::new(), messages: Vec::new() }));
            let token = Token::Conn(old).pack();
            let others = [0, 1].map(|_| {
                let reactor = Arc::clone(&reactor);
                thread::spawn(move || {
                    reactor.lock().events.push((token, "old"));
                    reactor.lock().messages.push((old, "old"));
                })
            });
            let mut nobody = reactor.lock().turn();
            assert!(nobody.is_empty(), "the old one is still there");
            {
                let mut reactor = reactor.lock();
                assert_eq!(reactor.conns.take(old), Some("old"));
                reactor.conns.release(old);
            }
            nobody.extend(reactor.lock().turn());
            let new = {
                let mut reactor = reactor.lock();
                let new = reactor.conns.reserve();
                reactor.conns.put(new, "new");
                reactor.events.push((Token::Conn(new).pack(), "new"));
                new
            };
            nobody.extend(reactor.lock().turn());
            others.into_iter().for_each(|thread| thread.join().unwrap());
            nobody.extend(reactor.lock().turn());
            assert!(nobody.iter().all(|meant_for| *meant_for == "old"), "who is there hears of its events");
            reactor.lock().conns.release(old);
            assert_eq!(reactor.lock().conns.get(new), Some(&mut "new"), "a second end of the old one frees nothing");
        });
    }
}
