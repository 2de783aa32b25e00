//! When a call is repeated: after errors of the way, never after errors of the matter; a bounded number of times, which
//! starts over whenever there was progress.

use std::{future::Future, time::Duration};

use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::ClientError;

/// Longest pause that a server can tell us to make: a mistaken one must not stop a build for a day.
const TOLD_DELAY_MAX: Duration = Duration::from_secs(60);

/// How often and how fast calls are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures in a row after which the call is given up; one that got further than all before it counts as the
    /// first of a new row. At least 1.
    pub attempts_max: u32,
    /// Pause before the second attempt; doubles from there.
    pub delay_first: Duration,
    /// Longest pause.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts within about two seconds: a restart of the cache goes unnoticed, an outage does not hold up a
    /// build.
    fn default() -> Self {
        Self { attempts_max: 5, delay_first: Duration::from_millis(100), delay_max: Duration::from_secs(5) }
    }
}

/// The attempts of one call.
pub(crate) struct Attempts {
    policy: RetryPolicy,
    failed: u32,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0 }
    }

    /// Something moved: the count starts over.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt, or says why there is none.
    pub(crate) async fn pause(&mut self, status: &Status, what: impl FnOnce() -> String) -> Result<(), ClientError> {
        if !is_passing(status.code()) {
            return Err(ClientError::of_status(status, what));
        }
        tokio::time::sleep(self.failed(status)?).await;
        Ok(())
    }

    /// How long to wait before the next attempt after a failure that passes: as long as the server says, or twice as long as
    /// the last time. An error when there were enough.
    pub(crate) fn failed(&mut self, status: &Status) -> Result<Duration, ClientError> {
        self.failed += 1;
        if self.failed >= self.policy.attempts_max {
            return Err(ClientError::Unavailable { attempts: self.failed, message: status.message().to_owned() });
        }
        if let Some(told) = told_delay(status) {
            return Ok(told.min(TOLD_DELAY_MAX));
        }
        let doubled = self.policy.delay_first.saturating_mul(1 << (self.failed - 1).min(16));
        Ok(doubled.min(self.policy.delay_max))
    }
}

/// When to come back, if the server said so.
pub(crate) fn told_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Codes of a broken way or a restarting server. `Unknown`, `Internal` and `Cancelled` are what a connection that died
/// under a call looks like. `ResourceExhausted` is not among them: the caller decides whether a full cache is worth
/// waiting for.
pub(crate) fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Aborted | Code::Unknown | Code::Internal | Code::Cancelled)
}

/// Makes a unary call until it succeeds or repeating it makes no sense.
pub(crate) async fn unary<T, F>(
    policy: RetryPolicy,
    what: impl Fn() -> String,
    mut call: impl FnMut() -> F,
) -> Result<T, ClientError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut attempts = Attempts::new(policy);
    loop {
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => attempts.pause(&status, &what).await?,
        }
    }
}
