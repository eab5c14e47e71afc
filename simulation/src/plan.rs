//! What a seed stands for: a network's manners, limits, and what clients, servers and chance do when.

use std::time::Duration;

use fastrand::Rng;
use rpc_transport::testing::Knobs;
use rpc_transport::testing::tls::Kind;

use crate::pipeliner::PipelinePlan;
use crate::service::Act;

pub(crate) struct Plan {
    pub(crate) knobs: Knobs,
    pub(crate) servers: Vec<ServerPlan>,
    pub(crate) clients: Vec<ClientPlan>,
    /// What happens when, in order.
    pub(crate) events: Vec<(Duration, Event)>,
    /// Ids come round after this many uses of a slot.
    pub(crate) wrap_after: Option<u32>,
    /// Nothing goes wrong but that servers come and go gracefully, with time enough: then nothing that was begun may be lost.
    pub(crate) gentle: bool,
    /// How long a server may take to shut down before it is cut.
    pub(crate) grace: Duration,
    /// T31: one in so many fail points of the framework's own code is a panic; 0: none is.
    pub(crate) panics: u32,
    /// What speaks TCP speaks TLS.
    pub(crate) tls: Option<Kind>,
}

pub(crate) struct ServerPlan {
    pub(crate) url: String,
    pub(crate) reactors: usize,
    /// It has a method that runs on the worker pool.
    pub(crate) blocks: bool,
    pub(crate) limits: Vec<(&'static str, String)>,
}

pub(crate) struct ClientPlan {
    pub(crate) server: usize,
    pub(crate) connections: usize,
    pub(crate) ping_pong: bool,
    /// Its calls pass through a middleware.
    pub(crate) layered: bool,
    pub(crate) limits: Vec<(&'static str, String)>,
}

impl ServerPlan {
    /// It has no limit beyond which it refuses or ends something.
    pub(crate) fn is_patient(&self) -> bool {
        self.limits.iter().all(|(name, _)| PATIENT.contains(name))
    }
}

impl ClientPlan {
    /// No limit makes it put off what it has read.
    pub(crate) fn is_prompt(&self) -> bool {
        self.limits.iter().all(|(name, _)| !["turn_frames", "max_buffered_bytes"].contains(name))
    }

    /// Calls that one of its connections may have on the wire.
    pub(crate) fn on_wire(&self) -> usize {
        let limit = self.limits.iter().find(|(name, _)| *name == "client_max_inflight");
        let limit = limit.and_then(|(_, value)| value.parse().ok()).unwrap_or(1_024);
        if self.ping_pong { 1 } else { limit }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Call(CallPlan),
    /// The callers of calls not yet ended give this one up, if it is a foreign one: by its place among them.
    Drop(usize),
    Cut,
    Finish,
    Stall(Duration),
    Starve(Duration),
    /// Somebody sends bytes that may be anything.
    Attack(Attack),
    /// Somebody sends requests and waits for no reply.
    Pipeline(PipelinePlan),
    /// A server shuts down gracefully and, after a while, comes back.
    Restart {
        server: usize,
        after: Duration,
    },
    /// A server dies and comes back at once.
    Crash {
        server: usize,
    },
    /// A client's channel is dropped with whatever it does, and made anew.
    Reconnect {
        client: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Attack {
    Garbage,
    /// Part of a request, then nothing more.
    Partial,
    /// Part of a request, then end of file.
    HalfClose,
    /// Part of a request, then a reset.
    Reset,
    /// Whole requests, and no reply is ever read.
    Flood,
    /// Requests that want no reply, and must not get one.
    Oneway,
    Silent,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct CallPlan {
    pub(crate) client: usize,
    /// Made by a task on the client's reactor, or by somebody elsewhere.
    pub(crate) local: bool,
    pub(crate) act: Act,
    /// By the method that may run on the worker pool.
    pub(crate) blocks: bool,
    pub(crate) payload: usize,
    pub(crate) micros: u32,
    pub(crate) size: u32,
    pub(crate) timeout: Duration,
    /// A local caller gives up after this.
    pub(crate) patience: Option<Duration>,
}

fn micros(rng: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_micros(rng.u64(low..=high))
}

/// One of the values; the first ones are the rarer extremes.
fn one_of<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(0..values.len())]
}

/// Small, most of the time; sometimes as large as the limits that are drawn allow, and beyond.
fn size(rng: &mut Rng, fine: bool) -> usize {
    match rng.u32(0..20) {
        0..=3 if fine => rng.usize(0..400),
        0 => rng.usize(0..20_000),
        1..=3 => rng.usize(0..3_000),
        _ => rng.usize(0..100),
    }
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        let rng = &mut Rng::with_seed(seed ^ 0x5eed_5eed_5eed_5eed);
        let gentle = rng.u32(0..4) == 0;
        let mut servers: Vec<_> = (0..rng.usize(1..=2)).map(|index| server(rng, index)).collect();
        let mut clients: Vec<_> = (0..rng.usize(1..=3)).map(|_| client(rng, servers.len())).collect();
        if gentle {
            // Those that refuse nothing and end nothing.
            let limits = servers.iter_mut().map(|server| &mut server.limits);
            for limits in limits.chain(clients.iter_mut().map(|client| &mut client.limits)) {
                limits.retain(|(name, _)| PATIENT.contains(name));
            }
            // A server that goes waits for a second until its last words are read.
            for client in &mut clients {
                client.limits.retain(|(name, value)| *name != "turn_bytes" || value != "1");
            }
        }
        let span = one_of(rng, &[Duration::from_millis(5), Duration::from_millis(100), Duration::from_secs(3)]);
        let mut events = Vec::new();
        let at = |rng: &mut Rng| span.mul_f64(rng.f64());
        let mut knobs = knobs(rng);
        if gentle {
            (knobs.lost_syn, knobs.aborted_accept, knobs.backlog) = (0, 0, 128);
            (knobs.no_connect, knobs.no_accept, knobs.no_register) = (0, 0, 0);
        }
        // Runs are short: where bytes come in small pieces there are fewer of them.
        let fine = knobs.segment < 50 || knobs.buffer < 1_000;
        for _ in 0..one_of(rng, if fine { &[2, 6] } else { &[5, 20, 60] }) {
            // Often many at one moment.
            let when = at(rng);
            for _ in 0..one_of(rng, &[1, 1, 1, 2, 8]) {
                events.push((when, Event::Call(call(rng, clients.len(), fine))));
            }
        }
        if gentle && rng.bool() {
            let server = clients[0].server;
            let late = span.mul_f64(0.6 + 0.4 * rng.f64());
            events.push((late, Event::Restart { server, after: micros(rng, 0, 200_000) }));
            // Many at once, just before; perhaps more than it can serve within the time that it gives to stragglers.
            let many = one_of(rng, &[0, 4, 40]);
            if many > 4 {
                servers[server].limits.push(("max_inflight_per_conn", one_of(rng, &["1", "2", "64"]).to_owned()));
            }
            for _ in 0..many {
                let plan =
                    CallPlan { act: Act::Wait, blocks: false, micros: 100_000, timeout: AMPLE, ..call(rng, 1, true) };
                events.push((late.saturating_sub(micros(rng, 0, 3_000)), Event::Call(plan)));
            }
        } else if !gentle && rng.u32(0..3) > 0 {
            for _ in 0..rng.usize(0..12) {
                let event = match rng.u32(0..12) {
                    0..=2 => Event::Cut,
                    3 => Event::Finish,
                    4 => Event::Stall(micros(rng, 100, 400_000)),
                    5 => Event::Starve(micros(rng, 1_000, 300_000)),
                    6..=7 => {
                        let all = [
                            Attack::Garbage,
                            Attack::Partial,
                            Attack::HalfClose,
                            Attack::Reset,
                            Attack::Flood,
                            Attack::Oneway,
                            Attack::Silent,
                        ];
                        Event::Attack(one_of(rng, &all))
                    }
                    8 => Event::Restart { server: rng.usize(0..servers.len()), after: micros(rng, 0, 200_000) },
                    9 => Event::Crash { server: rng.usize(0..servers.len()) },
                    10 => Event::Reconnect { client: rng.usize(0..clients.len()) },
                    _ => Event::Drop(rng.usize(0..64)),
                };
                events.push((at(rng), event));
            }
        }
        for _ in 0..rng.usize(0..6) {
            events.push((at(rng), Event::Drop(rng.usize(0..64))));
        }
        // A server that goes shall find some of them at work.
        let restart = events.iter().find(|(_, event)| matches!(event, Event::Restart { .. })).map(|(at, _)| *at);
        for _ in 0..one_of(rng, &[0, 0, 1, 2]) {
            let when = match restart {
                Some(restart) if rng.bool() => restart.saturating_sub(micros(rng, 0, 30_000)),
                _ => at(rng),
            };
            let server = rng.usize(0..servers.len());
            let patient = gentle && rng.bool();
            events.push((when, Event::Pipeline(PipelinePlan::new(rng, server, patient))));
        }
        events.sort_by_key(|(at, _)| *at);
        let tls = tls(seed);
        if tls.is_some() {
            secure(seed, gentle, &mut knobs, &mut servers);
        }
        Plan {
            tls,
            knobs,
            servers,
            clients,
            events,
            wrap_after: rng.bool().then(|| rng.u32(0..5)),
            gentle,
            grace: if gentle { Duration::from_secs(25) } else { micros(rng, 1_000, 300_000) },
            panics: if !gentle && rng.u32(0..4) == 0 { one_of(rng, &[20, 200, 2_000]) } else { 0 },
        }
    }
}

/// Whether a seed's run is under TLS, and of which kind. It is drawn apart, so that all other runs are what they would be without.
pub(crate) fn tls(seed: u64) -> Option<Kind> {
    let rng = &mut Rng::with_seed(seed ^ 0x7157_7157);
    (seed % 4 == 2).then(|| Kind { old: rng.u32(0..4) == 0, mutual: rng.bool(), resumes: rng.bool() })
}

fn secure(seed: u64, gentle: bool, knobs: &mut Knobs, servers: &mut [ServerPlan]) {
    let rng = &mut Rng::with_seed(seed ^ 0x5ec0_5ec0);
    for server in servers {
        server.url = server.url.replace("tcp://", "tls://");
        if !gentle {
            let drawn = limits(rng, &[("handshake_timeout", &["20ms", "1s"]), ("max_handshakes", &["1", "2"])]);
            server.limits.extend(drawn);
        }
    }
    if gentle {
        // A handshake takes some kilobytes: it is to be over before who connects gives up.
        knobs.buffer = knobs.buffer.max(4_096);
    }
}

pub(crate) fn knobs(rng: &mut Rng) -> Knobs {
    let mut chance = |most: u32| if rng.u32(0..3) == 0 { rng.u32(0..=most) } else { 0 };
    let (short_write, spurious, stale) = (chance(500), chance(300), chance(300));
    let (late_event, left_event, late_wake) = (chance(300), chance(300), chance(300));
    let (lost_syn, aborted_accept) = (chance(200), chance(300));
    let (no_connect, no_accept, no_register) = (chance(300), chance(300), chance(100));
    let low = one_of(rng, &[0, 1, 20, 500]);
    let segment = one_of(rng, &[1, 7, 100, 1_460, 65_536, 65_536, 65_536]);
    Knobs {
        latency: (Duration::from_micros(low), Duration::from_micros(low + one_of(rng, &[0, 5, 50, 3_000]))),
        segment,
        buffer: one_of(rng, &[16, 600, 4_096, 65_536, 262_144]),
        backlog: one_of(rng, &[1, 4, 128]),
        turn: Duration::from_micros(one_of(rng, &[0, 1, 10, 200])),
        short_write,
        empty_write: 0, // that is no network, but a broken system
        spurious,
        stale,
        late_event,
        left_event,
        late_wake,
        lost_syn,
        aborted_accept,
        no_connect,
        no_accept,
        no_register,
    }
}

fn limits(rng: &mut Rng, table: &[(&'static str, &[&str])]) -> Vec<(&'static str, String)> {
    let mut drawn = Vec::new();
    for (name, values) in table {
        if rng.u32(0..6) == 0 {
            // Some are drawn together.
            let values = one_of(rng, values).split(' ').map(str::to_owned);
            drawn.extend(name.split(' ').zip(values));
        }
    }
    drawn
}

/// Limits beyond which one waits.
const PATIENT: [&str; 6] =
    ["max_inflight_per_conn", "client_max_inflight", "turn_frames", "turn_bytes", "write_low", "write_high"];

/// More than any call needs that is not held up.
pub(crate) const AMPLE: Duration = Duration::from_secs(60);

const KEEPALIVE: &str = "keepalive_interval keepalive_timeout keepalive_min_interval";

fn server(rng: &mut Rng, index: usize) -> ServerPlan {
    let unix = rng.u32(0..4) == 0;
    let url = if unix { format!("unix:/simulated/{index}") } else { format!("tcp://10.0.0.{}:7000", index + 1) };
    let limits = limits(
        rng,
        &[
            ("max_inflight_per_conn", &["1", "2", "3", "64"]),
            ("max_inflight", &["1", "2", "3", "64"]),
            ("max_connections", &["1", "2", "3"]),
            ("max_frame_size", &["2KiB", "64KiB"]),
            ("write_low write_high", &["1 1", "1 300", "300 300", "100 4KiB"]),
            ("write_hard", &["1"]),
            ("turn_frames", &["1", "2", "3"]),
            ("turn_bytes", &["1", "50", "1KiB"]),
            ("first_frame_timeout", &["20ms", "1s"]),
            ("frame_progress", &["20ms", "1s"]),
            ("idle_timeout", &["10ms", "300ms", "2s"]),
            ("write_stall_timeout", &["20ms", "1s"]),
            ("max_buffered_bytes frame_progress", &["20KiB 1s", "200KiB 1s"]),
            ("accept_backoff_max", &["10ms"]),
            ("max_glitches", &["1", "4"]),
            (KEEPALIVE, &["5ms 5ms 1ms", "100ms 20ms 100ms", "20ms 5ms 20ms"]),
        ],
    );
    ServerPlan { url, reactors: rng.usize(1..=2), blocks: rng.u32(0..3) == 0, limits }
}

fn client(rng: &mut Rng, servers: usize) -> ClientPlan {
    let limits = limits(
        rng,
        &[
            ("client_max_inflight", &["1", "2", "3", "64"]),
            ("client_max_waiting", &["1", "2", "3", "64"]),
            ("max_frame_size", &["2KiB", "64KiB"]),
            ("write_low write_high", &["1 1", "1 300", "300 300", "100 4KiB"]),
            ("write_hard", &["1"]),
            ("turn_frames", &["1", "2", "3"]),
            ("turn_bytes", &["1", "50", "1KiB"]),
            ("connect_timeout", &["5ms", "100ms"]),
            (KEEPALIVE, &["5ms 5ms 1ms", "100ms 20ms 100ms", "20ms 5ms 20ms"]),
            ("idle_timeout", &["10ms", "300ms", "2s"]),
            ("write_stall_timeout", &["20ms", "1s"]),
            ("max_buffered_bytes frame_progress", &["20KiB 1s", "200KiB 1s"]),
        ],
    );
    ClientPlan {
        server: rng.usize(0..servers),
        connections: rng.usize(1..=2),
        ping_pong: rng.u32(0..4) == 0,
        layered: rng.u32(0..4) == 0,
        limits,
    }
}

fn call(rng: &mut Rng, clients: usize, fine: bool) -> CallPlan {
    let act = match rng.u32(0..20) {
        0..=8 => Act::Echo,
        9..=12 => Act::Wait,
        13 => Act::Fail,
        14 => Act::Panic,
        15 => Act::PanicLater,
        16 => Act::Never,
        17..=18 => Act::Give,
        _ => Act::Relay,
    };
    let ends = matches!(act, Act::Echo | Act::Wait | Act::Give);
    let at_once = matches!(act, Act::Echo | Act::Give | Act::Fail | Act::Panic);
    CallPlan {
        client: rng.usize(0..clients),
        local: rng.bool(),
        act,
        blocks: at_once && rng.u32(0..3) == 0,
        payload: size(rng, fine),
        micros: one_of(rng, &[0, 10, 300, 5_000, 100_000]),
        size: size(rng, fine) as u32,
        timeout: match rng.u32(0..8) {
            5.. if ends => AMPLE,
            0 => micros(rng, 0, 3_000),
            1 => micros(rng, 0, 60_000),
            _ => Duration::from_millis(one_of(rng, &[500, 1_000, 5_000])),
        },
        patience: (rng.u32(0..6) == 0).then(|| micros(rng, 0, 20_000)),
    }
}
