//! Threads bound to cores: feature `affinity`.

pub(crate) use self::system::{bind, bound, check};

#[cfg(all(feature = "affinity", any(target_os = "linux", target_os = "android")))]
mod system {
    use std::io;

    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    const THIS_THREAD: Pid = Pid::from_raw(0);

    /// Whether this thread may use them all.
    pub(crate) fn check(cores: &[usize]) -> io::Result<()> {
        if cores.is_empty() {
            return Ok(());
        }
        let allowed = sched_getaffinity(THIS_THREAD)?;
        match cores.iter().find(|core| !allowed.is_set(**core).unwrap_or(false)) {
            Some(core) => {
                let text = format!("core {core}, of `cores`, is none that this thread may use");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            None => Ok(()),
        }
    }

    /// Binds this thread to a core that it may use.
    pub(crate) fn bind(core: usize) {
        let mut only = CpuSet::new();
        if let Err(error) = only.set(core).and_then(|()| sched_setaffinity(THIS_THREAD, &only)) {
            tracing::warn!(core, %error, "a reactor is not bound to its core"); // which was there a moment ago
        }
    }

    /// The core that this thread is bound to, if it is one only.
    pub(crate) fn bound() -> Option<usize> {
        let allowed = sched_getaffinity(THIS_THREAD).ok()?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        cores.next().filter(|_| cores.next().is_none())
    }
}

#[cfg(not(all(feature = "affinity", any(target_os = "linux", target_os = "android"))))]
mod system {
    use std::io;

    pub(crate) fn check(cores: &[usize]) -> io::Result<()> {
        if cores.is_empty() {
            return Ok(());
        }
        let text = "`cores` needs Linux, and the feature `affinity` of rpc-transport";
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    pub(crate) fn bind(_: usize) {}

    pub(crate) fn bound() -> Option<usize> {
        None
    }
}
