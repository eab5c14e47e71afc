//! Scripts that start the testee as a new process that is not what it says.

/// The kinds are those of `testee liar`.
pub(crate) fn script(kind: &str) -> String {
    format!("exec {} liar {kind}", env!("CARGO_BIN_EXE_testee"))
}

/// One that starts it as another process than the one that was started.
pub(crate) fn script_of_a_stranger() -> String {
    script("hello").replace("exec ", "") + " &\nwait"
}
