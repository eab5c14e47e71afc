//! The view of a connection from other threads.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::extra::Completion;
use super::slab::ConnId;
use super::{Cx, NotWritten};
use crate::handler::Message;
use crate::reactor::{Command, ReactorHandle};

/// Names a connection and its reactor. Cheap to clone, usable from any thread, harmless when the connection is gone.
#[derive(Clone)]
pub struct ConnRef {
    id: ConnId,
    reactor: ReactorHandle,
}

impl ConnRef {
    pub(crate) fn new(id: ConnId, reactor: ReactorHandle) -> Self {
        ConnRef { id, reactor }
    }

    /// The connection's id within its reactor.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The reactor the connection belongs to.
    pub fn reactor(&self) -> &ReactorHandle {
        &self.reactor
    }

    /// Hands a message to the connection's handler, on its reactor. Allocates nothing in steady state, and writes a
    /// wake-up only if the reactor sleeps. Never silent: either the handler gets the message, or
    /// [`Message::undelivered`] is called, perhaps at once and on this thread.
    pub fn send<M: Message>(&self, message: Arc<M>) {
        self.reactor.send(self.id, message);
    }

    /// Runs `f` on the connection's reactor with what its handler has there: [closes](Cx::close) it from elsewhere, [ends a side](Cx::finish),
    /// [pauses](Cx::pause) it. What one thread runs and [writes](ConnRef::write) keeps its order. Dropped without a call if the handler has
    /// heard of the end by then, perhaps on this thread. A panic ends the connection, as one of its handler's does. Allocates a box.
    pub fn run(&self, f: impl FnOnce(&mut Cx<'_>) + Send + 'static) {
        let id = self.id;
        let f = |cx: &mut Cx<'_>| {
            if !cx.is_lingering() {
                f(cx)
            }
        };
        self.reactor.run(move || _ = super::visit(id, |_, cx| f(cx)));
    }

    /// Appends bytes to the connection's output, on its reactor, and has `done` called when the system has taken them, which does not mean that the
    /// peer has read them; or when the connection ends, or is about to, before that, or this side of it [has](Cx::finish). Exactly once: on the
    /// reactor, or on this thread if the reactor has stopped. Under TLS it is the ciphertext that the system has taken then. Pieces of
    /// 8 KiB and more are not copied. Allocates two boxes.
    ///
    /// What one thread writes keeps its order. Nothing holds a writer back: beyond `write_high` accepted connections are not read, at `write_hard`, or with 65,536 completions that wait, the connection is
    /// closed. Who writes much waits for `done`.
    pub fn write(&self, data: Bytes, done: impl FnOnce(Result<(), NotWritten>) + Send + 'static) {
        let done = Completion::new(done);
        self.run(move |cx| {
            if !cx.is_closing() && !cx.is_finished() {
                cx.output().write_bytes(data);
                cx.complete(done);
            }
        });
    }
}

impl ReactorHandle {
    /// [`ConnRef::send`] for who keeps the connection's id and its reactor apart.
    pub fn send<M: Message>(&self, id: ConnId, message: Arc<M>) {
        let any = Arc::clone(&message);
        self.submit(Command::Message(id, Parcel { message: any, undelivered: message }));
    }
}

impl fmt::Debug for ConnRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnRef({:?} of {:?})", self.id, self.reactor)
    }
}

/// One message under two views: what the handler gets, and what hears that nobody got it.
pub(crate) struct Parcel {
    message: Arc<dyn std::any::Any + Send + Sync>,
    undelivered: Arc<dyn Message>,
}

impl Parcel {
    pub(crate) fn open(self) -> Arc<dyn std::any::Any + Send + Sync> {
        self.message
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn count(&self) -> usize {
        self.undelivered.count()
    }

    pub(crate) fn give_back(self) {
        drop(self.message);
        self.undelivered.undelivered();
    }
}
