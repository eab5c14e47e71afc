//! The server's side of one connection: requests in, replies out.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use rpc_transport::{CloseReason, Cx, Frame, Handler, Load, LogLimit, local};

use super::control::{Control, KEEPALIVE};
use super::drain::{DRAIN, Drain, Leaving, Reason};
use super::reply::{self, ReplyTo};
use super::runner::{Finished, Incoming, Started};
use super::running::{CallKey, Running, RunningCall, What};
use super::shared::{LARGE_HEADER, OnReactor, Open, ServerShared, Table, TableEntry};
use crate::error::{Error, Peer, Refusal, Sent};
use crate::glitch::{Glitches, Verdict};
use crate::metadata::Metadata;
use crate::protocol::ttheader::layout::{FLAG_OUT_OF_ORDER, capability};
use crate::protocol::ttheader::{ControlFrame, KnownFrame, RequestInfo, TtFrame};
use crate::protocol::{Checksum, Form, MessageType, Payload, ProtocolError, form_of};
use crate::status::Code;

/// No more than this of a method's name goes back with a refusal, in bytes.
const LONGEST_NAME: usize = 255;

/// What all requests of a connection have in common, until one comes with another header.
pub(crate) struct Caller {
    pub(crate) shared: Arc<ServerShared>,
    pub(crate) peer: Peer,
    /// The last request's header: most have the same, which costs one comparison. Other connections may share it.
    pub(crate) info: Arc<RequestInfo>,
}

pub(crate) struct ServerHandler {
    pub(super) caller: Caller,
    pub(super) here: Arc<OnReactor>,
    /// The reactor's methods, while a batch is handled.
    table: Option<Box<Table>>,
    /// The last request's header is too large to be kept any longer than for a batch.
    large: bool,
    /// The method that the last header and name led to.
    last: Option<u32>,
    /// The last request's header has a checksum, and checksums are compared here.
    checked: bool,
    pub(super) running: Running,
    /// Requests so far.
    pub(super) calls: u64,
    pub(super) last_seq: i32,
    /// A request without flag 0x0001 whose caller waits: the next ones do, too, so that replies keep their order.
    pub(super) in_order: Option<CallKey>,
    pub(super) multiplexed: bool,
    pub(super) control: Control,
    pub(super) drain: Drain,
    /// Why it is drained.
    pub(super) reason: Reason,
    pub(super) leaving: Option<Box<Leaving>>,
    glitches: Glitches,
    _open: Open,
}

impl ServerHandler {
    pub(crate) fn new(shared: Arc<ServerShared>, here: Arc<OnReactor>, peer: Peer) -> Self {
        ServerHandler {
            table: None,
            large: false,
            last: None,
            checked: false,
            running: Running::default(),
            calls: 0,
            last_seq: 0,
            in_order: None,
            multiplexed: false,
            control: Control::No,
            reason: Reason::ShuttingDown,
            leaving: None,
            drain: if shared.is_draining() { Drain::Serving } else { Drain::No },
            glitches: Glitches::new(shared.limits.max_glitches),
            _open: Open::new(&shared),
            caller: Caller { shared, peer, info: Arc::clone(&here.no_header) },
            here,
        }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_of(&self, shared: &Arc<ServerShared>) -> bool {
        Arc::ptr_eq(&self.caller.shared, shared)
    }

    /// How many calls run, if what is known of them agrees.
    #[cfg(feature = "testing")]
    pub(crate) fn audit(&self) -> Result<usize, String> {
        let (held, unanswered) = self.running.held();
        let counted = (self.running.len(), self.running.unanswered());
        match ((held, unanswered) == counted, self.table.is_none()) {
            (false, _) => Err(format!("{held} calls run, {unanswered} unanswered, {counted:?} counted")),
            (_, false) => Err("it kept the reactor's methods after its batch".to_owned()),
            _ if self.in_order.is_some_and(|key| !self.running.awaits(key)) => {
                Err("it waits for a call that has been answered".to_owned())
            }
            _ => Ok(held),
        }
    }

    #[inline]
    fn request(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> Result<(), Error> {
        let Some(Table { known, .. }) = self.table.as_deref() else { return self.request_anew(cx, frame) };
        let Some(KnownFrame { seq, body }) = known.head.matches(frame.bytes()) else {
            return self.request_anew(cx, frame);
        };
        let same = known.info.as_ref().is_some_and(|info| Arc::ptr_eq(info, &self.caller.info));
        if !same || self.checked || self.drain != Drain::No {
            return self.request_anew(cx, frame);
        }
        let to = ReplyTo {
            form: Form::TtHeader,
            seq,
            oneway: false,
            ours: self.caller.info.capabilities().is_some(),
            confirm: matches!(self.control, Control::Announced),
            checksum: self.caller.shared.checksum,
            closing: false,
            max_frame_size: self.caller.shared.limits.max_frame_size,
        };
        let index = known.index;
        self.multiplexed = true;
        self.here.counters.accepted.add(1);
        self.calls += 1;
        self.last_seq = seq;
        self.start(cx, index, frame, body, to, FLAG_OUT_OF_ORDER)
    }

    /// A request whose head the reactor does not know.
    #[inline(never)]
    fn request_anew(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) -> Result<(), Error> {
        let form = form_of(frame.bytes())?;
        let (info, flags, payload) = match form {
            Form::TtHeader => {
                let tt = TtFrame::decode(frame.bytes())?;
                (tt.info, tt.flags, tt.payload)
            }
            Form::Framed => (&b""[..], 0, frame.bytes()),
        };
        let message = payload;
        let payload = match Payload::decode(payload) {
            Ok(payload) => payload,
            Err(error) => return self.no_message(cx, frame, error),
        };
        let oneway = match payload.kind {
            MessageType::Call => false,
            MessageType::Oneway => true,
            MessageType::Reply | MessageType::Exception => {
                // A malformed header ends the connection whatever the frame is.
                match RequestInfo::parse(info, &self.caller.shared.limits.header()) {
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
            confirm: matches!(self.control, Control::Announced), // by a reply to whatever request comes next
            checksum: self.caller.shared.checksum,
            closing: self.drain != Drain::No && flags & FLAG_OUT_OF_ORDER == 0,
            max_frame_size: self.caller.shared.limits.max_frame_size,
        };
        let known = self.caller.info.raw() == info;
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
            let controls = self.caller.info.capabilities().is_some_and(|bits| bits & capability::CONTROL_FRAMES != 0);
            if controls && flags & FLAG_OUT_OF_ORDER != 0 && matches!(self.control, Control::No) {
                self.control = Control::Announced;
            }
        }
        self.here.counters.accepted.add(1);
        self.calls += 1;
        to.ours = self.caller.info.capabilities().is_some();
        to.confirm = matches!(self.control, Control::Announced);
        if self.drain.refuses() {
            // A oneway message is dropped: nothing can be said to it.
            self.refuse(cx, payload.method, to, &Refusal::ShuttingDown.into());
            if self.reason != Reason::ShuttingDown {
                self.glitch(cx, "a call to a connection that takes none for the peer's own doing");
            }
            return Ok(());
        }
        self.last_seq = payload.seq;
        if self.checked
            && let Some(Err(corrupt)) = self.caller.info.checksum().map(|announced| Checksum::check(announced, message))
        {
            self.refuse(cx, payload.method, to, &Error::from(corrupt).with_sent(Sent::No));
            self.glitch(cx, "a request that is not what its checksum says");
            return Ok(());
        }
        match self.find(payload.method) {
            Ok(index) => {
                self.last = u32::try_from(index).ok();
                let plain =
                    form == Form::TtHeader && !oneway && flags == FLAG_OUT_OF_ORDER && !self.checked && !self.large;
                if let Some(Table { known, .. }) = self.table.as_deref_mut().filter(|_| plain) {
                    known.learn(index, &self.caller.info, frame, message.len(), payload.body.len());
                }
                self.start(cx, index, frame, payload.body, to, flags)
            }
            Err(error) => {
                self.refuse(cx, payload.method, to, &error);
                Ok(())
            }
        }
    }

    /// The method that a request of this name is for: mostly the last one's.
    fn find(&self, name: &[u8]) -> Result<usize, Error> {
        let last = self.last.map(|index| index as usize).filter(|index| {
            let table = self.table.as_ref();
            table.is_some_and(|table| table.methods[*index].method.name().as_bytes() == name)
        });
        last.map_or_else(|| self.caller.shared.router.find(self.caller.info.service(), name), Ok)
    }

    /// A frame whose payload is no message: a control frame, or an error.
    #[cold]
    fn no_message(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>, error: ProtocolError) -> Result<(), Error> {
        match TtFrame::decode(frame.bytes()) {
            Ok(tt) if tt.seq == 0 => match ControlFrame::decode(&tt)? {
                Some(control) => self.obey(cx, control),
                None => Err(error.into()),
            },
            _ => Err(error.into()),
        }
    }

    /// Reads a header that differs from the last one.
    fn read_info(&mut self, info: &[u8]) -> Result<(), crate::InfoError> {
        self.caller.info = self.here.read_header(info, &self.caller.shared.limits.header())?;
        self.checked = self.caller.shared.checksum && self.caller.info.checksum().is_some();
        self.large = self.caller.info.memory() > LARGE_HEADER;
        Ok(())
    }

    /// As before the first request.
    #[cold]
    fn forget_info(&mut self) {
        self.caller.info = Arc::clone(&self.here.no_header);
        (self.large, self.checked, self.last) = (false, false, None);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request, taken apart a moment ago")]
    #[inline(always)]
    fn start(
        &mut self,
        cx: &mut Cx<'_>,
        index: usize,
        frame: Frame<'_>,
        body: &[u8],
        to: ReplyTo,
        flags: u16,
    ) -> Result<(), Error> {
        // It stays where it is meanwhile: whatever panics in here ends this connection, and the methods are every connection's.
        let Some(table) = &mut self.table else { return Err(Error::closed("no methods outside of a batch")) };
        let TableEntry { method, runner } = &mut table.methods[index];
        let method = *method;
        let limits = &self.caller.shared.limits;
        let full = match cx.memory() {
            memory if memory.refuses_work() => Some(("max_buffered_bytes", memory.limit())),
            // Only answered ones make it so: with the others it would not have been taken.
            _ if self.running.len() >= limits.max_inflight_per_conn => {
                Some(("max_inflight_per_conn", limits.max_inflight_per_conn))
            }
            _ => self.caller.shared.is_full().then_some(("max_inflight", limits.max_inflight)),
        };
        if let Some((name, limit)) = full {
            let error = Refusal::TooManyInFlight { name, limit }.into();
            self.refuse(cx, method.name().as_bytes(), to, &error);
            return Ok(());
        }
        let timeout = self.caller.info.timeout().unwrap_or_default();
        let deadline = self.caller.info.timeout().map(|timeout| local::now_and_after(timeout).1);
        let key = self.running.next();
        let started = runner.start(
            Incoming {
                frame,
                body,
                to: &to,
                caller: &self.caller,
                large: self.large,
                deadline,
                key,
                reserved: &mut table.reserved,
            },
            cx,
        );
        let what = match started {
            Started::Done => {
                self.here.counters.replied.add(1);
                self.wrote(cx, to);
                return Ok(());
            }
            Started::Malformed => {
                self.here.counters.replied.add(1);
                self.wrote(cx, to);
                self.glitch(cx, "a request that cannot be decoded");
                return Ok(());
            }
            Started::Task(task, in_flight) => What::Task(task, in_flight),
            Started::Blocking(context) => What::Blocking(context),
        };
        // First of all it is known and counted: whatever panics from here on, the end of the connection finds it.
        let call = RunningCall { what, began: cx.now(), timer: None, timeout, method, to, answered: false };
        self.running.insert(call, &self.here.spare);
        self.here.counters.in_flight.add(1);
        if let Some(at) = deadline {
            let timer = cx.arm(at, key.to_timer());
            if let Some(call) = self.running.get(key) {
                call.timer = Some(timer);
            }
        }
        self.watch(cx);
        if flags & FLAG_OUT_OF_ORDER == 0 && !to.oneway {
            self.in_order = Some(key);
        }
        self.throttle(cx);
        Ok(())
    }

    /// Whether frames are handed up: one request at a time where order counts. At the limit of handlers the connection is read on
    /// until a request comes, so that cancellations and pongs are heard: see [`Handler::takes`]. Handlers whose callers have been
    /// answered do not hold it up: nothing that the peer does ends them, and its pings would not be heard until they return.
    fn throttle(&self, cx: &mut Cx<'_>) {
        if self.in_order.is_some() {
            cx.pause();
        } else if self.has_room() {
            cx.resume();
        }
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.drain.refuses() || self.running.unanswered() < self.caller.shared.limits.max_inflight_per_conn
    }

    /// Where a reply that is written now goes: what its header says of the connection is what holds now, not at the request's start.
    pub(super) fn as_of_now(&self, to: ReplyTo) -> ReplyTo {
        let confirm = matches!(self.control, Control::Announced) && to.is_written();
        let closing = to.closing || (self.drain != Drain::No && !self.multiplexed);
        ReplyTo { confirm, closing, ..to }
    }

    /// A reply to a request that was answered at once stands in the output.
    #[inline]
    pub(super) fn wrote(&mut self, cx: &mut Cx<'_>, to: ReplyTo) {
        if to.confirm && to.is_written() {
            self.confirmed(cx);
        }
    }

    /// A running call has come to its end; `None` if its caller has its answer already.
    pub(crate) fn ended(&mut self, cx: &mut Cx<'_>, key: CallKey, to: ReplyTo) -> Option<ReplyTo> {
        let call = self.running.remove(key, &self.here.spare)?;
        self.here.counters.in_flight.sub(1);
        if let Some(timer) = call.timer {
            cx.disarm(timer);
        }
        if call.answered {
            return None;
        }
        self.in_order.take_if(|awaited| *awaited == key);
        let mut to = self.as_of_now(to);
        // A worker has written its reply as it was told at the start.
        to.confirm &= call.to.confirm || !call.is_blocking();
        self.wrote(cx, to);
        self.here.counters.replied.add(1);
        Some(to)
    }

    /// After a call has ended: reading goes on, or shutting down does.
    pub(crate) fn after(&mut self, cx: &mut Cx<'_>) {
        self.throttle(cx);
        self.go_on_draining(cx);
    }

    /// Nobody waits for it any more.
    fn drop_call(&self, cx: &mut Cx<'_>, call: RunningCall) {
        self.here.counters.in_flight.sub(1);
        match call.what {
            What::Task(task, _) => {
                if let Some(task) = local::cancel(task) {
                    task.finished();
                }
            }
            What::Blocking(context) => context.cancel(),
        }
        if let Some(timer) = call.timer {
            cx.disarm(timer);
        }
    }

    fn refuse(&mut self, cx: &mut Cx<'_>, method: &[u8], to: ReplyTo, error: &Error) {
        self.here.counters.replied.add(1);
        // A name that no method has may be as long as a frame; callers know a refused call by its id.
        let method = &method[..method.len().min(LONGEST_NAME)];
        reply::write_error(cx.output(), method, &to, &Metadata::new(), error);
        self.wrote(cx, to);
    }

    pub(super) fn glitch(&mut self, cx: &mut Cx<'_>, what: &'static str) {
        self.here.counters.glitches.add(1);
        tracing::debug!(peer = %self.caller.peer, what, "glitch");
        match self.glitches.add(cx.now()) {
            Verdict::Tolerate => {}
            Verdict::Drain => self.drain_for(cx, Reason::Glitches),
            Verdict::Cut => cx.abort(CloseReason::Limit("max_glitches")),
        }
    }
}

impl Handler for ServerHandler {
    /// Accepted while the server shuts down: it had connected before.
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        #[cfg(feature = "tls")]
        if let Some(tls) = cx.tls() {
            self.caller.peer = self.caller.peer.proved(tls);
        }
        self.go_on_draining(cx);
    }

    fn on_batch(&mut self, _: &mut Cx<'_>) {
        self.table = self.here.table.lock().take();
    }

    #[inline]
    fn takes(&mut self, frame: Frame<'_>) -> bool {
        self.has_room() || ControlFrame::is(frame.bytes())
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        if let Err(error) = self.request(cx, frame) {
            static JUNK: LogLimit = LogLimit::new();
            if let Some(skipped) = JUNK.pass(cx.now()) {
                tracing::info!(peer = %self.caller.peer, %error, skipped, "the peer's bytes are not requests; closing");
            }
            cx.close(CloseReason::Local("the peer's bytes are not requests"));
        }
    }

    fn on_batch_end(&mut self, cx: &mut Cx<'_>) {
        if let Some(table) = self.table.take() {
            *self.here.table.lock() = Some(table);
        }
        if self.large {
            self.forget_info();
        }
        self.pay(cx);
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
        match key {
            DRAIN => return self.drain_on_time(cx),
            KEEPALIVE => return self.look(cx),
            _ => {}
        }
        let key = CallKey::from_timer(key);
        let Some(call) = self.running.get(key) else { return };
        call.timer = None;
        let text = format!("the deadline of {:?} passed in the handler", call.timeout);
        self.cut(cx, key, &Error::new(Code::DeadlineExceeded, text));
    }

    fn on_shutdown(&mut self, cx: &mut Cx<'_>) {
        self.drain_for(cx, Reason::ShuttingDown);
    }

    fn load(&self) -> Load {
        Load { in_flight: Some(self.running.len()), frames_in: Some(self.calls), ..Load::default() }
    }

    fn is_idle(&self) -> bool {
        self.running.len() == 0
    }

    fn idle_since(&self) -> Option<Instant> {
        self.quiet_since()
    }

    /// Who sends a oneway message waits for nothing, and may leave at once: what was accepted is handled to its end.
    fn outlasts(&mut self, cx: &mut Cx<'_>, reason: &CloseReason) -> bool {
        let left = matches!(reason, CloseReason::PeerClosed | CloseReason::CutShort { .. } | CloseReason::Io(_));
        #[cfg(feature = "tls")]
        let left = left || reason.tls().is_some_and(|e| e.kind() == rpc_transport::TlsErrorKind::Truncated);
        if !left || self.running.keys(true).is_empty() {
            return false;
        }
        self.stop_looking(cx);
        self.in_order = None;
        for key in self.running.keys(false) {
            if let Some(call) = self.running.remove(key, &self.here.spare) {
                self.drop_call(cx, call);
            }
        }
        true
    }

    fn on_close(&mut self, cx: &mut Cx<'_>, _: &CloseReason) {
        if let Some(table) = self.table.take() {
            *self.here.table.lock() = Some(table);
        }
        self.stop_looking(cx);
        self.stop_draining(cx);
        for call in self.running.drain() {
            self.drop_call(cx, call);
        }
    }
}
