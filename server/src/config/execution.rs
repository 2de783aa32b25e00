//! What was said about execution, made whole. Without `execution` the rest says nothing.

use std::time::Duration;

use super::{ConfigError, Settings, TimeSpan};

/// How actions are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecutionConfig {
    /// Of actions that name none; at most `timeout_max`.
    pub(crate) timeout: TimeSpan,
    pub(crate) timeout_max: TimeSpan,
    pub(crate) queue_max: usize,
    pub(crate) worker_patience: TimeSpan,
    pub(crate) worker_timeout: TimeSpan,
    pub(crate) reconnect_grace: TimeSpan,
    pub(crate) bot_timeout: TimeSpan,
    pub(crate) attempts: u32,
    pub(crate) retention: TimeSpan,
    pub(crate) abandoned_after: TimeSpan,
}

const fn seconds(seconds: u64) -> TimeSpan {
    TimeSpan(Duration::from_secs(seconds))
}

const TIMEOUT_DEFAULT: TimeSpan = seconds(3600);
const TIMEOUT_MAX_DEFAULT: TimeSpan = seconds(24 * 3600);
const QUEUE_MAX_DEFAULT: usize = 1_000_000;
const WORKER_PATIENCE_DEFAULT: TimeSpan = seconds(900);
const WORKER_TIMEOUT_DEFAULT: TimeSpan = seconds(30);
const RECONNECT_GRACE_DEFAULT: TimeSpan = seconds(10);
const BOT_TIMEOUT_DEFAULT: TimeSpan = seconds(120);
const ATTEMPTS_DEFAULT: u32 = 4;
const RETENTION_DEFAULT: TimeSpan = seconds(900);
const ABANDONED_AFTER_DEFAULT: TimeSpan = seconds(300);

/// A worker says that it lives several times within its timeout; less than this leaves no room for that.
const WORKER_TIMEOUT_MIN: TimeSpan = seconds(1);

impl ExecutionConfig {
    /// `None`: nothing is executed here.
    pub(super) fn complete(settings: &Settings, warnings: &mut Vec<String>) -> Result<Option<Self>, ConfigError> {
        if settings.execution != Some(true) {
            if settings.says_of_execution() {
                warnings
                    .push("the settings of execution do nothing as long as execution is not switched on".to_owned());
            }
            return Ok(None);
        }
        let timeout_max = settings.execution_timeout_max.unwrap_or(TIMEOUT_MAX_DEFAULT);
        // A maximum below the usual default is a wish, not a contradiction.
        let timeout = settings.execution_timeout.unwrap_or(TIMEOUT_DEFAULT.min(timeout_max));
        if timeout > timeout_max {
            return Err(ConfigError::TimeoutAboveMax { timeout, timeout_max });
        }
        for (name, is_zero) in [
            ("execution-timeout", timeout.0.is_zero()),
            ("execution-queue-max", settings.execution_queue_max == Some(0)),
            ("execution-bot-timeout", settings.execution_bot_timeout.is_some_and(|timeout| timeout.0.is_zero())),
            ("execution-attempts", settings.execution_attempts == Some(0)),
        ] {
            if is_zero {
                return Err(ConfigError::Zero { name });
            }
        }
        let worker_timeout = settings.execution_worker_timeout.unwrap_or(WORKER_TIMEOUT_DEFAULT);
        if worker_timeout < WORKER_TIMEOUT_MIN {
            return Err(ConfigError::WorkerTimeout { least: WORKER_TIMEOUT_MIN });
        }
        Ok(Some(Self {
            timeout,
            timeout_max,
            queue_max: settings.execution_queue_max.unwrap_or(QUEUE_MAX_DEFAULT),
            worker_patience: settings.execution_worker_patience.unwrap_or(WORKER_PATIENCE_DEFAULT),
            worker_timeout,
            reconnect_grace: settings.execution_reconnect_grace.unwrap_or(RECONNECT_GRACE_DEFAULT),
            bot_timeout: settings.execution_bot_timeout.unwrap_or(BOT_TIMEOUT_DEFAULT),
            attempts: settings.execution_attempts.unwrap_or(ATTEMPTS_DEFAULT),
            retention: settings.execution_retention.unwrap_or(RETENTION_DEFAULT),
            abandoned_after: settings.execution_abandoned_after.unwrap_or(ABANDONED_AFTER_DEFAULT),
        }))
    }
}

impl Settings {
    fn says_of_execution(&self) -> bool {
        self.execution_timeout.is_some()
            || self.execution_timeout_max.is_some()
            || self.execution_queue_max.is_some()
            || self.execution_worker_patience.is_some()
            || self.execution_worker_timeout.is_some()
            || self.execution_reconnect_grace.is_some()
            || self.execution_attempts.is_some()
            || self.execution_bot_timeout.is_some()
            || self.execution_retention.is_some()
            || self.execution_abandoned_after.is_some()
    }
}
