//! A testee in a process of its own, and what can be seen of a process from outside.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rpc_core::{Channel, ChannelBuilder};

use crate::descriptors::Descriptors;
use crate::idl::testee::{Empty, TesteeClient};
use crate::memory_cap::{MemoryCap, memory_cap};
use crate::sanitized;

/// A running `testee server`. It is killed when this is dropped.
///
/// With `TESTEE_MEMORY_CAP=64MiB` in the environment of the tests each lives under a cap of that much memory, and one that the
/// kernel kills for it fails its test.
#[derive(Debug)]
pub struct Testee {
    child: Child,
    stdout: BufReader<ChildStdout>,
    urls: Vec<String>,
    stderr: PathBuf,
    /// Removed last: the group must be empty then.
    cap: Option<MemoryCap>,
}

impl Testee {
    /// Starts `bin server --listen …` on a free TCP port, with more arguments, and waits until it listens.
    ///
    /// # Panics
    /// When it does not start; the text has its standard error.
    pub fn start<A: AsRef<OsStr>>(bin: &str, args: impl IntoIterator<Item = A>) -> Testee {
        Testee::listen(bin, &["tcp://127.0.0.1:0"], args)
    }

    /// As [`Testee::start`], at the given addresses.
    ///
    /// # Panics
    /// As [`Testee::start`].
    pub fn listen<A: AsRef<OsStr>>(bin: &str, urls: &[&str], args: impl IntoIterator<Item = A>) -> Testee {
        let cap = memory_cap()
            .map(|bytes| MemoryCap::new(bytes).unwrap_or_else(|e| panic!("TESTEE_MEMORY_CAP cannot be had here: {e}")));
        Testee::under(cap, bin, urls, args)
    }

    /// As [`Testee::listen`], with at most as much memory as the cap allows.
    ///
    /// # Panics
    /// As [`Testee::start`].
    pub fn under<A: AsRef<OsStr>>(
        cap: Option<MemoryCap>,
        bin: &str,
        urls: &[&str],
        args: impl IntoIterator<Item = A>,
    ) -> Testee {
        let stderr = scratch("stderr");
        let file = fs::File::create(&stderr).expect("a file for standard error");
        let mut command = cap.as_ref().map_or_else(|| Command::new(bin), |cap| cap.command(bin));
        // A backtrace of a panic that was asked for says nothing, and the tables for it take 80 MiB of the memory that is measured.
        command.env("RUST_BACKTRACE", "0");
        command.arg("server").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        for url in urls {
            command.args(["--listen", url]);
        }
        let mut child = command.spawn().expect("the testee starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        let lines = (0..urls.len()).map(|_| {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("its standard output can be read");
            let url = line.trim_end().strip_prefix("LISTENING ").map(str::to_owned);
            url.unwrap_or_else(|| {
                panic!("the testee did not start: {}", fs::read_to_string(&stderr).unwrap_or_default())
            })
        });
        let urls = lines.collect();
        let testee = Testee { child, stdout, urls, stderr, cap };
        assert!(eventually(Duration::from_secs(10), || handles_signals(testee.pid())), "it handles SIGTERM and SIGINT");
        testee
    }

    /// Its first address.
    pub fn url(&self) -> &str {
        &self.urls[0]
    }

    /// All its addresses, in the order of the arguments.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// `host:port` of its first TCP address, be TLS spoken there or not.
    ///
    /// # Panics
    /// When it has none.
    pub fn addr(&self) -> &str {
        let on_tcp = |url: &&String| url.starts_with("tcp://") || url.starts_with("tls://");
        self.urls.iter().find(on_tcp).map(|url| &url["tcp://".len()..]).expect("it listens on TCP")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with a connection of its own, as the builder is [set up](Testee::channel).
    ///
    /// # Panics
    /// On a malformed address, which this is not.
    pub fn client(&self) -> TesteeClient {
        TesteeClient::new(self.channel().build().expect("its URL is well-formed"))
    }

    /// What its clients are made from: a connection of their own, and a minute for each call: on a machine that does much else a call may take long, and is
    /// late only when it never ends.
    pub fn channel(&self) -> ChannelBuilder {
        let builder = Channel::builder(self.url()).connections(1).timeout(Duration::from_secs(60));
        if sanitized() {
            // A call beside a flood (T11) waits for two turns of a reactor, in which each of its other connections has its share. That is
            // 0.2 s of a release build and 1.2 s of a debug build, as many times longer as other programs take of the machine (4 s and 10 s
            // beside 4 and 12 busy ones), and again as many times as a sanitizer slows it down. Only then is it near the 13 s
            // after which a client gives its server up.
            return builder.set("keepalive_timeout", "50s");
        }
        builder
    }

    /// The server's own counters, over a connection that is open only meanwhile.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn stats(&self) -> Figures {
        self.stats_by(&self.client())
    }

    /// The same by a client that is there.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn stats_by(&self, client: &TesteeClient) -> Figures {
        let report = client.stats(Empty {}).wait().expect("the testee reports its counters");
        Figures::parse(&report.json)
    }

    /// What it wrote to standard error.
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name, such as `HUP`.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can be sent");
    }

    /// The cap it lives under.
    pub fn cap(&self) -> Option<&MemoryCap> {
        self.cap.as_ref()
    }

    /// Waits until it ends by itself; then its status, and what was left on its standard output.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> (ExitStatus, String) {
        let mut status = None;
        let ended = eventually(limit, || {
            status = self.child.try_wait().expect("a child can be waited for");
            status.is_some()
        });
        assert!(ended, "the testee still runs after {limit:?}");
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
        (status.expect("it has ended"), rest)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Changes its limit of open files.
    ///
    /// # Panics
    /// When `prlimit` is missing or refused.
    pub fn limit_files(&self, n: u64) {
        let status = Command::new("prlimit").args([format!("--pid={}", self.pid()), format!("--nofile={n}:")]).status();
        assert!(status.is_ok_and(|status| status.success()), "prlimit works on an own process");
    }

    /// Ends it with SIGKILL, at once and under a sanitizer, too: it has no time to tidy up.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// What it has open when it is at rest: the same for a tenth of a second.
    ///
    /// # Panics
    /// When it does not come to rest.
    pub fn at_rest(&self) -> Descriptors {
        Descriptors::at_rest(self.pid())
    }

    /// What it has open at this moment.
    pub fn descriptors(&self) -> Descriptors {
        Descriptors::of(self.pid())
    }

    /// Waits until it has exactly as many descriptors open as `before`.
    ///
    /// # Panics
    /// When that is not within `limit`: the text says what is left over, and what is missing.
    pub fn returns_to(&self, before: &Descriptors, limit: Duration) {
        if !eventually(limit, || self.fds() == before.count()) {
            let now = self.descriptors();
            let (left, missing) = (now.beyond(before), before.beyond(&now));
            panic!("descriptors: {before} before, {now} {limit:?} later; left over:{left}\nmissing:{missing}");
        }
    }

    /// Open descriptors at this moment, by their number alone.
    pub fn fds(&self) -> usize {
        self.descriptors().count()
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> u64 {
        rss_of(self.pid())
    }

    /// The most memory that was resident at any time, in bytes.
    pub fn peak_rss(&self) -> u64 {
        status_of(self.pid(), "VmHWM:")
    }

    /// Resident memory that is its own, in bytes: heap and stacks, without the pages of programs and libraries.
    pub fn own_memory(&self) -> u64 {
        status_of(self.pid(), "RssAnon:")
    }

    /// Processor time that its threads have used, those that have ended not included.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.pid())
    }
}

impl Testee {
    /// Under a sanitizer: lets it come to its own end, where leaks are looked for, and returns what it had to report.
    fn report(&mut self) -> Option<String> {
        if !sanitized() {
            return None;
        }
        // The second SIGTERM is for one whose handlers would take the whole grace.
        for _ in 0..2 {
            if self.is_alive() {
                let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
                eventually(Duration::from_secs(10), || !self.is_alive());
            }
        }
        let errors = self.errors();
        errors.find("Sanitizer: ").map(|at| errors[errors[..at].rfind('\n').unwrap_or(0)..].to_owned())
    }
}

impl Drop for Testee {
    fn drop(&mut self) {
        let report = self.report();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.stderr);
        if let Some(report) = report {
            eprintln!("the testee's report: {report}");
            assert!(std::thread::panicking(), "the sanitizer has something to report of the testee");
        }
        if let Some(cap) = &self.cap {
            let kills = cap.kills();
            // A second panic would end the tests' own process before the first one's text is shown.
            assert!(
                kills == 0 || std::thread::panicking(),
                "killed {kills} times for memory; at most {} bytes",
                cap.peak()
            );
        }
    }
}

/// Runs a program to its end, and kills it after `limit`.
///
/// # Panics
/// When it does not start, or does not end in time.
pub fn output_of<A: AsRef<OsStr>>(bin: &str, args: impl IntoIterator<Item = A>, limit: Duration) -> Output {
    let mut child = Command::new(bin)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{bin} does not start: {e}"));
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read_all(out.as_mut()));
    let err = std::thread::spawn(move || read_all(err.as_mut()));
    let mut status = None;
    let ended = eventually(limit, || {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let text = String::from_utf8_lossy(&stderr);
    assert!(ended, "{bin} did not end within {limit:?}: {text}");
    Output { status: status.expect("it has ended"), stdout, stderr }
}

fn read_all(pipe: Option<&mut impl Read>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.read_to_end(&mut all);
    }
    all
}

/// Asks until the answer is yes, for at most `limit`; then the last answer.
pub fn eventually(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if ask() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5)); // between questions: nothing depends on its length
    }
}

/// A path in the directory for temporary files that nobody else uses; `what` is its extension.
pub fn scratch(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("testee-{}-{n}.{what}", std::process::id()))
}

/// Resident memory of a process, in bytes; 0 when it is gone.
pub fn rss_of(pid: u32) -> u64 {
    status_of(pid, "VmRSS:")
}

/// A size in a process's status, in bytes; 0 when it is gone.
fn status_of(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Processor time of a process's threads, those that have ended not included.
fn cpu_of(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Whether a process catches SIGINT and SIGTERM.
fn handles_signals(pid: u32) -> bool {
    const SIGNALS: u64 = 1 << (2 - 1) | 1 << (15 - 1);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & SIGNALS == SIGNALS)
}

/// Numbers of a flat JSON object, by name.
#[derive(Debug, Clone, Default)]
pub struct Figures(HashMap<String, Vec<f64>>);

impl Figures {
    /// Takes every `"name": number` in the text, nested ones, too.
    pub fn parse(json: &str) -> Figures {
        let mut figures = HashMap::<String, Vec<f64>>::new();
        let mut rest = json;
        while let Some(at) = rest.find("\":") {
            let name = rest[..at].rsplit('"').next().unwrap_or_default().to_owned();
            rest = rest[at + 2..].trim_start();
            let end = rest.find(|c: char| !"+-.0123456789eE".contains(c)).unwrap_or(rest.len());
            if let Ok(value) = rest[..end].parse() {
                figures.entry(name).or_default().push(value);
            }
        }
        Figures(figures)
    }

    /// The first number called `name`; 0 if there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).and_then(|values| values.first()).copied().unwrap_or(0.0) as u64
    }

    /// All numbers called `name`, in order: of one that each reactor has.
    pub fn each(&self, name: &str) -> Vec<u64> {
        self.0.get(name).map_or_else(Vec::new, |values| values.iter().map(|value| *value as u64).collect())
    }

    /// The sum of all numbers called `name`: of one that each reactor has.
    pub fn sum(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0.0, |values| values.iter().sum()) as u64
    }
}
