//! [`Execution`]: one action, asked for until it is done.
//!
//! ```text
//!             Execute                   done                 OK, or a failure of the action's own
//!   (no name) ────────▶ (name known) ─────────▶ response ─────────────────────────────────────────▶ Done
//!       ▲                 │   ▲                     │
//!       │  NOT_FOUND      │   │ WaitExecution       │ blobs are missing ──▶ Missing (the caller uploads them) ──┐
//!       └─────────────────┤   │                     │ UNAVAILABLE and the like                                │
//!       ▲                 └───┘ the stream broke    ▼                                                         │
//!       └──────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Every way back is bounded: broken streams in a row without news between them, operations that the server forgot, runs that
//! failed for reasons of the server, rounds of missing blobs. Advice on when to come back is followed. Never cancels by
//! itself: what is dropped goes on at the server, for whoever asks next.
//!
//! Cancellation: [`Execution::next`] may be dropped at any point and called again; no call is made twice for it.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::{
    ReadName,
    digest::{function_field, to_wire},
    longrunning::{self, operations_client::OperationsClient},
    reapi::{self, execution_client::ExecutionClient, execution_stage},
    rpc,
};
use futures_util::future::BoxFuture;
use prost::Message as _;
use tokio::time::{Instant, Sleep};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{
    ANSWER_BYTES_MAX, RemoteCache,
    request_tag::TaggedChannel,
    retry::{Attempts, is_passing, told_delay, unary},
};
use crate::ClientError;

/// How often an operation may be forgotten by the server before we stop asking for another.
const FORGOTTEN_MAX: u32 = 3;
/// How often the caller is asked for missing blobs: once for what was not there, once for what went meanwhile.
const MISSING_ROUNDS_MAX: u32 = 2;
/// A stream that lasted for so long was a good one, though it brought no news: proxies end all of them in the end.
const LIVED_MIN: Duration = Duration::from_secs(10);
/// The type of a violation that names an absent blob.
const MISSING: &str = "MISSING";

/// How an action is to be executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecuteOptions {
    /// Lower is sooner.
    pub priority: i32,
    /// The result must not be older than the call.
    pub skip_cache_lookup: bool,
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The server does not say.
    #[default]
    Unknown,
    /// It looks into the action cache.
    CacheCheck,
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Executing,
    /// Done.
    Completed,
}

/// What is known of an operation that goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationState {
    /// By which the server knows it.
    pub name: String,
    /// Where it is.
    pub stage: Stage,
    /// A log to follow for standard output; empty until there is one.
    pub stdout_stream_name: String,
    /// The same for standard error.
    pub stderr_stream_name: String,
    /// Who runs it; empty until known.
    pub worker: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum ExecutionEvent {
    /// Something about the operation is new.
    Changed(OperationState),
    /// The server lacks these blobs. The next call of [`Execution::next`] executes again: upload them before, or give up.
    Missing(Vec<Digest>),
    /// The end. The status may be one of failure, the action's own; it may have a result beside it.
    Done(Box<reapi::ExecuteResponse>),
}

type Operations = Streaming<longrunning::Operation>;

/// How we hear of the operation.
enum Link {
    Idle,
    Pausing(Pin<Box<Sleep>>),
    Opening(BoxFuture<'static, Result<Response<Operations>, Status>>),
    Open { stream: Box<Operations>, since: Instant },
}

/// An action on its way. See the module.
pub struct Execution {
    cache: RemoteCache,
    action: Digest,
    request: reapi::ExecuteRequest,
    link: Link,
    /// Its name is empty until an operation is known, and again when it is known to be gone.
    state: OperationState,
    /// Of getting through to the server.
    link_attempts: Attempts,
    /// Of runs that ended with failures of the server.
    run_attempts: Attempts,
    forgotten: u32,
    missing_rounds: u32,
}

impl std::fmt::Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution").field("action", &self.action).field("state", &self.state).finish_non_exhaustive()
    }
}

impl RemoteCache {
    /// An execution of an action. Nothing is asked before the first call of [`Execution::next`].
    pub fn execute(&self, action: Digest, options: &ExecuteOptions) -> Execution {
        let request = reapi::ExecuteRequest {
            instance_name: self.instance.to_string(),
            skip_cache_lookup: options.skip_cache_lookup,
            action_digest: Some(to_wire(&action)),
            execution_policy: (options.priority != 0).then_some(reapi::ExecutionPolicy { priority: options.priority }),
            digest_function: function_field(action.function()),
            inline_stdout: true,
            inline_stderr: true,
            ..Default::default()
        };
        Execution {
            cache: self.clone(),
            action,
            request,
            link: Link::Idle,
            state: OperationState::default(),
            link_attempts: Attempts::new(self.retry),
            run_attempts: Attempts::new(self.retry),
            forgotten: 0,
            missing_rounds: 0,
        }
    }
}

impl Execution {
    /// Which action it is of.
    pub fn action(&self) -> Digest {
        self.action
    }

    /// What is known so far.
    pub fn state(&self) -> &OperationState {
        &self.state
    }

    /// Waits for the next event. After [`ExecutionEvent::Done`] or an error there is none: do not call it again.
    pub async fn next(&mut self) -> Result<ExecutionEvent, ClientError> {
        loop {
            let event = match &mut self.link {
                Link::Idle => {
                    self.link = Link::Opening(self.open());
                    None
                }
                Link::Pausing(sleep) => {
                    sleep.as_mut().await;
                    self.link = Link::Idle;
                    None
                }
                Link::Opening(opening) => match opening.await {
                    Ok(stream) => {
                        self.link = Link::Open { stream: Box::new(stream.into_inner()), since: Instant::now() };
                        None
                    }
                    Err(status) => self.broken(&status)?,
                },
                Link::Open { stream, .. } => match stream.message().await {
                    Ok(Some(operation)) => self.heard(operation)?,
                    Ok(None) => self.broken(&Status::unavailable("the stream ended before the operation did"))?,
                    Err(status) => self.broken(&status)?,
                },
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Asks the server to stop the operation; [`Execution::next`] says how it ended. `None` when there is none to stop yet.
    pub fn cancel(&self) -> Option<impl Future<Output = Result<(), ClientError>> + use<>> {
        if self.state.name.is_empty() {
            return None;
        }
        let (what, cache) = (self.what(), self.cache.clone());
        let request = longrunning::CancelOperationRequest { name: self.state.name.clone() };
        Some(async move {
            let answer = unary(
                cache.retry,
                || what.clone(),
                || {
                    let (mut client, request) = (OperationsClient::new(cache.tagged()), request.clone());
                    async move { client.cancel_operation(request).await }
                },
            );
            match answer.await {
                // It is gone, as was wanted.
                Ok(()) | Err(ClientError::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn open(&self) -> BoxFuture<'static, Result<Response<Operations>, Status>> {
        let mut client: ExecutionClient<TaggedChannel> =
            ExecutionClient::new(self.cache.tagged()).max_decoding_message_size(ANSWER_BYTES_MAX);
        if self.state.name.is_empty() {
            let request = self.request.clone();
            Box::pin(async move { client.execute(request).await })
        } else {
            let request = reapi::WaitExecutionRequest { name: self.state.name.clone() };
            Box::pin(async move { client.wait_execution(request).await })
        }
    }

    /// A call or its stream ended with an error, or too early.
    fn broken(&mut self, status: &Status) -> Result<Option<ExecutionEvent>, ClientError> {
        if let Link::Open { since, .. } = &self.link
            && since.elapsed() >= LIVED_MIN
        {
            self.link_attempts.progressed();
        }
        self.link = Link::Idle;
        if let Some(missing) = missing_blobs(status) {
            return self.missing(missing, status).map(Some);
        }
        let known = !self.state.name.is_empty();
        let is_forgotten = known && matches!(status.code(), Code::NotFound | Code::Unimplemented);
        if is_forgotten && self.forgotten < FORGOTTEN_MAX {
            self.forgotten += 1;
            self.start_over();
            return Ok(None);
        }
        // A deadline is of the way, somebody's between us and the server: an action's own comes as a response.
        let passes =
            is_passing(status.code()) || status.code() == Code::DeadlineExceeded || told_delay(status).is_some();
        if !passes {
            return Err(ClientError::of_status(status, || self.what()));
        }
        let pause = self.link_attempts.failed(status)?;
        self.pause(pause);
        Ok(None)
    }

    fn heard(&mut self, operation: longrunning::Operation) -> Result<Option<ExecutionEvent>, ClientError> {
        let metadata = operation.metadata.as_ref().map(metadata_of).transpose()?.unwrap_or_default();
        let state = OperationState {
            stage: stage_of(&metadata),
            stdout_stream_name: metadata.stdout_stream_name,
            stderr_stream_name: metadata.stderr_stream_name,
            worker: metadata.partial_execution_metadata.unwrap_or_default().worker,
            name: operation.name,
        };
        if operation.done {
            use longrunning::operation::Result::{Error, Response};
            return match operation.result {
                Some(Response(response)) => {
                    let response = reapi::ExecuteResponse::decode(&response.value[..])
                        .map_err(|error| ClientError::Answer(format!("the response of {}: {error}", self.what())))?;
                    self.state = state;
                    self.done(response)
                }
                // The API forbids it, and some servers do it all the same.
                Some(Error(status)) => {
                    self.start_over();
                    self.broken(&status_of(status))
                }
                None => Err(ClientError::Answer(format!("{} is done and has no response", self.what()))),
            };
        }
        if state == self.state {
            return Ok(None);
        }
        self.link_attempts.progressed();
        self.state = state.clone();
        Ok(Some(ExecutionEvent::Changed(state)))
    }

    fn done(&mut self, response: reapi::ExecuteResponse) -> Result<Option<ExecutionEvent>, ClientError> {
        let status = status_of(response.status.clone().unwrap_or_default());
        if let Some(missing) = missing_blobs(&status) {
            self.link = Link::Idle;
            return self.missing(missing, &status).map(Some);
        }
        let failed_there = matches!(status.code(), Code::Unavailable | Code::Aborted | Code::Internal | Code::Unknown)
            || (status.code() != Code::Ok && told_delay(&status).is_some());
        if !failed_there {
            return Ok(Some(ExecutionEvent::Done(Box::new(response))));
        }
        let pause = self.run_attempts.failed(&status)?;
        self.start_over();
        self.pause(pause);
        Ok(None)
    }

    fn missing(&mut self, missing: Vec<Digest>, status: &Status) -> Result<ExecutionEvent, ClientError> {
        if self.missing_rounds == MISSING_ROUNDS_MAX {
            return Err(ClientError::of_status(status, || self.what()));
        }
        self.missing_rounds += 1;
        self.start_over();
        Ok(ExecutionEvent::Missing(missing))
    }

    /// There is no operation any more; the next call makes another.
    fn start_over(&mut self) {
        self.state = OperationState::default();
        self.link = Link::Idle;
    }

    fn pause(&mut self, pause: Duration) {
        self.link = Link::Pausing(Box::pin(tokio::time::sleep(pause)));
    }

    fn what(&self) -> String {
        if self.state.name.is_empty() {
            format!("action {}", self.action)
        } else {
            format!("operation {}", self.state.name)
        }
    }
}

/// The blobs that a status names as absent, if that is all it complains of.
fn missing_blobs(status: &Status) -> Option<Vec<Digest>> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let violations = status.get_details_precondition_failure()?.violations;
    let named = violations.iter().map(|violation| {
        let name = (violation.r#type == MISSING).then(|| ReadName::parse(&violation.subject).ok());
        name.flatten().map(|name| name.digest)
    });
    named.collect::<Option<Vec<_>>>().filter(|digests| !digests.is_empty())
}

/// With its details: advice on when to come back and what is missing are in there.
fn status_of(status: rpc::Status) -> Status {
    let details = Bytes::from(status.encode_to_vec());
    Status::with_details(Code::from(status.code), status.message, details)
}

fn metadata_of(any: &prost_types::Any) -> Result<reapi::ExecuteOperationMetadata, ClientError> {
    // Of another type: a server's own, which says nothing to us.
    if !any.type_url.ends_with(".ExecuteOperationMetadata") {
        return Ok(reapi::ExecuteOperationMetadata::default());
    }
    let decoded = reapi::ExecuteOperationMetadata::decode(&any.value[..]);
    decoded.map_err(|error| ClientError::Answer(format!("the metadata of an operation: {error}")))
}

fn stage_of(metadata: &reapi::ExecuteOperationMetadata) -> Stage {
    use execution_stage::Value;
    match metadata.stage() {
        Value::Unknown => Stage::Unknown,
        Value::CacheCheck => Stage::CacheCheck,
        Value::Queued => Stage::Queued,
        Value::Executing => Stage::Executing,
        Value::Completed => Stage::Completed,
    }
}
