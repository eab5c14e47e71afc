//! What systemd is told: sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager something, such as `READY=1` or `STATUS=…`; nothing happens where `NOTIFY_SOCKET` is not set. Whether it was
/// told. [`ready`](super::ready) says `READY=1`, an upgrade `MAINPID=…`.
///
/// # Errors
/// What the system says to the address, or to sending: the manager is not there, or its queue is full.
pub fn notify(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) if !path.is_empty() => send(&path, state).map(|()| true),
        _ => Ok(false),
    }
}

fn send(path: &OsStr, state: &str) -> io::Result<()> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?; // a manager that hangs must not stop the server
    socket.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// Tells it, and if that is not possible the log.
pub(super) fn tell(state: &str) {
    if let Err(error) = notify(state) {
        tracing::warn!(%error, state, "cannot tell the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_addresses_are_told() {
        let name = format!("rpc-transport-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let abstract_one = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_one).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        send(OsStr::new(&format!("@{name}")), "MAINPID=7").unwrap();
        let mut bytes = [0; 64];
        let heard = |socket: &UnixDatagram, bytes: &mut [u8]| socket.recv(bytes).unwrap();
        let read = heard(&at_path, &mut bytes);
        assert_eq!(&bytes[..read], b"READY=1");
        let read = heard(&at_name, &mut bytes);
        assert_eq!(&bytes[..read], b"MAINPID=7");
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err(), "nobody is there");
    }
}
