//! Instructions per call: both sides under callgrind, for N and for 2 N calls; the difference has no start-up in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;
use crate::args::{InstructionsArgs, LoadArgs};

/// Calls of the shorter run, if nothing else is said.
const CALLS: u64 = 5000;

/// Counts, and prints the result.
///
/// # Errors
/// When valgrind is not there, or a call fails.
pub fn instructions(args: &InstructionsArgs) -> Result<(), Failure> {
    let [client, server] = count(&args.run, args.keep.as_deref())?;
    println!(
        "{} {}: instructions a call: client {client}, server {server}, both {}",
        args.run.run.case(),
        args.run.client.name(),
        client + server
    );
    Ok(())
}

/// Instructions a call of the client and of the server. `keep` is where callgrind's files of the longer run are left.
pub(crate) fn count(load: &LoadArgs, keep: Option<&Path>) -> Result<[u64; 2], Failure> {
    let dir = std::env::temp_dir().join(format!("load-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let counted = count_in(&dir, load, keep);
    fs::remove_dir_all(&dir)?;
    counted
}

fn count_in(dir: &Path, load: &LoadArgs, keep: Option<&Path>) -> Result<[u64; 2], Failure> {
    let calls = load.run.calls.unwrap_or(CALLS);
    let once = under_callgrind(load, calls, dir)?;
    let twice = under_callgrind(load, calls * 2, dir)?;
    if let Some(keep) = keep {
        fs::create_dir_all(keep)?;
        for side in ["client.out", "server.out"] {
            fs::copy(dir.join(side), keep.join(side))?;
        }
    }
    Ok([0, 1].map(|side| twice[side].saturating_sub(once[side]) / calls))
}

/// Instructions of the client and of the server.
fn under_callgrind(load: &LoadArgs, calls: u64, dir: &Path) -> Result<[u64; 2], Failure> {
    let files: [PathBuf; 2] = ["client.out", "server.out"].map(|side| dir.join(side));
    let callgrind = |file: &Path| {
        let file = format!("--callgrind-out-file={}", file.display());
        ["--tool=callgrind", "-q", "--fair-sched=yes", &file].map(str::to_owned)
    };
    let under = format!("valgrind {}", callgrind(&files[1]).join(" "));
    let mut load = load.clone();
    (load.run.calls, load.run.server_under) = (Some(calls), Some(under));
    let mut command = Command::new("valgrind");
    command.args(callgrind(&files[0])).arg(std::env::current_exe()?).args(load.to_command_line());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("the run under callgrind ended with {status}").into());
    }
    let [client, server] = files.map(|file| total(&file));
    Ok([client?, server?])
}

fn total(file: &Path) -> Result<u64, Failure> {
    let text = fs::read_to_string(file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(total.ok_or("callgrind's file has no total")?.trim().parse()?)
}
