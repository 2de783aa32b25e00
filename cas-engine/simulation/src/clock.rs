//! Time that moves only when the simulation says so.

use std::sync::atomic::{AtomicU64, Ordering};

use cask_engine::clock::Clock;

/// A clock shared by the engine, the disk (whose operations may be slow) and the workload.
#[derive(Debug)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// Starts somewhere in 2023.
    pub fn new() -> Self {
        Self(AtomicU64::new(1_700_000_000_000))
    }

    /// Starts at `now_ms`.
    pub fn at(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Lets `ms` milliseconds pass.
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
