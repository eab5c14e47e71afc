//! TCP streams of a capture.

use std::collections::BTreeMap;

/// What each side of each connection sent, in the order of sequence numbers; one connection after another on the same ports is not told apart. Source of the formats: the pcap file format of libpcap,
/// RFC 791 and RFC 9293.
pub(crate) fn streams(pcap: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let malformed = || "this is no pcap file with microseconds or nanoseconds; write one with tcpdump -w".to_owned();
    let head = pcap.get(..24).ok_or_else(malformed)?;
    let little = match head[..4] {
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => true,
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => false,
        _ => return Err(malformed()),
    };
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap_or_default();
        if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    let link_head = match number(&head[20..24]) {
        0 => 4,    // BSD loopback
        1 => 14,   // Ethernet
        113 => 16, // Linux "any"
        276 => 20, // Linux "any", version 2
        101 => 0,  // bare IP
        other => return Err(format!("captures of link type {other} are not known here; capture on lo or eth0")),
    };
    let mut segments: BTreeMap<String, Stream<'_>> = BTreeMap::new();
    let mut rest = &pcap[24..];
    while let Some((record, behind)) = rest.split_at_checked(16) {
        let Some((packet, behind)) = behind.split_at_checked(number(&record[8..12]) as usize) else { break };
        rest = behind;
        if let Some((direction, seq, bytes)) = packet.get(link_head..).and_then(segment) {
            segments.entry(direction).or_default().add(seq, bytes);
        }
    }
    Ok(segments.into_iter().map(|(direction, stream)| (direction, stream.joined())).collect())
}

/// The direction, sequence number and bytes of a TCP segment over IPv4.
fn segment(packet: &[u8]) -> Option<(String, u32, &[u8])> {
    let first = *packet.first()?;
    let ip = packet.get(..usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?])))?;
    let tcp = ip.get(usize::from(first & 0x0f) * 4..)?;
    let [.., protocol, _, _, a, b, c, d, e, f, g, h] = ip.first_chunk::<20>()?;
    if first >> 4 != 4 || *protocol != 6 {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let seq = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
    let bytes = tcp.get(usize::from(*tcp.get(12)? >> 4) * 4..)?;
    Some((format!("{a}.{b}.{c}.{d}:{} → {e}.{f}.{g}.{h}:{}", port(0)?, port(2)?), seq, bytes))
}

/// What one side sent, by its distance from the segment that was seen first, so that sequence numbers may begin anew from 0.
#[derive(Default)]
struct Stream<'a> {
    first: Option<u32>,
    parts: BTreeMap<i64, &'a [u8]>,
}

impl<'a> Stream<'a> {
    /// Of two that begin at the same place the longer one counts.
    fn add(&mut self, seq: u32, bytes: &'a [u8]) {
        let first = *self.first.get_or_insert(seq);
        let at = i64::from(seq.wrapping_sub(first) as i32);
        let part = self.parts.entry(at).or_insert(bytes);
        if part.len() < bytes.len() {
            *part = bytes;
        }
    }

    /// Up to the first gap, if there is one.
    fn joined(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        let Some(first) = self.parts.iter().find(|(_, part)| !part.is_empty()).map(|(at, _)| *at) else {
            return stream;
        };
        for (at, part) in self.parts.range(first..) {
            let Some(known) =
                (stream.len() as i64).checked_sub(at - first).and_then(|known| usize::try_from(known).ok())
            else {
                eprintln!(
                    "decode: {} bytes were not captured; what follows them is left out",
                    at - first - stream.len() as i64
                );
                break;
            };
            stream.extend_from_slice(part.get(known..).unwrap_or_default());
        }
        stream
    }
}
