//! Frames that are well-formed around messages that are not, or that are larger than they look (T6).

use std::io::Write;

use testee::idl::testee::{Item, Tree};
use testee::{memory_cap, raw};

use crate::attack;

/// `levels` messages, each the only branch of the one around it.
fn nested(levels: usize) -> Vec<u8> {
    // From the inside out: the length of a level is that of everything within.
    let mut heads = Vec::new();
    let mut len = 0;
    for _ in 0..levels {
        let mut head = vec![0x0a];
        raw::varint(&mut head, len as u64);
        len += head.len();
        heads.push(head);
    }
    heads.into_iter().rev().flatten().collect()
}

/// Field 1 of a map entry or a message, as text.
fn text(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    raw::varint(&mut out, bytes.len() as u64);
    out.extend(bytes);
    out
}

/// A label of a `Mixed`: field 4.
fn label(key: &[u8], value: &[u8]) -> Vec<u8> {
    text(4, &[text(1, key), text(2, value)].concat())
}

/// Also B33: nesting.
#[test]
#[rustfmt::skip]
fn t06_bad_messages_are_answered_one_by_one() {
    const REPLY: Option<i32> = None;
    const REFUSED: Option<i32> = Some(7);
    let groups = |n: usize| [vec![0x0b; n], vec![0x0c; n]].concat();
    let table: [(&str, &str, Vec<u8>, Option<i32>); 29] = [
        // what                             method       the message                            a reply, or the exception
        ("a length past the end",           "Echo",      vec![0x0a, 5, b'x'],                   REFUSED),
        ("a length of 2^63",                "Echo",      [&[0x0a][..], &[0xff; 8], &[0x7f]].concat(), REFUSED),
        ("a tag of 11 bytes",               "Echo",      vec![0xff; 11],                        REFUSED),
        ("a number of 11 bytes",            "Sleep",     [&[0x08][..], &[0xff; 10], &[1]].concat(), REFUSED),
        ("a number over 64 bits",           "Sleep",     [&[0x08][..], &[0xff; 9], &[0x7f]].concat(), REFUSED),
        ("an over-long tag",                "Echo",      vec![0x8a, 0x80, 0x80, 0x80, 0x80, 0x80, 0], REFUSED),
        ("a tag over 32 bits",              "Echo",      vec![0x80, 0x80, 0x80, 0x80, 0x70, 0], REFUSED),
        ("a message that ends in a tag",    "Echo",      vec![0x8a],                            REFUSED),
        ("a tag without its value",         "Sleep",     vec![0x08],                            REFUSED),
        ("wire type 6",                     "Echo",      vec![0x0e, 0],                         REFUSED),
        ("wire type 7",                     "Echo",      vec![0x0f, 0],                         REFUSED),
        ("field 0",                         "Echo",      vec![0x02, 0],                         REFUSED),
        ("a number where bytes are due",    "Echo",      vec![0x08, 1],                         REFUSED),
        ("half a fixed64",                  "EchoMixed", vec![0x39, 1, 2, 3],                   REFUSED),
        ("text that is no UTF-8",           "EchoMixed", text(1, b"\xc3\x28"),                  REFUSED),
        ("a surrogate in text",             "EchoMixed", text(1, b"\xed\xa0\x80"),              REFUSED),
        ("a key that is no UTF-8",          "EchoMixed", label(b"\xff", b"v"),                  REFUSED),
        ("a map entry that is no message",  "EchoMixed", text(4, &[0xff]),                      REFUSED),
        ("groups, 5,000 deep",              "Echo",      groups(5_000),                         REFUSED),
        ("groups, 100,000 deep",            "Echo",      groups(100_000),                       REFUSED),
        ("a group that nothing ends",       "Echo",      vec![0x13],                            REFUSED),
        ("a group ended by another",        "Echo",      vec![0x13, 0x1c],                      REFUSED),
        ("the end of no group",             "Echo",      vec![0x0c],                            REFUSED),
        ("messages, 101 deep",              "Count",     nested(101),                           REFUSED),
        ("messages, 100,000 deep",          "Count",     nested(100_000),                       REFUSED),
        ("messages, 100 deep",              "Count",     nested(100),                           REPLY),
        ("a group of an unknown field",     "Echo",      vec![0x13, 0x08, 1, 0x14],             REPLY),
        ("10^5 unknown fields",             "Echo",      [0xf8, 0x07, 1].repeat(100_000),       REPLY),
        ("a map with equal keys",           "EchoMixed", label(b"k", b"v").repeat(10_000),      REPLY),
    ];
    attack("T6").run(|scene| {
        let mut socket = scene.dial();
        for (seq, (what, method, body, expected)) in (1..).zip(&table) {
            let reply = scene.ask(&mut socket, &raw::request(seq, method, body));
            assert_eq!((reply.seq, reply.exception().map(|(id, _)| id)), (seq, *expected), "{what}: {reply:?}");
            assert!(reply.kind == raw::EXCEPTION || what != &"a map with equal keys" || reply.body == label(b"k", b"v"));
        }
        scene.still_works(&mut socket);
        let refused = table.iter().filter(|(.., expected)| *expected == REFUSED).count();
        assert_eq!(scene.stats().get("glitches"), refused as u64, "one for each that was refused");
        let decoded = table.len() - refused;
        format!("{} odd messages: {refused} refused to their calls, {decoded} legal ones decoded; the connection stays", table.len())
    });
}

/// A million empty messages in 2 MB: what they are decoded into is bounded by their number and size. A million of the larger ones take
/// 64 MB by that arithmetic; a server that may use no more than that gets as many as fit, with the list that grows by doubling.
#[test]
fn t06_a_million_empty_messages() {
    let cases: [(&str, &str, [u8; 2], usize); 2] = [
        ("branches of a tree", "Count", [0x0a, 0], size_of::<Tree>()),
        ("lines of an order", "EchoMixed", [0x1a, 0], size_of::<Item>()),
    ];
    for (what, method, element, size) in cases {
        // A list that grows by doubling has up to twice its content; half of the memory is for that, and for what it outgrows.
        let fits = memory_cap().map_or(usize::MAX, |cap| cap as usize / 2 / (2 * size));
        let count = fits.min(1_000_000);
        let bound = count * (64 + size);
        attack("T6").growth(bound as u64).run(|scene| {
            let mut socket = scene.dial();
            let body = element.repeat(count);
            for seq in 1..=3 {
                let reply = scene.ask(&mut socket, &raw::request(seq, method, &body));
                assert_eq!((reply.seq, reply.kind), (seq, raw::REPLY), "{:?}", reply.exception());
                assert!(method == "Count" && reply.body == raw::number(count as u64) || reply.body == body);
            }
            scene.still_works(&mut socket);
            format!(
                "3 × {count} empty {what}, 2 bytes each, decoded into {size} bytes each, allowed {} KiB",
                bound / 1024
            )
        });
    }
}

/// Many at once: each is decoded, used and dropped before the next one is.
#[test]
fn t06_unknown_fields_are_not_kept() {
    attack("T6").run(|scene| {
        let mut socket = scene.dial();
        let unknown = [text(15, &[7; 1 << 20]), raw::blob(b"x")].concat();
        for seq in 1..=20 {
            socket.write_all(&raw::request(seq, "Echo", &unknown)).expect("sent");
            let reply = raw::read_frame(&mut socket).expect("a frame").expect("a reply");
            assert_eq!((reply.seq, reply.blob()), (seq, Some(&b"x"[..])));
        }
        "20 × 1 MiB of an unknown field, dropped".to_owned()
    });
}
