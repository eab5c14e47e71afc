//! What the testee and the black-box tests share: the services' code, payloads that prove themselves, frames by hand, processes.
//!
//! ```text
//!  tests ──► Testee (a process) ──► testee server ◄── testee client ◄── Testee::client
//!    └─────► raw (bytes on a socket) ──┘
//! ```

mod attack;
mod payload;
mod process;
pub mod raw;

pub use attack::{Attack, GONE, Scene, reset, size};
pub use payload::{Wrong, check, make, mixed};
pub use process::{Figures, Testee, eventually, fds_of, output_of, rss_of, scratch};

/// Code generated from `idl/`.
pub mod idl {
    rpc_core::include_idl!();
}
