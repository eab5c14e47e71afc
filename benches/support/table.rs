//! A whole run: every case with every subject in turn, several rounds; then the page and its picture.

use std::time::{Duration, Instant};

use bench_driver::{Report, RunArgs, facts};

use crate::Failure;
use crate::args::TableArgs;
use crate::cases::{Case, Pace, SHARE, cases};
use crate::subject::{Subject, peers};
use crate::{page, plot, versions};

/// The best of so many measurements is a subject's peak.
const PEAK_TRIES: usize = 3;

/// A case, and what came of each subject's rounds.
pub(crate) struct Group {
    pub(crate) case: Case,
    pub(crate) rows: Vec<Row>,
}

/// A subject's rounds.
pub(crate) struct Row {
    pub(crate) subject: Subject,
    pub(crate) reports: Vec<Report>,
    /// Why rounds of it have no report.
    pub(crate) failures: Vec<String>,
    /// Calls a second in the closed loop, for cases that have a share of it.
    peak: Option<f64>,
}

impl Row {
    pub(crate) fn new(subject: Subject) -> Row {
        Row { subject, reports: Vec::new(), failures: Vec::new(), peak: None }
    }

    /// The median over the rounds.
    pub(crate) fn median(&self, figure: impl Fn(&Report) -> f64) -> f64 {
        let mut values: Vec<f64> = self.reports.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    }
}

/// Measures, and writes the page; progress goes to standard error.
///
/// # Errors
/// When a measurement fails. What there is by then is printed, and the page stays as it was.
pub fn table(args: &TableArgs) -> Result<(), Failure> {
    let mut facts = facts();
    facts.push(("other frameworks", versions::of_peers()));
    let mut groups = groups(args)?;
    let measured = measure(args.rounds(), &mut groups);
    groups.iter_mut().for_each(|group| group.rows.retain(|row| !(row.reports.is_empty() && row.failures.is_empty())));
    groups.retain(|group| !group.rows.is_empty());
    let text = page::text(&groups, &facts, args.rounds(), args.seconds());
    match &args.into {
        Some(page) if measured.is_ok() => page::write(page, &text)?,
        _ => print!("{text}"),
    }
    measured?;
    if let Some(path) = &args.plot {
        plot::draw(path, &groups, &facts)?;
    }
    Ok(())
}

/// Fills the groups, round by round. A failure of ours ends the run; one of others is noted.
pub(crate) fn measure(rounds: usize, groups: &mut [Group]) -> Result<(), Failure> {
    let mut progress = Progress::new(rounds * groups.iter().map(|group| group.rows.len()).sum::<usize>());
    for round in 1..=rounds {
        for group in &mut *groups {
            group.look_for_peaks()?;
            for index in 0..group.rows.len() {
                let (run, case) = (group.run_of(index), group.case.name());
                let row = &mut group.rows[index];
                match row.subject.measure(&run) {
                    Ok(report) => {
                        progress.one_more(round, &case, &row.subject, &report);
                        row.reports.push(report);
                    }
                    Err(failure) if row.subject.is_other() => {
                        progress.one_failed(round, &failure);
                        row.failures.push(failure.to_string());
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
    }
    Ok(())
}

fn groups(args: &TableArgs) -> Result<Vec<Group>, Failure> {
    let mut others = Vec::new();
    for program in &args.peers {
        others.extend(peers(program)?);
    }
    let wanted = |subject: &Subject| args.who.is_empty() || args.who.contains(&subject.name());
    let group = |case: Case| {
        let ours = case.clients.iter().copied().filter(|client| client.is_built()).map(Subject::Ours);
        let all = ours.chain(others.iter().cloned()).filter(|subject| subject.can(case.run.method) && wanted(subject));
        let rows: Vec<Row> = all.map(Row::new).collect();
        let complete = case.pace != Pace::BaselinePeak || rows.iter().any(|row| row.subject.is_baseline());
        (complete && !rows.is_empty()).then_some(Group { case, rows })
    };
    let only = |case: &Case| args.only.as_ref().is_none_or(|only| case.name().contains(only.as_str()));
    Ok(cases(args.seconds(), args.quick).into_iter().filter(only).filter_map(group).collect())
}

impl Group {
    /// Once, and of those subjects only whose peak says at what rate somebody is measured.
    fn look_for_peaks(&mut self) -> Result<(), Failure> {
        let Group { case, rows } = self;
        for row in rows.iter_mut().filter(|row| row.peak.is_none()) {
            let wanted = match case.pace {
                Pace::Closed => false,
                Pace::OwnPeak => true,
                Pace::BaselinePeak => row.subject.is_baseline(),
            };
            if wanted {
                let mut peak = 0.0_f64;
                for _ in 0..PEAK_TRIES {
                    peak = peak.max(row.subject.measure(&case.run)?.rate());
                }
                row.peak = Some(peak);
            }
        }
        Ok(())
    }

    /// What that row's subject is told.
    fn run_of(&self, index: usize) -> RunArgs {
        let peak = match self.case.pace {
            Pace::BaselinePeak => self.rows.iter().find_map(|row| row.peak),
            _ => self.rows[index].peak,
        };
        RunArgs { rate: peak.map(|peak| peak * SHARE), ..self.case.run.clone() }
    }
}

/// Says after each measurement how many there are still.
struct Progress {
    all: usize,
    done: usize,
    started: Instant,
}

impl Progress {
    fn new(all: usize) -> Progress {
        Progress { all, done: 0, started: Instant::now() }
    }

    fn one_failed(&mut self, round: usize, failure: &Failure) {
        self.done += 1;
        eprintln!("{}/{}, round {round}: {failure}", self.done, self.all);
    }

    fn one_more(&mut self, round: usize, case: &str, subject: &Subject, report: &Report) {
        self.done += 1;
        let (all, done) = (self.all, self.done);
        let left: Duration = self.started.elapsed().mul_f64((all - done) as f64 / done as f64);
        let (minutes, seconds) = (left.as_secs() / 60, left.as_secs() % 60);
        let (name, rate) = (subject.name(), report.rate());
        eprintln!("{done}/{all}, round {round}: {case} {name} {rate:.0} calls/s; {minutes} min {seconds:02} s left");
    }
}
