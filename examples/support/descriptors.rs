//! What a process has open, and what is left over of an earlier look.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::eventually;

/// Open descriptors of a process, by number. Files of `/proc` and `/sys` are left out: a starting thread reads them for a moment, its
/// sanitizer and `std` do, and no server keeps one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Descriptors {
    pid: u32,
    open: BTreeMap<u32, PathBuf>,
}

impl Descriptors {
    /// Those of a process; none when it is gone.
    pub fn of(pid: u32) -> Descriptors {
        let entries = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).into_iter().flatten().flatten();
        let open = entries.filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        });
        Descriptors { pid, open: open.filter(|(_, what)| !is_passing(what)).collect() }
    }

    /// Those of a process at rest: the same for a tenth of a second.
    ///
    /// # Panics
    /// When they change all the time.
    pub fn at_rest(pid: u32) -> Descriptors {
        const REST: Duration = Duration::from_millis(100);
        let (mut last, mut since) = (Descriptors::of(pid), Instant::now());
        let rests = eventually(Duration::from_secs(30), || {
            let now = Descriptors::of(pid);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() >= REST
        });
        assert!(rests, "its descriptors change all the time: {last:?}");
        last
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// What is open now and was not then, sockets with their addresses and states, as text.
    pub fn beyond(&self, then: &Descriptors) -> String {
        let sockets = sockets(self.pid);
        let new = self.open.iter().filter(|(number, what)| then.open.get(*number) != Some(*what));
        let lines = new.map(|(number, what)| {
            let what = what.display().to_string();
            let inode = what.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            let state = inode.and_then(|inode| sockets.get(inode)).map_or("", String::as_str);
            format!("\n  {number}: {what} {state}")
        });
        lines.collect()
    }
}

/// The number of them.
impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count().fmt(f)
    }
}

fn is_passing(what: &Path) -> bool {
    what.starts_with("/proc") || what.starts_with("/sys")
}

/// The TCP sockets of a process's network, by inode: addresses as the kernel writes them, then the state.
fn sockets(pid: u32) -> HashMap<String, String> {
    const STATES: [&str; 12] = [
        "?",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ];
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let state = u8::from_str_radix(fields.get(3)?, 16).ok().and_then(|state| STATES.get(usize::from(state)));
        let text = format!("{} {} {}, queues {}", fields[1], fields[2], state.unwrap_or(&"?"), fields.get(4)?);
        Some((fields.get(9)?.to_string(), text))
    });
    rows.collect()
}
