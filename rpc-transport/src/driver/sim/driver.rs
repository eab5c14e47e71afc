//! One reactor's door to the simulated network.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use super::socket::{Registered, SockId};
use super::state::REGISTER_ERRORS;
use crate::buffer::Block;
use crate::driver::{CloseHow, Driver, Event, Key, RawSocket, Wake};
use crate::socket::SocketOptions;
use crate::url::Endpoint;

pub(super) struct SimDriver {
    net: Arc<Shared>,
    index: usize,
    /// By key, whose numbers are used again at once, as a system's descriptors are.
    sources: Vec<Option<Source>>,
    free: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Source {
    Socket(SockId),
    Listener(usize),
}

/// A connection between the reactor that accepted it and the one that takes it over.
struct Accepted {
    net: Weak<Shared>,
    id: Option<SockId>,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let (Some(net), Some(id)) = (self.net.upgrade(), self.id) {
            net.state.lock().close(id, CloseHow::Graceful);
        }
    }
}

struct SimWaker(Weak<Shared>, usize);

impl Wake for SimWaker {
    fn wake(&self) {
        if let Some(net) = self.0.upgrade() {
            net.state.lock().wake(self.1);
        }
    }
}

impl SimDriver {
    pub(super) fn new(net: Arc<Shared>, index: usize) -> SimDriver {
        SimDriver { net, index, sources: Vec::new(), free: Vec::new() }
    }

    fn insert(&mut self, source: Source) -> Key {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sources.push(None);
            (self.sources.len() - 1) as u32
        });
        self.sources[slot as usize] = Some(source);
        Key(slot)
    }

    fn socket(&self, key: Key) -> io::Result<SockId> {
        match self.sources.get(key.0 as usize) {
            Some(Some(Source::Socket(id))) => Ok(*id),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn registered(&self, token: usize) -> Registered {
        Registered { driver: self.index, token }
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        self.net.state.lock().now()
    }

    fn random(&mut self) -> u64 {
        self.net.state.lock().rng.u64(..)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker(Arc::downgrade(&self.net), self.index))
    }

    fn wait(&mut self, _: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.net.state.lock().events(self.index, events);
        Ok(())
    }

    fn listen(&mut self, endpoint: &Endpoint, _: &SocketOptions, token: usize) -> io::Result<(Key, Endpoint)> {
        let registered = self.registered(token);
        let (listener, bound) = self.net.state.lock().listen(endpoint, Some(registered))?;
        Ok((self.insert(Source::Listener(listener)), bound))
    }

    fn accept(&mut self, listener: Key) -> io::Result<(RawSocket, Endpoint)> {
        let Some(Some(Source::Listener(index))) = self.sources.get(listener.0 as usize) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (id, peer) = self.net.state.lock().accept(*index)?;
        Ok((RawSocket(Box::new(Accepted { net: Arc::downgrade(&self.net), id: Some(id) })), peer))
    }

    fn adopt(&mut self, raw: RawSocket, _: &SocketOptions, token: usize) -> io::Result<Key> {
        let mut accepted = raw.0.downcast::<Accepted>().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let refused = {
            let mut state = self.net.state.lock();
            let often = state.knobs.no_register;
            state.refuses(often, &REGISTER_ERRORS)
        };
        if let Some(error) = refused {
            return Err(error); // and closes the socket
        }
        let id = accepted.id.take().ok_or(io::ErrorKind::InvalidInput)?;
        self.net.state.lock().register(id, self.index, token);
        Ok(self.insert(Source::Socket(id)))
    }

    fn connect(&mut self, endpoint: &Endpoint, _: &SocketOptions, token: usize) -> io::Result<Key> {
        let registered = self.registered(token);
        let id = self.net.state.lock().connect(endpoint, Some(registered))?;
        Ok(self.insert(Source::Socket(id)))
    }

    fn connected(&mut self, key: Key) -> io::Result<bool> {
        self.net.state.lock().connected(self.socket(key)?)
    }

    fn local(&self, key: Key) -> Option<Endpoint> {
        let (id, state) = (self.socket(key).ok()?, self.net.state.lock());
        state.socket(id).and_then(|socket| socket.name.clone())
    }

    fn read(&mut self, key: Key, block: &mut Block, max: usize) -> io::Result<usize> {
        let max = max.min(block.spare());
        if max == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no room to receive into"));
        }
        let id = self.socket(key)?;
        self.net.state.lock().read(id, max, &mut |piece| block.put_slice(piece))
    }

    fn write(&mut self, key: Key, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.net.state.lock().write(self.socket(key)?, bufs)
    }

    fn watch_writable(&mut self, key: Key, on: bool, _: usize) -> io::Result<()> {
        let mut state = self.net.state.lock();
        let often = state.knobs.no_register;
        if let Some(error) = state.refuses(often, &REGISTER_ERRORS) {
            return Err(error);
        }
        state.watch_room(self.socket(key)?, on);
        Ok(())
    }

    fn finish(&mut self, key: Key) -> io::Result<()> {
        let id = self.socket(key)?;
        self.net.state.lock().shut(id);
        Ok(())
    }

    fn close(&mut self, key: Key, how: CloseHow) {
        let Some(source) = self.sources.get_mut(key.0 as usize).and_then(Option::take) else { return };
        self.free.push(key.0);
        match source {
            Source::Socket(id) => self.net.state.lock().close(id, how),
            Source::Listener(index) => self.net.state.lock().close_listener(index),
        }
    }
}
