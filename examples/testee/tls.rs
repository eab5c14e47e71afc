//! tls:// addresses: certificates from files.

use std::fmt::Display;
use std::path::PathBuf;

use rpc_core::{Code, Error, Result};
use rpc_transport::{TlsClient, TlsIdentity, TlsRoots, TlsServer};

#[derive(clap::Args)]
pub(crate) struct Serving {
    /// The certificate chain and the key for tls:// addresses, in one file in PEM
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
}

impl Serving {
    pub(crate) fn server(&self) -> Result<Option<TlsServer>> {
        let Some(path) = &self.identity else { return Ok(None) };
        let identity = TlsIdentity::from_files(path, path).map_err(wrong)?;
        TlsServer::builder(identity).build().map(Some).map_err(wrong)
    }
}

#[derive(clap::Args)]
pub(crate) struct Calling {
    /// The certificates that a server at a tls:// address must have been issued by, in PEM
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The name that its certificate must be for [default: the address's]
    #[arg(long, value_name = "NAME", requires = "roots")]
    server_name: Option<String>,
}

impl Calling {
    pub(crate) fn client(&self) -> Result<Option<TlsClient>> {
        let Some(path) = &self.roots else { return Ok(None) };
        let mut builder = TlsClient::builder(TlsRoots::from_file(path).map_err(wrong)?);
        if let Some(name) = &self.server_name {
            builder = builder.server_name(name);
        }
        builder.build().map(Some).map_err(wrong)
    }
}

fn wrong(error: impl Display) -> Error {
    Error::new(Code::InvalidArgument, error.to_string())
}
