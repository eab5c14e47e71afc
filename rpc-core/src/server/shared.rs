//! What the connections of a server share, and what it has on each reactor.

use std::sync::Arc;
use std::time::Duration;

use rpc_transport::{Counter, Frame, ReservedTask, WorkerPool};

use super::router::Router;
use super::runner::Runner;
use super::running::SpareTables;
use super::watchdog::PollingMethod;
use crate::codegen::MethodDescriptor;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::mux::Rules;
use crate::protocol::ttheader::{HeaderLimits, InfoError, KnownHead, RequestInfo};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex, put_back};

/// What all connections of a server share.
pub(crate) struct ServerShared {
    pub(crate) limits: Limits,
    /// Those of the limits that every connection's keepalive looks at.
    pub(super) keepalive: Arc<Rules>,
    /// Payloads are compared with their checksums, and replies get one.
    pub(crate) checksum: bool,
    pub(crate) router: Router,
    pub(crate) reactors: Vec<Arc<OnReactor>>,
    pub(super) workers: Option<Arc<WorkerPool>>,
    pub(super) running: AtomicUsize,
    pub(super) draining: AtomicBool,
    pub(super) open: Mutex<usize>,
    pub(super) closed: Condvar,
}

/// Memory of a header, in bytes, above which it is its calls' alone. A smaller one stays for the calls that follow: it costs a comparison
/// then. No limit counts these, and there is one with every connection and with every box that a future ran in.
pub(super) const LARGE_HEADER: usize = 2 << 10;

/// What a server has on one reactor.
pub(crate) struct OnReactor {
    /// Taken out while a batch is handled.
    pub(crate) table: Mutex<Option<Box<Table>>>,
    pub(crate) counters: Counters,
    /// What a connection has before its first request.
    pub(super) no_header: Arc<RequestInfo>,
    /// The header that was read last, of those that are not large. Connections of one client mostly have the same, and share it.
    pub(super) last_header: Mutex<Arc<RequestInfo>>,
    /// Tables for connections whose calls do not all end at once.
    pub(super) spare: SpareTables,
    /// Which methods' handlers are being polled; for the watchdog.
    pub(crate) polling: Vec<PollingMethod>,
}

impl OnReactor {
    pub(crate) fn new(table: Table, polling: Vec<PollingMethod>) -> Self {
        let no_header = Arc::<RequestInfo>::default();
        OnReactor {
            table: Mutex::new(Some(Box::new(table))),
            counters: Counters::default(),
            last_header: Mutex::new(Arc::clone(&no_header)),
            no_header,
            spare: SpareTables::default(),
            polling,
        }
    }

    /// Reads a header, if it is not the one that was read last.
    pub(super) fn read_header(&self, info: &[u8], limits: &HeaderLimits) -> Result<Arc<RequestInfo>, InfoError> {
        let mut last = self.last_header.lock();
        if last.raw() == info {
            return Ok(Arc::clone(&last));
        }
        let read = Arc::new(RequestInfo::parse(info, limits)?);
        if read.memory() <= LARGE_HEADER {
            *last = Arc::clone(&read);
        }
        Ok(read)
    }
}

/// The methods of a server on one reactor.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) methods: Vec<TableEntry>,
    /// A task slot at hand, for the next handler that does not end at once.
    pub(crate) reserved: Option<ReservedTask>,
    pub(crate) known: Known,
}

/// The head of plain requests that followed each other, on whatever connections of the reactor, and what it says.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) head: KnownHead,
    pub(crate) info: Option<Arc<RequestInfo>>,
    /// The method's index.
    pub(crate) index: usize,
    /// Method and header of the last plain request that was taken apart.
    pub(crate) last: Option<(usize, Arc<RequestInfo>)>,
}

impl Known {
    /// A plain request with another head: the second one to the same method in a row makes it known.
    pub(super) fn learn(
        &mut self,
        index: usize,
        info: &Arc<RequestInfo>,
        frame: Frame<'_>,
        payload_len: usize,
        body_len: usize,
    ) {
        let before = self.last.replace((index, Arc::clone(info)));
        if before.is_some_and(|(last, of)| last == index && Arc::ptr_eq(&of, info)) {
            (self.index, self.info) = (index, Some(Arc::clone(info)));
            self.head.learn(frame.bytes(), payload_len, body_len);
        }
    }
}

pub(crate) struct TableEntry {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) runner: Box<dyn Runner>,
}

/// Counters of one reactor, written by it alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) replied: Counter,
    pub(crate) in_flight: Counter,
    pub(crate) glitches: Counter,
}

impl ServerShared {
    pub(crate) fn new(
        limits: Limits,
        checksum: bool,
        router: Router,
        reactors: Vec<Arc<OnReactor>>,
        workers: Option<WorkerPool>,
    ) -> Self {
        ServerShared {
            keepalive: Arc::new(Rules::of(&limits)),
            limits,
            checksum,
            router,
            reactors,
            workers: workers.map(Arc::new),
            running: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            open: Mutex::new(0),
            closed: Condvar::new(),
        }
    }

    pub(crate) fn workers(&self) -> Option<&Arc<WorkerPool>> {
        self.workers.as_ref()
    }

    /// Whether `max_inflight` handlers run: nothing new begins.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.running.load(Ordering::Relaxed) >= self.limits.max_inflight
    }

    /// Waits until no connection is open, as long as `go_on` says so.
    pub(super) fn wait_closed(&self, go_on: impl Fn() -> bool) {
        let mut open = self.open.lock();
        while *open > 0 && go_on() {
            // In steps, so that a hurried end is noticed.
            self.closed.wait_for(&mut open, Duration::from_millis(20));
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// One running handler that did not end at once, counted until it does.
pub(crate) struct InFlight(Arc<ServerShared>);

impl InFlight {
    pub(crate) fn begin(shared: &Arc<ServerShared>) -> Result<InFlight, Refusal> {
        let limit = shared.limits.max_inflight;
        if shared.running.fetch_add(1, Ordering::AcqRel) >= limit {
            shared.running.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::TooManyInFlight { name: "max_inflight", limit });
        }
        Ok(InFlight(Arc::clone(shared)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One open connection.
pub(crate) struct Open(Arc<ServerShared>);

impl Open {
    pub(crate) fn new(shared: &Arc<ServerShared>) -> Open {
        *shared.open.lock() += 1;
        Open(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.open.lock() -= 1;
        if !put_back!("B32-shutdown") {
            self.0.closed.notify_all();
        }
    }
}
