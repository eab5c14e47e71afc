//! What does patching a prepared header save over putting it together for each request?
//!
//! On paper: the header of `Testee/Echo` has some 180 bytes. Patching is one copy of them and five stores, 20 ns. Putting together
//! are ten pairs, each a key, a length and a text, then the fixed part and the payload's head: some thirty short copies of
//! unknown length, 100 to 200 ns without an allocation. So: five to ten times.

use std::hint::black_box;

use bytes::BufMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rpc_core::protocol::MessageType;
use rpc_core::protocol::ttheader::layout::{FLAG_OUT_OF_ORDER, block, int_key, str_key};
use rpc_core::protocol::ttheader::{RequestHead, RequestHeadSpec, StringBlock, write_frame_head};

const SEQ: i32 = 0x2_0001;
const BODY: usize = 34;

fn spec() -> RequestHeadSpec<'static> {
    RequestHeadSpec {
        service: "Testee",
        method: "Echo",
        from_service: Some("benches"),
        to_service: "Testee",
        multiplexed: true,
        announce: true,
        connect_timeout_ms: Some(1000),
        usual_timeout_ms: 5000,
        ..RequestHeadSpec::default()
    }
}

fn build(out: &mut Vec<u8>, strings: &mut StringBlock, ints: &mut Vec<u8>) {
    let spec = spec();
    strings.clear();
    strings.push(str_key::SERVICE, spec.service.as_bytes()).expect("it is short");
    let pairs: [(u16, &[u8]); 8] = [
        (int_key::TRANSPORT_TYPE, b"framed"),
        (int_key::FROM_SERVICE, spec.from_service.unwrap_or_default().as_bytes()),
        (int_key::TO_SERVICE, spec.to_service.as_bytes()),
        (int_key::TO_METHOD, spec.method.as_bytes()),
        (int_key::RPC_TIMEOUT, b"0000005000"),
        (int_key::CONNECT_TIMEOUT, b"1000"),
        (int_key::MSG_TYPE, b"1"),
        (int_key::CAPABILITIES, b"1"),
    ];
    ints.clear();
    ints.put_u8(block::INTS);
    ints.put_u16(pairs.len() as u16);
    for (key, value) in pairs {
        ints.put_u16(key);
        ints.put_u16(value.len() as u16);
        ints.put_slice(value);
    }
    let blocks = [strings.as_bytes(), ints];
    write_frame_head(out, FLAG_OUT_OF_ORDER, black_box(SEQ), blocks, MessageType::Call, b"Echo", BODY)
        .expect("it is short");
}

fn compare(c: &mut Criterion) {
    let template = RequestHead::new(&spec()).expect("the names are short");
    let (mut out, mut strings, mut ints) = (Vec::with_capacity(4096), StringBlock::new(), Vec::with_capacity(256));
    build(&mut out, &mut strings, &mut ints);
    let built = out.clone();
    out.clear();
    template.write(&mut out, SEQ, Some(5000), b"", BODY).expect("it is short");
    assert_eq!(out, built, "both write the same");

    let mut group = c.benchmark_group("header_template_vs_built");
    group.throughput(Throughput::Elements(1));
    group.bench_function("template/usual_timeout", |b| {
        b.iter(|| {
            out.clear();
            template.write(&mut out, black_box(SEQ), Some(5000), b"", BODY).expect("it is short");
            black_box(&out);
        });
    });
    group.bench_function("template/other_timeout", |b| {
        b.iter(|| {
            out.clear();
            template.write(&mut out, black_box(SEQ), Some(black_box(50)), b"", BODY).expect("it is short");
            black_box(&out);
        });
    });
    group.bench_function("built/usual_timeout", |b| {
        b.iter(|| {
            out.clear();
            build(&mut out, &mut strings, &mut ints);
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group!(benches, compare);
criterion_main!(benches);
