//! What a loop sends, and how it checks what comes back.

use bench_driver::{Line, Order, orders, payloads};
use bytes::Bytes;
use rpc_core::Call;

use crate::idl::testee::{self, Blob, Item, TesteeClient};

/// One loop's calls: all alike, and unlike those of any other loop, so that a reply that went astray is noticed.
pub trait Method: Send + Sync + 'static {
    /// Sent and expected back.
    type Message: prost::Message + Default + PartialEq + 'static;

    /// The calls of loop number `index`, of about `payload` bytes; `of` is the number of loops.
    fn for_loops(payload: usize, of: usize) -> Vec<Self>
    where
        Self: Sized;

    /// A request.
    fn request(&self) -> Self::Message;

    /// The generated method.
    fn call<'a>(client: &'a TesteeClient, request: Self::Message) -> Call<'a, (), Self::Message, Self::Message>;

    /// Whether the reply looks right, at little cost.
    fn looks_right(&self, reply: &Self::Message) -> bool;
}

/// Bytes there and back.
#[derive(Debug)]
pub struct Echo(Bytes);

impl Method for Echo {
    type Message = Blob;

    fn for_loops(payload: usize, of: usize) -> Vec<Self> {
        payloads(payload, of).into_iter().map(Echo).collect()
    }

    fn request(&self) -> Blob {
        Blob { payload: self.0.clone() }
    }

    fn call<'a>(client: &'a TesteeClient, request: Blob) -> Call<'a, (), Blob, Blob> {
        client.echo(request)
    }

    fn looks_right(&self, reply: &Blob) -> bool {
        reply.payload.len() == self.0.len()
    }
}

/// A nested message.
#[derive(Debug)]
pub struct Mixed(testee::Mixed);

impl Method for Mixed {
    type Message = testee::Mixed;

    fn for_loops(payload: usize, of: usize) -> Vec<Self> {
        let item = |line: Line| Item { sku: line.sku, quantity: line.quantity, price: line.price, tags: line.tags };
        let message = |order: Order| testee::Mixed {
            id: order.id,
            created_ms: order.created_ms,
            items: order.lines.into_iter().map(item).collect(),
            labels: order.labels.into_iter().collect(),
            paid: order.paid,
        };
        orders(payload, of).into_iter().map(|order| Mixed(message(order))).collect()
    }

    fn request(&self) -> testee::Mixed {
        self.0.clone()
    }

    fn call<'a>(client: &'a TesteeClient, request: testee::Mixed) -> Call<'a, (), testee::Mixed, testee::Mixed> {
        client.echo_mixed(request)
    }

    fn looks_right(&self, reply: &testee::Mixed) -> bool {
        reply.id == self.0.id && reply.items.len() == self.0.items.len()
    }
}
