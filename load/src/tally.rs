//! [`Tally`]: what one thread counted, merged into a report at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Operation;
use crate::fault::Fault;
use crate::traffic::answer::Work;

/// The longest latency that is told apart from longer ones.
const LATENCY_NANOSECONDS_MAX: u64 = 1_000_000_000_000;
/// Errors of different codes that are counted apart; a server cannot make us remember more.
const CODES_MAX: usize = 64;

/// Requests of one kind that went well.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) latency: Histogram<u64>,
    pub(crate) work: Work,
}

/// Requests that failed in one way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failed {
    pub(crate) count: u64,
    /// Of the first of them.
    pub(crate) detail: String,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rows: BTreeMap<Operation, Row>,
    pub(crate) failed: BTreeMap<String, Failed>,
    /// Connections that ended while they were used.
    pub(crate) connections_lost: u64,
    /// Why a connection was given up for good, where one was.
    pub(crate) gave_up: Option<String>,
    /// Processor time of the thread.
    pub(crate) cpu: Duration,
    pub(crate) answered: u64,
    pub(crate) bytes: u64,
}

impl Default for Row {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_NANOSECONDS_MAX, 3).expect("these bounds are sound");
        Self { latency, work: Work::default() }
    }
}

impl Tally {
    /// Counts an answered request.
    pub(crate) fn count(&mut self, operation: Operation, latency: Duration, outcome: Result<Work, Fault>) {
        self.answered += 1;
        match outcome {
            Ok(work) => {
                let row = self.rows.entry(operation).or_default();
                row.latency.saturating_record(latency.as_nanos() as u64);
                row.work.digests += work.digests;
                row.work.bytes += work.bytes;
                self.bytes += work.bytes;
            }
            Err(fault) => self.fail(&fault),
        }
    }

    fn fail(&mut self, fault: &Fault) {
        let mut code = fault.code();
        if self.failed.len() >= CODES_MAX && !self.failed.contains_key(&code) {
            "others".clone_into(&mut code);
        }
        let failed = self.failed.entry(code).or_insert_with(|| Failed { count: 0, detail: fault.detail() });
        failed.count += 1;
    }

    /// Adds another thread's.
    pub(crate) fn merge(&mut self, other: Self) {
        for (operation, row) in other.rows {
            let mine = self.rows.entry(operation).or_default();
            mine.latency.add(&row.latency).expect("all histograms have the same bounds");
            mine.work.digests += row.work.digests;
            mine.work.bytes += row.work.bytes;
        }
        for (code, failed) in other.failed {
            let mine = self.failed.entry(code).or_insert_with(|| Failed { count: 0, detail: failed.detail });
            mine.count += failed.count;
        }
        self.connections_lost += other.connections_lost;
        self.gave_up = self.gave_up.take().or(other.gave_up);
        self.cpu += other.cpu;
        self.answered += other.answered;
        self.bytes += other.bytes;
    }
}
