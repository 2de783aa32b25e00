//! What execution is told once, from the configuration.

use std::time::Duration;

use cask_executor::scheduler::Options;

use crate::config::ExecutionConfig;

/// Bounds and patience of execution.
#[derive(Clone, Debug)]
pub(crate) struct ExecutionSettings {
    pub(crate) scheduler: Options,
    /// Of runs whose action names none.
    pub(crate) timeout_default: Duration,
    /// The longest that an action may name.
    pub(crate) timeout_max: Duration,
    /// How long a bot may say nothing.
    pub(crate) bot_timeout: Duration,
}

/// How often a worker says that it lives, within the time after which it is lost: a few may be late.
const HEARTBEATS_PER_TIMEOUT: u32 = 6;

/// Workers take this long to notice a restart and come back, at least.
const RESTART_GRACE_MIN: Duration = Duration::from_secs(30);

impl From<&ExecutionConfig> for ExecutionSettings {
    fn from(config: &ExecutionConfig) -> Self {
        let scheduler = Options {
            queued_max: config.queue_max,
            attempts_max: config.attempts,
            heartbeat_interval: config.worker_timeout.0 / HEARTBEATS_PER_TIMEOUT,
            worker_timeout: config.worker_timeout.0,
            reconnect_grace: config.reconnect_grace.0,
            restart_grace: config.reconnect_grace.0.max(RESTART_GRACE_MIN),
            no_worker_patience: config.worker_patience.0,
            abandoned_after: config.abandoned_after.0,
            finished_retention: config.retention.0,
            ..Options::default()
        };
        let bot_timeout = config.bot_timeout.0;
        Self { scheduler, timeout_default: config.timeout.0, timeout_max: config.timeout_max.0, bot_timeout }
    }
}
