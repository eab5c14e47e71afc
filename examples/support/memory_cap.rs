//! A cap on the memory of a process, by a control group of its own: beyond it the kernel kills.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io};

/// The memory that each server may use in this run of the tests, in bytes: what `TESTEE_MEMORY_CAP` asks for.
///
/// # Panics
/// When it is neither a number of bytes nor of `MiB`.
pub fn memory_cap() -> Option<u64> {
    let text = std::env::var("TESTEE_MEMORY_CAP").ok()?;
    let bytes = match text.strip_suffix("MiB") {
        Some(mebi) => mebi.parse::<u64>().map(|n| n << 20),
        None => text.parse(),
    };
    Some(bytes.unwrap_or_else(|_| panic!("TESTEE_MEMORY_CAP={text}; write it like 64MiB")))
}

/// A control group with a memory limit and no swap. Removed when dropped, which needs its processes to have ended.
#[derive(Debug)]
pub struct MemoryCap {
    directory: PathBuf,
    files: &'static Files,
}

/// The names of one version of control groups.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    swap: &'static str,
    peak: &'static str,
    kills: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    swap: "memory.memsw.limit_in_bytes",
    peak: "memory.max_usage_in_bytes",
    kills: "memory.oom_control",
};
const V2: Files = Files { limit: "memory.max", swap: "memory.swap.max", peak: "memory.peak", kills: "memory.events" };

impl MemoryCap {
    /// A group that may use so many bytes.
    ///
    /// # Errors
    /// Where there is no memory controller, or no right to make groups: the text says which.
    pub fn new(bytes: u64) -> io::Result<MemoryCap> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("testee-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut refused = io::Error::other("no memory controller is mounted under /sys/fs/cgroup");
        for (mount, files) in [("/sys/fs/cgroup/memory", &V1), ("/sys/fs/cgroup", &V2)] {
            if !Path::new(mount).join("cgroup.procs").exists() {
                continue;
            }
            let cap = MemoryCap { directory: Path::new(mount).join(&name), files };
            let made = fs::create_dir(&cap.directory).and_then(|()| cap.write(files.limit, &bytes.to_string()));
            match made {
                Ok(()) => {
                    // Where there is no swap there is no file either.
                    let no_swap = if files.limit == V1.limit { bytes } else { 0 };
                    let _ = cap.write(files.swap, &no_swap.to_string());
                    return Ok(cap);
                }
                Err(e) => refused = io::Error::new(e.kind(), format!("{}: {e}", cap.directory.display())),
            }
        }
        Err(refused)
    }

    /// A command that runs `bin` in the group from its first instruction on, with the id of the process that is spawned.
    pub(crate) fn command(&self, bin: &str) -> Command {
        let mut command = Command::new("sh");
        // glibc keeps what was freed between pieces that are still used. Under a cap each
        // large piece has a mapping of its own.
        command.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_TRIM_THRESHOLD_", "65536");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.directory.join("cgroup.procs")).arg(bin);
        command
    }

    /// Puts this process into the group, with all that it uses from now on, until the value is dropped: for servers that tests have in
    /// their own process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn around_this_process(self) -> io::Result<Around> {
        self.write("cgroup.procs", &std::process::id().to_string())?;
        Ok(Around(self))
    }

    /// The most memory it used, in bytes: that of the processes and what the kernel accounts to them.
    pub fn peak(&self) -> u64 {
        self.read(self.files.peak).trim().parse().unwrap_or(0)
    }

    /// How many of its processes the kernel has killed.
    pub fn kills(&self) -> u64 {
        let text = self.read(self.files.kills);
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.directory.join(file), text)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.join(file)).unwrap_or_default()
    }
}

/// This process is under a cap while this lives.
#[derive(Debug)]
pub struct Around(MemoryCap);

impl Drop for Around {
    fn drop(&mut self) {
        // Out of the group, which must be empty to be removed.
        let above = self.0.directory.with_file_name("cgroup.procs");
        let _ = fs::write(above, std::process::id().to_string());
    }
}

impl Drop for MemoryCap {
    fn drop(&mut self) {
        // A process that has been waited for leaves its group a little later.
        crate::eventually(std::time::Duration::from_secs(2), || fs::remove_dir(&self.directory).is_ok());
    }
}
