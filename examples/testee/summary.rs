//! What became of a run's calls.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::time::Duration;

use rpc_core::{Error, Result, Sent};
use testee::Wrong;

use crate::plan::Plan;

/// Collects outcomes, one for each call.
pub(crate) struct Summary {
    log: Option<BufWriter<File>>,
    outcomes: BTreeMap<&'static str, u64>,
    seen: Vec<bool>,
    micros: Vec<u32>,
    twice: u64,
    wrong: u64,
    unexpected: u64,
    /// Calls that the peer certainly did not see.
    unsent: u64,
    /// The first few surprises, in words.
    examples: Vec<String>,
}

impl Summary {
    pub(crate) fn new(calls: u64, log: Option<File>) -> Summary {
        Summary {
            log: log.map(BufWriter::new),
            outcomes: BTreeMap::new(),
            seen: vec![false; calls as usize],
            micros: Vec::with_capacity(calls as usize),
            twice: 0,
            wrong: 0,
            unexpected: 0,
            unsent: 0,
            examples: Vec::new(),
        }
    }

    /// Takes the outcome of call `number`.
    pub(crate) fn add(&mut self, number: u64, plan: &Plan, outcome: &Result<Result<(), Wrong>>, took: Duration) {
        match self.seen.get_mut(number as usize) {
            Some(seen) if !*seen => *seen = true,
            _ => self.twice += 1,
        }
        let (name, sent) = match outcome {
            Ok(_) => ("Ok", Sent::Maybe),
            Err(error) if error.business_status().is_some() => ("Business", error.sent()),
            Err(error) => (error.code().name(), error.sent()),
        };
        *self.outcomes.entry(name).or_default() += 1;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.micros.push(micros);
        self.unsent += u64::from(sent == Sent::No);
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{number} {name} {} {micros}", if sent == Sent::No { "no" } else { "maybe" });
        }
        let wrong = match outcome {
            Ok(Err(wrong)) => Some(wrong.to_string()),
            Err(error) if !plan.is_mine(error) => Some(format!("the error of another call: {error}")),
            _ => None,
        };
        self.wrong += u64::from(wrong.is_some());
        if !plan.is_due(outcome) {
            self.unexpected += 1;
        } else if wrong.is_none() {
            return;
        }
        if self.examples.len() < 10 {
            let what = wrong.or_else(|| outcome.as_ref().err().map(Error::to_string));
            let what = what.unwrap_or_else(|| "a reply".to_owned());
            self.examples.push(format!("call {number}, due {:?}: {what}", plan.due));
        }
    }

    pub(crate) fn missing(&self) -> usize {
        self.seen.iter().filter(|seen| !**seen).count()
    }

    /// Whether each call had exactly one outcome, of its own.
    pub(crate) fn is_sound(&self) -> bool {
        self.missing() == 0 && self.twice == 0 && self.wrong == 0
    }

    pub(crate) fn is_as_expected(&self) -> bool {
        self.is_sound() && self.unexpected == 0
    }

    /// Surprises, for people.
    pub(crate) fn examples(&self) -> &[String] {
        &self.examples
    }

    /// Ends the log.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    /// As JSON, with more numbers beside.
    pub(crate) fn json(&mut self, took: Duration, more: &[(&str, u64)]) -> String {
        self.micros.sort_unstable();
        let quantile = |q: f64| {
            let last = self.micros.len().saturating_sub(1);
            self.micros.get((last as f64 * q) as usize).copied().unwrap_or(0)
        };
        let calls = self.seen.len();
        let mut json = format!(r#"{{"calls":{calls},"outcomes":{{"#);
        for (at, (name, count)) in self.outcomes.iter().enumerate() {
            let _ = write!(json, r#"{}"{name}":{count}"#, if at == 0 { "" } else { "," });
        }
        let _ = write!(
            json,
            r#"}},"missing":{},"twice":{},"wrong":{},"unexpected":{},"unsent":{}"#,
            self.missing(),
            self.twice,
            self.wrong,
            self.unexpected,
            self.unsent
        );
        let _ = write!(json, r#","p50_us":{},"p99_us":{},"max_us":{}"#, quantile(0.5), quantile(0.99), quantile(1.0));
        let rate = calls as f64 / took.as_secs_f64().max(1e-9);
        let _ = write!(json, r#","seconds":{:.3},"calls_per_second":{rate:.0}"#, took.as_secs_f64());
        for (name, value) in more {
            let _ = write!(json, r#","{name}":{value}"#);
        }
        json.push('}');
        json
    }
}
