//! The runner, tested through its socket as a worker uses it, at every level that works here.
//!
//! A main of its own: this binary is also the supervisor of the runs it asks for, and some of its tests the runner that is killed.

#![expect(clippy::assigning_clones, reason = "one assignment, no hot path")]

mod bench;
mod cases;
mod rig;

use std::process::ExitCode;
use std::time::Instant;

use cask_executor::runner::supervise;

fn main() -> ExitCode {
    if let Some(ended) = supervise() {
        return ended;
    }
    if let Some(ended) = rig::runner_process() {
        return ended;
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == **filter } else { name.contains(&**filter) })
    };
    let trials = cases::all();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in trials {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    let mut count = 0;
    for (name, trial) in trials.into_iter().filter(|(name, _)| wanted(name)) {
        let began = Instant::now();
        let ok = std::panic::catch_unwind(trial).is_ok();
        println!("test {name} ... {} ({} ms)", if ok { "ok" } else { "FAILED" }, began.elapsed().as_millis());
        count += 1;
        if !ok {
            failed.push(name);
        }
    }
    println!(
        "\ntest result: {}. {} passed; {} failed",
        if failed.is_empty() { "ok" } else { "FAILED" },
        count - failed.len(),
        failed.len()
    );
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
