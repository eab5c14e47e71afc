//! Heads of requests and replies, from any names, metadata and numbers: what is written says the same when it is read.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use rpc_core::protocol::ttheader::{
    HeaderLimits, ReplyHead, ReplyInfo, ReplyKind, RequestHead, RequestHeadSpec, RequestInfo, StringBlock, TtFrame,
    request_metadata,
};
use rpc_core::protocol::{Form, KitexFraming, MessageType, Payload};
use rpc_core::{BizStatus, Metadata};
use rpc_transport::Next;

use crate::{meter, reach, reference};

/// As much header as the format has room for: what is written is not to be refused for its size.
const LIMITS: HeaderLimits = HeaderLimits { max_header_size: u32::MAX, max_header_entries: u32::MAX };

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Arbitrary)]
struct Request<'a> {
    service: &'a str,
    method: &'a str,
    from_service: &'a str,
    to_service: &'a str,
    from_method: &'a str,
    multiplexed: bool,
    oneway: bool,
    announce: bool,
    connect_timeout_ms: Option<u32>,
    usual_timeout_ms: u32,
    timeout_ms: Option<u32>,
    seq: i32,
    persistent: Pairs,
    transient: Pairs,
    body: &'a [u8],
}

#[derive(Debug, Arbitrary)]
struct Reply<'a> {
    method: &'a str,
    framed: bool,
    exception: bool,
    seq: i32,
    backward: Pairs,
    business: Option<Business>,
    body: &'a [u8],
}

#[derive(Debug, Arbitrary)]
struct Business {
    status: i32,
    message: String,
    extra: std::collections::BTreeMap<String, String>,
}

/// The writers of heads: a frame of a request or reply is decoded to the parts that it was made of.
pub fn ttheader_write(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(is_request) = bool::arbitrary(&mut u) else { return };
    if is_request {
        if let Ok(what) = Request::arbitrary_take_rest(u) {
            request(&what);
        }
    } else if let Ok(what) = Reply::arbitrary_take_rest(u) {
        reply(&what);
    }
}

fn metadata(pairs: &Pairs) -> Metadata {
    pairs.iter().cloned().collect()
}

fn map(metadata: &Metadata) -> std::collections::BTreeMap<Vec<u8>, Vec<u8>> {
    reference::pairs(metadata.iter())
}

fn request(what: &Request<'_>) {
    let spec = RequestHeadSpec {
        service: what.service,
        method: what.method,
        from_service: Some(what.from_service),
        to_service: what.to_service,
        from_method: Some(what.from_method),
        multiplexed: what.multiplexed,
        oneway: what.oneway,
        announce: what.announce,
        connect_timeout_ms: what.connect_timeout_ms,
        usual_timeout_ms: what.usual_timeout_ms,
    };
    let head = RequestHead::new(&spec);
    reach::note("rpc-core/src/protocol/ttheader/encode.rs", "new", &head);
    let Ok(head) = head else { return };
    let (persistent, transient) = (metadata(&what.persistent), metadata(&what.transient));
    let Ok(extra) = request_metadata(&persistent, &transient) else { return };
    let mut frame = Vec::with_capacity(1 << 17);
    let (wrote, held) = meter::peak(|| head.write(&mut frame, what.seq, what.timeout_ms, &extra, what.body.len()));
    assert_eq!(held, 0, "writing a head allocates");
    if wrote.is_err() {
        return assert!(frame.is_empty(), "part of a refused head was written");
    }
    frame.extend_from_slice(what.body);
    if what.timeout_ms.is_some() {
        assert_eq!(head.frame_len(extra.len(), what.body.len()), frame.len() - 4);
    }
    is_one_frame(&frame);

    let tt = TtFrame::decode(&frame).expect("we read what we write");
    let info = RequestInfo::parse(tt.info, &LIMITS).expect("we read what we write");
    let some = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
    assert_eq!((tt.seq, tt.flags), (what.seq, u16::from(what.multiplexed)));
    assert_eq!(info.service().map(<[u8]>::to_vec), some(what.service));
    assert_eq!(info.from_service().map(<[u8]>::to_vec), some(what.from_service));
    assert_eq!(info.from_method().map(<[u8]>::to_vec), some(what.from_method));
    assert_eq!(info.to_method(), Some(what.method.as_bytes()));
    assert_eq!(info.timeout(), what.timeout_ms.map(|ms| Duration::from_millis(ms.max(1).into())));
    assert_eq!(info.capabilities(), what.announce.then_some(what.multiplexed.into()));
    let kind = if what.oneway { MessageType::Oneway } else { MessageType::Call };
    assert_eq!(info.message_type(), Some(kind));
    assert_eq!(map(info.persistent()), map(&persistent));
    assert_eq!(map(info.transient()), map(&transient));
    let payload = Payload::decode(tt.payload);
    reach::note("rpc-core/src/protocol/payload.rs", "decode", &payload);
    let payload = payload.expect("we read what we write");
    assert_eq!(payload, Payload { kind, method: what.method.as_bytes(), seq: what.seq, body: what.body });
}

fn reply(what: &Reply<'_>) {
    let Ok(head) = ReplyHead::new(what.method) else {
        return assert!(what.method.is_empty() || what.method.len() > 60_000);
    };
    let mut strings = StringBlock::new();
    let mut backward = Metadata::new();
    for (key, value) in metadata(&what.backward).iter() {
        let before = strings.clone();
        let pushed = strings.push_backward(key, value);
        reach::note("rpc-core/src/protocol/ttheader/pairs.rs", "push_backward", &pushed);
        match pushed {
            Ok(()) => drop(backward.insert(key.to_vec(), value.to_vec())),
            Err(_) => assert_eq!(strings, before, "a refused pair left something behind"),
        }
    }
    let business = what.business.as_ref().map(|business| BizStatus {
        status: business.status,
        message: business.message.clone(),
        extra: business.extra.clone(),
    });
    if let Some(business) = &business {
        let put = business.put(&mut strings);
        reach::note("rpc-core/src/protocol/ttheader/pairs.rs", "push", &put);
        if put.is_err() {
            return;
        }
    }
    let form = if what.framed { Form::Framed } else { Form::TtHeader };
    let kind = if what.exception { ReplyKind::Exception } else { ReplyKind::Reply };
    let mut frame = Vec::with_capacity(1 << 17);
    let (wrote, held) =
        meter::peak(|| head.write(&mut frame, form, kind, what.seq, what.body.len(), strings.as_bytes()));
    assert_eq!(held, 0, "writing a head allocates");
    if wrote.is_err() {
        return assert!(frame.is_empty(), "part of a refused head was written");
    }
    frame.extend_from_slice(what.body);
    assert_eq!(head.frame_len(form, strings.as_bytes().len(), what.body.len()), frame.len() - 4);
    is_one_frame(&frame);

    let mut bytes = &frame[..];
    if form == Form::TtHeader {
        let tt = TtFrame::decode(&frame).expect("we read what we write");
        let info = ReplyInfo::parse(tt.info, &LIMITS).expect("we read what we write");
        assert_eq!((tt.seq, info.closing, info.code), (what.seq, false, None));
        assert_eq!(info.business, business.filter(|business| business.status != 0));
        let read = backward.iter().map(|(key, value)| (key.strip_prefix(b"RPC_BACKWARD_").unwrap_or(key), value));
        assert_eq!(map(&info.backward), reference::pairs(read));
        bytes = tt.payload;
    }
    let kind = if what.exception { MessageType::Exception } else { MessageType::Reply };
    let payload = Payload::decode(bytes).expect("we read what we write");
    assert_eq!(payload, Payload { kind, method: what.method.as_bytes(), seq: what.seq, body: what.body });
}

/// A receiver finds the frame, whole.
fn is_one_frame(frame: &[u8]) {
    let found = KitexFraming::new(u32::MAX).find(frame);
    reach::note("rpc-core/src/protocol/detect.rs", "find", &found);
    match found {
        Ok(Next::Frame(span)) => assert_eq!((span.skip, span.len), (0, frame.len())),
        other => panic!("{other:?} where a frame of {} bytes is", frame.len()),
    }
}
