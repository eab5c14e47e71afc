//! The JSON of a business status, against the JSON crate that everybody uses.

use std::collections::BTreeMap;

use rpc_core::BizStatus;
use rpc_core::protocol::ttheader::{HeaderLimits, ReplyInfo, StringBlock};

use crate::{meter, reach};

const LIMITS: HeaderLimits = HeaderLimits { max_header_size: u32::MAX, max_header_entries: u32::MAX };

/// Extras of a business status: an object of strings is read as by `serde_json`, anything else is dropped, and what was read is
/// written such that both read it again.
pub fn extras(data: &[u8]) {
    let mut strings = StringBlock::new();
    strings.push(b"biz-status", b"7").expect("short");
    let pushed = strings.push(b"biz-extra", data);
    reach::note("rpc-core/src/protocol/ttheader/pairs.rs", "push", &pushed);
    if pushed.is_err() {
        return;
    }
    let info = meter::framing(8 * data.len(), || ReplyInfo::parse(strings.as_bytes(), &LIMITS)).expect("well formed");
    let read = info.business.expect("a status").extra;
    reach::note("rpc-core/src/protocol/ttheader/json.rs", "read", &!read.is_empty());
    match serde_json::from_slice::<BTreeMap<String, String>>(data) {
        Ok(expected) => assert_eq!(read, expected),
        // Half a pair of surrogates is U+FFFD to Go and to us, an error to serde_json.
        Err(_) => {
            assert!(read.is_empty() || data.windows(3).any(|w| w[0] == b'\\' && w[1] == b'u' && w[2] | 0x20 == b'd'))
        }
    }
    let business = BizStatus { status: 7, message: String::new(), extra: read };
    let mut strings = StringBlock::new();
    if business.put(&mut strings).is_err() {
        return; // escaped it is longer than a header's value can be
    }
    let again = ReplyInfo::parse(strings.as_bytes(), &LIMITS).expect("we read what we write");
    assert_eq!(again.business, Some(business));
}
