//! rpc-core
#![forbid(unsafe_code)]

mod error;
mod metadata;
#[doc(hidden)]
pub mod protocol;
mod status;

pub use error::{Cause, ConfigError, Error, Peer, Phase, Refusal, Result, Sent};
pub use metadata::Metadata;
pub use protocol::ProtocolError;
pub use protocol::ttheader::{HeaderError, HeaderLimits, InfoError};
pub use status::{BizStatus, Code, exception_of, type_id};
