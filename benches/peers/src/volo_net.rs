//! Sockets for both of volo's protocols.

use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddr;

use bench_driver::Failure;
use volo::net::Address;
use volo::net::incoming::DefaultIncoming;

use crate::socket::{self, Listener};

/// Listens; returns the URL with the port.
pub(crate) async fn listen(url: &str) -> Result<(DefaultIncoming, String), Failure> {
    let (listener, url) = socket::listen(url).await?;
    let incoming = match listener {
        Listener::Tcp(listener) => DefaultIncoming::from(listener),
        Listener::Unix(listener) => DefaultIncoming::from(listener),
    };
    Ok((incoming, url))
}

/// The address that a URL names.
pub(crate) fn address(url: &str) -> Result<Address, Failure> {
    match url.strip_prefix("unix:") {
        Some(path) => Ok(Address::from(UnixAddr::from_pathname(path)?)),
        None => Ok(Address::from(url.trim_start_matches("tcp://").parse::<SocketAddr>()?)),
    }
}
