//! The scheduler: which worker runs what, and what becomes of it. A state machine without threads, sockets, clocks or disks.
//!
//! Two kinds of things live in it. A *task* is one run of an action to be made: queued, leased to a worker, finished. An
//! *operation* is what one call of Execute was given: a name, and a task behind it. Identical actions that may share a
//! result share a task, so a task has one operation or more; it is cancelled when its last operation is.
//!
//! ```text
//!              assign                begin_finish            finish
//!   Queued ───────────────▶ Leased ───────────────▶ Finishing ───────▶ Finished ──(retention)──▶ gone
//!     ▲                        │ worker lost, or its fault │ reject: what it brought is no result
//!     └────────────────────────┴───────────────────────────┘ attempt + 1 (attempts used up: Finished, UNAVAILABLE)
//!   Queued, Leased ──last operation cancelled──▶ Finished, CANCELLED (a lease is told to stop)
//! ```
//!
//! Calls say what happened and at what time; [`Scheduler::take_effects`] says what is to be done about it. Same calls, same
//! effects: the simulator in `tests/scheduler` relies on it. What a task is about (its blobs, its result's place in the action
//! cache) is for the callers.

mod assigning;
mod deadlines;
mod ending;
mod ids;
mod journal;
mod listening;
mod merge;
mod operation;
mod options;
mod platform;
mod pool;
mod queue;
mod registry;
mod response;
mod restoring;
mod retention;
mod sessions;
mod slots;
mod submitting;
mod task;
mod ticking;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cask_index::Digest;
use cask_proto::InstanceName;
use cask_proto::queue::TaskRecord;
use cask_proto::reapi;
use cask_proto::workers;

use self::deadlines::Deadlines;
pub use self::ids::{JournalSlot, LeaseId, NotAnId, OperationId, SessionId};
use self::merge::Merges;
use self::operation::Operations;
pub use self::options::Options;
use self::pool::Pools;
use self::queue::Order;
use self::registry::Registry;
use self::retention::Retentions;
use self::slots::Slots;
use self::task::Task;
pub use self::view::{OperationView, Stage, TaskView, WorkerView};

/// The time of a call.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since any fixed moment of this process; never goes back. What is waited for is measured by it.
    pub monotonic: Duration,
    /// For timestamps that people and clients see.
    pub wall: SystemTime,
}

/// An action to be run, after everything that can be said against it was looked at.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Whose action, whose workers.
    pub instance: InstanceName,
    /// Of the Action message. Its namespace is not looked at: an instance has one.
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
    /// Passes: try again later.
    #[error("actions that take {limit_bytes} bytes of memory wait already")]
    QueueTooLarge {
        /// [`Options::queued_bytes_max`]
        limit_bytes: usize,
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
    /// Of the Action message, in the shared namespace: the caller knows which the instance has.
    pub action: Digest,
    /// Not for the action cache.
    pub do_not_cache: bool,
    /// When the first who wants it came: what its result says of that.
    pub queued: SystemTime,
    /// Whose result it is.
    pub worker_name: Arc<str>,
}

/// Gives identifiers.
struct Random(Box<dyn FnMut() -> u128 + Send>);

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

/// The scheduler. See the module; the calls stand where what they are about stands.
#[derive(Debug)]
pub struct Scheduler {
    options: Options,
    random: Random,
    pools: Pools,
    tasks: Slots<Box<Task>>,
    operations: Operations,
    merges: Merges,
    /// Of running tasks, and the last ones of tasks that wait again.
    leases: HashMap<LeaseId, JournalSlot>,
    registry: Registry,
    deadlines: Deadlines,
    retentions: Retentions,
    next_order: Order,
    /// What unfinished tasks weigh.
    unfinished_bytes: usize,
    /// The response of every cancelled operation.
    cancelled: Arc<reapi::ExecuteResponse>,
    /// Of what is not counted elsewhere.
    counts: Counts,
    effects: Vec<Effect>,
}

impl Scheduler {
    /// An empty one. `random` gives identifiers.
    pub fn new(options: Options, random: Box<dyn FnMut() -> u128 + Send>) -> Self {
        Self {
            options,
            random: Random(random),
            pools: Pools::new(),
            tasks: Slots::new(),
            operations: Operations::new(),
            merges: Merges::default(),
            leases: HashMap::new(),
            registry: Registry::new(),
            deadlines: Deadlines::default(),
            retentions: Retentions::default(),
            next_order: Order(0),
            unfinished_bytes: 0,
            cancelled: Arc::new(response::cancelled()),
            counts: Counts::default(),
            effects: Vec::new(),
        }
    }

    /// What has become due since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How many tasks are queued, leased, finished and remembered.
    pub fn counts(&self) -> Counts {
        Counts {
            operations: self.operations.len(),
            workers: self.registry.connected(),
            slots: self.registry.slots(),
            ..self.counts
        }
    }

    fn task(&self, slot: JournalSlot) -> &Task {
        self.tasks.get(slot.0)
    }

    fn task_mut(&mut self, slot: JournalSlot) -> &mut Task {
        self.tasks.get_mut(slot.0)
    }

    fn take_order(&mut self) -> Order {
        let order = self.next_order;
        self.next_order.0 += 1;
        order
    }

    fn journal(&mut self, slot: JournalSlot) {
        let task = self.tasks.get(slot.0);
        let is_cancelled = |id| self.operations.get(id).is_some_and(|operation| operation.is_cancelled);
        let record = journal::write(task, self.pools.get(task.pool), is_cancelled);
        self.effects.push(Effect::Journal { slot, record: Some(Box::new(record)) });
    }

    /// Tells those who wait for operations of a task; cancelled ones are done.
    fn changed(&mut self, slot: JournalSlot) {
        for operation in &self.tasks.get(slot.0).operations {
            if self.operations.get(*operation).is_some_and(|it| !it.is_cancelled) {
                self.effects.push(Effect::Changed { operation: *operation });
            }
        }
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
