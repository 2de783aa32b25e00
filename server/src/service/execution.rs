//! `Execution`: actions are taken here, and their operations followed.
//!
//! What is wrong before there is an operation is the call's status; what goes wrong with a run is in its response. A client that
//! goes away cancels nothing. While the server drains, streams end UNAVAILABLE: their clients come back with `WaitExecution`, to
//! the next process if need be.

use std::pin::Pin;
use std::time::Duration;

use cask_executor::farm::{ExecuteError, Watch};
use cask_executor::scheduler::Stage;
use cask_proto::longrunning::Operation;
use cask_proto::reapi::execution_server::{Execution as ExecutionApi, ExecutionServer};
use cask_proto::reapi::{ExecuteRequest, ExecuteResponse, WaitExecutionRequest};
use cask_proto::rpc;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::health::Readiness;
use super::request;
use crate::cache::{AnswerPermit, InlineOptions};
use crate::execution::{Admitted, Asked, Execution, operation};
use crate::observe::invocation;
use crate::status::{self, Answer};

/// Clients and proxies take a stream that says nothing for a minute for dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// What an answer with outputs inside takes, as far as can be told before.
const INLINE_ROOM_BYTES: usize = 1 << 20;

pub(crate) fn server(execution: Execution) -> ExecutionServer<ExecutionService> {
    ExecutionServer::new(ExecutionService { execution })
}

pub(crate) struct ExecutionService {
    execution: Execution,
}

type OperationStream = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

#[tonic::async_trait]
impl ExecutionApi for ExecutionService {
    type ExecuteStream = OperationStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        let request_metadata = invocation::metadata(request.metadata().as_ref()).unwrap_or_default();
        let request = request.into_inner();
        let execution = &self.execution;
        // What is wrong with the request is said whatever the server's state: some clients ask to learn just that.
        let instance = request::instance(execution.cache(), &request.instance_name)?;
        let rule = instance.digest_rule(request.digest_function).map_err(status::grpc)?;
        let action = request::digest_field(rule, "action_digest", request.action_digest.as_ref())?;
        let inline = InlineOptions {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            output_files: request.inline_output_files,
        };
        let asked = Asked {
            instance,
            action,
            skip_cache_lookup: request.skip_cache_lookup,
            priority: request.execution_policy.map_or(0, |policy| policy.priority),
            request_metadata,
        };
        let farm = execution.farm()?;
        refuse_while_draining(&execution.readiness())?;
        let watch = match execution.admit(asked).await? {
            Admitted::Run(submission) => farm.execute(submission).await.map_err(refusal)?,
            Admitted::Known(submission, result) => {
                execution.count_cached();
                let response = ExecuteResponse {
                    result: Some(*result),
                    cached_result: true,
                    status: Some(rpc::Status::default()),
                    ..ExecuteResponse::default()
                };
                farm.finished_at_once(submission, response)
            }
        };
        Ok(Response::new(follow(execution.clone(), watch, inline)))
    }

    type WaitExecutionStream = OperationStream;

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let name = request.into_inner().name;
        let farm = self.execution.farm()?;
        refuse_while_draining(&self.execution.readiness())?;
        let id = super::operations::find(farm, &name)?;
        let watch = farm.watch(id).map_err(|_| super::operations::unknown(&name))?;
        Ok(Response::new(follow(self.execution.clone(), watch, InlineOptions::default())))
    }
}

fn refusal(error: ExecuteError) -> Status {
    match error {
        ExecuteError::Refused(error) => {
            Answer { retry_after: Some(Duration::from_secs(5)), ..Answer::exhausted(error.to_string()) }.into()
        }
        // Nothing is wrong with the action; a store that is full or failing is so for a while.
        ExecuteError::Journal(error) => {
            Answer { retry_after: error.retry_after, ..Answer::unavailable(error.to_string()) }.into()
        }
    }
}

fn refuse_while_draining(readiness: &watch::Receiver<Readiness>) -> Result<(), Status> {
    if *readiness.borrow() == Readiness::Draining { Err(going_down()) } else { Ok(()) }
}

fn going_down() -> Status {
    Status::unavailable("the server is shutting down; what it was asked goes on after its restart")
}

/// What one stream knows.
struct Follower {
    execution: Execution,
    watch: Watch,
    inline: InlineOptions,
    readiness: watch::Receiver<Readiness>,
    told: Told,
    /// Of the message handed out last.
    room: Option<AnswerPermit>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    State,
    End,
}

/// The states of an operation, the present one first, up to the final one.
fn follow(execution: Execution, watch: Watch, inline: InlineOptions) -> OperationStream {
    let readiness = execution.readiness();
    let follower = Follower { execution, watch, inline, readiness, told: Told::Nothing, room: None };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        let message = follower.next().await?;
        Some((message, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Operation, Status>> {
        match self.told {
            Told::End => return None,
            Told::Nothing => {}
            Told::State => {
                tokio::select! {
                    biased;
                    () = self.watch.changed() => {}
                    // Also when its other end is gone, which is the end of the server.
                    _ = self.readiness.wait_for(|readiness| *readiness == Readiness::Draining) => {
                        self.told = Told::End;
                        return Some(Err(going_down()));
                    }
                    () = tokio::time::sleep(KEEPALIVE_INTERVAL) => {}
                }
            }
        }
        let Some(view) = self.watch.view() else {
            self.told = Told::End;
            return Some(Err(Status::not_found("the operation was deleted")));
        };
        self.told = if matches!(view.stage, Stage::Completed(_)) { Told::End } else { Told::State };
        if self.told == Told::End && self.inline != InlineOptions::default() {
            // Up to a whole message of outputs, until the client has taken it.
            let limit_bytes = self.execution.cache().limits().response_size_bytes_max;
            match self.execution.cache().answer_room(limit_bytes.min(INLINE_ROOM_BYTES)).await {
                Ok(room) => self.room = Some(room),
                Err(_) => self.inline = InlineOptions::default(),
            }
        }
        Some(Ok(operation::message(self.execution.cache(), view, &self.inline).await))
    }
}
