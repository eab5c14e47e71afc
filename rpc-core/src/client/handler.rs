//! The client's side of one connection: requests out, replies to their callers.

use std::any::Any;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use rpc_transport::{CloseReason, Cx, Frame, Handler, Load, LogLimit, TaskId, TimerId, local};

use super::channel::{ChannelInner, Slot};
use super::checksum;
use super::control::KEEPALIVE;
use super::queue::{Queue, Queued};
use super::refusals::{expired, refusal_error, timeout_ms, too_large, too_many_waiting};
use crate::codegen::MethodDescriptor;
use crate::error::{Error, Phase, Refusal, Sent};
use crate::glitch::{Glitches, Verdict};
use crate::mux::{
    Abandon, Body, Deadlines, Found, Keepalive, Mail, Outbox, Outcome, Pending, Posted, Reply, ReplyCell, Request,
    SeqId, Spec, Ticket, Walk,
};
use crate::protocol::ttheader::{KnownHead, RequestHead};

/// The timer of the next deadline.
const DEADLINES: u64 = 0;

pub(crate) struct ClientHandler {
    pub(super) channel: Arc<ChannelInner>,
    pub(super) slot: usize,
    pub(super) pending: Pending<Entry>,
    deadlines: Deadlines,
    /// The timer of the deadlines.
    timer: Option<TimerId>,
    queue: Queue,
    /// Memory for the next mail.
    mail: Mail,
    on_wire: usize,
    /// Calls of local callers that ended without a reply, which may still come, and were not fetched since.
    pub(super) unfetched: usize,
    max_on_wire: usize,
    /// Bytes held, written and waiting, from which on calls are refused.
    write_hard: usize,
    /// Request heads by method id.
    heads: Vec<Option<Arc<RequestHead>>>,
    /// The head of plain replies to this method, which followed each other.
    pub(super) known: KnownHead,
    pub(super) known_of: Option<&'static MethodDescriptor>,
    /// The method of the last plain reply that was taken apart.
    pub(super) last_of: Option<&'static MethodDescriptor>,
    glitches: Glitches,
    /// No new calls: the peer says goodbye, or too many ids are abandoned.
    pub(super) retired: bool,
    /// A call has had its reply: the peer is well. Other frames prove nothing; a peer may say goodbye on every connection.
    pub(super) answered: bool,
    /// Retired because of calls that this side gave up, not by the peer's doing.
    given_up: bool,
    /// Retired before it answered, by the peer's doing: counted as a failure then, not at its end.
    pub(super) turned_away: bool,
    /// The peer knows control frames, and has been told that this side does, too.
    pub(super) keepalive: Option<Box<Keepalive>>,
    /// When the keepalive looks at the peer next.
    pub(super) look: Option<TimerId>,
    /// Calls so far.
    pub(super) calls: u64,
    /// A call was written though the connection was retired.
    #[cfg(feature = "testing")]
    wrote_retired: bool,
    /// Why this side closes the connection, if more is to be said than the reason of the close.
    why: Option<String>,
}

/// A call that has an id.
pub(super) struct Entry {
    waiter: Waiter,
    pub(super) method: &'static MethodDescriptor,
    timeout: Duration,
    pub(super) place: Place,
    /// What came of it, once it is done.
    found: Option<Found>,
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Waiting for its turn, in the queue under this ticket.
    Queued(Ticket),
    /// Written; where its frame begins in the stream.
    OnWire(u64),
    /// What came of it waits for a local caller; what becomes of the id when it has been fetched.
    Done(Abandon),
}

/// Who waits for a reply.
pub(crate) enum Waiter {
    /// A task of this reactor.
    Task(TaskId),
    /// A future polled on this reactor by another executor, such as a `join`.
    Waker(Waker),
    /// A caller elsewhere.
    Foreign(Arc<ReplyCell>),
    /// It has been told.
    Told,
}

impl ClientHandler {
    pub(crate) fn new(channel: Arc<ChannelInner>, slot: usize) -> Self {
        let limits = &channel.config.limits;
        let max_on_wire = if channel.config.multiplexed { limits.client_max_inflight } else { 1 };
        ClientHandler {
            slot,
            pending: Pending::new(max_on_wire + limits.client_max_waiting),
            deadlines: Deadlines::default(),
            timer: None,
            queue: Queue::default(),
            mail: Mail::default(),
            write_hard: limits.hard(),
            on_wire: 0,
            unfetched: 0,
            max_on_wire,
            heads: Vec::new(),
            known: KnownHead::default(),
            known_of: None,
            last_of: None,
            glitches: Glitches::new(limits.max_glitches),
            retired: false,
            answered: false,
            given_up: false,
            turned_away: false,
            #[cfg(feature = "testing")]
            wrote_retired: false,
            keepalive: None,
            look: None,
            calls: 0,
            why: None,
            channel,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_of(&self, channel: &Arc<ChannelInner>) -> bool {
        Arc::ptr_eq(&self.channel, channel)
    }

    /// What it holds, if what is known of it agrees.
    #[cfg(feature = "testing")]
    pub(crate) fn audit(&mut self, busy: bool) -> Result<super::audit::ChannelAudit, String> {
        if self.wrote_retired {
            return Err("I24: a call was written after the connection was retired".to_owned());
        }
        let (mut on_wire, mut queued, mut unfetched) = (0, 0, 0);
        for (slot, entry) in self.pending.calls() {
            match entry.place {
                Place::Queued(_) => queued += 1,
                Place::OnWire(_) => on_wire += 1,
                Place::Done(how) => {
                    unfetched += usize::from(how == Abandon::OnWire);
                    continue;
                }
            }
            if !self.deadlines.is_kept(slot) || self.timer.is_none() {
                return Err(format!("a call of {} has no timer for its deadline", entry.method));
            }
        }
        if unfetched != self.unfetched {
            return Err(format!("{unfetched} outcomes not fetched, {} counted", self.unfetched));
        }
        if busy != (on_wire + queued > 0) {
            return Err(format!(
                "{on_wire} calls on the wire, {queued} in the queue, and the reactor is told: busy = {busy}"
            ));
        }
        if on_wire != self.on_wire {
            return Err(format!("{on_wire} calls on the wire, {} counted", self.on_wire));
        }
        if on_wire + self.given_up_ids() > self.max_on_wire {
            let given_up = self.given_up_ids();
            return Err(format!("{on_wire} calls on the wire, {given_up} given up, {} allowed", self.max_on_wire));
        }
        let bytes: usize = self.queue.iter().map(|(_, call)| call.body.len()).sum();
        if (self.queue.len(), self.queue.bytes()) != (queued, bytes) {
            let counted = (self.queue.len(), self.queue.bytes());
            return Err(format!("{queued} calls of {bytes} bytes wait for their turn, {counted:?} counted"));
        }
        for (ticket, call) in self.queue.iter() {
            if !self.pending.get(call.seq).is_some_and(|entry| matches!(entry.place, Place::Queued(at) if at == ticket))
            {
                return Err("a call in the queue does not wait for its turn".to_owned());
            }
        }
        let (waiting, abandoned) = (self.pending.waiting(), self.pending.abandoned());
        Ok(super::audit::ChannelAudit { connections: 1, waiting, on_wire, abandoned, orphans: 0 })
    }

    pub(super) fn slot(&self) -> &Slot {
        &self.channel.slots[self.slot]
    }

    /// Whether new calls may come here. One that is closing or retired lets go of its slot: they go to another connection.
    #[inline]
    pub(crate) fn admits(&self, cx: &Cx<'_>) -> bool {
        if cx.is_closing() {
            self.slot().forget(cx.id());
            return false;
        }
        !self.retired
    }

    /// A call made on this reactor: its message is encoded straight into the output.
    #[inline(never)]
    pub(crate) fn submit<B: Body>(
        &mut self,
        cx: &mut Cx<'_>,
        spec: &mut Spec,
        body: B,
        waiter: Waiter,
    ) -> Result<SeqId, Error> {
        let limits = &self.channel.config.limits;
        let held = cx.output_len() + self.queue.bytes();
        if held >= self.write_hard {
            return Err(refusal_error(Refusal::Overcrowded { queued: held, limit: self.write_hard }));
        }
        let write_now = self.queue.is_empty() && self.has_room(cx);
        // While connecting, those that will be written at once wait, too.
        let soon = if cx.is_open() { 0 } else { self.max_on_wire };
        if !write_now && self.queue.len() >= limits.client_max_waiting + soon {
            return Err(too_many_waiting(limits.client_max_waiting));
        }
        let (deadline, timeout, method) = (spec.deadline, spec.timeout, spec.method);
        let start = cx.written() + cx.output_len() as u64;
        let place = if write_now { Place::OnWire(start) } else { Place::Queued(self.queue.next_ticket()) };
        let Some(seq) = self.pending.insert(move || Entry { waiter, method, timeout, place, found: None }) else {
            return Err(too_many_waiting(limits.client_max_waiting));
        };
        if write_now {
            if let Err(error) = self.write(cx, seq, spec, body) {
                // Nothing was written: the peer never hears of the id.
                self.pending.abandon(seq, Abandon::Unsent);
                return Err(error);
            }
            self.on_wire += 1;
        } else {
            let spec = Spec { extra: std::mem::take(&mut spec.extra), ..*spec };
            self.queue.push(Queued { seq, spec, body: body.into_link() });
        }
        self.calls += 1;
        self.watch(cx);
        cx.set_busy(true);
        if self.deadlines.set(seq.slot(), deadline) {
            self.arm(cx, deadline);
        }
        Ok(seq)
    }

    fn arm(&mut self, cx: &mut Cx<'_>, at: Instant) {
        if let Some(late) = self.timer {
            cx.forget(late);
            self.timer = None;
        }
        self.timer = Some(cx.remind(at, DEADLINES));
    }

    fn write<B: Body>(&mut self, cx: &mut Cx<'_>, seq: SeqId, spec: &Spec, body: B) -> Result<(), Error> {
        #[cfg(feature = "testing")]
        {
            self.wrote_retired |= self.retired;
        }
        let limit = self.channel.config.limits.max_frame_size as usize;
        let len = body.len();
        let id = spec.method.id();
        if self.heads.get(id).is_none_or(Option::is_none) {
            let head = self.channel.head(spec.method)?;
            if self.heads.len() <= id {
                self.heads.resize(id + 1, None);
            }
            self.heads[id] = Some(head);
        }
        let Some(Some(head)) = self.heads.get(id) else { return Err(Error::closed("its head is missing")) };
        // The whole frame counts, as the peer counts it.
        let frame_len = head.frame_len(spec.extra.len(), len);
        if frame_len > limit {
            return Err(too_large(frame_len, limit));
        }
        let config = &self.channel.config;
        let usual = spec.timeout == config.limits.default_timeout && spec.extra.is_empty() && !config.checksum;
        if usual && head.write_usual(cx.output(), seq.to_wire(), len) {
            body.write(cx.output());
            return Ok(());
        }
        let unsendable = |e| Error::from(e).with_phase(Phase::Encode).with_sent(Sent::No);
        if config.checksum {
            return checksum::write(cx, head, seq, spec, body.into_link(), limit);
        }
        let timeout = Some(timeout_ms(spec.timeout));
        head.write(cx.output(), seq.to_wire(), timeout, &spec.extra, len).map_err(unsendable)?;
        body.write(cx.output());
        Ok(())
    }

    /// Ids whose late reply may still come.
    fn given_up_ids(&self) -> usize {
        self.pending.abandoned() + self.unfetched
    }

    /// Whether another call may go on the wire. Not before there is a connection: until then calls can still go elsewhere, and what
    /// ends meanwhile is certainly not sent.
    #[inline]
    fn has_room(&self, cx: &Cx<'_>) -> bool {
        cx.is_open() && !cx.is_closing() && self.on_wire + self.given_up_ids() < self.max_on_wire && !cx.is_crowded()
    }

    /// Writes queued calls as far as there is room.
    fn pump(&mut self, cx: &mut Cx<'_>) {
        while self.has_room(cx) {
            let Some(Queued { seq, spec, body }) = self.queue.pop() else { return };
            let start = cx.written() + cx.output_len() as u64;
            let Some(entry) = self.pending.get(seq) else { continue };
            entry.place = Place::OnWire(start);
            self.on_wire += 1;
            if let Err(error) = self.write(cx, seq, &spec, body) {
                self.finish(cx, seq, Err(error), Abandon::Unsent);
            }
        }
    }

    #[inline(never)]
    pub(super) fn finish(&mut self, cx: &mut Cx<'_>, seq: SeqId, outcome: Outcome, how: Abandon) {
        self.settle(cx, seq, Found::Done(outcome.map_err(|error| error.with_id(seq.to_wire()))), how);
    }

    /// Ends a call, here at least: its caller gets what came of it, now or when it asks.
    #[inline(always)]
    pub(super) fn settle(&mut self, cx: &mut Cx<'_>, seq: SeqId, found: Found, how: Abandon) {
        let Some(entry) = self.pending.get(seq) else { return };
        match entry.place {
            Place::Queued(ticket) => drop(self.queue.remove(ticket)),
            Place::OnWire(_) => self.on_wire -= 1,
            Place::Done(_) => return,
        }
        self.deadlines.clear(seq.slot());
        cx.set_busy(self.on_wire > 0 || !self.queue.is_empty());
        if let Waiter::Foreign(cell) = &entry.waiter {
            if let Some(waker) = cell.complete(found) {
                cx.wake(waker);
            }
            self.pending.end(seq, how);
            return;
        }
        (entry.place, entry.found) = (Place::Done(how), Some(found));
        self.unfetched += usize::from(how == Abandon::OnWire);
        match &entry.waiter {
            Waiter::Task(task) => local::wake(*task),
            _ => std::mem::replace(&mut entry.waiter, Waiter::Told).wake(cx),
        }
    }

    /// As [`collect`](ClientHandler::collect), of a reply, if it is there, and taking it changes nothing for other calls: the common case.
    /// Touches nothing of the reactor.
    #[inline]
    pub(crate) fn collect_plainly<T>(&mut self, seq: SeqId, take: impl FnOnce(&mut Reply) -> Option<T>) -> Option<T> {
        if self.retired || !self.queue.is_empty() {
            return None;
        }
        self.pending.end_with(seq, |entry| match (&mut entry.found, entry.place) {
            (Some(Found::Done(Ok(reply))), Place::Done(Abandon::Unsent)) => take(reply),
            _ => None,
        })
    }

    /// Whether the call is still under way, and who waits for it will be woken by this waker. Touches nothing of the reactor.
    pub(crate) fn waits_with(&mut self, seq: SeqId, waker: &Waker) -> bool {
        self.pending
            .get(seq)
            .is_some_and(|entry| matches!(&entry.waiter, Waiter::Waker(known) if known.will_wake(waker)))
    }

    /// A local caller asks what came of its call.
    pub(crate) fn collect(&mut self, cx: &mut Cx<'_>, seq: SeqId, waker: &Waker) -> Option<Found> {
        self.take_or_wait(cx, seq, |cx| Waiter::new(cx, waker))
    }

    /// The caller has left this reactor's thread: from now on it waits at this cell.
    pub(crate) fn hand_over(&mut self, cx: &mut Cx<'_>, seq: SeqId, cell: &Arc<ReplyCell>) {
        let found = self.take_or_wait(cx, seq, |_| Waiter::Foreign(Arc::clone(cell)));
        if let Some(waker) = found.and_then(|found| cell.complete(found)) {
            cx.wake(waker);
        }
    }

    fn take_or_wait(&mut self, cx: &mut Cx<'_>, seq: SeqId, waiter: impl FnOnce(&Cx<'_>) -> Waiter) -> Option<Found> {
        let Some(entry) = self.pending.get(seq) else {
            return Some(Found::Done(Err(Error::closed("its connection does not know the call")))); // never silent
        };
        let Place::Done(how) = entry.place else {
            entry.waiter = waiter(cx);
            return None;
        };
        self.unfetched -= usize::from(how == Abandon::OnWire);
        let entry = self.pending.abandon(seq, how)?;
        self.after(cx);
        entry.found
    }

    /// A call's deadline has passed.
    fn expire(&mut self, cx: &mut Cx<'_>, seq: SeqId) {
        let Some(entry) = self.pending.get(seq) else { return };
        let (_, phase) = where_it_was(entry.place, cx.is_open(), cx.written());
        // What stands in the output will be sent, even if it has not been yet.
        let (sent, how) = match entry.place {
            Place::Queued(_) => (Sent::No, Abandon::Unsent),
            _ => (Sent::Maybe, Abandon::OnWire),
        };
        let error = Error::deadline(entry.timeout).with_sent(sent).with_phase(phase);
        if matches!(entry.place, Place::OnWire(_)) {
            self.tell_cancelled(cx, seq);
        }
        self.finish(cx, seq, Err(error), how);
    }

    /// A caller gave up.
    pub(crate) fn cancel(&mut self, cx: &mut Cx<'_>, seq: SeqId) {
        let Some(entry) = self.pending.get(seq) else { return };
        self.deadlines.clear(seq.slot());
        let how = match entry.place {
            Place::Queued(ticket) => {
                self.queue.remove(ticket);
                Abandon::Unsent
            }
            Place::OnWire(_) => {
                self.on_wire -= 1;
                self.tell_cancelled(cx, seq);
                Abandon::OnWire
            }
            Place::Done(how) => {
                self.unfetched -= usize::from(how == Abandon::OnWire);
                how
            }
        };
        self.pending.abandon(seq, how);
        cx.set_busy(self.on_wire > 0 || !self.queue.is_empty());
        self.after(cx);
    }

    /// What a change of the table may lead to: room for queued calls, retirement, the end.
    fn after(&mut self, cx: &mut Cx<'_>) {
        if self.given_up_ids() > self.max_on_wire / 4 {
            self.given_up |= !self.retired;
            self.retire(cx);
        }
        self.pump(cx);
        if self.retired && self.pending.waiting() == 0 {
            cx.close(CloseReason::Local("retired: its last call has ended"));
        }
    }

    /// Retires it by the peer's doing. A peer that has not answered anything by then is backed off from: else it would be given another
    /// connection for each call, beside all those that stay for the calls they have.
    pub(super) fn turn_away(&mut self, cx: &mut Cx<'_>, why: &'static str) {
        if !self.answered && !self.retired {
            self.turned_away = true;
            self.channel.turned_away(self.slot, cx.now(), why);
        }
        self.retire(cx);
    }

    /// New calls go to another connection from now on, and so do those that wait for their turn here.
    fn retire(&mut self, cx: &mut Cx<'_>) {
        if std::mem::replace(&mut self.retired, true) {
            return;
        }
        self.slot().forget(cx.id());
        self.give_back_queued(cx);
    }

    /// Calls of which nothing has been written go back to their callers, who try another connection.
    fn give_back_queued(&mut self, cx: &mut Cx<'_>) {
        while let Some(Queued { seq, spec, body }) = self.queue.pop() {
            let request = Box::new(Request { spec, body });
            self.settle(cx, seq, Found::Returned(request), Abandon::Unsent);
        }
    }

    /// As [`ClientHandler::retire`], and closes if there is nothing to wait for.
    pub(crate) fn retire_now(&mut self, cx: &mut Cx<'_>) {
        self.retire(cx);
        self.after(cx);
    }

    pub(super) fn glitch(&mut self, cx: &mut Cx<'_>, what: &'static str) {
        self.channel.stats.glitches.add(1);
        tracing::debug!(peer = %cx.peer(), what, "glitch");
        match self.glitches.add(cx.now()) {
            Verdict::Tolerate => {}
            Verdict::Drain => self.turn_away(cx, "the peer's first frames are no replies to calls"),
            Verdict::Cut => cx.abort(CloseReason::Limit("max_glitches")),
        }
    }

    /// Takes a call of a caller elsewhere.
    pub(crate) fn arrived(&mut self, cx: &mut Cx<'_>, posted: Posted<'_>) {
        if !self.admits(cx) {
            if let Some(waker) = posted.give_back() {
                cx.wake(waker);
            }
            return;
        }
        let Posted { cell, spec, body } = posted;
        let accepted = if cx.now() >= spec.deadline {
            Err(expired(spec.timeout))
        } else {
            cell.accept(cx.id(), || self.submit(cx, spec, body, Waiter::Foreign(Arc::clone(&cell))))
        };
        if let Err(error) = accepted
            && let Some(waker) = cell.complete(Found::Done(Err(error)))
        {
            cx.wake(waker);
        }
    }

    /// Takes all calls that wait in an outbox.
    fn collect_mail(&mut self, cx: &mut Cx<'_>, outbox: &Outbox) {
        let mut mail = std::mem::take(&mut self.mail);
        outbox.take(&mut mail);
        while let Some(posted) = mail.next() {
            self.arrived(cx, posted);
        }
        mail.recycle();
        self.mail = mail;
    }
}

impl Handler for ClientHandler {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.pump(cx);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        if let Err(error) = self.reply(cx, frame) {
            let text = error.to_string();
            static JUNK: LogLimit = LogLimit::new();
            if let Some(skipped) = JUNK.pass(cx.now()) {
                tracing::warn!(peer = %cx.peer(), error = %text, skipped, "the peer's bytes are not replies; closing");
            }
            self.why = Some(text);
            cx.abort(CloseReason::Local("the peer's bytes are not replies"));
        }
    }

    fn on_batch_end(&mut self, cx: &mut Cx<'_>) {
        self.pay(cx);
        self.after(cx);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        match message.downcast::<Outbox>() {
            Ok(outbox) => self.collect_mail(cx, &outbox),
            Err(other) => {
                if let Some(seq) = other.downcast_ref::<ReplyCell>().and_then(|cell| cell.dropped()) {
                    self.cancel(cx, seq);
                }
            }
        }
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        if key == KEEPALIVE {
            return self.look(cx);
        }
        self.timer = None;
        let mut walk = Walk::default();
        while let Some(slot) = self.deadlines.next_due(&mut walk, cx.now()) {
            if let Some(seq) = self.pending.in_slot(slot) {
                self.expire(cx, seq);
            }
        }
        if let Some(at) = self.deadlines.rearm(walk) {
            self.arm(cx, at);
        }
        self.after(cx);
    }

    fn on_drained(&mut self, cx: &mut Cx<'_>) {
        self.pump(cx);
    }

    fn load(&self) -> Load {
        Load { in_flight: Some(self.on_wire), queued: Some(self.queue.len()), ..Load::default() }
    }

    fn is_idle(&self) -> bool {
        self.pending.waiting() == 0
    }

    fn idle_since(&self) -> Option<Instant> {
        self.keepalive.as_ref()?.quiet_since(self.calls)
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) {
        for reminder in [self.look.take(), self.timer.take()].into_iter().flatten() {
            cx.forget(reminder);
        }
        let connected = !matches!(reason, CloseReason::Connect(_) | CloseReason::ConnectTimeout(_));
        // A connection whose calls were cancelled or timed out before its first reply did not fail.
        let failed = !connected || !(self.answered || self.given_up || self.turned_away);
        let why = match (self.why.take(), reason) {
            (Some(why), CloseReason::Local(_)) => why,
            _ => reason.to_string(),
        };
        let moves_on = self.channel.closed(self.slot, cx.id(), failed.then_some(cx.now()), &why) || connected;
        if moves_on && !matches!(reason, CloseReason::Stopped) {
            self.give_back_queued(cx);
        }
        for (seq, entry) in self.pending.drain() {
            let (sent, phase) = where_it_was(entry.place, connected, cx.written());
            let found = entry.found.unwrap_or_else(|| {
                let error = Error::closed(why.clone()).with_sent(sent).with_phase(phase);
                Found::Done(Err(error.with_id(seq.to_wire())))
            });
            match entry.waiter {
                Waiter::Foreign(cell) => {
                    if let Some(waker) = cell.complete(found) {
                        cx.wake(waker);
                    }
                }
                here => {
                    self.slot().orphan(cx.id(), seq, found);
                    here.wake(cx);
                }
            }
        }
    }
}

impl Waiter {
    /// Whoever polls with this waker, on this reactor.
    #[inline]
    pub(crate) fn new(cx: &Cx<'_>, waker: &Waker) -> Waiter {
        match cx.task_of(waker) {
            Some(task) => Waiter::Task(task),
            None => Waiter::Waker(waker.clone()),
        }
    }

    /// For whoever looks by himself for what has come.
    #[inline]
    fn wake(self, cx: &mut Cx<'_>) {
        match self {
            Waiter::Task(task) => local::wake(task),
            Waiter::Waker(waker) => cx.wake(waker),
            Waiter::Foreign(_) | Waiter::Told => {}
        }
    }
}

/// Whether the peer can have seen the call, and how far it had come.
fn where_it_was(place: Place, connected: bool, written: u64) -> (Sent, Phase) {
    match place {
        _ if !connected => (Sent::No, Phase::Connect),
        Place::Queued(_) => (Sent::No, Phase::Queue),
        Place::OnWire(start) if written <= start => (Sent::No, Phase::Write),
        Place::OnWire(_) | Place::Done(_) => (Sent::Maybe, Phase::Wait),
    }
}
