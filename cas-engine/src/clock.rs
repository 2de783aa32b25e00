//! Injected time.
//!
//! The engine never asks the operating system for the time: leases, touch epochs and retry advice are functions of a
//! [`Clock`], so that a test or the simulator owns time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; never goes back within one process.
pub trait Clock: Send + Sync + 'static {
    /// The present, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The machine's clock: wall time read once, advanced by the monotonic clock, so a stepped wall clock cannot make a
/// lease look older or younger while the process runs.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    started_ms: u64,
}

impl SystemClock {
    /// Reads wall time once.
    pub fn new() -> Self {
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Self { started: Instant::now(), started_ms }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.started_ms + self.started.elapsed().as_millis() as u64
    }
}
