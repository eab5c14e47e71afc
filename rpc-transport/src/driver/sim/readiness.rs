//! What a wait reports: edges, with the level of the moment.

use super::socket::{Link, Registered, SockId};
use super::state::{Due, Source, State};
use crate::driver::Event;
use crate::reactor::audit::Awaited;

impl State {
    /// An edge: the source is reported at the next wait, or a while later.
    pub(super) fn report(&mut self, source: Source) {
        if self.chance(self.knobs.late_event) {
            self.faults.late_events += 1;
            self.count_late(source, 1);
            let at = self.now + self.latency() * 10;
            return self.schedule(at, Due::Report(source));
        }
        self.list(source);
    }

    fn count_late(&mut self, source: Source, by: i32) {
        if let Source::Socket(id) = source
            && let Some(socket) = self.sockets.get_mut(&id)
        {
            socket.late_reports = socket.late_reports.saturating_add_signed(by);
        }
    }

    /// An event that was reported late.
    pub(super) fn report_late(&mut self, source: Source) {
        self.count_late(source, -1);
        self.list(source);
    }

    /// The first of the connections that waits for what is there already, and that nothing will tell of it. The network's own view: it
    /// does not ask what the reactor believes to have read.
    pub(super) fn deaf(&self, driver: usize, awaited: &[Awaited]) -> Option<String> {
        awaited.iter().find_map(|one| {
            let registered = Some(Registered { driver, token: one.token });
            let (id, socket) = self.sockets.iter().find(|(_, socket)| socket.registered == registered)?;
            if !matches!(socket.link, Link::Open) || socket.listed || socket.late_reports > 0 {
                return None;
            }
            if one.input && socket.input.is_readable() {
                return Some(format!("socket {} has input, its connection waits, and no event will come", id.0));
            }
            if one.failure && socket.input.reset {
                return Some(format!("socket {} was reset, and its connection does not know", id.0));
            }
            let room = one.room && socket.watches_room && !socket.wants_room && self.room(*id) > 0;
            room.then(|| format!("socket {} has room, its connection waits, and no event will come", id.0))
        })
    }

    pub(super) fn list(&mut self, source: Source) {
        let (registered, listed) = match source {
            Source::Socket(id) => match self.sockets.get_mut(&id) {
                Some(socket) => (socket.registered, &mut socket.listed),
                None => return,
            },
            Source::Listener(index) => match &mut self.listeners[index] {
                Some(listener) => (listener.registered, &mut listener.listed),
                None => return,
            },
        };
        if let Some(Registered { driver, .. }) = registered
            && !std::mem::replace(listed, true)
        {
            self.drivers[driver].listed.push(source);
        }
    }

    /// What a wait reports: the level of each listed source as it is now, in any order.
    pub(super) fn events(&mut self, driver: usize, events: &mut Vec<Event>) {
        let mut listed = std::mem::take(&mut self.drivers[driver].listed);
        self.rng.shuffle(&mut listed);
        for source in listed {
            match source {
                Source::Socket(id) if self.sockets.contains_key(&id) => {
                    if self.chance(self.knobs.left_event) {
                        self.faults.left_events += 1;
                        self.drivers[driver].listed.push(source);
                        continue;
                    }
                    events.extend(self.level(id));
                    if let Some(socket) = self.sockets.get_mut(&id) {
                        socket.listed = false;
                    }
                }
                Source::Listener(index) => {
                    if let Some(listener) = &mut self.listeners[index] {
                        listener.listed = false;
                        let token = listener.registered.map(|r| r.token);
                        events.extend(token.map(|token| Event {
                            token,
                            readable: true,
                            writable: false,
                            hangup: false,
                            failed: false,
                        }));
                    }
                }
                Source::Socket(_) => {}
            }
        }
        if self.chance(self.knobs.spurious) {
            let all = self.sockets.values().filter_map(|socket| socket.registered);
            let tokens: Vec<usize> = all.filter(|r| r.driver == driver).map(|r| r.token).collect();
            if let Some(token) = self.rng.choice(tokens) {
                self.faults.spurious += 1;
                let writable = self.rng.bool();
                events.push(Event { token, readable: true, writable, hangup: false, failed: false });
            }
        }
        if self.chance(self.knobs.stale)
            && let Some(token) = self.rng.choice(self.drivers[driver].closed_tokens.clone())
        {
            self.faults.stale += 1;
            events.push(Event { token, readable: true, writable: true, hangup: self.rng.bool(), failed: true });
        }
    }

    fn level(&self, id: SockId) -> Option<Event> {
        let socket = self.sockets.get(&id)?;
        let token = socket.registered?.token;
        let event = match socket.link {
            Link::Connecting => return None,
            Link::Failed(_) => Event { token, readable: true, writable: true, hangup: true, failed: true },
            Link::Open => {
                let input = &socket.input;
                let writable = socket.watches_room && (self.room(id) > 0 || input.reset);
                let hangup = input.finished || input.reset;
                Event { token, readable: input.is_readable(), writable, hangup, failed: input.reset }
            }
        };
        (event.readable || event.writable || event.hangup).then_some(event)
    }

    pub(super) fn register(&mut self, id: SockId, driver: usize, token: usize) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.registered = Some(Registered { driver, token });
            self.list(Source::Socket(id));
        }
    }

    pub(super) fn watch_room(&mut self, id: SockId, on: bool) {
        if let Some(socket) = self.sockets.get_mut(&id)
            && socket.unix
        {
            socket.watches_room = on;
            if on && self.room(id) > 0 {
                self.list(Source::Socket(id));
            }
        }
    }
}
