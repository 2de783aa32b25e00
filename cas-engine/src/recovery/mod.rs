//! Opening: from files to a running store, in two steps.
//!
//! ```text
//! survey   headers and trailers of all segments, records of those without footer    before anything is served
//! fill     the index, from the footers (32 bytes a record), on all cores            while reads are served
//! ```
//! The footers of the sealed segments are the checkpoint, there is no other. Segments without a footer (at most a few) are
//! scanned record by record; checksums decide what counts, and a damaged record costs only itself.
//!
//! After the survey the store knows its segments, their order and where its log ends, and can read whatever the index
//! knows already. What it does *not* know is what is missing: until the fill is complete every question to which the
//! answer would be "not there" gets [`EngineError::Loading`](crate::EngineError::Loading), nothing new is stored, and
//! nothing is reclaimed. An answer of "missing" given too early would make every client upload everything again.
//!
//! The result does not depend on which thread came first: between two records of one key the sequence of their segments
//! decides, or for heads and actions their stamps.

mod fill;
mod progress;
mod scan;
mod survey;

use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) use fill::Filling;
pub(crate) use progress::Loading;
pub(crate) use survey::{Life, Surveyed, survey};

/// Threads for work that waits for the device more than it computes.
const READING_THREADS_MAX: usize = 16;

/// How many threads recovery may use. One: everything happens in a fixed order on the caller's thread, for tests and the
/// simulator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    computing: usize,
    reading: usize,
}

impl Threads {
    pub(crate) const ONE: Threads = Threads { computing: 1, reading: 1 };

    /// As many as the machine has, and more for what waits.
    pub(crate) fn of_machine() -> Self {
        let computing = std::thread::available_parallelism().map_or(1, usize::from);
        Self { computing, reading: READING_THREADS_MAX.max(computing) }
    }
}

/// Calls `work` for each item, in order, from up to `threads` threads; `work` says whether to go on.
fn for_each<'a, T: Sync>(threads: usize, items: &'a [T], work: impl Fn(&'a T) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !work(item) {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    if threads.min(items.len()) <= 1 {
        return run();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(run);
        }
    });
}
