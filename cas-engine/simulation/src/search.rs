//! Many seeds on all cores, and what is kept of those that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::checker::Violation;
use crate::run::{Tally, run};
use crate::workload::{Operation, Setup, operations, setup};

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// It.
    pub seed: u64,
    /// What was seen.
    pub violation: Violation,
}

/// As [`run`], and a panic of the engine is a violation too.
pub fn run_caught(setup: &Setup, operations: &[Operation]) -> (Tally, Result<(), Violation>) {
    caught(|| run(setup, operations))
}

pub(crate) fn caught(run: impl FnOnce() -> (Tally, Result<(), Violation>)) -> (Tally, Result<(), Violation>) {
    let caught = catch_unwind(AssertUnwindSafe(run));
    caught.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        (Tally::default(), Err(Violation::new("panic", text)))
    })
}

/// Runs one seed; every 64th twice, and then the two must have done the same.
pub fn run_seed(seed: u64, operation_count: usize) -> (Tally, Result<(), Violation>) {
    let setup = setup(seed);
    let operations = operations(&setup, operation_count);
    let (tally, outcome) = run_caught(&setup, &operations);
    if outcome.is_ok() && seed.is_multiple_of(64) {
        let (again, _) = run_caught(&setup, &operations);
        if again.trace != tally.trace {
            let detail = format!("trace {:016x}, and the second time {:016x}", tally.trace, again.trace);
            return (tally, Err(Violation::new("same seed, same trace", detail)));
        }
    }
    (tally, outcome)
}

/// Runs the seeds from `first` on, `count` of them, on all cores. Stops after `failures_max` failures.
pub fn search(first: u64, count: u64, operation_count: usize, failures_max: usize) -> (Tally, Vec<Failure>) {
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Tally::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (tally, outcome) = run_seed(seed, operation_count);
                    let mut total = total.lock().unwrap();
                    total.0.add(&tally);
                    if let Err(violation) = outcome {
                        total.1.push(Failure { seed, violation });
                        if total.1.len() >= failures_max {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}
