//! The service that simulated clients call: it does what each request asks for, and counts that it did.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rpc_core::codegen::{Blocking, MethodDescriptor, Methods, Service, ServiceDescriptor};
use rpc_core::{Call, Channel, Context, Error, Middleware, Result};
use rpc_transport::sleep;

use crate::ledger::Ledger;

/// What a handler does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Act {
    /// Answers at once.
    Echo = 0,
    /// Answers after a while.
    Wait = 1,
    /// Answers with an error.
    Fail = 2,
    Panic = 3,
    PanicLater = 4,
    /// Never answers.
    Never = 5,
    /// Answers with a payload of its own size.
    Give = 6,
    /// Asks the next server first.
    Relay = 7,
}

impl Act {
    pub(crate) const ALL: [Act; 8] =
        [Act::Echo, Act::Wait, Act::Fail, Act::Panic, Act::PanicLater, Act::Never, Act::Give, Act::Relay];

    fn of(number: u32) -> Act {
        Act::ALL.into_iter().find(|act| *act as u32 == number).unwrap_or(Act::Echo)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    /// The call's number in the ledger.
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) act: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) micros: u32,
    /// Bytes to answer with, for [`Act::Give`].
    #[prost(uint32, tag = "4")]
    pub(crate) size: u32,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) payload: Bytes,
    /// By the method that may run on the worker pool.
    #[prost(bool, tag = "6")]
    pub(crate) blocks: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reply {
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

static SERVICE: ServiceDescriptor = ServiceDescriptor::new("simulation", "Simulated", &[&DO, &BLOCK]);
static DO: MethodDescriptor = MethodDescriptor::new("simulation", "Simulated", "Do");
/// The same, perhaps on the worker pool; for what never waits.
static BLOCK: MethodDescriptor = MethodDescriptor::new("simulation", "Simulated", "Block");

/// The payload that a call with this number carries in either direction.
pub(crate) fn payload(number: u64, len: usize) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

pub(crate) struct Simulated {
    ledger: Arc<Ledger>,
    next: Option<Channel>,
    blocking: Blocking,
}

impl Simulated {
    pub(crate) fn new(ledger: Arc<Ledger>, next: Option<Channel>, blocks: bool) -> Simulated {
        let mut blocking = Blocking::default();
        if blocks {
            blocking.methods(["Block"]);
        }
        Simulated { ledger, next, blocking }
    }
}

impl Service for Simulated {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &SERVICE
    }

    fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    fn register<M: Middleware>(self, methods: &mut Methods<M>) {
        let service = Arc::new((self.ledger, self.next));
        for method in [&DO, &BLOCK] {
            methods.unary(
                method,
                Arc::clone(&service),
                |service: Arc<(Arc<Ledger>, Option<Channel>)>, cx: Context, req: Request| async move {
                    let (ledger, next) = &*service;
                    let result = serve(ledger, next.as_ref(), req).await;
                    (service, cx, result)
                },
            );
        }
    }
}

async fn serve(ledger: &Arc<Ledger>, next: Option<&Channel>, req: Request) -> Result<Reply> {
    let running = ledger.handler_starts(req.number, &req.payload);
    let result = act(ledger, next, req).await;
    running.end();
    result
}

async fn act(ledger: &Ledger, next: Option<&Channel>, req: Request) -> Result<Reply> {
    let number = req.number;
    let pause = sleep(Duration::from_micros(req.micros.into())); // of the virtual clock
    match Act::of(req.act) {
        Act::Echo => Ok(Reply { number, payload: req.payload }),
        Act::Wait => {
            pause.await;
            Ok(Reply { number, payload: req.payload })
        }
        Act::Fail => Err(Error::business(77, "as it was asked for")),
        Act::Panic => panic!("as it was asked for"),
        Act::PanicLater => {
            pause.await;
            panic!("as it was asked for")
        }
        Act::Never => std::future::pending().await,
        Act::Give => Ok(Reply { number, payload: payload(number, req.size as usize) }),
        Act::Relay => match next {
            Some(next) => {
                let onward = Request { act: Act::Wait as u32, ..req };
                ledger.relays(number);
                call(next, onward).timeout(Duration::from_millis(200)).await
            }
            None => Ok(Reply { number, payload: req.payload }),
        },
    }
}

pub(crate) fn call<M: Middleware>(channel: &Channel<M>, req: Request) -> Call<'_, M, Request, Reply> {
    channel.unary(if req.blocks { &BLOCK } else { &DO }, req)
}
