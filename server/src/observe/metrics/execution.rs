//! The part of the page that a server with execution has.

use super::Kind::{Counter, Gauge};
use super::Page;
use crate::execution::ExecutionStats;

pub(super) fn execution_metrics(page: &mut Page, stats: &ExecutionStats) {
    // Taken apart so that a new count cannot be forgotten here.
    let ExecutionStats { counts, runs, cached, journal_backlog } = stats;
    let cask_executor::scheduler::Counts {
        queued,
        leased,
        operations,
        workers,
        slots,
        merged_total,
        lost_total,
        assigned_total,
        finished_total,
    } = *counts;
    for (name, help, value) in [
        (
            "cask_execution_queued",
            "Actions that wait for a worker. Staying above 0 with cask_execution_running at cask_execution_slots: add workers; below it: no worker has the platform that is asked for.",
            queued,
        ),
        ("cask_execution_running", "Actions that a worker has.", leased),
        ("cask_execution_workers", "Workers connected now.", workers),
        ("cask_execution_slots", "Actions that they run at once.", slots),
        ("cask_execution_operations", "Operations that clients can ask for, finished ones too.", operations),
        (
            "cask_execution_journal_backlog",
            "Records of the queue that are not written yet. Growing: the disk does not keep up, and a restart would lose what it lacks.",
            *journal_backlog,
        ),
    ] {
        page.single(name, Gauge, help, value as f64);
    }
    for (name, help, value) in [
        ("cask_execution_cached_total", "Actions whose result was known, so nobody ran them.", *cached),
        ("cask_execution_merged_total", "Actions that joined an identical one under way.", merged_total),
        ("cask_execution_assigned_total", "Runs given to workers.", assigned_total),
        (
            "cask_execution_lost_total",
            "Runs lost with their worker. Growing: look at the workers' logs; they crash, or their network does.",
            lost_total,
        ),
        ("cask_execution_finished_total", "Actions that are done, however they ended.", finished_total),
    ] {
        page.single(name, Counter, help, value as f64);
    }
    page.family(
        "cask_execution_runs_total",
        Counter,
        "Runs that workers ended. failed: exit code not 0; timed_out: raise the action's timeout; error: see the status that clients got; returned: no fault of the action, see the workers' logs.",
    );
    for (outcome, count) in runs {
        page.sample("cask_execution_runs_total", &[("outcome", outcome)], *count as f64);
    }
}
