//! Where to listen or connect: `tcp://host:port`, `tls://host:port` or `unix:path`.

use std::fmt::{self, Write};
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a listener or a peer, as a URL.
///
/// | form | meaning |
/// | --- | --- |
/// | `tcp://127.0.0.1:7000`, `tcp://[::1]:7000` | TCP over IPv4 or IPv6 |
/// | `tcp://localhost:7000` | a host name; looked up by [`Url::resolve`] |
/// | `tcp://127.0.0.1:0` | a listener on a port that the system chooses |
/// | `tls://example.com:7000` | the same under TLS, which needs the feature `tls`, and settings for it |
/// | `unix:/run/app.sock`, `unix:app.sock` | a Unix stream socket |
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Url {
    /// `tcp://host:port`; the host is an address or a name, without brackets.
    Tcp {
        /// An IPv4 or IPv6 address, or a host name.
        host: String,
        /// The port; 0 lets the system choose one for a listener.
        port: u16,
    },
    /// `tls://host:port`, as [`Url::Tcp`] under TLS.
    Tls {
        /// An IPv4 or IPv6 address, or a host name.
        host: String,
        /// The port; 0 lets the system choose one for a listener.
        port: u16,
    },
    /// `unix:path`.
    Unix(PathBuf),
}

/// An endpoint with its name looked up: what a socket can bind or connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl Url {
    /// Looks the host up and returns every address it has, best first; a Unix path is itself.
    ///
    /// A host *name* asks the system's resolver and blocks while it answers; a numeric address never blocks.
    ///
    /// # Errors
    /// [`UrlError`] with the resolver's reason when the name has no address.
    pub fn resolve(&self) -> Result<Vec<Endpoint>, UrlError> {
        match self {
            Url::Unix(path) => Ok(vec![Endpoint::Unix(path.clone())]),
            Url::Tcp { host, port } | Url::Tls { host, port } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let addrs: Vec<_> = found
                    .map_err(|e| self.error(format!("host `{host}` cannot be looked up: {e}")))?
                    .map(Endpoint::Tcp)
                    .collect();
                if addrs.is_empty() {
                    return Err(self.error(format!("host `{host}` has no address")));
                }
                Ok(addrs)
            }
        }
    }

    /// Whether it is a `tls://` one.
    pub fn is_tls(&self) -> bool {
        matches!(self, Url::Tls { .. })
    }

    /// The same address under TLS; a Unix path stays what it is.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(self) -> Url {
        match self {
            Url::Tcp { host, port } => Url::Tls { host, port },
            other => other,
        }
    }

    fn error(&self, why: String) -> UrlError {
        UrlError { url: self.to_string(), why }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = |why: &str| UrlError { url: text.to_owned(), why: why.to_owned() };
        if text.contains(char::is_control) {
            return Err(error("it has a control character in it"));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // More slashes at the front mean one to the system; two would look like the `//` of a URL when the path is shown.
            let path = if path.starts_with("//") {
                &path[path.len() - path.trim_start_matches('/').len() - 1..]
            } else {
                path
            };
            if path.is_empty() {
                return Err(error("the path is empty; write unix:/path/to/socket"));
            }
            if path.len() > 107 {
                return Err(error("the path is longer than 107 bytes, which is all a Unix socket address holds"));
            }
            return Ok(Url::Unix(PathBuf::from(path)));
        }
        let secure = text.strip_prefix("tls://");
        let Some(rest) = secure.or_else(|| text.strip_prefix("tcp://")) else {
            return Err(error(
                "it must start with tcp://, tls:// or unix:, as in tcp://127.0.0.1:7000 or unix:/run/app.sock",
            ));
        };
        let Some((host, port)) = rest.rsplit_once(':') else {
            return Err(error(
                "the port is missing; write it behind the host, as in tcp://host:port, with port 0 to let the system choose",
            ));
        };
        let digits = port.bytes().all(|byte| byte.is_ascii_digit()); // `parse` takes a sign, too
        let port = port.parse::<u16>().ok().filter(|_| digits);
        let port = port.ok_or_else(|| error("the port must be a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if is_ipv6(v6) => v6,
            Some(_) => return Err(error("only an IPv6 address stands in brackets, as in tcp://[::1]:7000")),
            None if host.contains(':') => {
                return Err(error("an IPv6 address needs brackets, as in tcp://[::1]:7000"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(error("the host is missing; write tcp://0.0.0.0:port to listen on every address"));
        }
        if host.contains(|c: char| matches!(c, '/' | '?' | '#' | '@' | '[' | ']') || c.is_whitespace()) {
            return Err(error("only host:port may follow the //"));
        }
        let host = host.to_owned();
        Ok(if secure.is_some() { Url::Tls { host, port } } else { Url::Tcp { host, port } })
    }
}

/// An address such as `::1`, or `fe80::1%eth0` with the interface it is meant for.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    address.parse::<Ipv6Addr>().is_ok() && zone != Some("")
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Url::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Url::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Url::Tls { host, port } => write!(f, "tls://{host}:{port}"),
            // A path of the program's may begin with two slashes: they are not those of the URL.
            Url::Unix(path) if path.as_os_str().as_encoded_bytes().starts_with(b"//") => {
                write!(f, "unix://{}", path.display())
            }
            Url::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<SocketAddr> for Url {
    fn from(addr: SocketAddr) -> Self {
        Url::Tcp { host: addr.ip().to_string(), port: addr.port() }
    }
}

impl From<&Path> for Url {
    fn from(path: &Path) -> Self {
        Url::Unix(path.to_owned())
    }
}

impl From<&Endpoint> for Url {
    fn from(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Tcp(addr) => Url::from(*addr),
            Endpoint::Unix(path) => Url::Unix(path.clone()),
        }
    }
}

/// A URL that cannot be used, and why; its text is one line and names the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError {
    /// The URL as it was given.
    pub url: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad address `")?;
        for c in self.url.chars() {
            // What is wrong may be the very character that would end the line.
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        write!(f, "`: {}", self.why)
    }
}

impl std::error::Error for UrlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn urls_are_parsed_and_printed_alike() {
        let check = |text: &str, expected: &str| {
            let got = match text.parse::<Url>() { Ok(url) => url.to_string(), Err(e) => e.why };
            assert!(got.starts_with(expected), "{text}: {got}");
        };
        check("tcp://127.0.0.1:7000",   "tcp://127.0.0.1:7000");
        check("tcp://[::1]:0",          "tcp://[::1]:0");
        check("tcp://localhost:80",     "tcp://localhost:80");
        check("unix:/run/a.sock",       "unix:/run/a.sock");
        check("unix:///run/a.sock",     "unix:/run/a.sock");
        check("unix:a.sock",            "unix:a.sock");
        check("unix:",                  "the path is empty");
        check("tls://example.com:443",  "tls://example.com:443");
        check("tls://[::1]:0",          "tls://[::1]:0");
        check("tls://x",                "the port is missing");
        check("http://x",               "it must start with tcp://, tls:// or unix:");
        check("tcp://x",                "the port is missing");
        check("tcp://x:99999",          "the port must be a number");
        check("tcp://::1:80",           "an IPv6 address needs brackets");
        check("tcp://:80",              "the host is missing");
        check("tcp://a/b:80",           "only host:port may follow the //");
        check(&format!("unix:/{}", "x".repeat(200)), "the path is longer than");
        // Found by fuzzing: what was shown was another address, or more than a line.
        check("unix:////run/a.sock",    "unix:/run/a.sock");
        check("tcp://[fe80::1%lo]:80",  "tcp://[fe80::1%lo]:80");
        check("tcp://[[a]]:80",         "only an IPv6 address stands in brackets");
        check("tcp://[a]:80",           "only an IPv6 address stands in brackets");
        check("tcp://[::1%]:80",        "only an IPv6 address stands in brackets");
        check("tcp://[]:80",            "only an IPv6 address stands in brackets");
        check("tcp://a]b:80",           "only host:port may follow the //");
        check("tcp://a:+80",            "the port must be a number");
        check("tcp://a\u{a0}b:80",      "only host:port may follow the //");
        check("tcp://a\nb:80",          "it has a control character in it");
        check("unix:a\0b",              "it has a control character in it");
    }

    #[test]
    fn an_error_is_one_line() {
        let error = "tcp://a\nb".parse::<Url>().unwrap_err();
        assert_eq!(error.to_string(), "bad address `tcp://a\\nb`: it has a control character in it");
    }

    #[test]
    fn a_path_of_the_program_s_is_shown_as_the_same_file() {
        let url = Url::from(Path::new("//run/a.sock"));
        assert_eq!(url.to_string().parse::<Url>().unwrap().to_string(), "unix:/run/a.sock");
    }
}
