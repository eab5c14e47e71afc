//! What the testee and the black-box tests share: the services' code, payloads that prove themselves, frames by hand, processes.
//!
//! ```text
//!  tests ──► Testee (a process) ──► testee server ◄── testee client ◄── Testee::client
//!    ├─────► raw (bytes on a socket) ──┤
//!    └─────► chaos (a proxy between) ──┘
//! ```

mod attack;
pub mod chaos;
mod descriptors;
mod memory_cap;
mod payload;
mod process;
pub mod raw;
mod size;

use rpc_core::Code;

pub use attack::{Attack, GONE, Scene, reset};
pub use descriptors::Descriptors;
pub use memory_cap::{Around, MemoryCap, memory_cap};
pub use payload::{Wrong, check, make, mixed};
pub use process::{Figures, Testee, eventually, output_of, rss_of, scratch};
pub use size::{full, resident, sanitized, seed, size};

/// Code generated from `idl/`.
pub mod idl {
    rpc_core::include_idl!();
}

/// Codes by number, from 1, as the method Fail takes them.
pub const CODES: [Code; 16] = [
    Code::Cancelled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];
