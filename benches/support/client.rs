//! The loops, on whatever they run.

use std::sync::Arc;
use std::thread;

use rpc_core::{Channel, Limits};
use rpc_transport::{PoolOptions, ReactorHandle, ReactorPool};

use crate::args::{Client, RunArgs};
use crate::idl::testee::TesteeClient;
use crate::method::Method;
use crate::stage::{Laps, Stage};
use crate::{Counts, Failure};

/// What is held while the loops run.
pub(crate) struct Loops {
    channel: Channel,
    _tokio: Option<tokio::runtime::Runtime>,
}

/// Starts all loops.
pub(crate) fn start<M: Method>(args: &RunArgs, url: &str, stage: &Arc<Stage>) -> Result<Loops, Failure> {
    let mut limits = Limits::client();
    limits.client_max_inflight = limits.client_max_inflight.max(args.in_flight.div_ceil(args.connections));
    let options = PoolOptions { reactors: args.client_reactors, name: "client".to_owned(), callers_may_lead: true };
    let pool = Arc::new(ReactorPool::start(options)?);
    let channel = Channel::builder(url).limits(limits).connections(args.connections).pool(pool).build()?;
    let client = TesteeClient::new(channel.clone());
    let methods = M::for_loops(args.payload, args.in_flight);
    let mut runtime = None;
    match args.client {
        Client::Reactor => {
            let reactors: Vec<&ReactorHandle> = channel.reactors().collect();
            for (index, method) in methods.into_iter().enumerate() {
                reactors[index % reactors.len()].spawn(repeat(client.clone(), method, Laps::start(stage)));
            }
        }
        Client::Tokio => {
            let tokio = tokio::runtime::Builder::new_multi_thread().build()?;
            for method in methods {
                tokio.spawn(repeat(client.clone(), method, Laps::start(stage)));
            }
            runtime = Some(tokio);
        }
        Client::Blocking => {
            for method in methods {
                let (client, laps) = (client.clone(), Laps::start(stage));
                thread::Builder::new().stack_size(256 << 10).spawn(move || repeat_blocking(&client, &method, laps))?;
            }
        }
        Client::Floor => return Err("the floor has a client of its own".into()),
    }
    Ok(Loops { channel, _tokio: runtime })
}

async fn repeat<M: Method>(client: TesteeClient, method: M, mut laps: Laps) {
    while laps.goes_on() {
        match M::call(&client, method.request()).await {
            Ok(reply) if is_right(&method, &reply, &laps) => laps.lap(),
            Ok(_) => return laps.fail("a reply is not what was sent"),
            Err(error) => return laps.fail(error),
        }
    }
}

fn repeat_blocking<M: Method>(client: &TesteeClient, method: &M, mut laps: Laps) {
    while laps.goes_on() {
        match M::call(client, method.request()).wait() {
            Ok(reply) if is_right(method, &reply, &laps) => laps.lap(),
            Ok(_) => return laps.fail("a reply is not what was sent"),
            Err(error) => return laps.fail(error),
        }
    }
}

fn is_right<M: Method>(method: &M, reply: &M::Message, laps: &Laps) -> bool {
    method.looks_right(reply) && (!laps.is_sample() || *reply == method.request())
}

impl Loops {
    pub(crate) fn counts(&self) -> Result<Counts, Failure> {
        let mut reactors: Vec<&ReactorHandle> = Vec::new();
        for reactor in self.channel.reactors() {
            if !reactors.iter().any(|known| known.is(reactor)) {
                reactors.push(reactor);
            }
        }
        Counts::now(reactors.into_iter().map(ReactorHandle::stats))
    }
}
