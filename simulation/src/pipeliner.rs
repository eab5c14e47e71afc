//! Peers without the framework that send one request behind the other and wait for no reply. Most replies must come in the requests' order:
//! without multiplexing there is nothing else to know them by, so some of these peers give every request the same id.

use std::time::Duration;

use fastrand::Rng;
use rpc_transport::testing::{Network, Received};

use crate::frames::{Frame, Frames, Known};
use crate::ledger::{ByHand, Ledger};
use crate::line::Line;
use crate::service::{self, Act, Request};
use crate::wire::{self, Shape};
use crate::witness::Witness;

#[derive(Clone, Debug)]
pub(crate) struct PipelinePlan {
    pub(crate) server: usize,
    pub(crate) requests: Vec<RequestPlan>,
    /// It reads nothing before.
    pub(crate) reads_after: Duration,
    pub(crate) leaves: Leave,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestPlan {
    shape: Shape,
    act: Act,
    blocks: bool,
    micros: u32,
    payload: usize,
}

/// How a peer that has sent all its requests leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// When its server does.
    Last,
    /// When it has its replies.
    Served,
    /// It says that nothing more comes, and goes on reading.
    HalfCloses,
    Closes,
    Resets,
}

impl PipelinePlan {
    /// `patient`: it waits for what it is owed.
    pub(crate) fn new(rng: &mut Rng, server: usize, patient: bool) -> PipelinePlan {
        let patiently = [Leave::Last, Leave::Last, Leave::Served];
        let leaves = [Leave::Last, Leave::Served, Leave::HalfCloses, Leave::Closes, Leave::Resets];
        let same_id = rng.bool();
        let requests = (1..=rng.u32(1..=20)).map(|n| {
            let header = rng.u32(0..3) > 0;
            let any_order = header && rng.u32(0..5) == 0;
            // Who is answered in any order has an id of its own.
            let seq = if any_order {
                1000 + n
            } else if same_id {
                7
            } else {
                n
            };
            let act = match rng.u32(0..12) {
                0..=4 => Act::Echo,
                5..=8 => Act::Wait,
                9 => Act::Fail,
                10 => {
                    if rng.bool() {
                        Act::Panic
                    } else {
                        Act::PanicLater
                    }
                }
                _ if header => Act::Never,
                _ => Act::Wait,
            };
            let timeout = [None, Some(1), Some(20), Some(300)][rng.usize(0..4)];
            RequestPlan {
                shape: Shape {
                    header,
                    any_order,
                    oneway: rng.u32(0..5) == 0,
                    seq,
                    timeout: if act == Act::Never { Some(rng.u32(1..300)) } else { timeout.filter(|_| header) },
                },
                act,
                blocks: matches!(act, Act::Echo | Act::Fail | Act::Panic) && rng.u32(0..3) == 0,
                micros: [0, 10, 300, 5_000, 60_000][rng.usize(0..5)],
                payload: if rng.u32(0..8) == 0 { rng.usize(0..400) } else { rng.usize(0..20) },
            }
        });
        PipelinePlan {
            server,
            requests: requests.collect(),
            reads_after: Duration::from_micros(if rng.bool() { 0 } else { rng.u64(0..300_000) }),
            leaves: if patient { patiently[rng.usize(0..3)] } else { leaves[rng.usize(0..5)] },
        }
    }
}

/// One of them, at work.
pub(crate) struct Pipeliner {
    /// `None` when it has left.
    peer: Option<Line>,
    /// What it has not sent yet.
    output: Vec<u8>,
    reads_from: Duration,
    leaves: Leave,
    has_half_closed: bool,
    replies: Frames,
    /// Replies that it waits for.
    awaited: usize,
}

impl Pipeliner {
    /// `indulged`: its server has no limit by which it ends the connection.
    pub(crate) fn new(
        plan: PipelinePlan,
        net: &Network,
        ledger: &Ledger,
        witness: &Witness,
        peer: Line,
        indulged: bool,
    ) -> Pipeliner {
        witness.look_at(peer.number());
        let mut output = Vec::new();
        for RequestPlan { shape, act, blocks, micros, payload } in &plan.requests {
            let timeout = shape.timeout.map(|ms| Duration::from_millis(ms.into()));
            let (payload, server, certain) = (*payload, plan.server, shape.oneway && indulged);
            let number = ledger.begin_by_hand(ByHand { payload, certain, server, timeout, ..ByHand::default() });
            let payload = service::payload(number, payload);
            witness.hide(number);
            let (act, blocks) = (*act as u32, *blocks);
            let request = Request { number, act, blocks, micros: *micros, size: 0, payload };
            output.extend(wire::frame(*shape, &request));
        }
        let reads_from = net.elapsed() + plan.reads_after;
        net.alarm(reads_from);
        Pipeliner {
            peer: Some(peer),
            output,
            reads_from,
            leaves: plan.leaves,
            has_half_closed: false,
            replies: Frames::default(),
            awaited: plan.requests.iter().filter(|request| !request.shape.oneway).count(),
        }
    }

    /// Sends and reads what can be sent and read now.
    pub(crate) fn go_on(&mut self, now: Duration) -> Result<(), String> {
        let Some(peer) = &mut self.peer else { return Ok(()) };
        peer.go_on();
        if !self.output.is_empty() {
            self.output.drain(..peer.write(&self.output));
        }
        if now >= self.reads_from {
            let mut heard = Vec::new();
            let received = peer.read(&mut heard);
            let awaited = &mut self.awaited;
            self.replies.take(&heard, |known| {
                *awaited -= usize::from(matches!(known, Known::Whole(Frame::Reply { .. }, _)));
            })?;
            if matches!(received, Received::End | Received::Reset) {
                self.peer = None;
                return Ok(());
            }
        }
        if self.output.is_empty() && peer.is_drained() {
            self.leave();
        }
        Ok(())
    }

    /// All has been sent.
    fn leave(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        match self.leaves {
            Leave::Last => {}
            Leave::Served if self.awaited > 0 => {}
            Leave::HalfCloses if self.has_half_closed => {}
            Leave::HalfCloses => {
                peer.finish();
                self.has_half_closed = true;
            }
            Leave::Resets => {
                peer.reset();
                self.peer = None;
            }
            Leave::Closes | Leave::Served => {
                peer.part();
                self.peer = None;
            }
        }
    }
}
