//! The machine: its facts, and its cores.

use std::fs;
use std::process::Command;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::Failure;

/// Keeps this process on one core. Threads that exist already stay where they are.
///
/// # Errors
/// When this process may not use that core.
pub fn pin(core: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|e| format!("core {core} is not to be had: {e}").into())
}

/// What a table of measurements must say beside its numbers, as (what, value).
pub fn facts() -> Vec<(&'static str, String)> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = file("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    vec![
        ("cores", cores.to_string()),
        ("CPU", model.unwrap_or("unknown").to_owned()),
        ("kernel", file("/proc/sys/kernel/osrelease")),
        ("congestion control", file("/proc/sys/net/ipv4/tcp_congestion_control")),
        ("rustc", output("rustc", &["--version"])),
        ("Go", output("go", &["version"])),
        ("commit", output("git", &["rev-parse", "--short", "HEAD"])),
        ("load at the start", file("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("date", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
    ]
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    match String::from_utf8_lossy(&text).trim() {
        "" => "unknown".to_owned(),
        text => text.to_owned(),
    }
}
