//! Where a server listens: at an address that it binds, or on sockets that its process was given.

use rpc_transport::{Accepted, Framing, Handler, ListenOptions, ListenerHandle, ReactorPool, Url};

use crate::client::config_error;
use crate::error::{Error, Result};

/// An address as it was asked for.
pub(super) struct Address {
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    asked: String,
    /// Nothing for one that can only be given: `fd://`.
    url: Option<Url>,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Address> {
        let given = cfg!(all(feature = "upgrade", target_os = "linux")) && text.starts_with("fd://");
        let url = if given { None } else { Some(text.parse().map_err(config_error)?) };
        Ok(Address {
            #[cfg(all(feature = "upgrade", target_os = "linux"))]
            asked: text.to_owned(),
            url,
        })
    }

    /// What it is bound to, unless it can only be given.
    pub(super) fn url(&self) -> Option<&Url> {
        self.url.as_ref()
    }

    /// By what it is known to the process that comes after this one, and to the one before.
    #[cfg(all(feature = "upgrade", target_os = "linux"))]
    pub(super) fn asked(&self) -> &str {
        &self.asked
    }

    /// Listens there: one listener, or for a name of several sockets one for each of their addresses.
    pub(super) fn listen<F: Framing + 'static, H: Handler>(
        &self,
        pool: &ReactorPool,
        options: &ListenOptions,
        make: impl Fn(&Accepted<'_>) -> (F, H) + Send + Sync + Clone + 'static,
    ) -> Result<Vec<ListenerHandle>> {
        #[cfg_attr(not(feature = "tls"), expect(unused_mut))]
        let mut options = options.clone();
        // Of several addresses those of `tls://` speak it, and those of `fd://` if there are settings for it.
        #[cfg(feature = "tls")]
        let _ = options.tls.take_if(|_| self.url.as_ref().is_some_and(|url| !url.is_tls()));
        #[cfg(all(feature = "upgrade", target_os = "linux"))]
        {
            let given = rpc_transport::upgrade::inherited(&self.asked).map_err(Error::from)?;
            if !given.is_empty() {
                let listen = |sockets| pool.listen_on(sockets, options.clone(), make.clone()).map_err(Error::from);
                let mut listeners = super::builder::Listening::default();
                for sockets in given {
                    listeners.0.push(listen(sockets)?);
                }
                return Ok(listeners.take());
            }
        }
        match &self.url {
            Some(url) => Ok(vec![pool.listen(url, options, make).map_err(Error::from)?]),
            None => Ok(Vec::new()), // an error of `inherited`
        }
    }
}
