//! What a scanner has reported, judged: everything that is weak, in a line each; and a report of nothing is no good one.

/// A report of `sslscan --xml`. That there is no compression it cannot see where its own library has none; `testssl` does.
pub(crate) fn of_sslscan(report: &str) -> Vec<String> {
    let mut weak = Vec::new();
    let (mut ciphers, mut groups, mut heartbleed, mut versions) = (0, 0, 0, Vec::new());
    for element in report.split('<') {
        let has = |name: &str, value: &str| attribute(element, name) == Some(value);
        let bits = attribute(element, "bits").and_then(|bits| bits.parse::<u32>().ok()).unwrap_or_default();
        let bad = match element.split([' ', '>', '/']).next() {
            Some("protocol") if has("enabled", "0") => false,
            Some("protocol") => {
                let version = attribute(element, "version").unwrap_or_default();
                versions.push(version);
                !has("type", "tls") || !["1.2", "1.3"].contains(&version)
            }
            Some("renegotiation") => !has("supported", "0") && !has("secure", "1"),
            Some("compression") => !has("supported", "0"),
            Some("heartbleed") => {
                heartbleed += 1;
                !has("vulnerable", "0")
            }
            Some("cipher") => {
                ciphers += 1;
                let strong = attribute(element, "cipher").is_some_and(is_strong);
                let known = ["strong", "acceptable"].iter().any(|strength| has("strength", strength));
                bits < 128 || !strong || !known
            }
            Some("group") => {
                groups += 1;
                bits < 112
            }
            _ => false,
        };
        if bad {
            weak.push(element.trim().to_owned());
        }
    }
    if ciphers == 0 || groups == 0 || heartbleed == 0 || !versions.contains(&"1.2") || !versions.contains(&"1.3") {
        weak.push(format!(
            "no scan: {ciphers} ciphers, {groups} groups, {heartbleed} heartbeats, versions {versions:?}"
        ));
    }
    weak
}

/// Authenticated encryption under keys of one connection: what it was agreed on tells nobody later.
fn is_strong(cipher: &str) -> bool {
    let forward = ["TLS_", "ECDHE-"].iter().any(|prefix| cipher.starts_with(prefix));
    forward && ["GCM", "CHACHA20"].iter().any(|mode| cipher.contains(mode)) && !cipher.contains("NULL")
}

/// The value of an attribute, as in `enabled="1"`.
fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = element.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// What `testssl` calls weak, and is not the server's doing or no weakness.
const PARDONED: &[(&str, &str)] = &[
    // Whatever is negotiated is strong, and a client without AES in its processor is better off with ChaCha20.
    ("cipher_order", "NOT a cipher order configured"),
];

/// A report of `testssl --csvfile`, of protocols, ciphers, preferences and vulnerabilities.
pub(crate) fn of_testssl(report: &str) -> Vec<String> {
    let (mut weak, mut good) = (Vec::new(), Vec::new());
    for line in report.lines().skip(1) {
        let cells: Vec<_> = line.trim_matches('"').split("\",\"").collect();
        let [id, _, _, severity, finding, ..] = cells[..] else {
            weak.push(format!("what is `{line}`?"));
            continue;
        };
        match severity {
            "OK" => good.push(id),
            "INFO" | "DEBUG" => {}
            _ if PARDONED.contains(&(id, finding)) => {}
            _ => weak.push(format!("{severity}: {id}: {finding}")),
        }
    }
    let looked_at = ["SSLv3", "TLS1_2", "TLS1_3", "cipherlist_LOW", "heartbleed", "secure_renego", "CRIME_TLS", "RC4"];
    weak.extend(looked_at.iter().filter(|id| !good.contains(id)).map(|id| format!("not found to be good: {id}")));
    weak
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a server of ours, in short.
    const GOOD_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<document title="SSLScan Results" version="2.0.7" web="http://github.com/rbsec/sslscan">
 <ssltest host="localhost" sniname="localhost" port="7905">
  <protocol type="ssl" version="3" enabled="0" />
  <protocol type="tls" version="1.1" enabled="0" />
  <protocol type="tls" version="1.2" enabled="1" />
  <protocol type="tls" version="1.3" enabled="1" />
  <renegotiation supported="0" secure="0" />
  <heartbleed sslversion="TLSv1.2" vulnerable="0" />
  <cipher status="preferred" sslversion="TLSv1.3" bits="128" cipher="TLS_AES_128_GCM_SHA256" id="0x1301" strength="acceptable" />
  <cipher status="accepted" sslversion="TLSv1.2" bits="256" cipher="ECDHE-ECDSA-CHACHA20-POLY1305" id="0xCCA9" strength="strong" />
  <group sslversion="TLSv1.3" bits="128" name="x25519" id="0x001d" />
 </ssltest>
</document>"#;

    /// Each row is what a weak server's report has in addition, most of them as `sslscan` has written them of one.
    #[test]
    #[rustfmt::skip]
    fn sslscan_that_finds_something_weak_is_heard() {
        assert_eq!(of_sslscan(GOOD_XML), [""; 0]);
        for line in [
            r#"<protocol type="ssl" version="2" enabled="1" />"#,
            r#"<protocol type="ssl" version="3" enabled="1" />"#,
            r#"<protocol type="tls" version="1.0" enabled="1" />"#,
            r#"<protocol type="tls" version="1.1" enabled="1" />"#,
            r#"<renegotiation supported="1" secure="0" />"#,
            r#"<compression supported="1" />"#,
            r#"<heartbleed sslversion="TLSv1.1" vulnerable="1" />"#,
            r#"<cipher status="accepted" sslversion="TLSv1.2" bits="256" cipher="ADH-AES256-GCM-SHA384" id="0x00A7" strength="anonymous" dhebits="3072" />"#,
            r#"<cipher status="accepted" sslversion="TLSv1.2" bits="256" cipher="ECDHE-ECDSA-AES256-SHA384" id="0xC024" strength="acceptable" />"#,
            r#"<cipher status="accepted" sslversion="TLSv1.2" bits="128" cipher="AES128-GCM-SHA256" id="0x009C" strength="strong" />"#,
            r#"<cipher status="accepted" sslversion="TLSv1.2" bits="0" cipher="ECDHE-ECDSA-NULL-SHA" id="0xC006" strength="null" />"#,
            r#"<cipher status="accepted" sslversion="TLSv1.2" bits="112" cipher="ECDHE-ECDSA-DES-CBC3-SHA" id="0xC008" strength="medium" />"#,
            r#"<group sslversion="TLSv1.2" bits="80" name="sect163k1" id="0x0001" />"#,
        ] {
            let report = GOOD_XML.replace(" </ssltest>", &format!("  {line}\n </ssltest>"));
            assert_eq!(of_sslscan(&report), [line.trim_start_matches('<')]);
        }
        for (missing, _) in [("<cipher", "ciphers"), ("<group", "groups"), ("<heartbleed", "heartbeats"), ("version=\"1.3\"", "")] {
            let report: Vec<_> = GOOD_XML.lines().filter(|line| !line.contains(missing)).collect();
            assert!(of_sslscan(&report.concat())[0].starts_with("no scan: "), "{missing}");
        }
    }

    #[test]
    #[rustfmt::skip]
    fn testssl_that_finds_something_weak_is_heard() {
        let row = |id: &str, severity: &str, finding: &str| format!("\"{id}\",\"localhost/127.0.0.1\",\"7905\",\"{severity}\",\"{finding}\",\"\",\"\"\n");
        let good = ["SSLv3", "TLS1_2", "TLS1_3", "cipherlist_LOW", "heartbleed", "secure_renego", "CRIME_TLS", "RC4"];
        let good: String = good.iter().map(|id| row(id, "OK", "as it should be")).collect();
        let good = row("id", "severity", "finding") + &good + &row("TLS1", "INFO", "not offered");
        let weak = |more: &str| of_testssl(&format!("{good}{more}"));
        assert_eq!(weak(&row("cipher_order", "HIGH", "NOT a cipher order configured")), [""; 0]);
        assert_eq!(weak(&row("TLS1", "LOW", "offered (deprecated)")), ["LOW: TLS1: offered (deprecated)"]);
        assert_eq!(weak(&row("cipherlist_aNULL", "CRITICAL", "offered")), ["CRITICAL: cipherlist_aNULL: offered"]);
        assert_eq!(weak(&row("heartbleed", "CRITICAL", "VULNERABLE")), ["CRITICAL: heartbleed: VULNERABLE"]);
        assert_eq!(weak(&row("CRIME_TLS", "MEDIUM", "VULNERABLE but not using HTTP: probably no exploit known")).len(), 1);
        assert_eq!(weak(&row("scanProblem", "FATAL", "it ended early")), ["FATAL: scanProblem: it ended early"]);
        assert_eq!(weak("half a li"), ["what is `half a li`?"]);
        assert_eq!(of_testssl(&good.replace("RC4", "RC5")), ["not found to be good: RC4"]);
    }
}
