//! Limits from text: `name=value` lines, against numbers that cannot overflow.

use std::time::Duration;

use rpc_core::Limits;

use crate::{meter, reach};

/// Setting limits by name: a line that is taken changes that limit to that value and no other, one that is refused changes nothing
/// and had a reason.
pub fn limits(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut limits = Limits::server();
    for line in text.split('\n').take(64) {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let before = limits.clone();
        // An error quotes its line.
        let set = meter::framing(4 * line.len(), || {
            limits = before.clone();
            limits.set(name, value)
        });
        reach::note("rpc-core/src/limits.rs", "set", &set);
        if before.describe().iter().any(|(known, _)| *known == name) {
            reach::note("rpc-core/src/limits.rs", "from_text", &set);
        }
        let wanted = meaning(&before, name, value);
        match set {
            Ok(()) => {
                let wanted = wanted.unwrap_or_else(|| panic!("{line:?} was taken"));
                for ((known, old), (_, new)) in before.describe().into_iter().zip(limits.describe()) {
                    assert_eq!(new, if known == name { wanted.clone() } else { old }, "{line:?}");
                }
            }
            Err(error) => {
                assert_eq!(limits, before, "{line:?} was refused and changed something");
                assert!(wanted.is_none() || may_be_too_large(value), "{line:?}: {error}");
                let text = error.to_string();
                assert!(!text.contains(char::is_control) || line.contains(char::is_control), "{text}");
            }
        }
        let _ = limits.check();
    }
}

/// The limit's new value as it is described, if the line has one.
fn meaning(limits: &Limits, name: &str, value: &str) -> Option<String> {
    let (_, described) = limits.describe().into_iter().find(|(known, _)| *known == name)?;
    let value = value.trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = value[..digits].parse().ok().filter(|number| *number > 0)?;
    let number = u128::from(number);
    let unit = value[digits..].trim_start();
    if described.ends_with('s') {
        let time = match unit {
            "ms" => Duration::from_millis(number as u64),
            "s" => Duration::from_secs(number as u64),
            "min" => Duration::from_secs((number * 60).try_into().ok()?),
            _ => return None,
        };
        return Some(format!("{time:?}"));
    }
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let size = u64::try_from(number * factor).ok()?;
    Some(size.to_string())
}

/// Some limits end at what their field, or the protocol, can say; none of those ends is below this.
fn may_be_too_large(value: &str) -> bool {
    let digits: String = value.trim().chars().take_while(char::is_ascii_digit).collect();
    let number: u128 = digits.parse().unwrap_or(u128::MAX);
    let factor = match value.trim().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 1,
    };
    number.saturating_mul(factor) > 0x3FFF_FFFF
}
