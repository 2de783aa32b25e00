//! What callers see of operations, tasks and workers.

use std::sync::Arc;
use std::time::SystemTime;

use cask_index::Digest;
use cask_proto::InstanceName;
use cask_proto::reapi;

use super::{LeaseId, OperationId, SessionId};

/// Where an operation is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    Executing,
    /// Done; the response is the same for all who shared the task.
    Completed(Arc<reapi::ExecuteResponse>),
}

/// An operation.
#[derive(Clone, Debug)]
pub struct OperationView {
    /// Its name without the instance.
    pub id: OperationId,
    /// Where it is.
    pub stage: Stage,
    /// What it is of.
    pub task: TaskView,
}

/// What an operation is of.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// Whose.
    pub instance: InstanceName,
    /// Of the Action message.
    pub action: Digest,
    /// Empty until known.
    pub stdout_stream_name: String,
    /// Empty until known.
    pub stderr_stream_name: String,
    /// As far as known; `queued_timestamp` always.
    pub partial_metadata: reapi::ExecutedActionMetadata,
    /// When the first of its operations came.
    pub queued: SystemTime,
    /// Lower is sooner.
    pub priority: i32,
    /// The worker that has it.
    pub worker: Option<(SessionId, LeaseId)>,
    /// Of the first who asked.
    pub request_metadata: Arc<reapi::RequestMetadata>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Of its present stream.
    pub session: SessionId,
    /// For people.
    pub name: String,
    /// Whose actions it runs.
    pub instance: InstanceName,
    /// How many at once.
    pub concurrency: u32,
    /// What it runs.
    pub leases: Vec<LeaseId>,
    /// Takes no more.
    pub is_draining: bool,
    /// Its stream broke, and it may come back.
    pub is_away: bool,
    /// What it can run.
    pub platforms: Vec<reapi::Platform>,
}
