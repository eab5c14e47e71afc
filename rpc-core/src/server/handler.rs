//! The server's side of one connection: requests in, replies out.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use rpc_transport::{CloseReason, Cx, Frame, Handler, LogLimit, TaskId, TimerId, local};

use super::reply::{self, ReplyTo};
use super::runner::{Finished, Incoming, Started};
use super::shared::{InFlight, OnReactor, Open, ServerShared, Table};
use crate::codegen::MethodDescriptor;
use crate::context::Context;
use crate::error::{Error, Peer, Refusal, Sent};
use crate::glitch::{Glitches, Verdict};
use crate::metadata::Metadata;
use crate::protocol::ttheader::layout::{FLAG_OUT_OF_ORDER, str_key};
use crate::protocol::ttheader::{RequestInfo, StringBlock, TtFrame};
use crate::protocol::{Form, MessageType, Payload, form_of};
use crate::status::Code;

/// How long a drained connection without multiplexing stays for a request that may be on its way.
const PING_PONG_LINGER: Duration = Duration::from_millis(100);

/// How long a multiplexing peer has to leave after the goodbye.
const GOODBYE_LINGER: Duration = Duration::from_secs(1);

/// No more than this of a method's name goes back with a refusal, in bytes.
const LONGEST_NAME: usize = 255;

/// The timer of a connection that is shutting down; calls use their [`CallKey`].
const DRAIN: u64 = u64::MAX;

pub(crate) struct ServerHandler {
    shared: Arc<ServerShared>,
    here: Arc<OnReactor>,
    /// The reactor's methods, while a batch is handled.
    table: Option<Box<Table>>,
    peer: Peer,
    /// The last request's header: most have the same, which costs one comparison.
    info: Arc<RequestInfo>,
    /// The method that the last header and name led to.
    last: Option<usize>,
    running: Running,
    /// A request without flag 0x0001 is under way: the next ones wait, so that replies keep their order.
    in_order: bool,
    multiplexed: bool,
    drain: Drain,
    glitches: Glitches,
    _open: Open,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// Serving what comes; closes when nothing runs.
    Draining,
    /// The peer has been told, or the time for stragglers runs.
    Goodbye,
    /// That time is over: what comes now is refused, unexecuted. Closes when nothing runs.
    Over,
}

/// Names a call of a connection that did not end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallKey {
    slot: u32,
    generation: u32,
}

/// Calls of a connection that run.
#[derive(Default)]
struct Running {
    slots: Vec<(u32, Option<RunningCall>)>,
    free: Vec<u32>,
    len: usize,
}

struct RunningCall {
    what: What,
    timer: Option<TimerId>,
    timeout: Duration,
    method: &'static MethodDescriptor,
    to: ReplyTo,
    /// Its caller has been answered already: the deadline passed.
    answered: bool,
}

enum What {
    Task(TaskId, #[allow(dead_code, reason = "held for its drop")] InFlight),
    /// Runs on the worker pool, and counts until it returns.
    Blocking(Context),
}

impl Running {
    /// The key that the next insert will use.
    fn next(&mut self) -> CallKey {
        let slot = *self.free.last().unwrap_or(&(self.slots.len() as u32));
        let generation = self.slots.get(slot as usize).map_or(0, |(generation, _)| *generation);
        CallKey { slot, generation }
    }

    fn insert(&mut self, call: RunningCall) -> CallKey {
        let key = self.next();
        if self.free.pop().is_none() {
            self.slots.push((0, None));
        }
        self.slots[key.slot as usize].1 = Some(call);
        self.len += 1;
        key
    }

    fn get(&mut self, key: CallKey) -> Option<&mut RunningCall> {
        match self.slots.get_mut(key.slot as usize) {
            Some((generation, call)) if *generation == key.generation => call.as_mut(),
            _ => None,
        }
    }

    fn remove(&mut self, key: CallKey) -> Option<RunningCall> {
        self.get(key)?;
        let (generation, call) = &mut self.slots[key.slot as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(key.slot);
        self.len -= 1;
        call.take()
    }

    fn drain(&mut self) -> Vec<RunningCall> {
        let keys = self.slots.iter().enumerate().filter(|(_, (_, call))| call.is_some());
        let keys: Vec<_> =
            keys.map(|(slot, (generation, _))| CallKey { slot: slot as u32, generation: *generation }).collect();
        keys.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

impl CallKey {
    fn to_timer(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    fn from_timer(key: u64) -> CallKey {
        CallKey { slot: key as u32, generation: (key >> 32) as u32 }
    }
}

impl ServerHandler {
    pub(crate) fn new(shared: Arc<ServerShared>, here: Arc<OnReactor>, peer: Peer) -> Self {
        ServerHandler {
            table: None,
            peer,
            info: Arc::default(),
            last: None,
            running: Running::default(),
            in_order: false,
            multiplexed: false,
            drain: if shared.is_draining() { Drain::Draining } else { Drain::No },
            glitches: Glitches::new(shared.limits.max_glitches),
            _open: Open::new(&shared),
            here,
            shared,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_of(&self, shared: &Arc<ServerShared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// How many calls run, if what is known of them agrees.
    #[cfg(feature = "testing")]
    pub(crate) fn audit(&self) -> Result<usize, String> {
        let held = self.running.slots.iter().filter(|(_, call)| call.is_some()).count();
        match (held == self.running.len, self.table.is_none()) {
            (false, _) => Err(format!("{held} calls run, {} counted", self.running.len)),
            (_, false) => Err("it kept the reactor's methods after its batch".to_owned()),
            _ if self.running.len == 0 && self.in_order => Err("it waits for a call that has ended".to_owned()),
            _ => Ok(held),
        }
    }

    fn request(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> Result<(), Error> {
        let form = form_of(frame.bytes())?;
        let (info, flags, payload) = match form {
            Form::TtHeader => {
                let tt = TtFrame::decode(frame.bytes())?;
                (tt.info, tt.flags, tt.payload)
            }
            Form::Framed => (&b""[..], 0, frame.bytes()),
        };
        let payload = Payload::decode(payload)?;
        let oneway = match payload.kind {
            MessageType::Call => false,
            MessageType::Oneway => true,
            MessageType::Reply | MessageType::Exception => {
                // A malformed header ends the connection whatever the frame is.
                match RequestInfo::parse(info, &self.shared.limits.header()) {
                    Err(error) if error.is_fatal() => return Err(error.into()),
                    _ => {}
                }
                self.glitch(cx, "a reply where a request is due");
                return Ok(());
            }
        };
        self.multiplexed |= flags & FLAG_OUT_OF_ORDER != 0;
        let mut to = ReplyTo {
            form,
            seq: payload.seq,
            oneway,
            ours: false,
            closing: self.drain != Drain::No && flags & FLAG_OUT_OF_ORDER == 0,
            max_frame_size: self.shared.limits.max_frame_size,
        };
        let known = self.info.raw() == info;
        if !known {
            self.last = None;
            if let Err(error) = self.read_info(info) {
                if error.is_fatal() {
                    return Err(error.into());
                }
                self.here.counters.accepted.add(1);
                self.refuse(cx, payload.method, to, &Error::from(error).with_sent(Sent::No));
                self.glitch(cx, "a header over a limit");
                return Ok(());
            }
        }
        self.here.counters.accepted.add(1);
        to.ours = self.info.capabilities().is_some();
        if self.drain == Drain::Over {
            self.refuse(cx, payload.method, to, &Refusal::ShuttingDown.into());
            return Ok(());
        }
        let Some(mut table) = self.table.take() else { return Err(Error::closed("no methods outside of a batch")) };
        let found = match self.last {
            Some(index) if table.methods[index].method.name().as_bytes() == payload.method => Ok(index),
            _ => self.shared.router.find(self.info.service(), payload.method),
        };
        match found {
            Ok(index) => {
                self.last = Some(index);
                // Whatever panics in there ends this connection; the methods are every connection's.
                let start = || self.start(cx, &mut table, index, frame, payload.body, to, flags);
                let panic = catch_unwind(AssertUnwindSafe(start)).err();
                self.table = Some(table);
                if let Some(panic) = panic {
                    resume_unwind(panic);
                }
            }
            Err(error) => {
                self.table = Some(table);
                self.refuse(cx, payload.method, to, &error);
            }
        }
        Ok(())
    }

    /// Reads a header that differs from the last one.
    fn read_info(&mut self, info: &[u8]) -> Result<(), crate::InfoError> {
        let limits = self.shared.limits.header();
        match Arc::get_mut(&mut self.info) {
            Some(own) => own.update(info, &limits),
            None => {
                self.info = Arc::new(RequestInfo::parse(info, &limits)?);
                Ok(())
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request, taken apart a moment ago")]
    fn start(
        &mut self,
        cx: &mut Cx<'_>,
        table: &mut Table,
        index: usize,
        frame: Frame<'_>,
        body: &[u8],
        to: ReplyTo,
        flags: u16,
    ) {
        let method = &mut table.methods[index];
        let full = match cx.memory() {
            memory if memory.refuses_work() => Some(("max_buffered_bytes", memory.limit())),
            _ => self.shared.is_full().then_some(("max_inflight", self.shared.limits.max_inflight)),
        };
        if let Some((name, limit)) = full {
            let error = Refusal::TooManyInFlight { name, limit }.into();
            return self.refuse(cx, method.method.name().as_bytes(), to, &error);
        }
        let now = cx.now();
        let timeout = self.info.timeout().unwrap_or_default();
        let deadline = self.info.timeout().map(|timeout| now + timeout);
        let key = self.running.next();
        let shared = &self.shared;
        let started = method.runner.start(
            Incoming {
                frame,
                body,
                to,
                info: &self.info,
                peer: &self.peer,
                now,
                deadline,
                key,
                reserved: &mut table.reserved,
                in_flight: &|| InFlight::begin(shared),
                workers: shared.workers(),
            },
            cx,
        );
        let what = match started {
            Started::Done => return self.here.counters.replied.add(1),
            Started::Malformed => {
                self.here.counters.replied.add(1);
                return self.glitch(cx, "a request that cannot be decoded");
            }
            Started::Task(task, in_flight) => What::Task(task, in_flight),
            Started::Blocking(context) => What::Blocking(context),
        };
        let timer = deadline.map(|at| cx.arm(at, key.to_timer()));
        self.running.insert(RunningCall { what, timer, timeout, method: method.method, to, answered: false });
        self.here.counters.in_flight.add(1);
        self.in_order = flags & FLAG_OUT_OF_ORDER == 0 && !to.oneway;
        self.throttle(cx);
    }

    /// Whether frames are handed up: not beyond the limit, and one at a time where order counts.
    fn throttle(&self, cx: &mut Cx<'_>) {
        if self.in_order || self.running.len >= self.shared.limits.max_inflight_per_conn {
            cx.pause();
        } else {
            cx.resume();
        }
    }

    /// A running call has come to its end; `None` if its caller has its answer already.
    pub(crate) fn ended(&mut self, cx: &mut Cx<'_>, key: CallKey, to: ReplyTo) -> Option<ReplyTo> {
        let call = self.running.remove(key)?;
        self.here.counters.in_flight.sub(1);
        if let Some(timer) = call.timer {
            cx.disarm(timer);
        }
        if !to.oneway {
            self.in_order = false;
        }
        if call.answered {
            return None;
        }
        self.here.counters.replied.add(1);
        Some(ReplyTo { closing: to.closing || (self.drain != Drain::No && !self.multiplexed), ..to })
    }

    /// After a call has ended: reading goes on, or shutting down does.
    pub(crate) fn after(&mut self, cx: &mut Cx<'_>) {
        self.throttle(cx);
        self.go_on_draining(cx);
    }

    fn refuse(&mut self, cx: &mut Cx<'_>, method: &[u8], to: ReplyTo, error: &Error) {
        self.here.counters.replied.add(1);
        // A name that no method has may be as long as a frame; callers know a refused call by its id.
        let method = &method[..method.len().min(LONGEST_NAME)];
        reply::write_error(cx.output(), method, to, &Metadata::new(), error);
    }

    fn glitch(&mut self, cx: &mut Cx<'_>, what: &'static str) {
        self.here.counters.glitches.add(1);
        tracing::debug!(peer = %self.peer, what, "glitch");
        match self.glitches.add(cx.now()) {
            Verdict::Tolerate => {}
            Verdict::Drain => self.begin_draining(cx),
            Verdict::Cut => cx.abort(CloseReason::Limit("max_glitches")),
        }
    }

    fn begin_draining(&mut self, cx: &mut Cx<'_>) {
        if self.drain == Drain::No {
            self.drain = Drain::Draining;
            self.go_on_draining(cx);
        }
    }

    /// Shuts down as far as it can be done now: first everything that runs ends, then the peer is told, then it may leave by itself,
    /// then it is closed. A peer that multiplexes gets the goodbye frame; any other would take it for a reply, and sees `crrst` in
    /// its replies instead.
    fn go_on_draining(&mut self, cx: &mut Cx<'_>) {
        if self.running.len > 0 {
            return;
        }
        match self.drain {
            Drain::Draining => {
                let linger = if self.multiplexed {
                    write_goodbye(cx.output());
                    GOODBYE_LINGER
                } else {
                    PING_PONG_LINGER
                };
                self.drain = Drain::Goodbye;
                let at = cx.now() + linger;
                cx.arm(at, DRAIN);
            }
            Drain::Over => cx.close(CloseReason::Local("the server is shutting down")),
            Drain::No | Drain::Goodbye => {}
        }
    }
}

/// "Connection will be closed", as Kitex's multiplexing clients know it: id 0, `crrst`, and an empty Thrift reply that nobody reads.
fn write_goodbye(out: &mut impl BufMut) {
    let mut strings = StringBlock::new();
    if strings.push(str_key::CLOSING, b"1").is_err() {
        return;
    }
    let payload = b"\x80\x01\x00\x02\x00\x00\x00\x04none\x00\x00\x00\x00\x00";
    let header = (2 + strings.as_bytes().len()).next_multiple_of(4);
    out.put_u32((10 + header + payload.len()) as u32);
    out.put_slice(&[0x10, 0x00, 0, 0, 0, 0, 0, 0]);
    out.put_u16((header / 4) as u16);
    out.put_slice(&[0, 0]);
    out.put_slice(strings.as_bytes());
    out.put_bytes(0, header - 2 - strings.as_bytes().len());
    out.put_slice(payload);
}

impl Handler for ServerHandler {
    /// Accepted while the server shuts down: it had connected before.
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.go_on_draining(cx);
    }

    fn on_batch(&mut self, _: &mut Cx<'_>) {
        self.table = self.here.table.lock().take();
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        if let Err(error) = self.request(cx, frame) {
            static JUNK: LogLimit = LogLimit::new();
            if let Some(skipped) = JUNK.pass(cx.now()) {
                tracing::info!(peer = %self.peer, %error, skipped, "the peer's bytes are not requests; closing");
            }
            cx.close(CloseReason::Local("the peer's bytes are not requests"));
        }
    }

    fn on_batch_end(&mut self, cx: &mut Cx<'_>) {
        if let Some(table) = self.table.take() {
            *self.here.table.lock() = Some(table);
        }
        self.go_on_draining(cx);
    }

    fn on_message(&mut self, cx: &mut Cx<'_>, message: Arc<dyn Any + Send + Sync>) {
        let Ok(finished) = message.downcast::<Finished>() else { return };
        let Some(to) = self.running.get(finished.key).map(|call| call.to) else { return };
        let awaited = self.ended(cx, finished.key, to).is_some();
        if let Some(frame) = finished.frame.lock().take().filter(|_| awaited) {
            cx.output().append(frame);
        }
        self.after(cx);
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, key: u64) {
        if key == DRAIN {
            self.drain = Drain::Over;
            return self.go_on_draining(cx);
        }
        let key = CallKey::from_timer(key);
        let Some(call) = self.running.get(key) else { return };
        call.timer = None;
        let error =
            Error::new(Code::DeadlineExceeded, format!("the deadline of {:?} passed in the handler", call.timeout));
        let (method, to) = (call.method.name().as_bytes(), call.to);
        match &call.what {
            What::Task(task, _) => {
                // Dropping the future is what cancels it.
                if let Some(task) = local::cancel(*task) {
                    task.finished();
                }
                if let Some(to) = self.ended(cx, key, to) {
                    reply::write_error(cx.output(), method, to, &Metadata::new(), &error);
                }
                self.after(cx);
            }
            What::Blocking(context) => {
                context.cancel();
                call.answered = true;
                self.here.counters.replied.add(1);
                reply::write_error(cx.output(), method, to, &Metadata::new(), &error);
            }
        }
    }

    fn on_shutdown(&mut self, cx: &mut Cx<'_>) {
        self.begin_draining(cx);
    }

    fn is_idle(&self) -> bool {
        self.running.len == 0
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, _: &CloseReason) {
        if let Some(table) = self.table.take() {
            *self.here.table.lock() = Some(table);
        }
        for call in self.running.drain() {
            self.here.counters.in_flight.sub(1);
            if let Some(timer) = call.timer {
                cx.disarm(timer);
            }
            match call.what {
                What::Task(task, _) => {
                    if let Some(task) = local::cancel(task) {
                        task.finished();
                    }
                }
                What::Blocking(context) => context.cancel(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goodbye_is_what_kitex_sends() {
        let mut out = Vec::new();
        write_goodbye(&mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        let vectors = include_str!("../../tests/wire/wire_vectors.tsv");
        let expected = vectors.lines().find_map(|line| line.strip_prefix("E9b-mux-control-close\tok\t"));
        assert_eq!(Some(hex.as_str()), expected);
    }
}
