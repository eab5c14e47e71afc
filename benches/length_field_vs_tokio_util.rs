//! What does a frame cost that is found by `LengthField`, and one by tokio-util's `LengthDelimitedCodec`?
//!
//! On paper: finding a frame is a load, a byte swap and two compares, 3 ns. The codec also cuts each frame off its buffer, which
//! is a reference count up and later one down, 10 ns each, and the bookkeeping of its state. A connection of ours freezes the
//! frames of a read once and lends them out, so the fair comparison is with `found`; `kept` takes each as `Bytes`, as the codec does.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rpc_transport::{Framing, LengthField, LengthWidth, Next};
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

const FRAMES: usize = 100;

fn input(payload: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    for _ in 0..FRAMES {
        bytes.put_u32(payload as u32);
        bytes.put_bytes(b'x', payload);
    }
    bytes.freeze()
}

/// Calls `on_frame` with the place of each frame.
fn find(input: &[u8], mut on_frame: impl FnMut(std::ops::Range<usize>)) {
    let mut framing = LengthField::new(LengthWidth::U32);
    let mut at = 0;
    while let Ok(Next::Frame(span)) = framing.next(&input[at..]) {
        on_frame(at + span.skip..at + span.skip + span.len);
        at += span.consumed();
    }
    assert_eq!(at, input.len());
}

fn compare(c: &mut Criterion) {
    let mut group = c.benchmark_group("length_field_vs_tokio_util");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for payload in [32, 1024] {
        let input = input(payload);
        group.bench_function(format!("length_field/found_{payload}b_x100"), |b| {
            b.iter(|| find(black_box(&input), |frame| _ = black_box(frame)));
        });
        group.bench_function(format!("length_field/kept_{payload}b_x100"), |b| {
            b.iter(|| find(black_box(&input), |frame| drop(black_box(input.slice(frame)))));
        });
        group.bench_function(format!("tokio_util/kept_{payload}b_x100"), |b| {
            let fill = || (LengthDelimitedCodec::new(), BytesMut::from(&input[..]));
            let decode = |(mut codec, mut bytes): (LengthDelimitedCodec, BytesMut)| {
                let mut frames = 0;
                while let Ok(Some(frame)) = codec.decode(&mut bytes) {
                    drop(black_box(frame));
                    frames += 1;
                }
                assert_eq!(frames, FRAMES);
                bytes
            };
            b.iter_batched(fill, decode, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
