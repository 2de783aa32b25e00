//! What became of runs, counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cask_executor::scheduler::Counts;
use cask_proto::reapi::ExecuteResponse;
use tonic::Code;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded,
    /// Its command did not.
    Failed,
    TimedOut,
    /// It was not run: something is wrong with the action.
    Error,
    /// Something is wrong with the worker, or with what it brought.
    Returned,
}

const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Succeeded, "succeeded"),
    (Outcome::Failed, "failed"),
    (Outcome::TimedOut, "timed_out"),
    (Outcome::Error, "error"),
    (Outcome::Returned, "returned"),
];

impl Outcome {
    pub(super) fn of(response: &ExecuteResponse) -> Self {
        let code = response.status.as_ref().map_or(Code::Ok, |status| Code::from_i32(status.code));
        match (code, &response.result) {
            (Code::Ok, Some(result)) if result.exit_code == 0 => Self::Succeeded,
            (Code::Ok, _) => Self::Failed,
            (Code::DeadlineExceeded, _) => Self::TimedOut,
            _ => Self::Error,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct RunCounts {
    runs: [AtomicU64; OUTCOMES.len()],
    cached: AtomicU64,
}

impl RunCounts {
    pub(super) fn run(&self, outcome: Outcome) {
        let position = OUTCOMES.iter().position(|(candidate, _)| *candidate == outcome);
        self.runs[position.expect("every outcome has a name")].fetch_add(1, Relaxed);
    }

    pub(super) fn cached(&self) {
        self.cached.fetch_add(1, Relaxed);
    }

    pub(super) fn stats(&self, counts: Counts, journal_backlog: usize) -> ExecutionStats {
        let runs = OUTCOMES.iter().zip(&self.runs).map(|((_, name), count)| (*name, count.load(Relaxed)));
        ExecutionStats { counts, runs: runs.collect(), cached: self.cached.load(Relaxed), journal_backlog }
    }
}

/// Numbers of execution.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecutionStats {
    pub(crate) counts: Counts,
    /// By outcome.
    pub(crate) runs: Vec<(&'static str, u64)>,
    pub(crate) cached: u64,
    pub(crate) journal_backlog: usize,
}
