//! Makes a failing list of operations shorter while it goes on failing the same checker (delta debugging).

use crate::search::run_caught;
use crate::workload::{Operation, Setup};

/// Runs that a shrink may take.
const RUNS_MAX: usize = 3000;

/// Positions of a shorter list that fails as the whole does.
pub fn shrink(setup: &Setup, operations: &[Operation], checker: &str) -> Vec<usize> {
    let mut runs = 0;
    let mut fails = |kept: &[usize]| {
        runs += 1;
        let list: Vec<Operation> = kept.iter().map(|position| operations[*position].clone()).collect();
        run_caught(setup, &list).1.is_err_and(|violation| violation.checker == checker)
    };
    let mut kept: Vec<usize> = (0..operations.len()).collect();
    let mut piece = kept.len().div_ceil(2);
    let mut budget = RUNS_MAX;
    while piece > 0 && budget > 0 {
        let mut start = 0;
        let mut shrunk = false;
        while start < kept.len() && budget > 0 {
            let end = (start + piece).min(kept.len());
            let candidate: Vec<usize> = kept[..start].iter().chain(&kept[end..]).copied().collect();
            budget -= 1;
            if fails(&candidate) {
                kept = candidate;
                shrunk = true;
            } else {
                start = end;
            }
        }
        // Single operations are tried until none can go.
        piece = if piece == 1 { usize::from(shrunk) } else { piece / 2 };
    }
    kept
}
