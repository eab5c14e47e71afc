//! `testee server`, replaced by another process on SIGUSR2: feature `upgrade`.

use std::io::Write;
use std::time::Duration;

use rpc_core::{Result, ServerHandle, Upgrade};
use signal_hook::consts::SIGUSR2;
use signal_hook::iterator::Signals;

/// How the server is replaced: by what it was started by, with the same arguments.
#[derive(clap::Args)]
pub(crate) struct Replacing {
    /// Milliseconds that a new process has to become ready after SIGUSR2
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    upgrade_timeout: u64,
    /// Milliseconds that it has to live on before it accepts
    #[arg(long, value_name = "MS", default_value_t = 200)]
    upgrade_settle: u64,
}

/// From now on SIGUSR2 replaces the server. Prints `SERVING <pid>`, and `NO UPGRADE <why>` if one fails.
pub(crate) fn on_signal(args: &Replacing, server: &ServerHandle) -> Result<()> {
    let how = Upgrade::new().timeout(Duration::from_millis(args.upgrade_timeout));
    let how = how.settle(Duration::from_millis(args.upgrade_settle));
    let mut signals = Signals::new([SIGUSR2])?;
    let server = server.clone();
    std::thread::Builder::new().name("testee-upgrade".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = server.upgrade(&how) {
                say(&format!("NO UPGRADE {error}"));
            }
        }
    })?;
    say(&format!("SERVING {}", std::process::id()));
    Ok(())
}

fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
