//! A task as a record, and back. A record holds all that a task needs to go on after a restart: one slot, one record, so that no
//! two slots have to be written at once.

use std::time::{Duration, SystemTime};

use cask_index::{Digest, Namespace};
use cask_proto::digest::{FunctionRule, function_field, to_wire};
use cask_proto::queue::{FinishedRecord, LeaseRecord, OperationRecord, TaskRecord};
use cask_proto::{InstanceName, WireError, reapi};

use super::pool::Pool;
use super::task::{State, Task};
use super::{LeaseId, NotAnId, OperationId};

/// What a record says.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) instance: InstanceName,
    pub(super) action: Digest,
    pub(super) platform: reapi::Platform,
    pub(super) priority: i32,
    pub(super) timeout: Duration,
    pub(super) do_not_cache: bool,
    pub(super) skip_cache_lookup: bool,
    pub(super) request_metadata: reapi::RequestMetadata,
    pub(super) queued_wall: SystemTime,
    pub(super) attempt: u32,
    /// Cancelled or not.
    pub(super) operations: Vec<(OperationId, bool)>,
    pub(super) stage: ReadStage,
}

/// How far the task had come.
#[derive(Debug)]
pub(super) enum ReadStage {
    Queued,
    Leased { lease: LeaseId, worker_name: String, process_id: String },
    Finished { response: Box<reapi::ExecuteResponse>, wall: SystemTime },
}

/// A record that nobody wrote like this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Id(#[from] NotAnId),
    #[error("a time is out of range")]
    Time,
    #[error("a finished task has no response")]
    NoResponse,
}

/// The record of a task as it is now; `is_cancelled` says it of its operations.
pub(super) fn write(task: &Task, pool: &Pool, is_cancelled: impl Fn(OperationId) -> bool) -> TaskRecord {
    let operation = |id: &OperationId| OperationRecord { id: id.to_string(), is_cancelled: is_cancelled(*id) };
    let lease = match &task.state {
        State::Leased(_, run) | State::Finishing(_, run) => Some(LeaseRecord {
            lease_id: run.lease.to_string(),
            worker_name: run.worker_name.to_string(),
            process_id: run.process_id.to_string(),
        }),
        State::Queued(..) | State::Finished(_) => None,
    };
    let finished = match &task.state {
        State::Finished(finished) => Some(FinishedRecord {
            response: Some((*finished.response).clone()),
            finished_timestamp: Some(finished.wall.into()),
        }),
        State::Queued(..) | State::Leased(..) | State::Finishing(..) => None,
    };
    TaskRecord {
        instance_name: pool.name.as_str().to_owned(),
        action_digest: Some(to_wire(&task.action)),
        digest_function: function_field(task.action.function()),
        // Nobody asks a finished task for it.
        platform: task.wanted().map(|wanted| pool.platforms.platform(wanted.kind)),
        priority: task.priority,
        timeout: prost_types::Duration::try_from(task.timeout).ok(),
        do_not_cache: task.do_not_cache,
        skip_cache_lookup: task.skip_cache_lookup,
        request_metadata: Some(task.request_metadata.message()),
        queued_timestamp: Some(task.queued_wall.into()),
        attempt: task.attempt,
        operations: task.operations.iter().map(operation).collect(),
        lease,
        finished,
    }
}

/// What a record says.
pub(super) fn read(record: TaskRecord) -> Result<Read, Unreadable> {
    let rule = FunctionRule::of_request(record.digest_function, None)?;
    let time = |time: Option<prost_types::Timestamp>| {
        SystemTime::try_from(time.unwrap_or_default()).map_err(|_| Unreadable::Time)
    };
    let operation = |it: OperationRecord| Ok((OperationId::parse(&it.id)?, it.is_cancelled));
    let stage = match (record.finished, record.lease) {
        (Some(finished), _) => ReadStage::Finished {
            response: Box::new(finished.response.ok_or(Unreadable::NoResponse)?),
            wall: time(finished.finished_timestamp)?,
        },
        (None, Some(lease)) => ReadStage::Leased {
            lease: LeaseId::parse(&lease.lease_id)?,
            worker_name: lease.worker_name,
            process_id: lease.process_id,
        },
        (None, None) => ReadStage::Queued,
    };
    Ok(Read {
        instance: InstanceName::parse(&record.instance_name)?,
        action: rule.from_wire_field("action_digest", record.action_digest.as_ref())?.within(Namespace::SHARED),
        platform: record.platform.unwrap_or_default(),
        priority: record.priority,
        timeout: Duration::try_from(record.timeout.unwrap_or_default()).map_err(|_| Unreadable::Time)?,
        do_not_cache: record.do_not_cache,
        skip_cache_lookup: record.skip_cache_lookup,
        request_metadata: record.request_metadata.unwrap_or_default(),
        queued_wall: time(record.queued_timestamp)?,
        attempt: record.attempt,
        operations: record.operations.into_iter().map(operation).collect::<Result<_, NotAnId>>()?,
        stage,
    })
}
