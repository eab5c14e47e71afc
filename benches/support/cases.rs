//! What a whole run measures.

use bench_driver::{MethodName, RunArgs, Transport};

use crate::args::Client::{
    self, Blocking, Floor, FloorSingly, FloorSpinning, FloorTokio, Reactor, ReactorBusy, Tokio, TokioHosted,
};

/// One case, and who of ours can take it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) run: RunArgs,
    pub(crate) clients: &'static [Client],
    pub(crate) pace: Pace,
    /// Whether a quick run has it, too.
    quick: bool,
}

/// When calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// When the last one has ended.
    Closed,
    /// At fixed times: 20 % as many as the subject can make in the closed loop.
    OwnPeak,
    /// At fixed times, the same for all: 20 % as many as tonic can make.
    BaselinePeak,
}

/// The share of the peak at which tails are compared.
pub(crate) const SHARE: f64 = 0.2;

const ECHO: &[Client] = &[Floor, FloorSingly, FloorTokio, Reactor, ReactorBusy, TokioHosted, Tokio, Blocking];
/// One call at a time: sleeping and waking is all there is.
const LONE: &[Client] = &[Floor, FloorSpinning, FloorTokio, Reactor, ReactorBusy, TokioHosted, Tokio, Blocking];
/// Without a thread for each call in flight.
const TASKS: &[Client] = &[Floor, FloorSingly, FloorTokio, Reactor, ReactorBusy, TokioHosted, Tokio];
/// With messages, of which the floors know nothing.
const MESSAGES: &[Client] = &[Reactor, ReactorBusy, TokioHosted, Tokio];

impl Case {
    pub(crate) fn closed(run: RunArgs, clients: &'static [Client]) -> Case {
        Case { run, clients, pace: Pace::Closed, quick: false }
    }

    fn quick(self) -> Case {
        Case { quick: true, ..self }
    }

    pub(crate) fn name(&self) -> String {
        let name = self.run.case();
        match self.pace {
            Pace::Closed => name,
            Pace::OwnPeak => name + "_at_20_percent_of_its_own_peak",
            Pace::BaselinePeak => name + "_at_20_percent_of_tonics_peak",
        }
    }
}

/// All cases, or the few of a quick run.
pub(crate) fn cases(seconds: f64, quick: bool) -> Vec<Case> {
    let kib = 1 << 10;
    let echo = |payload, in_flight| RunArgs::echo(payload, in_flight, seconds);
    let mixed = |in_flight| RunArgs { method: MethodName::Mixed, ..echo(200, in_flight) };
    let pinned = |run| RunArgs { pin: true, ..run };
    let unix = |run| RunArgs { transport: Transport::Unix, ..run };
    let over = |connections, run| RunArgs { connections, ..run };
    let paced = |pace| Case { pace, ..Case::closed(echo(kib, 100), TASKS) };
    let all = vec![
        Case::closed(echo(32, 1), LONE).quick(),
        Case::closed(echo(32, 16), ECHO),
        Case::closed(echo(32, 100), ECHO).quick(),
        Case::closed(echo(32, 1000), ECHO),
        Case::closed(echo(kib, 1), LONE),
        Case::closed(echo(kib, 16), ECHO),
        Case::closed(echo(kib, 100), ECHO).quick(),
        Case::closed(echo(kib, 1000), ECHO),
        Case::closed(echo(0, 100), TASKS),
        Case::closed(pinned(echo(32, 1)), LONE),
        Case::closed(pinned(echo(32, 100)), TASKS).quick(),
        Case::closed(pinned(echo(kib, 100)), TASKS),
        Case::closed(echo(64 * kib, 16), TASKS),
        Case::closed(echo(kib * kib, 1), TASKS),
        Case::closed(echo(kib * kib, 4), TASKS),
        Case::closed(over(4, echo(32, 100)), TASKS),
        Case::closed(over(4, echo(32, 400)), TASKS),
        Case::closed(over(100, echo(32, 100)), TASKS),
        Case::closed(unix(echo(32, 1)), TASKS),
        Case::closed(unix(echo(32, 100)), TASKS),
        Case::closed(mixed(1), MESSAGES),
        Case::closed(mixed(100), MESSAGES).quick(),
        paced(Pace::OwnPeak),
        paced(Pace::BaselinePeak).quick(),
    ];
    all.into_iter().filter(|case| case.quick || !quick).collect()
}
