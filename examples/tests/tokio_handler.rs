//! The example `tokio_handler` shows what it says it does.

use std::time::Duration;

use testee::output_of;

#[test]
fn a_handler_and_a_client_work_with_tokio() {
    let output = output_of(env!("CARGO_BIN_EXE_tokio_handler"), [""; 0], Duration::from_secs(60));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    for name in ["tokio", "Rust"] {
        assert!(text.lines().any(|line| line == format!("client: Hello, {name}!")), "{text}");
        let greets = format!("server: greets {name} on the thread reactor-");
        assert!(text.lines().any(|line| line.starts_with(&greets)), "{text}");
    }
    assert!(text.ends_with("server: stopped, 0 calls cut\n"), "{text}");
}
