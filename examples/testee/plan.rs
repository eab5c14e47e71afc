//! What one call of a run is: decided by its number and the seed alone.

use std::time::Duration;

use rpc_core::{Code, Error, Result};
use testee::idl::testee::{Blob, Empty, Fault, Hop, Millis, Mixed, Nonce, Size, TesteeClient};
use testee::{Wrong, check, make, mixed};

/// The methods, and `mix`: all that end by themselves, in sizes from 0 B to 1 MiB, with 1 % dropped and 1 % timed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    /// Echo of --size bytes
    #[value(alias = "Echo")]
    Echo,
    /// EchoMixed: a structured message of about --size bytes
    #[value(alias = "Mixed", alias = "EchoMixed")]
    Mixed,
    /// Sleep for --delay milliseconds
    #[value(alias = "Sleep")]
    Sleep,
    /// Spin, which blocks a worker, for --delay milliseconds
    #[value(alias = "Spin")]
    Spin,
    /// Give of --size bytes
    #[value(alias = "Give")]
    Give,
    /// Sink of --size bytes
    #[value(alias = "Sink")]
    Sink,
    /// Once with the nonce SEED-NUMBER
    #[value(alias = "Once")]
    Once,
    /// Fail with business status 1000 + NUMBER mod 100
    #[value(alias = "Fail")]
    Fail,
    /// Panic, after --delay milliseconds if given
    #[value(alias = "Panic")]
    Panic,
    /// Relay of a Sleep for --delay milliseconds through the servers of --via
    #[value(alias = "Relay")]
    Relay,
    /// Stats
    #[value(alias = "Stats")]
    Stats,
    /// Echo of 0 to --size bytes, small ones as often as large ones; each eighth call is a Once with the nonce SEED-NUMBER
    #[value(alias = "Storm")]
    Storm,
    /// A mixture: sizes log-uniform from 0 B to 1 MiB, delays, errors, 1 % dropped, 1 % timed out
    #[value(alias = "Mix")]
    Mix,
}

/// What all calls of a run have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) method: Method,
    pub(crate) size: usize,
    pub(crate) delay: u32,
    pub(crate) via: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) seed: u64,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Plan {
    number: u64,
    request: Request,
    timeout: Option<Duration>,
    /// The caller gives up after the first poll.
    pub(crate) dropped: bool,
    pub(crate) due: Due,
}

#[derive(Debug)]
enum Request {
    Echo(usize),
    Mixed(usize),
    Sleep(u32),
    Spin(u32),
    Give(usize),
    Sink(usize),
    Once(String),
    Fail,
    Panic(u32),
    Relay(Hop),
    Stats,
}

/// How a call should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Ok,
    Code(Code),
    Business(i32),
}

impl Plan {
    pub(crate) fn new(settings: &Settings, number: u64) -> Plan {
        let Settings { size, delay, .. } = *settings;
        let mut plan =
            Plan { number, request: Request::Stats, timeout: settings.timeout, dropped: false, due: Due::Ok };
        plan.request = match settings.method {
            Method::Echo => Request::Echo(size),
            Method::Mixed => Request::Mixed(size),
            Method::Sleep => Request::Sleep(delay),
            Method::Spin => Request::Spin(delay),
            Method::Give => Request::Give(size),
            Method::Sink => Request::Sink(size),
            Method::Once => Request::Once(format!("{}-{number}", settings.seed)),
            Method::Fail => Request::Fail,
            Method::Panic => Request::Panic(delay),
            Method::Relay => {
                let mut via = settings.via.iter().cloned();
                Request::Relay(Hop { url: via.next().unwrap_or_default(), ms: delay, via: via.collect() })
            }
            Method::Stats => Request::Stats,
            Method::Storm if number % 8 == 7 => Request::Once(format!("{}-{number}", settings.seed)),
            Method::Storm => Request::Echo(Dice::new(settings.seed, number).log_uniform(size)),
            Method::Mix => return plan.mixed(settings.seed),
        };
        plan.due = match plan.request {
            Request::Fail => Due::Business(plan.business()),
            Request::Panic(_) => Due::Code(Code::Internal),
            _ => Due::Ok,
        };
        plan
    }

    /// The mixture. Each figure comes from bits of its own.
    fn mixed(mut self, seed: u64) -> Plan {
        let dice = Dice::new(seed, self.number);
        let bytes = dice.log_uniform(1 << 20);
        match dice.below(100, 1) {
            0 => {
                self.request = if dice.below(2, 2) == 0 { Request::Sleep(20) } else { Request::Echo(bytes) };
                self.dropped = true;
                self.due = Due::Code(Code::Cancelled);
            }
            1 => {
                self.request = Request::Sleep(30_000);
                self.timeout = Some(Duration::from_millis(2 + dice.below(8, 2)));
                self.due = Due::Code(Code::DeadlineExceeded);
            }
            2..=59 => self.request = Request::Echo(bytes),
            60..=74 => self.request = Request::Mixed(bytes.min(64 << 10)),
            75..=84 => self.request = Request::Sleep(dice.below(6, 2) as u32),
            85..=91 => self.request = Request::Give(bytes),
            92..=97 => self.request = Request::Sink(bytes),
            _ => {
                self.request = Request::Fail;
                self.due = Due::Business(self.business());
            }
        }
        self
    }

    fn business(&self) -> i32 {
        1000 + (self.number % 100) as i32
    }

    /// Makes the call, and verifies the reply. With `blocks` the thread waits in [`rpc_core::Call::wait`].
    pub(crate) async fn call(&self, client: &TesteeClient, blocks: bool) -> Result<Result<(), Wrong>> {
        macro_rules! call {
            ($method:ident, $request:expr) => {{
                let mut call = client.$method($request);
                if let Some(timeout) = self.timeout {
                    call = call.timeout(timeout);
                }
                if blocks && !self.dropped { call.wait()? } else { call.await? }
            }};
        }
        let number = self.number;
        let millis = |ms: u32, kind: &str| Millis { ms, kind: kind.to_owned() };
        Ok(match &self.request {
            Request::Echo(size) => check(number, *size, &call!(echo, Blob { payload: make(number, *size) }).payload),
            Request::Mixed(size) => {
                let reply: Mixed = call!(echo_mixed, mixed(number, size / 60));
                if reply == mixed(number, size / 60) { Ok(()) } else { Err(Wrong::Content) }
            }
            Request::Sleep(ms) => empty(call!(sleep, millis(*ms, ""))),
            Request::Spin(ms) => empty(call!(spin, millis(*ms, ""))),
            Request::Give(size) => check(*size as u64, *size, &call!(give, Size { bytes: *size as u32 }).payload),
            Request::Sink(size) => {
                let got = call!(sink, Blob { payload: make(number, *size) }).bytes as usize;
                if got == *size { Ok(()) } else { Err(Wrong::Length { got, due: *size }) }
            }
            Request::Once(nonce) => empty(call!(once, Nonce { value: nonce.clone() })),
            Request::Fail => {
                let fault =
                    Fault { code: self.business(), message: number.to_string(), business: true, ..Fault::default() };
                empty(call!(fail, fault))
            }
            Request::Panic(0) => empty(call!(panic, millis(0, "now"))),
            Request::Panic(ms) => empty(call!(panic, millis(*ms, "later"))),
            Request::Relay(hop) => empty(call!(relay, hop.clone())),
            Request::Stats => match call!(stats, Empty {}).json.is_empty() {
                true => Err(Wrong::Content),
                false => Ok(()),
            },
        })
    }

    /// Whether it ended as it should; the error of a business status must carry the call's number.
    pub(crate) fn is_due(&self, outcome: &Result<Result<(), Wrong>>) -> bool {
        match (outcome, self.due) {
            // A call that was to be dropped may have ended already.
            (Ok(_), due) => due == Due::Ok || self.dropped,
            (Err(error), Due::Code(code)) => error.code() == code,
            (Err(error), Due::Business(status)) => self.is_mine(error) && business(error) == Some(status),
            (Err(_), Due::Ok) => false,
        }
    }

    /// Whether an error is of this call, as far as it can be told.
    pub(crate) fn is_mine(&self, error: &Error) -> bool {
        error.business_status().is_none_or(|status| status.message == self.number.to_string())
    }
}

fn business(error: &Error) -> Option<i32> {
    error.business_status().map(|status| status.status)
}

fn empty(_: Empty) -> Result<(), Wrong> {
    Ok(())
}

/// Random numbers of one call.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, number: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
    }

    fn roll(&self, which: u64) -> u64 {
        let mut z = self.0.wrapping_add(which.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, end: u64, which: u64) -> u64 {
        self.roll(which) % end
    }

    /// From 0 to `end`, each magnitude as likely as any other.
    fn log_uniform(&self, end: usize) -> usize {
        let unit = (self.roll(7) >> 11) as f64 / (1u64 << 53) as f64;
        ((end as f64 + 1.0).powf(unit) - 1.0) as usize
    }
}
