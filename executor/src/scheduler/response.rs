//! Results that no worker made: why an action did not come to its end. Always a status inside the response, never an error of
//! the operation: clients take that for a broken server.

use std::time::Duration;

use cask_proto::{InstanceName, reapi, rpc};
use tonic::Code;

use super::platform::Requirements;

fn response(code: Code, message: String) -> reapi::ExecuteResponse {
    let status = rpc::Status { code: code as i32, message, details: Vec::new() };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}

/// Somebody wanted it to end.
pub(super) fn cancelled() -> reapi::ExecuteResponse {
    response(Code::Cancelled, "the operation was cancelled".to_owned())
}

/// Nobody wanted to know. Whoever does all the same may try again: CANCELLED is for what somebody wanted to end.
pub(super) fn abandoned(patience: Duration) -> reapi::ExecuteResponse {
    let message = format!("the action waited in the queue, and nobody listened for {} s", patience.as_secs());
    response(Code::Unavailable, message)
}

/// Workers had it, and none came to its end. Passes, perhaps: another call tries again.
pub(super) fn attempts_used_up(attempts: u32, reason: &str) -> reapi::ExecuteResponse {
    let times = if attempts == 1 { "time" } else { "times" };
    let message =
        format!("the action was given to a worker {attempts} {times} and never came to its end; lastly: {reason}");
    response(Code::Unavailable, message)
}

/// No worker has what it asks for; another call would wait for nothing as well.
pub(super) fn no_worker(
    instance: &InstanceName,
    requirements: &Requirements,
    patience: Duration,
) -> reapi::ExecuteResponse {
    let of = if instance.as_str().is_empty() { String::new() } else { format!(" of instance `{instance}`") };
    let with =
        if requirements.is_empty() { String::new() } else { format!(" with the platform properties {requirements}") };
    response(Code::FailedPrecondition, format!("for {} s there was no worker{of}{with}", patience.as_secs()))
}
