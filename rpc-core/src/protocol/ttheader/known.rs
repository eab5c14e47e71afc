//! A head that has been seen before, recognised by comparison.
//!
//! ```text
//!   │LENGTH│magic flags│SEQ│size, info blocks, padding│N│magic kind, method│SEQ│ message …
//!      ▲     compared    ▲          compared          ▲       compared      ▲
//!      └──────────────── lengths and ids: checked, and read ────────────────┘
//! ```
//!
//! Peers send the same head again and again. What it says is taken apart once; equal bytes say the same.

use super::layout::FIXED;
use crate::protocol::payload;

/// The head of a frame with a TTHeader, from its first byte up to the message. At first none, which no frame has.
#[derive(Debug, Default)]
pub struct KnownHead {
    bytes: Vec<u8>,
    /// Where N stands.
    payload_at: usize,
}

/// A frame with a known head: what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFrame<'a> {
    /// The call's id, in both headers.
    pub seq: i32,
    /// The message.
    pub body: &'a [u8],
}

impl KnownHead {
    /// Knows, instead of any other, the head of a frame that [`TtFrame::decode`](super::TtFrame::decode) and
    /// [`Payload::decode`](crate::protocol::Payload::decode) have taken apart into so long a payload and message. Copies the head, into memory that
    /// it has already if that is enough. Lengths that cannot be those of one frame make nothing known.
    pub fn learn(&mut self, frame: &[u8], payload_len: usize, body_len: usize) {
        self.bytes.clear();
        let head = frame.len().checked_sub(body_len).and_then(|len| frame.get(..len));
        if let (Some(head), Some(payload_at)) = (head, frame.len().checked_sub(payload_len))
            && payload_at >= FIXED
            && head.len() >= payload_at + payload::FIXED
        {
            self.bytes.extend_from_slice(head);
            self.payload_at = payload_at;
        }
    }

    /// Id and message of a frame with this head, if all that decoding would check of it holds.
    #[inline]
    pub fn matches<'a>(&self, frame: &'a [u8]) -> Option<KnownFrame<'a>> {
        let (head, body) = frame.split_at_checked(self.bytes.len())?;
        let (fixed, rest) = head.split_first_chunk::<12>()?;
        let (known, known_rest) = self.bytes.split_first_chunk::<12>()?;
        let info_len = self.payload_at - 12;
        let (info, payload) = rest.split_at_checked(info_len)?;
        let (known_info, known_payload) = known_rest.split_at_checked(info_len)?;
        let (n, payload) = payload.split_first_chunk::<4>()?;
        let (_, known_payload) = known_payload.split_first_chunk::<4>()?;
        let (name, seq) = payload.split_last_chunk::<4>()?;
        let (known_name, _) = known_payload.split_last_chunk::<4>()?;
        let is_it = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) as usize == frame.len() - 4
            && fixed[4..8] == known[4..8]
            && fixed[8..] == *seq
            && u32::from_be_bytes(*n) as usize == frame.len() - self.payload_at - 4
            && name == known_name
            && info == known_info;
        is_it.then(|| KnownFrame { seq: i32::from_be_bytes(*seq), body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Payload;
    use crate::protocol::ttheader::{RequestHead, RequestHeadSpec, TtFrame};

    fn frame(seq: i32, method: &str, body: &[u8]) -> Vec<u8> {
        let spec =
            RequestHeadSpec { service: "s", method, to_service: "t", usual_timeout_ms: 500, ..Default::default() };
        let mut out = Vec::new();
        RequestHead::new(&spec).unwrap().write(&mut out, seq, Some(500), b"", body.len()).unwrap();
        out.extend(body);
        out
    }

    fn learned(frame: &[u8]) -> KnownHead {
        let tt = TtFrame::decode(frame).unwrap();
        let payload = Payload::decode(tt.payload).unwrap();
        let mut known = KnownHead::default();
        known.learn(frame, tt.payload.len(), payload.body.len());
        known
    }

    #[test]
    fn another_frame_with_the_same_head_is_recognised() {
        let known = learned(&frame(1, "Echo", b"first"));
        for (seq, body) in [(1, &b"first"[..]), (77, b""), (-5, b"another message")] {
            let frame = frame(seq, "Echo", body);
            assert_eq!(known.matches(&frame), Some(KnownFrame { seq, body }));
        }
        assert_eq!(known.matches(&frame(1, "Ech2", b"first")), None, "another method");
        assert_eq!(KnownHead::default().matches(&frame(1, "Echo", b"first")), None, "none is known at first");
        assert_eq!(KnownHead::default().matches(b""), None);
        let mut forgotten = learned(&frame(1, "Echo", b"first"));
        forgotten.learn(b"short", 9, 2);
        assert_eq!(forgotten.matches(&frame(1, "Echo", b"first")), None, "no lengths of one frame");
    }

    /// Whatever is recognised would have been decoded, to the same; whatever is changed but for both ids alike is not recognised.
    #[test]
    fn a_frame_with_any_byte_changed_is_not_recognised_unless_it_decodes_to_the_same_head() {
        let good = frame(7, "Echo", b"message");
        let known = learned(&good);
        let head = good.len() - 7;
        for at in 0..good.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert_eq!(known.matches(&bad).is_some(), at >= head, "byte {at}");
            }
        }
        for len in 0..good.len() {
            assert_eq!(known.matches(&good[..len]), None, "cut to {len}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(known.matches(&longer), None, "more than its lengths say");
    }
}
