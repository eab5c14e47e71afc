//! The limits: what a peer, a client or a server may cost. Every one is finite.

use std::time::Duration;

use rpc_transport::{ConnLimits, ListenLimits};

use crate::error::ConfigError;

/// Declares every limit once: its field, how its text is read, its default at a server and at a client.
macro_rules! limits {
    ($( $(#[doc = $doc:literal])* $name:ident: $type:ty = $server:expr, $client:expr; )*) => {
        /// Every limit and timeout of a server or a client, by its public name.
        ///
        /// Set them as fields, or by name from text with [`Limits::set`]: sizes take `KiB`, `MiB` and `GiB`, times take `ms`, `s`
        /// and `min`. None can be switched off; a limit of 0 is refused.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Limits {
            $( $(#[doc = $doc])* pub $name: $type, )*
        }

        impl Limits {
            /// A server's defaults.
            pub const fn server() -> Limits {
                Limits { $( $name: $server, )* }
            }

            /// A client's defaults: they differ in `idle_timeout`, which is shorter, so that the client closes first.
            pub const fn client() -> Limits {
                Limits { $( $name: $client, )* }
            }

            /// The names that [`Limits::set`] knows.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($name), )*];

            /// Sets the limit called `name` from text, as in `set("max_frame_size", "1MiB")` or `set("frame_progress", "2s")`.
            ///
            /// # Errors
            /// An unknown name (the text lists the known ones), or a value that is not a number with a known unit, or 0. Nothing is
            /// changed then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
                let wrong = |reason| ConfigError::new(name.to_owned(), value, reason);
                let mut changed = self.clone();
                match name {
                    $( stringify!($name) => changed.$name = <$type as FromText>::from_text(value).map_err(wrong)?, )*
                    _ => {
                        let reason = format!("there is no such limit; the names are {}", Limits::NAMES.join(", "));
                        return Err(wrong(reason));
                    }
                }
                changed.check_each()?;
                *self = changed;
                Ok(())
            }

            /// Every limit as (name, value).
            pub fn describe(&self) -> Vec<(&'static str, String)> {
                vec![$( (stringify!($name), format!("{:?}", self.$name)), )*]
            }
        }
    };
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

limits! {
    /// Largest frame accepted or sent, in bytes without its length field. Default 16 MiB. A longer announcement closes the
    /// connection before anything is allocated for it; a longer message is refused before it is sent.
    max_frame_size: u32 = 16 << 20, 16 << 20;
    /// Largest variable header, in bytes. Default 65,532. Beyond: `ResourceExhausted` to that call, the connection stays.
    max_header_size: u32 = 65_532, 65_532;
    /// Most entries in a header. Default 128. Beyond: `ResourceExhausted` to that call, the connection stays.
    max_header_entries: u32 = 128, 128;
    /// An accepted connection must complete a frame within this time. Default 10 s. Then: closed.
    first_frame_timeout: Duration = secs(10), secs(10);
    /// An accepted connection's TLS handshake must be over within this time; `first_frame_timeout` begins after it. Default 10 s. Then:
    /// closed.
    handshake_timeout: Duration = secs(10), secs(10);
    /// A frame that has begun must be whole within this time. Default 30 s. Then: closed.
    frame_progress: Duration = secs(30), secs(30);
    /// A connection without calls is closed after this time. Default 10 min at a server, 1 min at a client.
    idle_timeout: Duration = secs(600), secs(60);
    /// How long a peer that knows control frames may be silent while calls are under way until it gets a ping. Default 10 s.
    /// Connections without calls are not looked at.
    keepalive_interval: Duration = secs(10), secs(10);
    /// How long it may be silent from then on. Default 3 s. Then it counts as gone: closed, and its calls end with `Unavailable`. Time
    /// in which this side does not read does not count. It is counted in quarters, of which one is for the ping to leave; a turn of the
    /// reactor that lasts longer counts as one.
    keepalive_timeout: Duration = secs(3), secs(3);
    /// Least time between two pings of a peer. Default 1 s. One that comes sooner is a strike; one that does not forgives them.
    keepalive_min_interval: Duration = secs(1), secs(1);
    /// Strikes that are borne. Default 2. Beyond: `goaway` with the reason `too_many_pings`, closed.
    keepalive_strikes: u32 = 2, 2;
    /// Calls of a connection after which more than half of them must have had more than a second before the peer cancelled them, or
    /// their deadline passed. Default 500. Beyond: `goaway` with the reason `cancel_budget`, closed when what runs has ended. Holds
    /// for peers that know control frames.
    cancel_budget: u32 = 500, 500;
    /// Handlers running for one connection, counted until they return. Default 1,024. Beyond: the connection is not read; if some of
    /// them have been answered, cancelled or too late, it is read on, and requests get `ResourceExhausted`, not executed.
    max_inflight_per_conn: usize = 1024, 1024;
    /// Handlers running in the whole server. Default 65,536. Beyond: `ResourceExhausted`, not executed.
    max_inflight: usize = 65_536, 65_536;
    /// Calls of methods marked as blocking that wait for a thread, and as many of those marked as slow. Default 4,096. Beyond: `ResourceExhausted`, not
    /// executed.
    worker_queue: usize = 4096, 4096;
    /// Open connections of a server. Default 16,384. Beyond: accepted, closed, counted. One whose peer has left does not count, though oneway
    /// messages of it may still be handled.
    max_connections: usize = 16_384, 16_384;
    /// Of those, from one IPv4 address, or from one /64 of IPv6. Default 16,384, for many clients may stand behind one address. Beyond: as above.
    max_connections_per_peer: usize = 16_384, 16_384;
    /// TLS handshakes under way on each reactor of a server. Default 1,024. Beyond: the oldest is closed. While requests come in on other
    /// connections of the reactor, handshakes have a tenth of its time and as much as it slept beside them.
    max_handshakes: usize = 1024, 1024;
    /// Connections accepted in a second; a tenth of them may come at once. Default 100,000. Beyond: they wait in the kernel's queue.
    accept_rate: u32 = 100_000, 100_000;
    /// Queued output of a connection, in bytes, from which on it is not read (server) or calls wait before they are written
    /// (client). Default 1 MiB.
    write_high: usize = 1 << 20, 1 << 20;
    /// Queued output, in bytes, at which reading goes on. Default 256 KiB.
    write_low: usize = 256 << 10, 256 << 10;
    /// Queued output, in bytes, at which the connection is closed (server), or output and waiting calls at which new calls are refused
    /// (client: `ResourceExhausted`, not sent). Default 17 MiB; never less than `max_frame_size` + `write_high` in effect. For length
    /// fields and control frames there are 4 KiB beside it.
    write_hard: usize = 17 << 20, 17 << 20;
    /// Queued output must move within this time. Default 30 s. Then: closed with a reset.
    write_stall_timeout: Duration = secs(30), secs(30);
    /// Bytes of memory held for peers in the whole server or client: of unfinished frames and queued output, with the blocks they lie in.
    /// Default 256 MiB. At 75 % the largest connections are not read, at 95 % new calls are refused, at 100 % the largest are
    /// closed. An eighth of it may be resident besides for large frames that are announced, and an eighth a reactor for spare blocks.
    /// Blocks have 64 KiB: with less than some of them nobody would be served.
    max_buffered_bytes: usize = 256 << 20, 256 << 20;
    /// Frames of one connection handled before other ready connections get their turn. Default 64; sixteen times as many while no
    /// other is ready, any number while there is no other.
    turn_frames: usize = 64, 64;
    /// Bytes of one connection read before other connections get their turn. Default 256 KiB; sixteen times as much while its reactor has
    /// no other.
    turn_bytes: usize = 256 << 10, 256 << 10;
    /// A handler that holds a server's reactor for longer than this, at the latest than twice this, is reported: counted as a stall, and
    /// logged with its method. Default 500 ms.
    reactor_stall: Duration = Duration::from_millis(500), Duration::from_millis(500);
    /// Longest pause of a listener after errors such as EMFILE. Default 1 s; the first is 10 ms.
    accept_backoff_max: Duration = secs(1), secs(1);
    /// How long a graceful shutdown waits for running calls. Default 25 s. Then they are cut, and counted. Peers that can only be told to
    /// leave when nothing runs have half of it to come to that by themselves; then new calls of theirs are refused, unexecuted.
    shutdown_grace: Duration = secs(25), secs(25);
    /// Glitches (content errors) of one connection, one forgiven a second. Default 200. At 75 % its peer is told to
    /// leave, and a second later (at the latest after half of `shutdown_grace`) it takes no new calls; at 100 % it is closed.
    max_glitches: u32 = 200, 200;
    /// Calls on the wire per client connection. Default 1,024. Beyond: they wait.
    client_max_inflight: usize = 1024, 1024;
    /// Calls waiting for a place on a client connection. Default 65,536. Beyond: `ResourceExhausted`, not sent.
    client_max_waiting: usize = 65_536, 65_536;
    /// Timeout of a call that names none. Default 5 s.
    default_timeout: Duration = secs(5), secs(5);
    /// Connecting, with its TLS handshake if it has one, takes at most this time. Default 1 s.
    connect_timeout: Duration = secs(1), secs(1);
}

/// What a connection's output may have over `write_hard`, in bytes: a frame that is begun just below `write_high` brings its length field,
/// and control frames are written whatever else waits. They are short, and a peer that does not read gets few.
const BESIDES: usize = 4 << 10;

impl Limits {
    /// Checks every limit, and what they must be to each other. Binding a server and building a channel do it.
    ///
    /// # Errors
    /// A limit of 0, a frame limit over what the protocol can say, `write_low` over `write_high`, `keepalive_min_interval` over
    /// `keepalive_interval`, more calls than have numbers.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_each()?;
        if self.write_low > self.write_high {
            let reason = format!("it must not exceed write_high, {}", self.write_high);
            return Err(ConfigError::new("write_low", self.write_low.to_string(), reason));
        }
        if self.keepalive_min_interval > self.keepalive_interval {
            let reason = format!("it must not exceed keepalive_interval, {:?}", self.keepalive_interval);
            return Err(ConfigError::new(
                "keepalive_min_interval",
                format!("{:?}", self.keepalive_min_interval),
                reason,
            ));
        }
        if self.client_max_inflight.saturating_add(self.client_max_waiting) > crate::mux::MAX_SLOTS {
            let value = format!("{} + {}", self.client_max_inflight, self.client_max_waiting);
            let reason = format!("a connection can number {} calls at once", crate::mux::MAX_SLOTS);
            return Err(ConfigError::new("client_max_inflight + client_max_waiting", value, reason));
        }
        Ok(())
    }

    fn check_each(&self) -> Result<(), ConfigError> {
        for (name, value) in self.describe() {
            if value == "0" || value == "0ns" {
                return Err(ConfigError::new(name, value, "a limit cannot be 0, nor be switched off"));
            }
        }
        if self.max_frame_size > 0x3FFF_FFFF {
            let value = self.max_frame_size.to_string();
            return Err(ConfigError::new("max_frame_size", value, "the protocol ends at 1073741823 bytes"));
        }
        Ok(())
    }

    pub(crate) fn header(&self) -> crate::HeaderLimits {
        crate::HeaderLimits { max_header_size: self.max_header_size, max_header_entries: self.max_header_entries }
    }

    pub(crate) fn conn(&self) -> ConnLimits {
        ConnLimits {
            first_frame_timeout: self.first_frame_timeout,
            handshake_timeout: self.handshake_timeout,
            frame_progress: self.frame_progress,
            idle_timeout: self.idle_timeout,
            connect_timeout: self.connect_timeout,
            write_high: self.write_high,
            write_low: self.write_low,
            write_hard: self.hard().saturating_add(BESIDES),
            write_stall_timeout: self.write_stall_timeout,
            turn_frames: self.turn_frames,
            turn_bytes: self.turn_bytes,
        }
    }

    /// `write_hard` in effect.
    pub(crate) fn hard(&self) -> usize {
        self.write_hard.max(self.write_high.saturating_add(self.max_frame_size as usize))
    }

    pub(crate) fn listen(&self) -> ListenLimits {
        ListenLimits {
            max_connections: self.max_connections,
            max_connections_per_peer: self.max_connections_per_peer,
            max_handshakes: self.max_handshakes,
            accept_rate: self.accept_rate,
            accept_backoff_max: self.accept_backoff_max,
        }
    }
}

trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for usize {
    fn from_text(text: &str) -> Result<usize, String> {
        let (number, unit) = split_unit(text);
        let number: usize =
            number.parse().map_err(|_| "not a number; write one such as 64, 512KiB or 1MiB".to_owned())?;
        let factor: usize = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            other => return Err(format!("unknown unit `{other}`; write a number, or one with KiB, MiB or GiB")),
        };
        number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
    }
}

impl FromText for u32 {
    fn from_text(text: &str) -> Result<u32, String> {
        u32::try_from(usize::from_text(text)?).map_err(|_| "too large: at most 4294967295".to_owned())
    }
}

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Duration, String> {
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| "not a time; write one such as 500ms, 2s or 10min".to_owned())?;
        match unit {
            "ms" => Ok(Duration::from_millis(number)),
            "s" => Ok(Duration::from_secs(number)),
            "min" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(|| "too long".to_owned()),
            "" => Err("the unit is missing; write one such as 500ms, 2s or 10min".to_owned()),
            other => Err(format!("unknown unit `{other}`; write ms, s or min")),
        }
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn limits_are_set_from_text() {
        let check = |name: &str, value: &str, expected: &str| {
            let mut limits = Limits::server();
            let got = match limits.set(name, value).and_then(|()| limits.check()) {
                Ok(()) => limits.describe().into_iter().find(|(n, _)| *n == name).expect("it was set").1,
                Err(e) => e.to_string(),
            };
            assert!(got.contains(expected), "{name}={value}: {got}");
            limits.conn(); // whatever is allowed can be added up
        };
        check("max_frame_size",     "1MiB",       "1048576");
        check("max_frame_size",     "1 MiB",      "1048576");
        check("max_frame_size",     "2GiB",       "the protocol ends at");
        check("max_frame_size",     "0",          "cannot be 0");
        check("max_frame_size",     "lots",       "not a number");
        check("max_frame_size",     "1MB",        "unknown unit `MB`");
        check("frame_progress",     "2s",         "2s");
        check("frame_progress",     "500ms",      "500ms");
        check("frame_progress",     "10min",      "600s");
        check("frame_progress",     "2",          "the unit is missing");
        check("frame_progress",     "0s",         "cannot be 0");
        check("write_low",          "2MiB",       "must not exceed write_high");
        check("keepalive_min_interval", "11s",    "must not exceed keepalive_interval");
        check("keepalive_strikes",  "3",          "3");
        check("max_inflight",       "99999999999999999999", "not a number");
        check("max_inflight",       "99999999999999GiB", "too large");
        check("max_fraem_size",     "1",          "there is no such limit; the names are max_frame_size");
        check("client_max_waiting", "1000000",    "can number");
        check("client_max_waiting", "18446744073709551615", "can number");
        check("write_high",         "18446744073709551615", "18446744073709551615");
    }

    /// Found by fuzzing: a 0 was refused and stayed, and the next limit that was set was blamed for it.
    #[test]
    fn a_refused_value_changes_nothing() {
        for (name, value) in
            [("max_glitches", "0"), ("max_frame_size", "1GiB"), ("idle_timeout", "0s"), ("turn_bytes", "x")]
        {
            let mut limits = Limits::server();
            assert!(limits.set(name, value).is_err(), "{name}={value}");
            assert_eq!(limits, Limits::server());
        }
    }
}
