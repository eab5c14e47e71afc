//! Listeners on sockets that exist already, and sockets that another process goes on with.
//!
//! ```text
//!  another process ─► ListeningSocket ─► listen_on ─► accept ─► ... ─► shared ─► the next process
//!                                                                 └──► leave
//! ```
//!
//! A listening socket is one thing, whoever has a descriptor of it: its queue belongs to the socket, and who accepts takes from it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::Socket;

use super::opening::{open, own_core};
use super::{Accepted, ListenOptions, ListenerHandle, ListenerShared, Tenure, ask_to_finish, forget, resume};
use crate::config::Placement;
use crate::driver::{CloseHow, Driver};
use crate::framing::Framing;
use crate::handler::Handler;
use crate::reactor::core::{Core, with};
use crate::reactor::{ReactorHandle, ReactorPool};
use crate::socket::prefer_core;
use crate::upgrade::{self, ListeningSocket};
#[cfg(feature = "tls")]
use crate::url::Url;

impl ReactorPool {
    /// As [`ReactorPool::listen`], at sockets that listen already, all of them at the address of the first one.
    ///
    /// With [`Placement::ReusePort`] or [`Placement::IncomingCpu`] each reactor takes one. Where there are not as many as reactors they are spread as far as they
    /// go, none of them is left out and none is added, and connections go to each reactor in turn: a log line says so. Sockets
    /// that a process hands over are not accepted from before [`upgrade::ready`](crate::upgrade::ready).
    ///
    /// The backlog is set anew, by the options, when the sockets are accepted from. With `tls` in them TCP sockets speak it.
    ///
    /// # Errors
    /// No socket, a Unix socket and `tls` in the options, or what the system says to registering one.
    ///
    /// # Panics
    /// On a reactor's thread, where it would wait for itself.
    pub fn listen_on<F, H>(
        &self,
        sockets: Vec<ListeningSocket>,
        mut options: ListenOptions,
        make: impl Fn(&Accepted<'_>) -> (F, H) + Send + Sync + 'static,
    ) -> io::Result<ListenerHandle>
    where
        F: Framing + 'static,
        H: Handler,
    {
        let Some(url) = sockets.first().map(ListeningSocket::url) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no socket to listen on"));
        };
        #[cfg(feature = "tls")]
        if options.tls.is_some() && matches!(url, Url::Unix(_)) {
            let why = "a Unix socket is served without TLS, and `tls` is set: listen on it without `tls`, apart from the TCP sockets of its name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot listen at {url}: {why}")));
        }
        let (count, reactors) = (sockets.len(), self.handles().len());
        if options.placement.is_sharded() && count != reactors {
            tracing::warn!(%url, sockets = count, reactors, "not a socket for each reactor: connections go to each reactor in turn");
            options.placement = Placement::RoundRobin;
        }
        let first = if count == 1 { self.next() } else { &self.handles()[0] };
        let stopped = || io::Error::other("the reactor has stopped");
        let seed = first.ask(|| with(|core| core.driver.random())).ok_or_else(stopped)?;
        let shared = self.prepare(&url, options, make).named()(url.clone(), seed);
        let held = sockets.iter().any(ListeningSocket::is_held).then(|| sockets.iter().all(ListeningSocket::is_sole));
        let listener = ListenerHandle { shared };
        for (place, socket) in sockets.into_iter().enumerate() {
            let (reactor, shared) = (&self.handles()[(first.index() + place) % reactors], Arc::clone(&listener.shared));
            let taken = reactor.ask(move || take_over(socket, count, shared)).unwrap_or_else(|| Err(stopped()));
            if let Err(e) = taken {
                listener.close();
                let text = format!("cannot listen at {url}, on a socket that was given: {e}");
                return Err(io::Error::new(e.kind(), text));
            }
        }
        listener.announce();
        self.remember(&listener);
        if let Some(sole) = held {
            upgrade::hold(&listener, sole);
        }
        Ok(listener)
    }
}

/// Puts one of so many sockets on this reactor.
fn take_over(socket: ListeningSocket, count: usize, shared: Arc<ListenerShared>) -> io::Result<()> {
    let (held, sole) = (socket.is_held(), socket.is_sole());
    let (socket, endpoint) = socket.into_parts()?;
    if !held {
        socket.listen(shared.socket.backlog)?; // again: that is how the length of its queue is changed
    }
    if shared.placement == Placement::IncomingCpu {
        prefer_core(&socket, own_core()?)?;
    }
    let register = |driver: &mut dyn Driver, token| Ok((driver.listen_on(socket, &endpoint, token)?, endpoint.clone()));
    let tenure = if held { Tenure::Held } else { tenure_of(sole) };
    open(count, tenure, register, |_, _| shared).map(drop)
}

fn tenure_of(sole: bool) -> Tenure {
    if sole { Tenure::Sole } else { Tenure::Shared }
}

/// A listener's socket a second time, and whether it was this process's alone; unless it has been closed, and another may have its place.
fn share(core: &Core, index: usize, shared: &Arc<ListenerShared>) -> io::Result<(Socket, bool)> {
    let listener = core.listeners.get(index).and_then(Option::as_ref).filter(|it| Arc::ptr_eq(&it.shared, shared));
    let listener = listener.ok_or(io::ErrorKind::NotConnected)?;
    Ok((core.driver.share(listener.key)?, listener.tenure == Tenure::Sole))
}

impl ListenerHandle {
    /// Its sockets a second time: for another process, which may accept there from then on.
    ///
    /// # Errors
    /// What the system says, such as that there is no descriptor left; or that a reactor has stopped.
    ///
    /// # Panics
    /// On a reactor's thread, where it would wait for itself.
    pub fn share(&self) -> io::Result<Vec<ListeningSocket>> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let one = |(reactor, index): (ReactorHandle, usize)| {
            let of = Arc::clone(&self.shared);
            let shared = reactor.ask(move || with(|core| share(core, index, &of)));
            let (socket, sole) = shared.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
            ListeningSocket::given(socket.into(), sole)
        };
        self.sockets().into_iter().map(one).collect()
    }

    /// [`ListenerHandle::shut_down`] where another process listens on the same sockets: what waits in their queue is left to it, and
    /// a Unix socket keeps its file.
    pub fn leave(&self) {
        self.end(|index| forget(index, CloseHow::Leave), ask_to_finish);
    }

    /// Accepts from now on, for the process before does not any more; `sole`, because nobody else does either.
    pub(crate) fn begin(&self, sole: bool) {
        for (reactor, index) in self.sockets() {
            let shared = Arc::clone(&self.shared);
            reactor.run(move || {
                with(|core| {
                    let Some(Some(listener)) = core.listeners.get_mut(index) else { return };
                    // It may have been closed, and another have its place.
                    if Arc::ptr_eq(&listener.shared, &shared) {
                        listener.tenure = tenure_of(sole);
                        let key = listener.key;
                        resume(core, index);
                        // Not before: the queue is the socket's, and so the other process's until now.
                        if let Err(error) =
                            core.driver.share(key).and_then(|socket| socket.listen(shared.socket.backlog))
                        {
                            tracing::warn!(url = %shared.url, %error, "the backlog stays as the process before had it");
                        }
                    }
                });
            });
        }
    }
}
