//! What is sent, before anybody's code generation has made a message of it.

use bytes::Bytes;

/// A payload for each of `of` loops, each a window of one buffer, one byte further than its neighbour's.
pub fn payloads(len: usize, of: usize) -> Vec<Bytes> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = (0..len + of).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    let noise: Bytes = noise.collect();
    (0..of).map(|index| noise.slice(index..index + len)).collect()
}

/// A message as services really have them: nested, repeated, with a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Unlike that of any other loop.
    pub id: String,
    /// Unix time, in milliseconds.
    pub created_ms: i64,
    /// The first lines of the order; more are added up to the wanted size.
    pub lines: Vec<Line>,
    /// Two labels.
    pub labels: Vec<(String, String)>,
    /// Every other one is.
    pub paid: bool,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What is ordered.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// Price of one.
    pub price: f64,
    /// Two labels.
    pub tags: Vec<String>,
}

/// About this many bytes a line takes in protobuf, and the order without lines.
const LINE: usize = 44;
const REST: usize = 60;

/// An order for each of `of` loops, of about `len` bytes in protobuf.
pub fn orders(len: usize, of: usize) -> Vec<Order> {
    let line = |n: usize| Line {
        sku: format!("SKU-{n:06}"),
        quantity: n as u32 + 1,
        price: 9.95 + n as f64,
        tags: vec!["new".to_owned(), "fragile".to_owned()],
    };
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let order = |index: usize| Order {
        id: format!("order-{index:08}"),
        created_ms: 1_700_000_000_000 + index as i64,
        lines: (0..(len.saturating_sub(REST) / LINE).max(1)).map(line).collect(),
        labels: vec![label("region", "north"), label("tier", "gold")],
        paid: index.is_multiple_of(2),
    };
    (0..of).map(order).collect()
}
