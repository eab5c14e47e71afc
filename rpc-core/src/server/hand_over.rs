//! What a server knows of the processes before and after it; nothing without feature `upgrade`.

#[cfg(all(feature = "upgrade", target_os = "linux"))]
pub(super) use with::HandOver;
#[cfg(not(all(feature = "upgrade", target_os = "linux")))]
pub(super) use without::HandOver;

#[cfg(all(feature = "upgrade", target_os = "linux"))]
mod with {
    use parking_lot::{Condvar, Mutex};
    use rpc_transport::ListenerHandle;
    use rpc_transport::upgrade::{Canceller, Successor, Upgrade, UpgradeError, notify, ready};

    use crate::server::address::Address;

    #[derive(Default)]
    pub(in crate::server) struct HandOver {
        /// What each listener was asked for by.
        asked: Vec<String>,
        state: Mutex<State>,
        /// An upgrade has come to its end.
        settled: Condvar,
    }

    #[derive(Default)]
    enum State {
        #[default]
        Serving,
        /// An upgrade is under way; without its canceller it has been cancelled.
        HandingOver(Option<Canceller>),
        Stopping,
        /// That process goes on with the listeners.
        HandedOver(Successor),
    }

    impl HandOver {
        /// So many listeners were opened for an address.
        pub(in crate::server) fn add(&mut self, address: &Address, listeners: usize) {
            self.asked.extend((0..listeners).map(|_| address.asked().to_owned()));
        }

        /// Hands the listeners over to a new process, whose number it returns, unless the server stops before. Says, too, whether that was
        /// asked for meanwhile.
        pub(in crate::server) fn to(
            &self,
            how: &Upgrade,
            listeners: &[ListenerHandle],
        ) -> (Result<u32, UpgradeError>, bool) {
            let mut armed = false;
            let arm = |canceller| {
                let mut state = self.state.lock();
                if let State::Serving = *state {
                    *state = State::HandingOver(Some(canceller));
                    armed = true;
                }
            };
            let outcome = how.hand_over(self.asked.iter().map(String::as_str).zip(listeners), arm);
            if !armed {
                return (outcome.map(|successor| successor.pid()), false); // an error: it was cancelled, or never begun
            }
            let mut state = self.state.lock();
            let stop = matches!(*state, State::HandingOver(None));
            let (next, outcome) = match (outcome, &*state) {
                (Ok(successor), _) => {
                    let pid = successor.pid();
                    (State::HandedOver(successor), Ok(pid))
                }
                (Err(error), State::HandingOver(Some(_))) => (State::Serving, Err(error)),
                (Err(error), _) => (State::Stopping, Err(error)),
            };
            *state = next;
            self.settled.notify_all();
            (outcome, stop)
        }

        /// The server is to stop: cancels an upgrade that is under way, unless it is too late for that, and says whether there is one. Does not
        /// wait; whose the listeners are is known when it has come to its end. From now on none begins.
        pub(in crate::server) fn cancel(&self) -> bool {
            let mut state = self.state.lock();
            match &mut *state {
                State::Serving => *state = State::Stopping,
                State::HandingOver(canceller) => {
                    *canceller = None;
                    return true;
                }
                State::Stopping | State::HandedOver(_) => {}
            }
            false
        }

        /// The server stops: an upgrade that is under way is cancelled, unless it is too late for that. Whether the service stops with it,
        /// because no other process goes on.
        pub(in crate::server) fn stop(&self) -> bool {
            let mut state = self.state.lock();
            match &mut *state {
                State::Serving => *state = State::Stopping,
                State::HandingOver(canceller) => *canceller = None,
                State::Stopping | State::HandedOver(_) => {}
            }
            while let State::HandingOver(_) = *state {
                self.settled.wait(&mut state); // until its process has been killed and reaped
            }
            !matches!(*state, State::HandedOver(_))
        }

        /// Stops accepting at the listener of this place, and asks its connections to finish.
        pub(in crate::server) fn end(&self, place: usize, listener: &ListenerHandle) {
            match &*self.state.lock() {
                State::HandedOver(successor) if successor.took(place) => listener.leave(),
                _ => listener.shut_down(),
            }
        }

        pub(in crate::server) fn serving(&self) -> crate::Result<()> {
            ready().map_err(crate::Error::from)
        }

        pub(in crate::server) fn stopping(&self) {
            if let Err(error) = notify("STOPPING=1") {
                tracing::warn!(%error, "cannot tell the service manager");
            }
        }
    }
}

#[cfg(not(all(feature = "upgrade", target_os = "linux")))]
mod without {
    use rpc_transport::ListenerHandle;

    use crate::server::address::Address;

    #[derive(Default)]
    pub(in crate::server) struct HandOver {}

    impl HandOver {
        pub(in crate::server) fn add(&mut self, _: &Address, _listeners: usize) {}

        pub(in crate::server) fn cancel(&self) -> bool {
            false
        }

        pub(in crate::server) fn end(&self, _place: usize, listener: &ListenerHandle) {
            listener.shut_down();
        }

        pub(in crate::server) fn serving(&self) -> crate::Result<()> {
            Ok(())
        }

        pub(in crate::server) fn stop(&self) -> bool {
            true
        }

        pub(in crate::server) fn stopping(&self) {}
    }
}
