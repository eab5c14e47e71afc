//! The calls that every peer makes, and the checks of their replies: said once, so that all are asked for the same.

use std::fmt::Display;
use std::future::Future;

use bench_driver::{Calls, Order};
use bytes::Bytes;

/// A peer's client. Cloning it shares its connection.
pub(crate) trait Echoes: Clone + Send + Sync + 'static {
    /// The nested message, as its generated code has it.
    type Mixed: PartialEq + Send + Sync + 'static;
    /// What its calls fail with.
    type Error: Display + Send;

    /// Bytes there and back.
    fn echo(&self, payload: Bytes) -> impl Future<Output = Result<Bytes, Self::Error>> + Send;

    /// A message there and back.
    fn echo_mixed(&self, message: &Self::Mixed) -> impl Future<Output = Result<Self::Mixed, Self::Error>> + Send;

    /// The message that this order is.
    fn mixed(order: Order) -> Self::Mixed;

    /// What shows at little cost whether two messages are the same: the id, and how many items there are.
    fn glance(message: &Self::Mixed) -> (&str, usize);
}

/// [`Echoes::mixed`] and [`Echoes::glance`] for the generated types of these names, which differ between peers in what a text is.
macro_rules! messages {
    ($mixed:ident, $item:ident) => {
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast, clippy::needless_update)]
        fn mixed(order: bench_driver::Order) -> $mixed {
            let item = |line: bench_driver::Line| $item {
                sku: line.sku.into(),
                quantity: line.quantity as _,
                price: line.price,
                tags: line.tags.into_iter().map(Into::into).collect(),
                ..$item::default()
            };
            $mixed {
                id: order.id.into(),
                created_ms: order.created_ms,
                items: order.lines.into_iter().map(item).collect(),
                labels: order.labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
                paid: order.paid,
                ..$mixed::default()
            }
        }

        fn glance(message: &$mixed) -> (&str, usize) {
            (message.id.as_str(), message.items.len())
        }
    };
}
pub(crate) use messages;

pub(crate) struct Echo<C> {
    pub(crate) client: C,
    pub(crate) payload: Bytes,
}

impl<C: Echoes> Calls for Echo<C> {
    type Reply = Bytes;
    type Error = C::Error;

    async fn call(&self) -> Result<Bytes, C::Error> {
        self.client.echo(self.payload.clone()).await
    }

    fn looks_right(&self, reply: &Bytes) -> bool {
        reply.len() == self.payload.len()
    }

    fn is_right(&self, reply: &Bytes) -> bool {
        *reply == self.payload
    }
}

pub(crate) struct EchoMixed<C: Echoes> {
    pub(crate) client: C,
    pub(crate) message: C::Mixed,
}

impl<C: Echoes> Calls for EchoMixed<C> {
    type Reply = C::Mixed;
    type Error = C::Error;

    async fn call(&self) -> Result<C::Mixed, C::Error> {
        self.client.echo_mixed(&self.message).await
    }

    fn looks_right(&self, reply: &C::Mixed) -> bool {
        C::glance(reply) == C::glance(&self.message)
    }

    fn is_right(&self, reply: &C::Mixed) -> bool {
        *reply == self.message
    }
}
