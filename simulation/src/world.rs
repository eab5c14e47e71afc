//! Servers, clients and their callers on one simulated network, and what must hold of them after every step.

mod attackers;
mod end;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rpc_core::testing::{ChannelAudit, Jobs, audit_channel, audit_server, work_by_hand, wrap_ids_after};
use rpc_core::{Channel, ChannelBuilder, Logging, Middleware, Server, ServerHandle};
use rpc_transport::rustls::ClientConfig;
use rpc_transport::testing::tls::{self, Kind};
use rpc_transport::testing::{Network, Rest, Step, blocks_out, panic_at_times, panics};
use rpc_transport::{MemoryBudget, ReactorPool, TlsClient, TlsServer, Url, sleep};

use crate::ledger::{Ledger, Outcomes};
use crate::line::Line;
use crate::pipeliner::Pipeliner;
use crate::plan::{AMPLE, CallPlan, ClientPlan, Event, Plan, ServerPlan};
use crate::service::{self, Act, Request, Simulated};
use crate::witness::Witness;
use attackers::Attacker;

/// The longest a run may take, in virtual time: every deadline is far below it.
const LONGEST: Duration = Duration::from_secs(120);

/// Steps that may be taken in one moment.
const SPINS: u32 = 100_000;

/// The longest time, in virtual time, in which no call makes a step though some are under way.
const QUIET: Duration = Duration::from_secs(10);

/// How far the bytes held may exceed their limit, if half of it is not less.
const BEYOND: usize = 64 << 10;

/// What a run has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A hash of everything that happened.
    pub trace: u64,
    /// Turns of reactors and events of the network.
    pub steps: u64,
    /// Virtual time.
    pub elapsed: Duration,
    /// What became of the calls.
    pub outcomes: Outcomes,
    /// What went wrong on purpose.
    pub faults: u64,
    /// Panics in the midst of the framework's own code.
    pub panics: u64,
    /// Records of connections under TLS.
    pub records: u64,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The run's seed.
    pub seed: u64,
    /// Which, and of what.
    pub what: String,
    /// Virtual time.
    pub at: Duration,
    /// Steps made.
    pub step: u64,
    /// It was a run of the transport alone.
    pub bare: bool,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { seed, what, at, step, bare } = self;
        let how = if *bare { " --bare" } else { "" };
        writeln!(f, "seed {seed}, step {step}, {at:?}: {what}")?;
        write!(f, "  again: cargo run --release -p simulation -- --seed {seed}{how}")
    }
}

impl std::error::Error for Violation {}

struct ServerSeat {
    plan: ServerPlan,
    pool: Arc<ReactorPool>,
    handle: Option<ServerHandle>,
    /// It is shutting down: cut then, and come back.
    back_at: Option<Duration>,
    /// It has been the same one all the time.
    steady: bool,
}

struct ClientSeat {
    plan: ClientPlan,
    pool: Arc<ReactorPool>,
    client: Option<Client>,
    /// The call whose time was over after the last turn.
    overdue: Option<u64>,
}

type Reply = rpc_core::Result<service::Reply>;

type Replying = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// A channel, whatever its middleware.
struct Client {
    call: Arc<dyn Fn(Request, Duration) -> Replying + Send + Sync>,
    audit: Box<dyn Fn() -> Result<ChannelAudit, String>>,
}

impl Client {
    fn new<M: Middleware>(channel: Channel<M>) -> Client {
        let watched = channel.clone();
        Client {
            call: Arc::new(move |request, timeout| {
                let channel = channel.clone();
                Box::pin(async move { service::call(&channel, request).timeout(timeout).await })
            }),
            audit: Box::new(move || audit_channel(&watched)),
        }
    }
}

/// A call made by somebody who turns no reactor.
struct Foreign {
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Flag>,
    /// Polls it as if by this thread's executor.
    waker: Waker,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

pub(crate) struct World {
    net: Network,
    plan_events: std::vec::IntoIter<(Duration, Event)>,
    next_event: Option<(Duration, Event)>,
    servers: Vec<ServerSeat>,
    clients: Vec<ClientSeat>,
    foreign: Vec<Foreign>,
    attackers: Vec<Attacker>,
    pipeliners: Vec<Pipeliner>,
    /// What servers have on their worker pools.
    jobs: Vec<Jobs>,
    ledger: Arc<Ledger>,
    witness: Witness,
    grace: Duration,
    gentle: bool,
    /// Fail points of the framework's own may be panics.
    panics: bool,
    steps: u64,
    /// Steps since the clock moved.
    at_once: u32,
    /// The reactor that was turned in the last step, and when.
    turned: Option<(usize, Duration)>,
    /// The steps that calls have made, and when the last one was.
    progress: (u64, Duration),
    /// By reactor: what its connections reported to each budget, when it was looked at last.
    books: Vec<Vec<(Arc<MemoryBudget>, usize)>>,
    /// By reactor: blocks of memory that its connections had then.
    blocks: Vec<usize>,
    /// By reactor: whose it is.
    owners: Vec<Owner>,
    /// How TLS is spoken, and with what.
    tls: Option<Tls>,
}

/// Both sides' settings: of all servers, and of all clients.
#[derive(Clone)]
struct Tls {
    server: TlsServer,
    client: TlsClient,
    raw: Arc<ClientConfig>,
}

impl Tls {
    fn new(kind: Kind) -> Tls {
        Tls { server: tls::server(kind), client: tls::client(kind), raw: Arc::new(tls::client_config(kind)) }
    }
}

#[derive(Clone, Copy)]
enum Owner {
    Server(usize),
    Client(usize),
}

impl World {
    pub(crate) fn new(seed: u64, prints: bool) -> World {
        let plan = Plan::new(seed);
        work_by_hand();
        panic_at_times(seed, plan.panics);
        tls::seed(seed);
        wrap_ids_after(plan.wrap_after.unwrap_or(u32::MAX));
        let net = Network::new(seed, plan.knobs.clone());
        if prints {
            net.print_trace();
        }
        let ledger = Arc::new(Ledger::default());
        let witness = Witness::default();
        net.observe(witness.clone());
        if plan.gentle {
            ledger.be_gentle();
            witness.be_gentle();
        }
        let mut events = plan.events.into_iter();
        let next_event = events.next();
        let mut world = World {
            next_event,
            plan_events: events,
            servers: Vec::new(),
            clients: Vec::new(),
            foreign: Vec::new(),
            attackers: Vec::new(),
            pipeliners: Vec::new(),
            jobs: Vec::new(),
            ledger,
            witness,
            grace: plan.grace,
            gentle: plan.gentle,
            panics: plan.panics > 0,
            steps: 0,
            at_once: 0,
            turned: None,
            progress: (0, Duration::ZERO),
            books: Vec::new(),
            blocks: Vec::new(),
            owners: Vec::new(),
            tls: plan.tls.map(Tls::new),
            net,
        };
        for plan in plan.servers {
            if is_secure(&plan.url) {
                world.witness.is_secure(&url(&plan.url));
            }
            let pool = Arc::new(world.net.pool("server", plan.reactors));
            world.owners.extend(vec![Owner::Server(world.servers.len()); plan.reactors]);
            world.servers.push(ServerSeat { plan, pool, handle: None, back_at: None, steady: true });
        }
        // Each asks the one after it; the last one nobody.
        for index in (0..world.servers.len()).rev() {
            world.start_server(index);
        }
        for plan in plan.clients {
            let pool = Arc::new(world.net.pool("client", 1));
            world.witness.limit(world.owners.len(), plan.on_wire(), plan.is_prompt());
            world.owners.push(Owner::Client(world.clients.len()));
            world.clients.push(ClientSeat { plan, pool, client: None, overdue: None });
        }
        for index in 0..world.clients.len() {
            world.start_client(index);
        }
        world.set_alarm();
        world
    }

    fn start_server(&mut self, index: usize) {
        let next = self.servers.get(index + 1).map(|next| {
            let builder = Channel::builder(next.plan.url.as_str()).pool(Arc::clone(&self.servers[index].pool));
            self.secure(&next.plan.url, builder).build().expect("a correct URL")
        });
        let seat = &mut self.servers[index];
        let mut builder = Server::builder().pool(Arc::clone(&seat.pool));
        if let Some(tls) = self.tls.as_ref().filter(|_| is_secure(&seat.plan.url)) {
            builder = builder.tls(tls.server.clone());
        }
        for (name, value) in &seat.plan.limits {
            builder = builder.set(name, value);
        }
        let bound = builder.add(Simulated::new(Arc::clone(&self.ledger), next, seat.plan.blocks)).bind(&seat.plan.url);
        let handle = bound.expect("correct limits and a free address");
        self.jobs.extend(Jobs::of(&handle));
        seat.handle = Some(handle);
        seat.back_at = None;
    }

    fn start_client(&mut self, index: usize) {
        let seat = &self.clients[index];
        let url = self.servers[seat.plan.server].plan.url.as_str();
        let builder = Channel::builder(url).pool(Arc::clone(&seat.pool)).connections(seat.plan.connections);
        let mut builder = self.secure(url, builder);
        if seat.plan.ping_pong {
            builder = builder.ping_pong();
        }
        for (name, value) in &seat.plan.limits {
            builder = builder.set(name, value);
        }
        let correct = "correct limits";
        let client = match seat.plan.layered {
            false => Client::new(builder.build().expect(correct)),
            true => Client::new(builder.layer(Logging).build().expect(correct)),
        };
        self.clients[index].client = Some(client);
    }

    /// A channel's settings, with those of TLS if it is for a server of it.
    fn secure(&self, url: &str, builder: ChannelBuilder) -> ChannelBuilder {
        match self.tls.as_ref().filter(|_| is_secure(url)) {
            Some(tls) => builder.tls(tls.client.clone()),
            None => builder,
        }
    }

    /// A peer made by hand that connects to a server, and says what is said there.
    fn dial(&self, server: usize) -> Line {
        let url_there = &self.servers[server].plan.url;
        let peer = self.net.connect_raw(&url(url_there));
        Line::new(peer, self.tls.as_ref().filter(|_| is_secure(url_there)).map(|tls| Arc::clone(&tls.raw)))
    }

    /// The run, to its end or to the first thing that is wrong.
    pub(crate) fn run(mut self, seed: u64) -> Result<Report, Violation> {
        // Only the time in which calls were under way counts; waiting for the end costs nothing and proves little.
        let played = self.play();
        let elapsed = self.net.elapsed();
        let result = played.and_then(|()| self.wind_up());
        let (at, step) = (self.net.elapsed(), self.steps);
        match result {
            Ok(()) => Ok(Report {
                trace: self.net.trace_hash(),
                steps: self.steps,
                elapsed,
                outcomes: self.ledger.outcomes(),
                faults: self.net.faults().total(),
                panics: panics(),
                records: self.witness.records(),
            }),
            Err(what) => Err(Violation { seed, what, at, step, bare: false }),
        }
    }

    /// Until every event of the plan has happened and every call has ended.
    fn play(&mut self) -> Result<(), String> {
        loop {
            let now = self.net.elapsed();
            while self.next_event.as_ref().is_some_and(|(at, _)| *at <= now) {
                if let Some((_, event)) = self.next_event.take() {
                    self.next_event = self.plan_events.next();
                    self.happen(event);
                }
                self.set_alarm();
            }
            self.bring_back();
            self.strike()?;
            self.pipeline()?;
            self.work(4);
            self.poll_foreign();
            self.check_punctual()?;
            let over = self.next_event.is_none() && self.servers.iter().all(|seat| seat.back_at.is_none());
            if over && self.ledger.unfinished() == 0 {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// One step, and what must hold after it. Not to be called when nothing is to be expected any more.
    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        let at = self.net.elapsed();
        match self.net.step() {
            Step::Turned(index) => {
                self.turned = Some((index, at));
                self.look_at(index)?;
                self.check_shells(index)?;
            }
            Step::Passed => {}
            Step::Idle if self.work(1) => {}
            Step::Idle => {
                let unfinished = self.ledger.unfinished();
                return Err(format!("I18: nothing will ever happen again, and {unfinished} calls have not ended"));
            }
        }
        let now = self.net.elapsed();
        self.at_once = if now > at { 0 } else { self.at_once + 1 };
        if self.at_once > SPINS {
            return Err(format!("I18: {SPINS} steps, and no time has passed: a reactor turns and does nothing"));
        }
        if now > LONGEST {
            return Err(format!("I18: {} calls have not ended after {LONGEST:?}", self.ledger.unfinished()));
        }
        if let Some(what) = self.ledger.complaint().or_else(|| self.witness.complaint()) {
            return Err(what);
        }
        let (steps, unfinished) = (self.ledger.moves() + self.witness.steps(), self.ledger.unfinished());
        if steps != self.progress.0 || unfinished == 0 {
            self.progress = (steps, now);
        } else if now > self.progress.1 + QUIET {
            return Err(format!("I18: {unfinished} calls, and none has made a step for {QUIET:?}"));
        }
        Ok(())
    }

    /// I2, after a turn of a client's reactor and after everybody it woke has run: no call is left whose time was over a turn ago, and
    /// the reactor does not sleep beyond the end of any. A local caller that waits elsewhere than at its connection needs a turn more.
    fn check_punctual(&mut self) -> Result<(), String> {
        let Some((index, at)) = self.turned.take() else { return Ok(()) };
        let Some(Owner::Client(client)) = self.owners.get(index) else { return Ok(()) };
        let Some((due, number)) = self.ledger.first_due(*client) else { return Ok(()) };
        let rest = self.net.rest(index);
        let seat = &mut self.clients[*client];
        let awake = match rest {
            Rest::No | Rest::Gone => true,
            Rest::Until(next) => next <= due.max(at),
            Rest::ForEver => false,
        };
        let overdue = (due <= at).then_some(number);
        if !awake || (overdue.is_some() && seat.overdue == overdue) {
            let so = format!("its reactor had a turn at {at:?}, and now rests: {rest:?}");
            return Err(format!("I2: call {number} was due at {due:?}; {so}"));
        }
        seat.overdue = overdue;
        Ok(())
    }

    /// A reactor that was turned, and the budgets that it shares with others.
    fn look_at(&mut self, index: usize) -> Result<(), String> {
        let Some(looked) = self.net.audit(index) else { return Ok(()) };
        let looked = looked.map_err(|broken| format!("I11, I14 or I18: {broken}"))?;
        if self.books.len() <= index {
            self.books.resize_with(index + 1, Vec::new);
            self.blocks.resize(index + 1, 0);
        }
        self.blocks[index] = looked.blocks;
        let known: usize = self.blocks.iter().sum();
        if known != blocks_out() {
            return Err(format!("I11: {} blocks of memory are in use, connections have {known}", blocks_out()));
        }
        let before = std::mem::replace(&mut self.books[index], looked.budgets);
        let concerned = before.iter().chain(&self.books[index]);
        for (budget, _) in concerned {
            let shares = self.books.iter().flatten().filter(|(other, _)| Arc::ptr_eq(other, budget));
            let sum: usize = shares.map(|(_, bytes)| bytes).sum();
            // At the limit one of the largest is ended before it has grown any further. The others live, and hold half of the limit at most
            // when they have come together. Two of 120,000 seeds have gone beyond the limit, by 0.3 and 1.6 % of it.
            if budget.used() > budget.limit() + BEYOND.min(budget.limit() / 2) {
                return Err(format!("I10: {} bytes held, max_buffered_bytes is {}", budget.used(), budget.limit()));
            }
            if sum != budget.used() {
                return Err(format!("I11: connections hold {sum} bytes, their budget says {}", budget.used()));
            }
        }
        Ok(())
    }

    /// The clients or the server on the reactor that was turned.
    fn check_shells(&self, reactor: usize) -> Result<(), String> {
        match self.owners.get(reactor) {
            Some(Owner::Client(index)) => match &self.clients[*index].client {
                Some(client) => (client.audit)().map(drop).map_err(|broken| format!("I4 or I12: {broken}")),
                None => Ok(()),
            },
            Some(Owner::Server(index)) => match &self.servers[*index].handle {
                Some(handle) => audit_server(handle).map(drop).map_err(|broken| format!("I9: {broken}")),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn set_alarm(&self) {
        if let Some((at, _)) = &self.next_event {
            self.net.alarm(*at);
        }
    }

    fn happen(&mut self, event: Event) {
        self.net.tell(|| format!("{event:?}"));
        match event {
            Event::Call(plan) => self.call(plan),
            Event::Drop(place) => {
                if !self.foreign.is_empty() {
                    let index = place % self.foreign.len();
                    drop(self.foreign.swap_remove(index));
                }
            }
            Event::Cut => _ = self.net.cut_one(),
            Event::Finish => _ = self.net.finish_one(),
            Event::Stall(time) => _ = self.net.stall_one(time),
            Event::Starve(time) => self.net.starve_of_descriptors(time),
            Event::Attack(attack) => self.attack(attack),
            Event::Pipeline(plan) => {
                let server = &self.servers[plan.server].plan;
                let (line, indulged) = (self.dial(plan.server), server.is_patient());
                self.pipeliners.push(Pipeliner::new(plan, &self.net, &self.ledger, &self.witness, line, indulged));
            }
            Event::Restart { server, after } => {
                self.unsettle(server);
                let seat = &mut self.servers[server];
                if let (Some(handle), None) = (&seat.handle, seat.back_at) {
                    handle.begin_shutdown();
                    self.witness.leaves(&url(&seat.plan.url));
                    let at = self.net.elapsed() + self.grace + after;
                    seat.back_at = Some(at);
                    self.net.alarm(at);
                }
            }
            Event::Crash { server } => {
                self.unsettle(server);
                if self.servers[server].back_at.is_none() {
                    self.dies(server);
                    drop(self.servers[server].handle.take());
                    let at = self.net.elapsed() + Duration::from_micros(1);
                    self.servers[server].back_at = Some(at);
                    self.net.alarm(at);
                }
            }
            Event::Reconnect { client } => {
                drop(self.clients[client].client.take());
                self.start_client(client);
            }
        }
    }

    /// This server will not be there all the time.
    fn unsettle(&mut self, server: usize) {
        self.servers[server].steady = false;
        self.ledger.nothing_is_certain(|client| self.clients[client].plan.server == server);
    }

    /// This server is about to be cut.
    fn dies(&self, server: usize) {
        self.witness.dies(&url(&self.servers[server].plan.url));
        self.ledger.dies(server);
    }

    /// Servers whose time has come again.
    fn bring_back(&mut self) {
        let now = self.net.elapsed();
        for index in 0..self.servers.len() {
            if self.servers[index].back_at.is_some_and(|at| at <= now) {
                if let Some(handle) = self.servers[index].handle.take() {
                    self.dies(index);
                    handle.cut();
                }
                let seat = &mut self.servers[index];
                // The old one's listener closes on its reactor, which may take a while.
                if self.net.is_taken(&url(&seat.plan.url)) {
                    let soon = now + Duration::from_micros(10);
                    seat.back_at = Some(soon);
                    self.net.alarm(soon);
                } else {
                    self.start_server(index);
                }
            }
        }
    }

    fn call(&mut self, plan: CallPlan) {
        let seat = &self.clients[plan.client];
        let Some(client) = &seat.client else { return };
        let call = Arc::clone(&client.call);
        let reply = if plan.act == Act::Give { plan.size as usize } else { plan.payload };
        let patience = plan.patience.filter(|_| plan.local);
        let server = &self.servers[seat.plan.server];
        let plain = seat.plan.limits.is_empty() && server.plan.limits.is_empty();
        let certain = self.gentle && plain && server.steady && plan.timeout == AMPLE;
        let number = self.ledger.begin(plan.client, plan.payload, reply, certain);
        self.net.note(if plan.local { "local" } else { "foreign" }, number, plan.client as u64);
        let request = Request {
            number,
            act: plan.act as u32,
            blocks: plan.blocks,
            micros: plan.micros,
            size: plan.size,
            payload: service::payload(number, plan.payload),
        };
        self.witness.hide(number);
        let caller = Caller { ledger: Arc::clone(&self.ledger), net: self.net.clone(), number, ended: false };
        let future = async move {
            caller.starts(plan.timeout);
            let outcome = call(request, plan.timeout);
            let outcome = match patience {
                None => Some(outcome.await),
                Some(time) => first(outcome, sleep(time)).await, // the caller's patience, of the virtual clock
            };
            caller.end(outcome.as_ref());
        };
        if plan.local {
            seat.pool.next().spawn(future);
        } else {
            let woken = Arc::new(Flag(AtomicBool::new(true)));
            let waker = Waker::from(Arc::clone(&woken));
            self.foreign.push(Foreign { future: Box::pin(future), woken, waker });
        }
    }

    fn poll_foreign(&mut self) {
        let mut index = 0;
        while index < self.foreign.len() {
            let one = &mut self.foreign[index];
            let ready = one.woken.0.swap(false, Ordering::AcqRel)
                && one.future.as_mut().poll(&mut Context::from_waker(&one.waker)).is_ready();
            if ready {
                drop(self.foreign.swap_remove(index));
            } else {
                index += 1;
            }
        }
    }

    fn pipeline(&mut self) -> Result<(), String> {
        let now = self.net.elapsed();
        self.pipeliners.iter_mut().try_for_each(|pipeliner| pipeliner.go_on(now))
    }

    /// Worker pools get on a little, one time in so many; whether there was something to do.
    fn work(&mut self, one_in: u64) -> bool {
        let mut worked = false;
        for jobs in &self.jobs {
            if jobs.waiting() > 0 {
                match self.net.below(one_in) {
                    0 => {
                        jobs.run_one();
                        worked = true;
                    }
                    n => self.net.alarm(self.net.elapsed() + Duration::from_micros(300) * n as u32),
                }
            }
        }
        worked
    }
}

/// Writes the end of a call into the ledger; if its future is dropped before, that is the end.
struct Caller {
    ledger: Arc<Ledger>,
    net: Network,
    number: u64,
    ended: bool,
}

impl Caller {
    fn starts(&self, timeout: Duration) {
        self.ledger.start(self.number, self.net.elapsed() + timeout);
    }

    fn end(mut self, outcome: Option<&Reply>) {
        self.ended = true;
        self.net.note("ended", self.number, u64::from(matches!(outcome, Some(Ok(_)))));
        self.ledger.end(self.number, outcome);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.end(self.number, None);
        }
    }
}

/// What the first future gives, or nothing if the second one is ready before.
async fn first<F: Future>(one: F, other: impl Future) -> Option<F::Output> {
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    std::future::poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => other.as_mut().poll(cx).map(|_| None),
    })
    .await
}

fn is_secure(url: &str) -> bool {
    url.starts_with("tls://")
}

fn url(text: &str) -> Url {
    text.parse().expect("a correct URL")
}
