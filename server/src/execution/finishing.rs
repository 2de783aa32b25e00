//! What a worker brings: checked, stored, then told to those who wait for it.
//!
//! ```text
//! Finished ──▶ its lease? ──▶ digests right, blobs there? ──▶ action cache ──▶ operations done ──▶ Acknowledged
//!                 │ no                 │ no                         │ cannot be written
//!                 ▼                    ▼                            ▼
//!               Cancel          another attempt              done all the same, uncached
//! ```
//! Only a run that ended well is cached: exit code 0, status OK, and the action does not object.

use cask_engine::EngineError;
use cask_executor::farm::{Farm, Session};
use cask_executor::scheduler::{Finishing, LeaseId};
use cask_proto::workers::ToWorker;
use cask_proto::{reapi, rpc, workers};
use prost::Message as _;
use tonic::Code;

use super::Execution;
use super::counts::Outcome;
use super::shortened::shortened;
use crate::cache::{ActionError, ResultOrigin};

/// Bytes of what a worker says in words.
const MESSAGE_BYTES_MAX: usize = 4096;
const SERVER_LOGS_MAX: usize = 64;

/// Why a result is not taken: it has to be run again.
#[derive(Debug)]
struct Fault(String);

impl Execution {
    /// Takes what a worker finished, and goes on with it in a task of its own, whatever becomes of the worker's stream. What is to
    /// be answered at once, if anything. There is one such task a lease, so their number is bounded by that of runs.
    pub(crate) fn take_finished(
        &self,
        farm: &Farm,
        session: &Session,
        lease: LeaseId,
        said: workers::Finished,
    ) -> Option<ToWorker> {
        let replies = session.replies();
        let session = session.id();
        let response = said.response.unwrap_or_default();
        if said.worker_fault {
            let reason = response.status.map_or(response.message, |status| status.message);
            return Some(match farm.give_back(session, lease, &shortened(reason, MESSAGE_BYTES_MAX)) {
                Ok(()) => {
                    self.shared.counts.run(Outcome::Returned);
                    replies.acknowledgement(lease)
                }
                Err(_) => replies.cancellation(lease),
            });
        }
        let finishing = match farm.begin_finish(session, lease) {
            Ok(Some(finishing)) => finishing,
            // A worker that came back says it again. Who took it the first time answers, in the session that there is by then.
            Ok(None) => return None,
            Err(_) => return Some(replies.cancellation(lease)),
        };
        let (execution, farm) = (self.clone(), farm.clone());
        self.shared.finishing.spawn(async move {
            let holder = match execution.settled(&finishing, response).await {
                Ok(response) => {
                    let response = sendable(response, execution.cache().limits().response_size_bytes_max);
                    execution.shared.counts.run(Outcome::of(&response));
                    farm.finish(lease, response).await
                }
                Err(Fault(reason)) => {
                    execution.shared.counts.run(Outcome::Returned);
                    tracing::warn!(event = "worker.result_refused", %lease, reason, "what a worker brought is not taken");
                    farm.reject(lease, &reason)
                }
            };
            // Cancelled meanwhile, it is nobody's; the worker is rid of it all the same.
            let replies = holder.unwrap_or(replies);
            let acknowledgement = replies.acknowledgement(lease);
            replies.send(acknowledgement).await;
        });
        None
    }

    /// The response as clients get it, its result stored.
    async fn settled(
        &self,
        finishing: &Finishing,
        mut response: reapi::ExecuteResponse,
    ) -> Result<reapi::ExecuteResponse, Fault> {
        response.cached_result = false;
        response.message = shortened(response.message, MESSAGE_BYTES_MAX);
        let status = response.status.get_or_insert_default();
        status.message = shortened(std::mem::take(&mut status.message), MESSAGE_BYTES_MAX);
        let is_ok = status.code == Code::Ok as i32;
        while response.server_logs.len() > SERVER_LOGS_MAX {
            response.server_logs.pop_last();
        }
        let Some(mut result) = response.result.take() else {
            return if is_ok { Err(Fault("success without a result".to_owned())) } else { Ok(response) };
        };
        let metadata = result.execution_metadata.get_or_insert_default();
        metadata.queued_timestamp = Some(finishing.queued.into());
        if metadata.worker.is_empty() {
            finishing.worker_name.as_ref().clone_into(&mut metadata.worker);
        }
        let cache = self.cache();
        let instance = match cache.instances().of_name(finishing.instance.clone()) {
            Ok(instance) => instance,
            // It was served when the action was queued, and is not any more since a restart.
            Err(error) => return Ok(failed(Code::FailedPrecondition, error.to_string())),
        };
        let action = instance.within(finishing.action);
        let prepared = match cache.prepare_result(&action, result, ResultOrigin::Run).await {
            Ok(prepared) => prepared,
            Err(ActionError::Invalid(reason)) => return Err(Fault(reason)),
            // Another attempt would make as much.
            Err(error @ ActionError::BeyondLimits(_)) => {
                return Ok(failed(Code::FailedPrecondition, error.to_string()));
            }
            Err(ActionError::Engine(error @ EngineError::TooLarge { .. })) => {
                return Ok(failed(Code::FailedPrecondition, format!("the action's result: {error}")));
            }
            Err(ActionError::Engine(error)) => return Err(Fault(error.to_string())),
        };
        let absent = cache.absent_of(&prepared).map_err(|error| Fault(error.to_string()))?;
        if let Some(absent) = absent.first() {
            return Err(Fault(format!("an output is not there: {absent}")));
        }
        let is_cached = is_ok && prepared.result.exit_code == 0 && !finishing.do_not_cache;
        if is_cached && let Err(error) = cache.put_prepared(instance.name().as_str(), &action, &prepared).await {
            // The next build runs it again; this one has what it wants.
            tracing::warn!(event = "execution.not_cached", %action, %error, "a result was not stored");
        }
        response.result = Some(prepared.result);
        Ok(response)
    }
}

/// What stock clients cannot receive would be no end for them: each would ask again, for ever.
fn sendable(response: reapi::ExecuteResponse, limit_bytes: usize) -> reapi::ExecuteResponse {
    let size_bytes = response.encoded_len();
    if size_bytes <= limit_bytes {
        return response;
    }
    let message = format!("the action's response takes {size_bytes} bytes, more than the {limit_bytes} that are sent");
    failed(Code::FailedPrecondition, message)
}

fn failed(code: Code, message: String) -> reapi::ExecuteResponse {
    let status = rpc::Status { code: code as i32, message, details: Vec::new() };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}
