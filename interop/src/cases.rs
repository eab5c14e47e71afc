//! All cases.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use testee::{Testee, eventually, output_of, scratch};

use crate::plays::{self, Play};
use crate::{Ends, Failure};

/// One row of the table.
pub(crate) enum Case {
    /// A Kitex client calls a testee.
    Inbound { play: &'static str, client: &'static str, server: &'static [&'static str], share: u64 },
    /// A Kitex client calls without end, and its server is told to go: ours, or Kitex's.
    Stopped { client: &'static str, kitex: bool },
    /// A client of ours calls a Kitex server.
    Outbound { play: Play, client: &'static str, server: &'static str },
    /// The `testee` as a client calls a Kitex server.
    Mixture { method: &'static str, client: &'static [&'static str], server: &'static str, share: u64 },
}

const CRC: &[&str] = &["--checksum"];
const FEW_CALLS: &[&str] = &["--set", "max_inflight=8"];

/// What a mixture has as many calls as, in tenths of `--calls`.
const MOST: u64 = 100;
const USUAL: u64 = 10;
const FEW: u64 = 2;

pub(crate) fn all() -> Vec<Case> {
    let inbound = |play, client| Case::Inbound { play, client, server: &[], share: USUAL };
    let outbound = |play, client, server| Case::Outbound { play, client, server };
    let stopped = |client| Case::Stopped { client, kitex: false };
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
        Case::Inbound { play: "limited", client: "mux-1", server: FEW_CALLS, share: USUAL },
        Case::Inbound { play: "limited", client: "pool,handlers", server: FEW_CALLS, share: USUAL },
        inbound("services", "default"),
        inbound("services", "handlers,mux-1"),
        inbound("chain", "handlers"),
        stopped("pool"),
        stopped("pool,handlers"),
        stopped("short"),
        stopped("mux-1"),
        stopped("mux-4,handlers"),
        Case::Stopped { client: "pool,handlers", kitex: true },
        Case::Stopped { client: "mux-1,handlers", kitex: true },
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
        outbound(plays::closing, "ping-pong", "default"),
        outbound(plays::closing, "ping-pong", "handlers"),
        outbound(plays::timeouts, "mux", "mux,handlers"),
        outbound(plays::timeouts, "ping-pong", "default"),
        outbound(plays::services, "mux", "mux,handlers"),
        outbound(plays::services, "ping-pong", "default"),
        outbound(plays::chain, "mux", "mux,handlers"),
        outbound(plays::stopped, "mux", "mux"),
        outbound(plays::stopped, "ping-pong", "default"),
        outbound(plays::stopped, "ping-pong", "handlers"),
        outbound(plays::killed, "mux", "mux"),
        outbound(plays::killed, "ping-pong", "default"),
        outbound(plays::limited, "mux", "mux,limited"),
        outbound(plays::few_connections, "ping-pong", "few"),
    ]
}

impl Case {
    pub(crate) fn name(&self) -> String {
        match self {
            Case::Inbound { play, .. } => (*play).to_owned(),
            Case::Outbound { play, .. } => plays::name(*play).to_owned(),
            Case::Stopped { .. } => "stopped".to_owned(),
            Case::Mixture { method, .. } => format!("mixture of {method}"),
        }
    }

    pub(crate) fn direction(&self) -> String {
        match self {
            Case::Stopped { kitex: true, .. } => "Kitex → Kitex".to_owned(),
            Case::Inbound { .. } | Case::Stopped { .. } => "Kitex → ours".to_owned(),
            Case::Outbound { .. } | Case::Mixture { .. } => "ours → Kitex".to_owned(),
        }
    }

    pub(crate) fn options(&self) -> String {
        match self {
            Case::Inbound { client, server, .. } => [&[client, "→"][..], server].concat().join(" "),
            Case::Stopped { client, .. } => format!("{client} →"),
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
            Case::Stopped { client, kitex } => stopped(ends, client, kitex),
            Case::Outbound { play, client, server } => plays::play(ends, play, client, server),
            Case::Mixture { method, client, server, share } => {
                mixture(ends, method, client, server, ends.calls * share / 10)
            }
        }
    }
}

/// No program of a case takes longer: a million calls of a mixture with delays take three minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// The client's part of a case, with Kitex; what it prints.
fn played(ends: &Ends, words: &[&str]) -> Result<String, Failure> {
    said(output_of(&ends.kitex.to_string_lossy(), [&["client"], words].concat(), LIMIT))
}

/// What a program has printed, or why it failed.
fn said(output: Output) -> Result<String, Failure> {
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{said} {}", String::from_utf8_lossy(&output.stderr).trim()).into()),
    }
}

fn inbound(ends: &Ends, play: &str, client: &str, server: &[&str], calls: u64) -> Result<String, Failure> {
    let testee = ends.testee.to_string_lossy();
    let log = Log::new()?;
    let served = Testee::start(&testee, [server, &["--exec-log", &log.0.to_string_lossy()]].concat());
    // Through Kitex and another testee, and back to what the chain began with.
    let others = (play == "chain").then(|| {
        let kitex = Testee::start(&ends.kitex.to_string_lossy(), ["--options", "mux,handlers"]);
        (kitex, Testee::start(&testee, [""; 0]))
    });
    let via = others.as_ref().map(|(kitex, last)| format!("{},{}", kitex.url(), last.url())).unwrap_or_default();
    let (url, calls) = (ends.meet(served.url())?, calls.to_string());
    let words = ["--play", play, "--connect", &url, "--options", client, "--calls", &calls, "--via", &via];
    let said = played(ends, &words)?;
    let stats = served.stats();
    if stats.get("glitches") > 0 {
        return Err(format!("{} glitches of a peer that made none", stats.get("glitches")).into());
    }
    if play == "oneway" && !eventually(Duration::from_secs(5), || log.lines() == 100) {
        return Err(format!("{} of 100 oneway messages arrived", log.lines()).into());
    }
    Ok(said)
}

/// A server, ours or Kitex's, is told to go while a Kitex client calls as often as it can. Of a server of ours no call is lost; what Kitex's
/// loses of its own client's is said.
fn stopped(ends: &Ends, client: &str, kitex: bool) -> Result<String, Failure> {
    let mut served = match kitex {
        true => {
            let options = if client.contains("mux") { "mux,handlers" } else { "handlers" };
            Testee::start(&ends.kitex.to_string_lossy(), ["--options", options])
        }
        false => Testee::start(&ends.testee.to_string_lossy(), ["--set", "shutdown_grace=6s"]),
    };
    let url = if kitex { served.url().to_owned() } else { ends.meet(served.url())? };
    let program = ends.kitex.to_string_lossy().into_owned();
    let busy = scratch("busy");
    let words = ["client", "--play", "endless", "--connect", &url, "--options", client, "--busy"].map(str::to_owned);
    let words: Vec<String> = words.into_iter().chain([busy.to_string_lossy().into_owned()]).collect();
    let player = std::thread::spawn(move || output_of(&program, words, Duration::from_secs(60)));
    let was_busy = eventually(Duration::from_secs(30), || busy.exists());
    served.terminate();
    let (status, last) = served.wait(Duration::from_secs(30));
    let player = player.join();
    let _ = fs::remove_file(&busy);
    let said = said(player.map_err(|_| "the client did not end")?)?;
    // Who comes when it has gone is met by the tap first, if there is one, and gets no answer there.
    let whole = kitex
        || ends.is_tapped()
        || (said.contains(" 0 lost") && status.success() && last.contains(r#""cut_calls":0"#));
    match was_busy && whole {
        true => Ok(said),
        false => Err(format!("{said}; the server: {status}, {last}").into()),
    }
}

fn mixture(ends: &Ends, method: &str, client: &[&str], server: &str, calls: u64) -> Result<String, Failure> {
    let kitex = Testee::start(&ends.kitex.to_string_lossy(), ["--options", server]);
    let (url, number) = (ends.meet(kitex.url())?, calls.to_string());
    let mut words = vec!["client", "--connect", &url, "--strict", "--method", method, "--calls", &number];
    if !client.contains(&"--in-flight") {
        words.extend(["--in-flight", "16"]);
    }
    words.extend(client);
    said(output_of(&ends.testee.to_string_lossy(), words, LIMIT))?;
    Ok(format!("{calls} calls, 0 differences"))
}

/// Where the testee's Once writes; removed when this is dropped.
struct Log(PathBuf);

impl Log {
    fn new() -> Result<Log, Failure> {
        let log = Log(scratch("exec-log"));
        fs::write(&log.0, "")?;
        Ok(log)
    }

    fn lines(&self) -> usize {
        fs::read_to_string(&self.0).map_or(0, |text| text.lines().count())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
