//! The callers, on whatever they run.

use std::sync::Arc;
use std::thread;

use bench_driver::{Caller, Calls, Counts, Laps, MethodName, Part, Stage, repeat, repeat_blocking};
use rpc_core::{Channel, Error, Limits};
use rpc_transport::{PoolOptions, ReactorHandle, ReactorPool};
use tokio::runtime::{Builder, Runtime};

use crate::args::{Client, LoadArgs};
use crate::idl::testee::{Millis, TesteeClient};
use crate::method::{Echo, Method, Mixed};
use crate::{Failure, counts};

/// How long a call of a slow neighbour takes, in milliseconds.
const SLOW_MS: u32 = 5;

/// What is held while the loops run.
pub(crate) struct Loops {
    channel: Channel,
    _tokio: Option<Runtime>,
}

/// Starts all loops.
pub(crate) fn start(args: &LoadArgs, url: &str, stage: &Arc<Stage>) -> Result<Loops, Failure> {
    match args.run.method {
        MethodName::Echo => start_with::<Echo>(args, url, stage),
        MethodName::Mixed => start_with::<Mixed>(args, url, stage),
    }
}

fn start_with<M: Method>(args: &LoadArgs, url: &str, stage: &Arc<Stage>) -> Result<Loops, Failure> {
    let run = &args.run;
    let mut limits = Limits::client();
    limits.client_max_inflight = limits.client_max_inflight.max(run.in_flight.div_ceil(run.connections));
    let runtime = match args.client {
        Client::Tokio | Client::TokioHosted => Some(Builder::new_multi_thread().enable_all().build()?),
        _ => None,
    };
    let pool = Arc::new(match &runtime {
        Some(runtime) if args.client == Client::TokioHosted => on_tokio(runtime, args.client_reactors)?,
        _ => {
            let name = "client".to_owned();
            ReactorPool::start(PoolOptions {
                reactors: args.client_reactors,
                name,
                callers_may_lead: true,
                busy_poll: args.busy_poll(),
                ..PoolOptions::default()
            })?
        }
    });
    let builder = Channel::builder(url).limits(limits).connections(run.connections).pool(pool);
    let channel = if args.ping_pong { builder.ping_pong() } else { builder }.build()?;
    let client = TesteeClient::new(channel.clone());
    let loops =
        M::for_loops(run.payload, run.in_flight).into_iter().map(|method| Ours { client: client.clone(), method });
    let reactors: Vec<&ReactorHandle> = channel.reactors().collect();
    for index in 0..args.slow {
        reactors[index % reactors.len()].spawn(be_slow(client.clone(), Arc::clone(stage)));
    }
    match (&runtime, args.client) {
        (Some(runtime), _) => {
            for calls in loops {
                runtime.spawn(repeat(calls, Laps::start(stage)));
            }
        }
        (None, Client::Reactor | Client::ReactorBusy) => {
            for (index, calls) in loops.enumerate() {
                reactors[index % reactors.len()].spawn(repeat(calls, Laps::start(stage)));
            }
        }
        (None, Client::Blocking) => {
            for calls in loops {
                let laps = Laps::start(stage);
                let wait = |calls: &Ours<M>| M::call(&calls.client, calls.method.request()).wait();
                thread::Builder::new().stack_size(256 << 10).spawn(move || repeat_blocking(calls, wait, laps))?;
            }
        }
        (None, _) => return Err("the floor has clients of its own".into()),
    }
    Ok(Loops { channel, _tokio: runtime })
}

/// Reactors that the runtime turns.
#[cfg(feature = "tokio")]
fn on_tokio(runtime: &Runtime, reactors: usize) -> Result<ReactorPool, Failure> {
    Ok(ReactorPool::on_tokio(runtime.handle(), reactors)?)
}

#[cfg(not(feature = "tokio"))]
fn on_tokio(_: &Runtime, _: usize) -> Result<ReactorPool, Failure> {
    Err("this needs to be built with the feature `tokio`".into())
}

/// The loop of a slow neighbour.
async fn be_slow(client: TesteeClient, stage: Arc<Stage>) {
    while stage.part() != Part::Stop {
        if let Err(error) = client.spin(Millis { ms: SLOW_MS, ..Default::default() }).await {
            return stage.fail(error.to_string());
        }
    }
}

/// One loop's calls.
struct Ours<M> {
    client: TesteeClient,
    method: M,
}

impl<M: Method> Calls for Ours<M> {
    type Reply = M::Message;
    type Error = Error;

    fn call(&self) -> impl Future<Output = Result<M::Message, Error>> + Send {
        M::call(&self.client, self.method.request()).into_future()
    }

    fn looks_right(&self, reply: &M::Message) -> bool {
        self.method.looks_right(reply)
    }

    fn is_right(&self, reply: &M::Message) -> bool {
        *reply == self.method.request()
    }
}

impl Caller for Loops {
    fn counts(&self) -> Result<Counts, Failure> {
        let mut reactors: Vec<&ReactorHandle> = Vec::new();
        for reactor in self.channel.reactors() {
            if !reactors.iter().any(|known| known.is(reactor)) {
                reactors.push(reactor);
            }
        }
        counts::of(reactors.into_iter().map(ReactorHandle::stats))
    }
}
