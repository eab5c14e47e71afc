//! The methods of a server, as generated code registers them.

use std::future::Future;
use std::sync::Arc;

use prost::Message as ProstMessage;
use rpc_transport::Lane;

use super::reply::{Encoded, Message};
use super::runner::{Runner, blocking, local};
use super::runtime::Runtime;
use crate::codegen::{Blocking, MethodDescriptor, Service};
use crate::context::Context;
use crate::error::{ConfigError, Error, Result};
use crate::middleware::{self, Middleware, Next, Payload};
use crate::protocol::ttheader::ReplyHead;

/// Collects methods. Not for hand-written code.
pub struct Methods<M> {
    layers: Arc<M>,
    runtime: Runtime,
    blocking: Blocking,
    entries: Vec<Entry>,
    wrong: Option<Error>,
}

/// A method, and how to make what runs it: once for each reactor.
pub(crate) struct Entry {
    pub(crate) method: &'static MethodDescriptor,
    /// Its lane on the worker pool; else it runs on reactors.
    pub(crate) lane: Option<Lane>,
    pub(crate) make: Box<dyn Fn() -> Box<dyn Runner> + Send + Sync>,
}

impl<M: Middleware> Methods<M> {
    pub(crate) fn new(layers: Arc<M>, runtime: Runtime) -> Self {
        Methods { layers, runtime, blocking: Blocking::default(), entries: Vec::new(), wrong: None }
    }

    /// Adds every method of a service.
    pub(crate) fn add<S: Service>(&mut self, service: S) -> Result<(), ConfigError> {
        service.blocking().check(service.descriptor())?;
        self.blocking = service.blocking().clone();
        service.register(self);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn finish(self) -> Result<Vec<Entry>> {
        match self.wrong {
            Some(error) => Err(error),
            None => Ok(self.entries),
        }
    }

    /// Adds a method whose service is shared: `call` gets a handle to it and the call's context, and gives both back with the result,
    /// so that they can be used again for the next call.
    pub fn unary<S, Req, Resp, F, Fut>(&mut self, method: &'static MethodDescriptor, service: Arc<S>, call: F)
    where
        S: Send + Sync + 'static,
        Req: ProstMessage + Default + Send + 'static,
        Resp: ProstMessage + Send + 'static,
        F: Fn(Arc<S>, Context, Req) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = (Arc<S>, Context, Result<Resp>)> + Send + 'static,
    {
        let head = match ReplyHead::new(method.name()) {
            Ok(head) => Arc::new(head),
            Err(error) => {
                self.wrong.get_or_insert(error.into());
                return;
            }
        };
        let lane = self.blocking.lane(method.name());
        let (layers, runtime) = (Arc::clone(&self.layers), self.runtime.clone());
        let make = move || -> Box<dyn Runner> {
            let (head, service, call, runtime) =
                (Arc::clone(&head), Arc::clone(&service), call.clone(), runtime.clone());
            if M::IDENTITY {
                if let Some(lane) = lane {
                    blocking::<Message, _, _, _, _, _, _>(
                        method,
                        head,
                        service,
                        middleware::decode::<Req>,
                        call,
                        runtime,
                        lane,
                    )
                } else {
                    local::<Message, _, _, _, _, _, _>(method, head, service, middleware::decode::<Req>, call, runtime)
                }
            } else {
                let layers = Arc::clone(&layers);
                let run = move |service: Arc<S>, cx: Context, req: Payload| {
                    let (layers, call) = (Arc::clone(&layers), call.clone());
                    async move {
                        let next = Inner { service: Arc::clone(&service), call, types: std::marker::PhantomData };
                        let result = layers.call(&cx, req, next).await;
                        (service, cx, result)
                    }
                };
                let whole = |owner: &bytes::Bytes, part: &[u8]| Ok(Payload::from(owner.slice_ref(part)));
                if let Some(lane) = lane {
                    blocking::<Encoded, _, _, _, _, _, _>(method, head, service, whole, run, runtime, lane)
                } else {
                    local::<Encoded, _, _, _, _, _, _>(method, head, service, whole, run, runtime)
                }
            }
        };
        self.entries.push(Entry { method, lane, make: Box::new(make) });
    }
}

/// The innermost step of a server's middleware stack.
struct Inner<S, F, Req, Resp> {
    service: Arc<S>,
    call: F,
    types: std::marker::PhantomData<fn(Req) -> Resp>,
}

impl<S, F, Fut, Req, Resp> Next for Inner<S, F, Req, Resp>
where
    S: Send + Sync + 'static,
    Req: ProstMessage + Default + Send + 'static,
    Resp: ProstMessage + Send + 'static,
    F: Fn(Arc<S>, Context, Req) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = (Arc<S>, Context, Result<Resp>)> + Send + 'static,
{
    async fn run(self, cx: &Context, req: Payload) -> Result<Payload> {
        let req = req.decode::<Req>()?;
        let (_, _, result) = (self.call)(self.service, cx.clone(), req).await;
        Ok(Payload::encode(&result?))
    }
}
