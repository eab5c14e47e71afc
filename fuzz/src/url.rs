//! Addresses: `tcp://host:port`, `tls://host:port` and `unix:path`.

use rpc_transport::Url;

use crate::{meter, reach};

/// Parsing addresses: what is taken is shown such that it is taken for the same again, in one clean line; what is refused says why.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = meter::framing(data.len(), || text.parse::<Url>());
    reach::note("rpc-transport/src/url.rs", "from_str", &parsed);
    match parsed {
        Ok(url) => {
            let shown = url.to_string();
            let again: Url = shown.parse().unwrap_or_else(|error| panic!("{text:?} is shown as {shown:?}: {error}"));
            assert_eq!(again, url, "{text:?} is shown as {shown:?}");
            match url {
                Url::Tcp { host, port } | Url::Tls { host, port } => {
                    assert!(
                        !host.is_empty() && !host.contains(|c: char| c.is_control() || c.is_whitespace()),
                        "{host:?}"
                    );
                    let digits = text.rsplit(':').next().unwrap_or_default();
                    assert!(digits.bytes().all(|digit| digit.is_ascii_digit()), "{text:?} has port {port}");
                }
                Url::Unix(path) => {
                    let bytes = path.as_os_str().as_encoded_bytes();
                    assert!(
                        (1..108).contains(&bytes.len()) && !bytes.contains(&0),
                        "no socket can have the path {path:?}"
                    );
                }
            }
        }
        Err(error) => {
            assert_eq!(error.url, text);
            assert!(!error.why.is_empty());
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}
