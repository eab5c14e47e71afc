//! [`LogLimit`]: a log is no amplifier. What a peer can cause at will is logged a few times a second, and counted beyond.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bounds the lines that one cause writes into the log: 5 in a second from the first of them, so at most 10 within any second. One
/// `static` for each place that logs what happens as often as a peer likes, at level info and worse; below that level every event
/// is logged, for who looks for one.
///
/// ```
/// # use std::time::Instant;
/// # use rpc_transport::LogLimit;
/// static REFUSED: LogLimit = LogLimit::new();
/// # let now = Instant::now();
/// if let Some(skipped) = REFUSED.pass(now) {
///     println!("refused a peer; {skipped} more before that");
/// }
/// ```
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    skipped: u64,
}

impl LogLimit {
    const SPAN: Duration = Duration::from_secs(1);
    const LINES: u32 = 5;

    /// Nothing has been logged yet.
    pub const fn new() -> LogLimit {
        LogLimit(Mutex::new(Window { since: None, lines: 0, skipped: 0 }))
    }

    /// Whether a line may be written now; then the number of those that were left out since the last one.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let window = &mut *self.0.lock();
        if window.since.is_none_or(|since| now.saturating_duration_since(since) >= LogLimit::SPAN) {
            (window.since, window.lines) = (Some(now), 0);
        }
        if window.lines == LogLimit::LINES {
            window.skipped += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_passes_a_few_times_a_second_and_is_counted() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let mut passed = Vec::new();
        let mut skipped = 0;
        for ms in 0..3_000 {
            let now = start + Duration::from_millis(ms);
            // Ten times a millisecond.
            for _ in 0..10 {
                if let Some(left_out) = limit.pass(now) {
                    passed.push(ms);
                    skipped += left_out;
                }
            }
        }
        assert_eq!(passed.len(), 15);
        let most =
            passed.iter().map(|from| passed.iter().filter(|ms| (*from..from + 1_000).contains(ms)).count()).max();
        assert!(most <= Some(10), "{most:?} within a second");
        assert_eq!(skipped, 2 * (10_000 - 5), "what the first two seconds left out");
        assert_eq!(limit.pass(start + Duration::from_secs(60)), Some(10_000 - 5));
        assert_eq!(limit.pass(start + Duration::from_secs(61)), Some(0));
    }
}
