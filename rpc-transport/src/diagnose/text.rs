//! Sizes and times as an operator reads them.

use std::fmt::{self, Display};
use std::time::Duration;

/// Bytes, with three figures and a unit.
pub(super) struct Bytes(pub(super) u64);

/// A time, with three figures and a unit.
pub(super) struct Ago(pub(super) Duration);

/// A number behind its name, if it is known.
pub(super) struct Maybe<T>(pub(super) &'static str, pub(super) Option<T>);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0.checked_ilog2().unwrap_or(0) {
            ..10 => write!(f, "{} B", self.0),
            10..20 => three_figures(f, bytes / 1024.0, "KiB"),
            20..30 => three_figures(f, bytes / 1_048_576.0, "MiB"),
            30.. => three_figures(f, bytes / 1_073_741_824.0, "GiB"),
        }
    }
}

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let below = |limit: f64| seconds < limit;
        match self.0.as_nanos() {
            n @ ..1000 => write!(f, "{n} ns"),
            _ if below(1e-3) => three_figures(f, seconds * 1e6, "µs"),
            _ if below(1.0) => three_figures(f, seconds * 1e3, "ms"),
            _ if below(100.0) => three_figures(f, seconds, "s"),
            _ if below(6000.0) => three_figures(f, seconds / 60.0, "min"),
            _ => three_figures(f, seconds / 3600.0, "h"),
        }
    }
}

fn three_figures(f: &mut fmt::Formatter<'_>, value: f64, unit: &str) -> fmt::Result {
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    write!(f, "{value:.decimals$} {unit}")
}

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.1 {
            Some(value) => write!(f, "{}{value}", self.0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn three_figures_and_a_unit() {
        let bytes = |n| Bytes(n).to_string();
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(200 << 10), bytes(5 << 30)], ["0 B", "1023 B", "1.50 KiB", "200 KiB", "5.00 GiB"]);
        let ago = |micros| Ago(Duration::from_micros(micros)).to_string();
        assert_eq!([ago(1), ago(99_960), ago(1_500_000), ago(250_000_000), ago(7_200_000_000)], ["1.00 µs", "100 ms", "1.50 s", "4.17 min", "2.00 h"]);
        assert_eq!([Maybe(" x ", Some(1)).to_string(), Maybe::<u8>(" x ", None).to_string()], [" x 1", ""]);
    }
}
