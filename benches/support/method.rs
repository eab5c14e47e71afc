//! What a loop sends, and how it checks what comes back.

use std::collections::HashMap;

use bytes::Bytes;
use rpc_core::Call;

use crate::idl::testee::{self, Blob, Item, TesteeClient};

/// One loop's calls: all alike, and unlike those of any other loop, so that a reply that went astray is noticed.
pub trait Method: Send + 'static {
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

    /// Each loop's payload is a window of one buffer, one byte further than its neighbour's.
    fn for_loops(payload: usize, of: usize) -> Vec<Self> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = (0..payload + of).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let noise: Bytes = noise.collect();
        (0..of).map(|index| Echo(noise.slice(index..index + payload))).collect()
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
        let item = |n: usize| Item {
            sku: format!("SKU-{n:06}"),
            quantity: n as u32 + 1,
            price: 9.95 + n as f64,
            tags: vec!["new".to_owned(), "fragile".to_owned()],
        };
        let order = |index: usize| {
            let labels =
                HashMap::from([("region".to_owned(), "north".to_owned()), ("tier".to_owned(), "gold".to_owned())]);
            let mut order = testee::Mixed {
                id: format!("order-{index:08}"),
                created_ms: 1_700_000_000_000 + index as i64,
                items: vec![item(0)],
                labels,
                paid: index.is_multiple_of(2),
            };
            while prost::Message::encoded_len(&order) < payload {
                order.items.push(item(order.items.len()));
            }
            order
        };
        (0..of).map(|index| Mixed(order(index))).collect()
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
