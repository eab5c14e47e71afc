//! A server, and the processes that replace it one after another: they share what the first one prints to.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rpc_core::Channel;
use testee::idl::testee::TesteeClient;
use testee::{Figures, eventually, scratch};

/// What is waited for comes much sooner, but for a machine that does much else.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const TESTEE: &str = env!("CARGO_BIN_EXE_testee");

/// The processes. Those that are there are killed when this is dropped.
pub(crate) struct Chain {
    first: Child,
    lines: Receiver<String>,
    /// Of their own: the program is installed there.
    directory: PathBuf,
    pid: u32,
    pub(crate) urls: Vec<String>,
}

impl Chain {
    /// Starts `testee server` at these addresses, with more arguments.
    pub(crate) fn start(urls: &[&str], args: &[&str]) -> Chain {
        Chain::start_by(urls, args, |program, args| {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null());
            command
        })
    }

    /// As [`Chain::start`], by a command that is made for the program and its arguments.
    pub(crate) fn start_by(urls: &[&str], args: &[&str], command: impl FnOnce(&Path, &[&str]) -> Command) -> Chain {
        let directory = scratch("upgrade");
        fs::create_dir(&directory).expect("a directory");
        install(&directory, Path::new(TESTEE));
        let mut all = vec!["server"];
        all.extend(args);
        urls.iter().for_each(|url| all.extend(["--listen", url]));
        let mut command = command(&directory.join("server"), &all);
        let errors = fs::File::create(directory.join("stderr")).expect("a file");
        command.env("RUST_BACKTRACE", "0").env("TMPDIR", &directory).stdout(Stdio::piped()).stderr(errors);
        let mut first = command.spawn().expect("it starts");
        let lines = lines_of(first.stdout.take().expect("a pipe"));
        let pid = first.id();
        let mut chain = Chain { first, lines, directory, pid, urls: Vec::new() };
        let listening = |line: String| line.split(' ').nth(1).expect("a URL").to_owned();
        chain.urls = urls.iter().map(|_| listening(chain.line(&["LISTENING"]))).collect();
        assert_eq!(chain.line(&["SERVING"]), format!("SERVING {pid}"));
        chain
    }

    pub(crate) fn url(&self) -> &str {
        &self.urls[0]
    }

    pub(crate) fn addr(&self) -> &str {
        let url = self.url();
        url.strip_prefix("tcp://").or_else(|| url.strip_prefix("tls://")).expect("a TCP address")
    }

    /// The process that serves now.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn client(&self) -> TesteeClient {
        let channel = Channel::builder(self.url()).connections(1).timeout(LIMIT).build();
        TesteeClient::new(channel.expect("its URL is well-formed"))
    }

    /// The next line that begins with one of these words.
    #[track_caller]
    pub(crate) fn line(&self, words: &[&str]) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if words.iter().any(|word| line.starts_with(word)) => return line,
                Ok(_) => {}
                Err(e) => panic!("no {words:?}: {e}; {}", self.errors()),
            }
        }
    }

    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} can be sent to {}", self.pid);
    }

    /// Asks for an upgrade that succeeds: what the old process says at its end.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> Figures {
        self.signal("USR2");
        let line = self.line(&["SERVING", "NO UPGRADE"]);
        let pid = line.strip_prefix("SERVING ").unwrap_or_else(|| panic!("{line}")).parse().expect("a number");
        let figures = self.stopped();
        assert_ne!(pid, self.pid);
        self.pid = pid;
        figures
    }

    /// Asks for one that fails: what the old process says of it.
    #[track_caller]
    pub(crate) fn upgrade_in_vain(&self) -> String {
        self.signal("USR2");
        self.line(&["NO UPGRADE", "STOPPED"])
    }

    /// The process that is at its end says so, and is gone.
    #[track_caller]
    pub(crate) fn stopped(&mut self) -> Figures {
        let line = self.line(&["STOPPED", "NO UPGRADE"]);
        assert!(line.starts_with("STOPPED"), "{line}");
        self.gone();
        Figures::parse(&line)
    }

    /// The process that served until now has ended.
    #[track_caller]
    pub(crate) fn gone(&mut self) {
        if self.pid == self.first.id() {
            let status = self.first.wait().expect("a child can be waited for");
            assert!(status.code().is_none_or(|code| code == 0), "{status}: {}", self.errors());
        }
        assert!(eventually(LIMIT, || !lives(self.pid)), "{} does not end", self.pid);
    }

    /// The new process is named by hand, where its coming was not waited for.
    pub(crate) fn is_now(&mut self, pid: u32) {
        self.pid = pid;
    }

    /// What stands where the server was started from, from now on: a script, or the server again.
    pub(crate) fn install(&self, script: Option<&str>) {
        match script {
            None => install(&self.directory, Path::new(TESTEE)),
            Some(script) => {
                let path = self.directory.join("script");
                fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a file");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("its mode");
                install(&self.directory, &path);
            }
        }
    }

    /// Nothing stands there.
    pub(crate) fn remove_program(&self) {
        fs::remove_file(self.directory.join("server")).expect("it was there");
    }

    /// What upgrades have left where their sockets are.
    pub(crate) fn left_over(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).expect("a directory").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("rpc-upgrade")).collect()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        all_of(&self.directory).for_each(kill);
        let _ = self.first.kill();
        let _ = self.first.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Puts a program where servers are started from, in one step.
fn install(directory: &Path, program: &Path) {
    let next = directory.join("next");
    symlink(program, &next).expect("a link");
    fs::rename(&next, directory.join("server")).expect("it replaces the other");
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (say, hear) = channel();
    thread::spawn(move || BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
    hear
}

/// Ends a process with SIGKILL, if it is there.
pub(crate) fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
}

/// Whether a process is there, and no zombie: one whose parent has ended may stay one until somebody asks for it.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// The processes of a chain, whatever they are by now: they have its directory for temporary files.
fn all_of(directory: &Path) -> impl Iterator<Item = u32> {
    let variable = format!("TMPDIR={}\0", directory.display());
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(move |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        lives(*pid) && String::from_utf8_lossy(&environment).contains(&variable)
    })
}
