//! All cases.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use testee::{Testee, eventually, scratch};

use crate::plays::{self, Play};
use crate::{Ends, Failure};

/// One row of the table.
pub(crate) enum Case {
    /// A Kitex client calls a testee.
    Inbound { play: &'static str, client: &'static str, server: &'static [&'static str], share: u64 },
    /// A client of ours calls a Kitex server.
    Outbound { play: Play, client: &'static str, server: &'static str },
    /// The `testee` as a client calls a Kitex server.
    Mixture { method: &'static str, client: &'static [&'static str], server: &'static str, share: u64 },
}

const CRC: &[&str] = &["--checksum"];

/// What a mixture has as many calls as, in tenths of `--calls`.
const MOST: u64 = 100;
const USUAL: u64 = 10;
const FEW: u64 = 2;

pub(crate) fn all() -> Vec<Case> {
    let inbound = |play, client| Case::Inbound { play, client, server: &[], share: USUAL };
    let outbound = |play, client, server| Case::Outbound { play, client, server };
    let mixture = |method, client, server| Case::Mixture { method, client, server, share: USUAL };
    vec![
        Case::Inbound { play: "mixture", client: "default", server: &[], share: MOST },
        inbound("mixture", "ttheader"),
        inbound("mixture", "framed"),
        inbound("mixture", "handlers"),
        inbound("mixture", "pool"),
        Case::Inbound { play: "mixture", client: "short", server: &[], share: FEW },
        Case::Inbound { play: "mixture", client: "mux-1", server: &[], share: MOST },
        inbound("mixture", "mux-4"),
        Case::Inbound { play: "mixture", client: "crc", server: CRC, share: USUAL },
        inbound("sizes", "default"),
        inbound("sizes", "mux-1"),
        Case::Inbound { play: "sizes", client: "crc", server: CRC, share: USUAL },
        inbound("errors", "default"),
        inbound("errors", "mux-1"),
        inbound("business", "handlers"),
        inbound("business", "handlers,mux-1"),
        inbound("metainfo", "default"),
        inbound("metainfo", "handlers,mux-1"),
        inbound("timeouts", "handlers,timeout"),
        inbound("timeouts", "handlers,timeout,mux-1"),
        inbound("timeouts", "timeout,mux-4"),
        inbound("oneway", "default"),
        inbound("oneway", "mux-1"),
        inbound("unknown", "default"),
        inbound("unknown", "handlers,mux-1"),
        inbound("chain", "handlers"),
        inbound("stopped", "pool"),
        inbound("stopped", "mux-1"),
        Case::Mixture { method: "mix", client: &["--connections", "1"], server: "mux,handlers", share: MOST },
        mixture("mix", &["--connections", "4"], "mux,handlers"),
        mixture("mix", &["--ping-pong", "--connections", "16", "--in-flight", "1"], "handlers"),
        mixture("echo", &["--connections", "1"], "default"),
        mixture("mixed", &["--connections", "2"], "default"),
        mixture("sink", &["--ping-pong", "--connections", "8", "--in-flight", "1"], "default"),
        mixture("give", &["--checksum"], "mux,handlers,crc"),
        mixture("echo", &["--checksum"], "mux,crc"),
        outbound(plays::sizes, "mux", "mux"),
        outbound(plays::sizes, "ping-pong", "default"),
        outbound(plays::errors, "mux", "mux"),
        outbound(plays::errors, "ping-pong", "handlers"),
        outbound(plays::business, "mux", "mux,handlers"),
        outbound(plays::metadata, "mux", "mux"),
        outbound(plays::metadata, "ping-pong", "default"),
        outbound(plays::unknown, "mux", "mux"),
        outbound(plays::unknown, "ping-pong", "handlers"),
        outbound(plays::timeouts, "mux", "mux,handlers"),
        outbound(plays::timeouts, "ping-pong", "default"),
        outbound(plays::chain, "mux", "mux,handlers"),
        outbound(plays::stopped, "mux", "mux"),
        outbound(plays::stopped, "ping-pong", "default"),
        outbound(plays::killed, "mux", "mux"),
        outbound(plays::limited, "mux", "mux,limited"),
    ]
}

impl Case {
    pub(crate) fn name(&self) -> String {
        match self {
            Case::Inbound { play, .. } => (*play).to_owned(),
            Case::Outbound { play, .. } => plays::name(*play).to_owned(),
            Case::Mixture { method, .. } => format!("mixture of {method}"),
        }
    }

    pub(crate) fn direction(&self) -> String {
        match self {
            Case::Inbound { .. } => "Kitex → ours".to_owned(),
            Case::Outbound { .. } | Case::Mixture { .. } => "ours → Kitex".to_owned(),
        }
    }

    pub(crate) fn options(&self) -> String {
        match self {
            Case::Inbound { client, server, .. } => format!("{client} → {}", server.join(" ")),
            Case::Outbound { client, server, .. } => format!("{client} → {server}"),
            Case::Mixture { client, server, .. } => format!("{} → {server}", client.join(" ")),
        }
    }

    /// What was counted, if all went well.
    pub(crate) fn play(&self, ends: &Ends) -> Result<String, Failure> {
        match *self {
            Case::Inbound { play, client, server, share } => {
                inbound(ends, play, client, server, ends.calls * share / 10)
            }
            Case::Outbound { play, client, server } => plays::play(ends, play, client, server),
            Case::Mixture { method, client, server, share } => {
                mixture(ends, method, client, server, ends.calls * share / 10)
            }
        }
    }
}

fn inbound(ends: &Ends, play: &str, client: &str, server: &[&str], calls: u64) -> Result<String, Failure> {
    let testee = ends.testee.to_string_lossy();
    let log = scratch("exec-log");
    fs::write(&log, "")?;
    let log_args = ["--exec-log".to_owned(), log.to_string_lossy().into_owned()];
    let args = server.iter().map(|arg| (*arg).to_owned()).chain(log_args);
    let mut served = Testee::start(&testee, args);
    let mut command = Command::new(&ends.kitex);
    command.args(["client", "--connect", served.url(), "--options", client, "--calls", &calls.to_string()]);
    // Through Kitex and another testee, and back to what the chain began with.
    let others = (play == "chain").then(|| {
        let kitex = Testee::start(&ends.kitex.to_string_lossy(), ["--options", "mux,handlers"]);
        (kitex, Testee::start(&testee, [""; 0]))
    });
    if let Some((kitex, last)) = &others {
        command.args(["--via", &format!("{},{}", kitex.url(), last.url())]);
    }
    if play == "stopped" {
        let player = command.args(["--play", "endless"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let busy = eventually(Duration::from_secs(10), || served.stats().get("replied") > 5000);
        served.terminate();
        let output = player.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        served.wait(Duration::from_secs(20));
        return match busy && said.contains(" 0 lost") {
            true => Ok(said),
            false => Err(format!("{said} {}", String::from_utf8_lossy(&output.stderr)).into()),
        };
    }
    let output = command.args(["--play", play]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    let stats = served.stats();
    if stats.get("glitches") > 0 {
        return Err(format!("{} glitches of a peer that made none", stats.get("glitches")).into());
    }
    if play == "oneway" {
        let begun = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        if !eventually(Duration::from_secs(5), || begun() == 100) {
            return Err(format!("{} of 100 oneway messages arrived", begun()).into());
        }
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn mixture(ends: &Ends, method: &str, client: &[&str], server: &str, calls: u64) -> Result<String, Failure> {
    let kitex = Testee::start(&ends.kitex.to_string_lossy(), ["--options", server]);
    let mut command = Command::new(&ends.testee);
    command.args(["client", "--connect", kitex.url(), "--strict", "--method", method, "--calls", &calls.to_string()]);
    if !client.contains(&"--in-flight") {
        command.args(["--in-flight", "16"]);
    }
    let output = command.args(client).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(format!("{calls} calls, 0 differences")),
        false => Err(format!("{said} {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}
