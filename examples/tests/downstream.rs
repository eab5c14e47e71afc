//! The example `downstream` shows what it says it does.

use std::time::Duration;

use testee::output_of;

#[test]
fn each_hop_sees_what_it_should() {
    let output = output_of(env!("CARGO_BIN_EXE_downstream"), [""; 0], Duration::from_secs(60));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [b, c, a, late_b, late_c, gave_up, stopped @ ..] = &lines[..] else { panic!("{text}") };
    for (b, c, timeout) in [(b, c, 5000), (late_b, late_c, 500)] {
        let (left_b, rest_b) = left(b.strip_prefix("B: ").expect(b));
        let (left_c, rest_c) = left(c.strip_prefix("C: ").expect(c));
        // B waits 20 ms before it calls.
        assert!(left_b <= timeout && left_c + 20 <= timeout, "{text}");
        assert_eq!(rest_b, r#"persistent {"TENANT": "acme"}, transient {"COUNTER": "3"}"#);
        assert_eq!(rest_c, r#"persistent {"TENANT": "acme"}, transient {}"#);
    }
    assert_eq!(*a, "A: one rope taken");
    assert!(gave_up.starts_with("A: DeadlineExceeded"), "{gave_up}");
    let mut stopped = stopped.to_vec();
    stopped.sort_unstable();
    assert_eq!(stopped, ["B: stopped", "C: stopped"]);
}

/// `980 ms left, rest`
fn left(line: &str) -> (u64, &str) {
    let (left, rest) = line.split_once(" ms left, ").expect(line);
    (left.parse().expect(line), rest)
}
