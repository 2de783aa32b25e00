//! A task: one run of an action to be made, and the states it goes through. The picture is in the scheduler's module.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cask_index::Digest;
use cask_proto::reapi;
use prost::Message as _;

use super::platform::KindIndex;
use super::pool::PoolIndex;
use super::queue::{InvocationIndex, Order, Waiting};
use super::{JournalSlot, LeaseId, OperationId, SessionId};

/// See the module.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) pool: PoolIndex,
    pub(super) action: Digest,
    pub(super) priority: i32,
    pub(super) timeout: Duration,
    pub(super) do_not_cache: bool,
    pub(super) skip_cache_lookup: bool,
    pub(super) request_metadata: Metadata,
    pub(super) queued_wall: SystemTime,
    /// When it first waited in this process.
    pub(super) queued_at: Duration,
    /// Where it stands among those that wait. It keeps its place when a worker is lost, which is mostly the front.
    pub(super) order: Order,
    /// What it weighs in the queue, about, with all it asks for.
    pub(super) bytes: usize,
    /// How many times it was given to a worker that did not finish it.
    pub(super) attempt: u32,
    /// Cancelled ones too. Empty if all were deleted.
    pub(super) operations: Vec<OperationId>,
    /// Streams that listen to any of them.
    pub(super) listeners: u32,
    /// Since when there are none, and nobody asked.
    pub(super) unheard_since: Duration,
    pub(super) state: State,
}

/// Who asked, as it came over the wire: half the size of the message, of which a queue holds many.
#[derive(Debug)]
pub(super) struct Metadata(Box<[u8]>);

impl Metadata {
    pub(super) fn of(message: &reapi::RequestMetadata) -> Self {
        Self(message.encode_to_vec().into_boxed_slice())
    }

    pub(super) fn message(&self) -> reapi::RequestMetadata {
        reapi::RequestMetadata::decode(&*self.0).expect("encoded here")
    }
}

/// What is known only until it is finished.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) kind: KindIndex,
    /// Of its operations that are not cancelled, each once; of the last ones while there are none.
    pub(super) invocations: Vec<InvocationIndex>,
}

/// Where a task is.
#[derive(Debug)]
pub(super) enum State {
    /// In the queue.
    Queued(Wanted, Option<Lost>),
    /// A worker has it.
    Leased(Wanted, Run),
    /// A worker finished it; the result is on its way to where it belongs. Nothing that becomes of the worker matters.
    Finishing(Wanted, Run),
    /// Done and remembered.
    Finished(Finished),
}

/// A worker's lease, as the task knows it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) lease: LeaseId,
    pub(super) session: SessionId,
    pub(super) worker_name: Arc<str>,
    pub(super) process_id: Arc<str>,
    pub(super) progress: Option<Box<Progress>>,
}

/// The last lease of a task that waits again. Its worker may come back with it before another gets the task.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    pub(super) lease: LeaseId,
    pub(super) process_id: Arc<str>,
}

/// What a worker said of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) metadata: Option<reapi::ExecutedActionMetadata>,
    pub(super) stdout_stream_name: String,
    pub(super) stderr_stream_name: String,
}

/// A result, for as long as it is remembered.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) response: Arc<reapi::ExecuteResponse>,
    pub(super) wall: SystemTime,
    pub(super) forget_at: Duration,
    /// What it weighs in memory, about.
    pub(super) bytes: usize,
    pub(super) is_journalled: bool,
}

impl Task {
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        match &self.state {
            State::Queued(wanted, _) | State::Leased(wanted, _) | State::Finishing(wanted, _) => Some(wanted),
            State::Finished(_) => None,
        }
    }

    pub(super) fn wanted_mut(&mut self) -> Option<&mut Wanted> {
        match &mut self.state {
            State::Queued(wanted, _) | State::Leased(wanted, _) | State::Finishing(wanted, _) => Some(wanted),
            State::Finished(_) => None,
        }
    }

    /// The lease, while a worker has it or had it to its end.
    pub(super) fn run(&self) -> Option<&Run> {
        match &self.state {
            State::Leased(_, run) | State::Finishing(_, run) => Some(run),
            State::Queued(..) | State::Finished(_) => None,
        }
    }

    pub(super) fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.state {
            State::Leased(_, run) | State::Finishing(_, run) => Some(run),
            State::Queued(..) | State::Finished(_) => None,
        }
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued(..))
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished(_))
    }

    /// As the queue sees it.
    pub(super) fn waiting(&self, slot: JournalSlot) -> Waiting<'_> {
        let wanted = self.wanted().expect("only what is not finished waits");
        Waiting {
            slot,
            kind: wanted.kind,
            priority: self.priority,
            order: self.order,
            invocations: &wanted.invocations,
        }
    }
}

impl State {
    /// Queued → Leased. The lease of before, if it waited for its worker, is nobody's any more.
    pub(super) fn assign(&mut self, run: Run) -> Option<Lost> {
        let mut lost_before = None;
        self.replace(|state| match state {
            Self::Queued(wanted, lost) => {
                lost_before = lost;
                Self::Leased(wanted, run)
            }
            other => panic!("only a queued task is assigned, not {other:?}"),
        });
        lost_before
    }

    /// Leased, Finishing → Queued.
    pub(super) fn requeue(&mut self, lost: Option<Lost>) {
        self.replace(|state| match state {
            Self::Leased(wanted, _) | Self::Finishing(wanted, _) => Self::Queued(wanted, lost),
            other => panic!("only a leased task is queued again, not {other:?}"),
        });
    }

    /// Leased → Finishing.
    pub(super) fn begin_finish(&mut self) {
        self.replace(|state| match state {
            Self::Leased(wanted, run) => Self::Finishing(wanted, run),
            other => panic!("only a leased task begins to finish, not {other:?}"),
        });
    }

    /// Any but Finished → Finished.
    pub(super) fn finish(&mut self, finished: Finished) -> (Wanted, Option<Run>, Option<Lost>) {
        match std::mem::replace(self, Self::Finished(finished)) {
            Self::Queued(wanted, lost) => (wanted, None, lost),
            Self::Leased(wanted, run) | Self::Finishing(wanted, run) => (wanted, Some(run), None),
            Self::Finished(finished) => panic!("a task finishes once, not {finished:?}"),
        }
    }

    fn replace(&mut self, transition: impl FnOnce(Self) -> Self) {
        let placeholder = Wanted { kind: KindIndex(u32::MAX), invocations: Vec::new() };
        let state = std::mem::replace(self, Self::Queued(placeholder, None));
        *self = transition(state);
    }
}
