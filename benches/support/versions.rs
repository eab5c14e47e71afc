//! Which versions of the other frameworks are measured, as their lock files have it.

use std::fs;

/// Frameworks in Rust, by the names of their crates.
const CRATES: &[&str] = &["tonic", "volo-grpc", "volo-thrift", "tarpc", "ttrpc", "tokio", "h2", "monoio"];
/// Modules in Go.
const MODULES: &[&str] =
    &["github.com/cloudwego/kitex", "github.com/cloudwego/netpoll", "github.com/panjf2000/gnet/v2"];

/// `tonic 1.2.3, …`; what is not found, seen from the current directory, is left out.
pub(crate) fn of_peers() -> String {
    let lock = fs::read_to_string("benches/peers/Cargo.lock").unwrap_or_default();
    let modules = fs::read_to_string("benches/peers/go/go.mod").unwrap_or_default();
    let crates = CRATES.iter().filter_map(|name| {
        let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split_once('"')?.0))
    });
    let modules = MODULES.iter().filter_map(|path| {
        let (_, rest) = modules.split_once(&format!("{path} v"))?;
        Some(format!("{} {}", path.trim_end_matches("/v2").rsplit_once('/')?.1, rest.lines().next()?))
    });
    crates.chain(modules).collect::<Vec<_>>().join(", ")
}
