//! Fuzz targets: each is a function of bytes that holds one parser, or one side of a connection, to its promises.
//!
//! ```text
//!  fuzz_targets/NAME.rs ─► fuzz::NAME(data) ◄─ tests/corpus.rs: every file of corpus/NAME, with plain `cargo test`
//!                            ├─► the product
//!                            ├─► a slow, plain second opinion       reference.rs, or a crate
//!                            └─► what it may cost                   meter.rs
//! ```
//!
//! A target panics when a promise is broken; nothing else is a finding. `fuzz/run.sh` runs them all.

mod client_conn;
mod client_model;
mod control;
mod delimited;
mod detect;
mod extras;
#[path = "../../rpc-transport/tests/support/forger.rs"]
mod forger;
mod hand_over;
mod idl;
mod length_field;
mod limits;
mod link_buffer;
mod metadata;
pub mod meter;
mod payload;
mod protobuf;
pub mod reach;
mod reference;
mod server_conn;
mod server_model;
mod service;
mod stream;
mod tls_session;
mod ttheader;
mod ttheader_write;
mod url;

pub use client_conn::client_conn;
pub use control::control;
pub use delimited::{delimiter, fixed_length, line};
pub use detect::detect;
pub use extras::extras;
pub use hand_over::hand_over;
pub use idl::idl;
pub use length_field::length_field;
pub use limits::limits;
pub use link_buffer::link_buffer;
pub use metadata::metadata;
pub use payload::payload;
pub use protobuf::protobuf;
pub use server_conn::server_conn;
pub use tls_session::{tls_client, tls_server};
pub use ttheader::ttheader;
pub use ttheader_write::ttheader_write;
pub use url::url;

/// A target: judges one input, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by the name of its program and its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("client_conn", client_conn),
    ("control", control),
    ("delimiter", delimiter),
    ("detect", detect),
    ("extras", extras),
    ("fixed_length", fixed_length),
    ("hand_over", hand_over),
    ("idl", idl),
    ("length_field", length_field),
    ("limits", limits),
    ("line", line),
    ("link_buffer", link_buffer),
    ("metadata", metadata),
    ("payload", payload),
    ("protobuf", protobuf),
    ("server_conn", server_conn),
    ("tls_client", tls_client),
    ("tls_server", tls_server),
    ("ttheader", ttheader),
    ("ttheader_write", ttheader_write),
    ("url", url),
];
