//! What a scheduler is told once.

use std::time::Duration;

/// Bounds and patience.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tasks that may wait.
    pub queued_max: usize,
    /// Bytes of memory that unfinished tasks may take before one more that would have to wait is refused. Most take less than
    /// 2 KiB; it is clients who say how long the names of their platforms and builds are.
    pub queued_bytes_max: usize,
    /// Runs of one task before it is given up with UNAVAILABLE.
    pub attempts_max: u32,
    /// How often workers are told to say that they live.
    pub heartbeat_interval: Duration,
    /// A worker that says nothing for so long is lost.
    pub worker_timeout: Duration,
    /// How long the leases of a worker whose stream broke wait for it.
    pub reconnect_grace: Duration,
    /// As above, after a start of the server.
    pub restart_grace: Duration,
    /// How long a task may wait when no worker that could run it is there; then `FAILED_PRECONDITION`.
    pub no_worker_patience: Duration,
    /// How long a queued task goes on when nobody listens to any of its operations, nor asks after one.
    pub abandoned_after: Duration,
    /// How long finished operations are remembered.
    pub finished_retention: Duration,
    /// Bytes of results of finished runs that are remembered, at most: the oldest go first.
    pub finished_bytes_max: usize,
    /// As above, of results that were known already, which is most: they push out only each other.
    pub known_bytes_max: usize,
    /// One assignment in so many goes to the task that waited longest, so that no priority starves another.
    pub oldest_first_every: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queued_max: 1_000_000,
            queued_bytes_max: 2 << 30,
            attempts_max: 4,
            heartbeat_interval: Duration::from_secs(5),
            worker_timeout: Duration::from_secs(30),
            reconnect_grace: Duration::from_secs(5),
            restart_grace: Duration::from_secs(30),
            no_worker_patience: Duration::from_secs(900),
            abandoned_after: Duration::from_secs(300),
            finished_retention: Duration::from_secs(900),
            finished_bytes_max: 64 << 20,
            known_bytes_max: 4 << 20,
            oldest_first_every: 16,
        }
    }
}
