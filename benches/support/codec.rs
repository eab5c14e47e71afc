//! What prost alone costs: the part of a call's processor time that no RPC can save.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_driver::{Failure, MethodName};
use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::args::CodecArgs;
use crate::method::{Echo, Method, Mixed};

/// Parts of which the fastest counts.
const PARTS: u32 = 20;

/// Encodes and decodes messages on this thread for a while, and prints what one message costs.
///
/// # Errors
/// What was encoded cannot be decoded.
pub fn codec(args: &CodecArgs) -> Result<(), Failure> {
    match args.method {
        MethodName::Echo => codec_of::<Echo>(args),
        MethodName::Mixed => codec_of::<Mixed>(args),
    }
}

fn codec_of<M: Method>(args: &CodecArgs) -> Result<(), Failure> {
    let method = M::for_loops(args.payload, 1).pop().ok_or("no message")?;
    let part = Duration::from_secs_f64(args.seconds / 3.0) / PARTS;
    let message = method.request();
    let encoded = Bytes::from(message.encode_to_vec());
    let mut buffer = BytesMut::with_capacity(encoded.len());
    let copy = fastest(part, || {
        black_box(method.request());
        Ok(())
    })?;
    let encode = fastest(part, || {
        buffer.clear();
        black_box(&message).encode(&mut buffer)?;
        Ok(())
    })?;
    let decode = fastest(part, || {
        black_box(M::Message::decode(encoded.clone())?);
        Ok(())
    })?;
    println!(
        "{:?} of {} bytes, encoded: encode {encode:.3} µs, decode and drop {decode:.3} µs, together {:.3} µs; to clone the \
         request takes {copy:.3} µs",
        args.method,
        encoded.len(),
        encode + decode
    );
    Ok(())
}

/// Microseconds that `f` takes: in the fastest of some parts, since nothing makes it faster than it is.
fn fastest(part: Duration, mut f: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::INFINITY;
    for _ in 0..PARTS {
        let (start, mut times) = (Instant::now(), 0);
        while start.elapsed() < part {
            for _ in 0..100 {
                f()?;
            }
            times += 100;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(times));
    }
    Ok(best)
}
