//! Who is to be served all the same: calls on connections that there are, at fixed times or one after another, and newcomers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rpc_transport::rustls::client::Resumption;
use rpc_transport::rustls::crypto::ring;
use rpc_transport::rustls::pki_types::CertificateDer;
use rpc_transport::rustls::{ClientConfig, RootCertStore};
use rpc_transport::{
    CloseReason, ConnLimits, Connector, Cx, Endpoint, Frame, Handler, LengthField, PoolOptions, ReactorPool, TlsClient,
    sleep,
};

use super::framing;
use crate::Failure;

/// Connections that calls are made on: so many that each call is a read, a record and a write of its own, at either side.
pub(super) const CONNECTIONS: u32 = 256;

/// A frame's payload: when it was due, in which slice, and zeros.
const PAYLOAD: usize = 64;

/// Calls that have become due are written this often.
const TICK: Duration = Duration::from_millis(1);

/// Between two newcomers.
const BETWEEN: Duration = Duration::from_millis(20);

/// A newcomer that has no reply to its first call by then, from its connect on, has not come in: a client's `connect_timeout`.
pub(super) const WELCOME: Duration = Duration::from_secs(1);

/// What came of the calls and the newcomers of one slice of time.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// Calls that were due; one after another each is due when the one before is answered.
    pub(super) due: u64,
    /// From the time they were due to the reply.
    pub(super) calls: Vec<Duration>,
    /// Connections that were begun.
    pub(super) begun: u64,
    /// From a connect to the reply to the first call.
    pub(super) newcomers: Vec<Duration>,
    /// Why the others did not come in.
    pub(super) turned_away: BTreeMap<String, u64>,
}

/// What the reactor and the thread that measures share.
#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// Calls a second, on all connections.
    rate: AtomicU64,
    /// The slice that is under way, from 1; 0 between two.
    current: AtomicU64,
    slice: Mutex<Slice>,
    lost: AtomicU64,
}

impl Shared {
    /// What has begun in a slice is told there, however late.
    fn tell(&self, slice: u64, f: impl FnOnce(&mut Slice)) {
        if slice != 0 {
            f(&mut self.slice.lock());
        }
    }
}

/// Calls and newcomers, until this is dropped.
pub(super) struct Live {
    shared: Arc<Shared>,
    slices: u64,
    _pool: ReactorPool,
}

impl Live {
    /// Calls at fixed times, or one after another on each connection.
    pub(super) fn start(endpoint: &Endpoint, certificate: Vec<u8>, in_turn: bool) -> Result<Live, Failure> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            rate: AtomicU64::new(1_000),
            current: AtomicU64::new(0),
            slice: Mutex::default(),
            lost: AtomicU64::new(0),
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate))?;
        let config = ClientConfig::builder_with_provider(ring::default_provider().into());
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled();
        let tls = Some(TlsClient::from_rustls(config).for_server("localhost")?);
        let connector = |limits| Connector { tls: tls.clone(), limits: Arc::new(limits), ..Connector::default() };
        let patient = connector(ConnLimits { idle_timeout: Duration::MAX / 4, ..ConnLimits::default() });
        let newcomer = connector(ConnLimits { connect_timeout: WELCOME, ..ConnLimits::default() });
        let pool = ReactorPool::start(PoolOptions { reactors: 1, ..PoolOptions::default() })?;
        let (known, at) = (Arc::clone(&shared), endpoint.clone());
        pool.handles()[0].spawn(async move {
            for number in 0..CONNECTIONS {
                let (shared, framing) = (Arc::clone(&known), framing());
                let caller = Caller { shared, framing, number, in_turn, next: Instant::now() };
                patient.connect(&at, super::framing(), caller);
            }
            loop {
                sleep(BETWEEN).await; // newcomers come at a rate
                let slice = known.current.load(Ordering::Acquire);
                known.tell(slice, |slice| slice.begun += 1);
                let (shared, framing) = (Arc::clone(&known), framing());
                let visitor = Newcomer { shared, framing, slice, begun: Instant::now(), came_in: false };
                newcomer.connect(&at, super::framing(), visitor);
            }
        });
        Ok(Live { shared, slices: 0, _pool: pool })
    }

    pub(super) fn set_rate(&self, calls_a_second: f64) {
        self.shared.rate.store(calls_a_second as u64, Ordering::Release);
    }

    /// A slice begins.
    pub(super) fn begin(&mut self) {
        self.slices += 1;
        self.shared.current.store(self.slices, Ordering::Release);
    }

    /// Nothing more begins in it.
    pub(super) fn end(&self) {
        self.shared.current.store(0, Ordering::Release);
    }

    /// What came of it.
    pub(super) fn take(&self) -> Result<Slice, Failure> {
        match self.shared.lost.load(Ordering::Acquire) {
            0 => Ok(std::mem::take(&mut *self.shared.slice.lock())),
            lost => Err(format!("{lost} of the connections that calls are made on have ended").into()),
        }
    }
}

/// Makes calls when they are due, whatever became of those before; or the next one when the last is answered.
struct Caller {
    shared: Arc<Shared>,
    framing: LengthField,
    number: u32,
    in_turn: bool,
    next: Instant,
}

impl Caller {
    /// A call that was due at `next`, in this slice.
    fn call(&self, cx: &mut Cx<'_>, slice: u64) {
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&((self.next - self.shared.epoch).as_nanos() as u64).to_be_bytes());
        payload[8..16].copy_from_slice(&slice.to_be_bytes());
        self.framing.write_head(PAYLOAD, cx.output()).expect("a short frame");
        cx.output().write_bytes(payload.to_vec().into());
    }

    fn call_in_turn(&mut self, cx: &mut Cx<'_>) {
        self.next = Instant::now();
        let slice = self.shared.current.load(Ordering::Acquire);
        self.shared.tell(slice, |slice| slice.due += 1);
        self.call(cx, slice);
    }
}

impl Handler for Caller {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        if self.in_turn {
            return self.call_in_turn(cx);
        }
        // Not all at once.
        self.next = Instant::now() + TICK * self.number;
        cx.arm(self.next, 0);
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, _: u64) {
        let now = Instant::now();
        let rate = self.shared.rate.load(Ordering::Acquire).max(1) as f64;
        let between = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
        let slice = self.shared.current.load(Ordering::Acquire);
        let mut due = 0;
        while self.next <= now {
            due += 1;
            // For so long nothing has been read that one more would be late, too.
            if !cx.is_crowded() {
                self.call(cx, slice);
            }
            self.next += between;
        }
        self.shared.tell(slice, |slice| slice.due += due);
        cx.arm(self.next.max(now + TICK), 0);
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, frame: Frame<'_>) {
        let (due, slice) = frame.bytes()[..16].split_at(8);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let took = self.shared.epoch.elapsed().saturating_sub(Duration::from_nanos(number(due)));
        self.shared.tell(number(slice), |slice| slice.calls.push(took));
        if self.in_turn {
            self.call_in_turn(cx);
        }
    }

    fn on_close(&mut self, _: &mut Cx<'_>, _: &CloseReason) {
        self.shared.lost.fetch_add(1, Ordering::AcqRel);
    }
}

/// Makes one call, and leaves.
struct Newcomer {
    shared: Arc<Shared>,
    framing: LengthField,
    slice: u64,
    begun: Instant,
    came_in: bool,
}

impl Handler for Newcomer {
    fn on_open(&mut self, cx: &mut Cx<'_>) {
        self.framing.write_head(PAYLOAD, cx.output()).expect("a short frame");
        cx.output().write_bytes(vec![0; PAYLOAD].into());
        cx.arm(self.begun + WELCOME, 0);
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>, _: u64) {
        cx.abort(CloseReason::Local("its call was not answered in time"));
    }

    fn on_frame(&mut self, cx: &mut Cx<'_>, _: Frame<'_>) {
        self.came_in = true;
        let took = self.begun.elapsed();
        self.shared.tell(self.slice, |slice| slice.newcomers.push(took));
        cx.close(CloseReason::Local("it has seen enough"));
    }

    fn on_close(&mut self, _: &mut Cx<'_>, reason: &CloseReason) {
        if !self.came_in {
            self.shared.tell(self.slice, |slice| *slice.turned_away.entry(reason.to_string()).or_default() += 1);
        }
    }
}
