//! The scheduler: which worker runs what, and what becomes of it. A state machine without threads, sockets, clocks or disks.
//!
//! Two kinds of things live in it. A *task* is one run of an action to be made: queued, leased to a worker, finished. An
//! *operation* is what one call of Execute was given: a name, and a task behind it. Identical actions that may share a
//! result share a task, so a task has one operation or more; it is cancelled when its last operation is.
//!
//! ```text
//!              assign                begin_finish            finish
//!   Queued ───────────────▶ Leased ───────────────▶ Finishing ───────▶ Finished ──(retention)──▶ gone
//!     ▲                        │ worker lost, or its fault: attempt + 1
//!     └────────────────────────┘ (attempts used up: Finished, UNAVAILABLE)
//!   Queued, Leased ──last operation cancelled──▶ Finished, CANCELLED (a lease is told to stop)
//! ```
//!
//! Calls say what happened and at what time; [`Scheduler::take_effects`] says what is to be done about it. Same calls, same
//! effects: the simulator in `tests/scheduler` relies on it. What a task is about (its blobs, its result's place in the action
//! cache) is for the callers.

mod options;
mod view;

use std::time::{Duration, SystemTime};

use cask_index::Digest;
use cask_proto::InstanceName;
use cask_proto::queue::TaskRecord;
use cask_proto::reapi;
use cask_proto::workers;

pub use self::options::Options;
pub use self::view::{OperationView, Stage, TaskView, WorkerView};

/// The time of a call.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since any fixed moment of this process; never goes back. What is waited for is measured by it.
    pub monotonic: Duration,
    /// For timestamps that people and clients see.
    pub wall: SystemTime,
}

/// The part of an operation's name that is not its instance; 128 random bits, so nobody guesses another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u128);

/// One worker's right to one run of a task; 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u128);

/// A worker that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Where a task is in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JournalSlot(pub u32);

/// An action to be run, after everything that can be said against it was looked at.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Whose action, whose workers.
    pub instance: InstanceName,
    /// Of the Action message.
    pub action: Digest,
    /// The properties that count, sorted by name and value as they came.
    pub platform: reapi::Platform,
    /// Lower is sooner.
    pub priority: i32,
    /// Of the run alone.
    pub timeout: Duration,
    /// The action's own wish: then it shares its task with no other.
    pub do_not_cache: bool,
    /// The call's wish: its result must not be older than the call. It may join a task of another such call.
    pub skip_cache_lookup: bool,
    /// Who asks. Its `tool_invocation_id` is whom fairness is between.
    pub request_metadata: reapi::RequestMetadata,
}

/// Why an action was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Passes: try again later.
    #[error("{limit} actions wait already")]
    QueueFull {
        /// [`Options::queued_max`]
        limit: usize,
    },
}

/// There is no such operation: never was, was deleted, or was finished too long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such operation")]
pub struct UnknownOperation;

/// The lease is not this session's, or not any more. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is not this worker's")]
pub struct NotYours;

/// A worker that says hello.
#[derive(Clone, Debug)]
pub struct WorkerHello {
    /// For people.
    pub name: String,
    /// Random, of its process: a new session takes the place of an older one of the same process.
    pub process_id: String,
    /// Whose actions it runs.
    pub instance: InstanceName,
    /// How many at once; at least 1.
    pub concurrency: u32,
    /// An action fits if one of these has all its properties.
    pub platforms: Vec<reapi::Platform>,
    /// Leases of earlier sessions.
    pub held: Vec<LeaseId>,
}

/// What a worker that said hello is told.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Its name from now on.
    pub session: SessionId,
    /// Those of its leases that are its still.
    pub kept: Vec<LeaseId>,
}

/// What is to be done. In order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Give a task to a worker.
    Assign {
        /// Whom.
        session: SessionId,
        /// What, as it goes over the wire.
        assignment: Box<workers::Assignment>,
    },
    /// Tell a worker to stop a run.
    CancelLease {
        /// Whom.
        session: SessionId,
        /// Which.
        lease: LeaseId,
    },
    /// End a session: another of the same process is there, or it said nothing for too long.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Tell those who wait for an operation that it changed.
    Changed {
        /// Which.
        operation: OperationId,
    },
    /// Write a record over what the slot has. Those of one slot in this order; the next start reads the last.
    Journal {
        /// Where.
        slot: JournalSlot,
        /// `None`: nothing any more.
        record: Option<Box<TaskRecord>>,
    },
}

/// What is known of a run that a worker finished, for the caller to store its result before others hear of it.
#[derive(Clone, Debug)]
pub struct Finishing {
    /// Whose.
    pub instance: InstanceName,
    /// Of the Action message.
    pub action: Digest,
    /// Not for the action cache.
    pub do_not_cache: bool,
}

/// The scheduler. See the module.
#[derive(Debug)]
pub struct Scheduler {}

impl Scheduler {
    /// An empty one. `random` gives identifiers.
    pub fn new(options: Options, random: Box<dyn FnMut() -> u128 + Send>) -> Self {
        todo!()
    }

    /// Takes what the journal had when the last process ended. Called once, before anything else. Tasks that were leased wait
    /// for their workers to come back before they are queued again.
    pub fn restore(&mut self, now: &Now, records: Vec<(JournalSlot, TaskRecord)>) {
        todo!()
    }

    /// Takes an action, or joins it to an identical one that is on its way.
    pub fn execute(&mut self, now: &Now, submission: Submission) -> Result<OperationId, Refused> {
        todo!()
    }

    /// An operation that is finished from the start: its result was in the action cache.
    pub fn finished_at_once(
        &mut self,
        now: &Now,
        submission: Submission,
        response: reapi::ExecuteResponse,
    ) -> OperationId {
        todo!()
    }

    /// Somebody listens to an operation. One that nobody listens to for long enough is cancelled while it is queued.
    pub fn attach(&mut self, operation: OperationId) -> Result<(), UnknownOperation> {
        todo!()
    }

    /// Somebody stopped listening.
    pub fn detach(&mut self, now: &Now, operation: OperationId) {
        todo!()
    }

    /// How an operation stands.
    pub fn operation(&self, operation: OperationId) -> Option<OperationView> {
        todo!()
    }

    /// Operations of an instance by rising id, those after `after`, at most `limit`.
    pub fn operations(&self, instance: &InstanceName, after: Option<OperationId>, limit: usize) -> Vec<OperationView> {
        todo!()
    }

    /// Ends an operation with CANCELLED; its task goes on only for others. One that is finished stays as it is.
    pub fn cancel(&mut self, now: &Now, operation: OperationId) -> Result<(), UnknownOperation> {
        todo!()
    }

    /// Forgets an operation. Its task goes on: forgetting is not cancelling.
    pub fn delete(&mut self, now: &Now, operation: OperationId) -> Result<(), UnknownOperation> {
        todo!()
    }

    /// A worker is there.
    pub fn join(&mut self, now: &Now, hello: WorkerHello) -> Joined {
        todo!()
    }

    /// A worker's stream broke. Its leases wait for it for [`Options::reconnect_grace`].
    pub fn leave(&mut self, now: &Now, session: SessionId) {
        todo!()
    }

    /// A worker lives and holds these.
    pub fn heartbeat(&mut self, now: &Now, session: SessionId, leases: &[LeaseId]) {
        todo!()
    }

    /// A worker asks for no more, or (`by_operator`) is told to ask for no more.
    pub fn drain(&mut self, now: &Now, session: SessionId) {
        todo!()
    }

    /// What a worker said of a run that goes on.
    pub fn progress(&mut self, now: &Now, session: SessionId, progress: workers::Progress) -> Result<(), NotYours> {
        todo!()
    }

    /// A worker finished a run. The lease stays until [`Scheduler::finish`], whatever becomes of the worker.
    pub fn begin_finish(&mut self, now: &Now, session: SessionId, lease: LeaseId) -> Result<Finishing, NotYours> {
        todo!()
    }

    /// The result is where it belongs: all operations of the task are done. Nothing if they were cancelled meanwhile.
    pub fn finish(&mut self, now: &Now, lease: LeaseId, response: reapi::ExecuteResponse) {
        todo!()
    }

    /// A worker could not run it and it is not the action's fault: another attempt, while there are some left.
    pub fn give_back(&mut self, now: &Now, session: SessionId, lease: LeaseId, reason: &str) -> Result<(), NotYours> {
        todo!()
    }

    /// Does what is due: lost workers, tasks that no worker can run, forgotten operations.
    pub fn tick(&mut self, now: &Now) {
        todo!()
    }

    /// When the next call of [`Scheduler::tick`] has something to do, as `monotonic` time; never later than that.
    pub fn next_deadline(&self) -> Option<Duration> {
        todo!()
    }

    /// What has become due since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        todo!()
    }

    /// For pages and metrics.
    pub fn workers(&self) -> Vec<WorkerView> {
        todo!()
    }

    /// How many tasks are queued, leased, finished and remembered.
    pub fn counts(&self) -> Counts {
        todo!()
    }
}

/// Numbers of a scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks that wait for a worker.
    pub queued: usize,
    /// Tasks that a worker has.
    pub leased: usize,
    /// Operations, finished ones too.
    pub operations: usize,
    /// Sessions.
    pub workers: usize,
    /// Runs that the workers have room for, in all.
    pub slots: usize,
    /// Operations that joined another's task, ever.
    pub merged_total: u64,
    /// Workers lost with a task, ever.
    pub lost_total: u64,
    /// Tasks given to workers, ever.
    pub assigned_total: u64,
    /// Tasks finished, ever.
    pub finished_total: u64,
}
