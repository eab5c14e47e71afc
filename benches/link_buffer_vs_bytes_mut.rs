//! What does a chain of shared blocks cost where one growing buffer would do, and what does it save where copies are large?
//!
//! On paper, for 100 messages of 160 and 32 bytes: both copy 19 KB, a microsecond, plus a bounds check for each of 200 pieces;
//! the chain must not be slower by more than a few percent. Taking 100 frames is a reference count up and down each for both,
//! 2 µs. Passing on 64 KiB is a copy of 64 KiB, 3 to 6 µs, for the one buffer, and a reference count, 20 ns, for the chain.

use std::hint::black_box;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rpc_transport::LinkBuffer;

const HEAD: [u8; 160] = [1; 160];
const BODY: [u8; 32] = [2; 32];
const MESSAGES: usize = 100;

fn write(out: &mut impl BufMut) {
    for _ in 0..MESSAGES {
        out.put_slice(black_box(&HEAD));
        out.put_slice(black_box(&BODY));
    }
}

fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("link_buffer_vs_bytes_mut");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    let mut link = LinkBuffer::new();
    group.bench_function("link_buffer/write_32b_x100", |b| {
        b.iter(|| {
            write(&mut link);
            link.advance(black_box(link.len()));
        });
    });
    let mut plain = BytesMut::with_capacity(64 << 10);
    group.bench_function("bytes_mut/write_32b_x100", |b| {
        b.iter(|| {
            write(&mut plain);
            black_box(plain.len());
            plain.clear();
        });
    });
    let frame = HEAD.len() + BODY.len();
    group.bench_function("link_buffer/take_32b_x100", |b| {
        let fill = || {
            let mut link = LinkBuffer::new();
            write(&mut link);
            link
        };
        let take = |mut link: LinkBuffer| {
            while let Some(taken) = link.next(frame) {
                drop(black_box(taken));
            }
            link
        };
        b.iter_batched(fill, take, BatchSize::SmallInput);
    });
    group.bench_function("bytes_mut/take_32b_x100", |b| {
        let fill = || {
            let mut plain = BytesMut::with_capacity(64 << 10);
            write(&mut plain);
            plain
        };
        let take = |mut plain: BytesMut| {
            while plain.len() >= frame {
                drop(black_box(plain.split_to(frame).freeze()));
            }
            plain
        };
        b.iter_batched(fill, take, BatchSize::SmallInput);
    });
    group.finish();
}

fn large(c: &mut Criterion) {
    let payload = Bytes::from(vec![3; 64 << 10]);
    let mut group = c.benchmark_group("link_buffer_vs_bytes_mut");
    group.throughput(Throughput::Bytes(payload.len() as u64));
    let mut link = LinkBuffer::new();
    group.bench_function("link_buffer/pass_on_64kib", |b| {
        b.iter(|| {
            link.put_slice(&HEAD);
            link.write_bytes(payload.clone());
            link.advance(black_box(link.len()));
        });
    });
    let mut plain = BytesMut::with_capacity(128 << 10);
    group.bench_function("bytes_mut/pass_on_64kib", |b| {
        b.iter(|| {
            plain.put_slice(&HEAD);
            plain.put(payload.clone());
            black_box(plain.len());
            plain.clear();
        });
    });
    group.finish();
}

criterion_group!(benches, small, large);
criterion_main!(benches);
