//! The list of tests: most are run once for each level.

mod ending;
mod keeping_apart;
mod machine;
mod refused;

use std::panic::UnwindSafe;

use cask_executor::runner::Level;

use crate::rig::runtime;

pub(crate) type Trial = Box<dyn FnOnce() + UnwindSafe>;

/// The levels that need nothing but a kernel.
pub(crate) const LEVELS: [Level; 2] = [Level::Host, Level::Sandbox];

pub(crate) fn all() -> Vec<(String, Trial)> {
    let mut trials = Trials::default();
    ending::add(&mut trials);
    keeping_apart::add(&mut trials);
    refused::add(&mut trials);
    machine::add(&mut trials);
    if std::env::args().any(|argument| argument == "bench") {
        trials.0.push(("bench".to_owned(), Box::new(crate::bench::bench)));
    }
    trials.0
}

#[derive(Default)]
pub(crate) struct Trials(Vec<(String, Trial)>);

impl Trials {
    pub(crate) fn once<F: Future<Output = ()>>(
        &mut self,
        name: &str,
        trial: impl FnOnce() -> F + UnwindSafe + 'static,
    ) {
        self.0.push((name.to_owned(), Box::new(move || runtime().block_on(trial()))));
    }

    pub(crate) fn at_each_level<F: Future<Output = ()> + 'static>(&mut self, name: &str, trial: fn(Level) -> F) {
        for level in LEVELS {
            self.once(&format!("{}::{name}", level.name()), move || trial(level));
        }
    }
}

/// Whether tests that change users can run; says so if not.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: {test} needs root");
    }
    is_root
}
