//! Actions come in: a new task, or one more operation of a task that is on its way.

use std::sync::Arc;
use std::time::Duration;

use cask_index::{Digest, Namespace};
use cask_proto::reapi;
use prost::Message as _;

use super::deadlines::Matter;
use super::merge::MergeKey;
use super::operation::{Operation, PER_TASK_MAX};
use super::platform::{KindIndex, Requirements};
use super::pool::PoolIndex;
use super::queue::InvocationIndex;
use super::task::{Metadata, State, Task, Wanted};
use super::{JournalSlot, Now, OperationId, Options, Refused, Scheduler, Submission};

/// What the shortest task weighs, about.
const TASK_BYTES: usize = 1280;

impl Scheduler {
    /// Takes an action, or joins it to an identical one that is on its way.
    pub fn execute(&mut self, now: &Now, submission: Submission) -> Result<OperationId, Refused> {
        let action = submission.action.within(Namespace::SHARED);
        let pool_index = self.pools.find_or_insert(&submission.instance);
        let key = merge_key(pool_index, action, submission.do_not_cache, submission.skip_cache_lookup);
        if let Some(slot) = key.and_then(|key| self.merges.find(key))
            && self.task(slot).operations.len() < PER_TASK_MAX
        {
            return Ok(self.merge(now, slot, &submission));
        }
        let bytes = queued_bytes(&submission.request_metadata, &submission.platform);
        let pool = self.pools.get_mut(pool_index);
        let kind = pool.platforms.add_task(now.monotonic, Requirements::of(submission.platform));
        let worker = self.registry.emptiest(pool_index, pool.platforms.shapes_of(kind));
        if worker.is_none()
            && let Some(refused) = self.refused(bytes)
        {
            self.forget_task_of_kind(pool_index, kind);
            self.pools.remove_if_unused(pool_index);
            return Err(refused);
        }
        let queue = &mut self.pools.get_mut(pool_index).queue;
        let invocation = queue.ask(&submission.request_metadata.tool_invocation_id);
        let order = self.take_order();
        let slot = self.insert_task(Task {
            pool: pool_index,
            action,
            priority: submission.priority,
            timeout: submission.timeout,
            do_not_cache: submission.do_not_cache,
            skip_cache_lookup: submission.skip_cache_lookup,
            request_metadata: Metadata::of(&submission.request_metadata),
            queued_wall: now.wall,
            queued_at: now.monotonic,
            order,
            bytes,
            attempt: 0,
            operations: Vec::new(),
            listeners: 0,
            unheard_since: now.monotonic,
            state: State::Queued(Wanted { kind, invocations: vec![invocation] }, None),
        });
        if let Some(key) = key {
            self.merges.insert(key, slot);
        }
        let operation = self.draw_operation(slot, invocation);
        self.unfinished_bytes += bytes;
        self.counts.queued += 1;
        if let Some(session) = worker {
            // One record says both.
            self.assign_new(slot, session);
        } else {
            self.wait(now.monotonic, slot);
            self.journal(slot);
            self.complain(pool_index, kind);
        }
        Ok(operation)
    }

    /// A platform that no worker has is more often a slip than a worker that is on its way, and the client hears of it only when
    /// the patience is over.
    fn complain(&mut self, pool: PoolIndex, kind: KindIndex) {
        let pool = self.pools.get_mut(pool);
        if pool.platforms.is_to_be_complained_of(kind) {
            // Not a warning: it may be on its way.
            tracing::info!(
                event = "queue.no_worker_fits",
                instance = %pool.name,
                platform = %pool.platforms.requirements(kind),
                workers = self.registry.connected(),
                "an action waits that no worker that is there could run"
            );
        }
    }

    /// An operation that is finished from the start: its result was in the action cache. It is not in the journal: whoever
    /// asked is told at once.
    pub fn finished_at_once(
        &mut self,
        now: &Now,
        submission: Submission,
        response: reapi::ExecuteResponse,
    ) -> OperationId {
        let Submission { instance, action, priority, timeout, do_not_cache, skip_cache_lookup, .. } = submission;
        let pool = self.pools.find_or_insert(&instance);
        let finished = self.finished(now, Arc::new(response), false);
        let slot = self.insert_task(Task {
            pool,
            action: action.within(Namespace::SHARED),
            priority,
            timeout,
            do_not_cache,
            skip_cache_lookup,
            request_metadata: Metadata::of(&submission.request_metadata),
            queued_wall: now.wall,
            queued_at: now.monotonic,
            order: self.next_order,
            bytes: 0,
            attempt: 0,
            operations: Vec::new(),
            listeners: 0,
            unheard_since: now.monotonic,
            state: State::Finished(finished),
        });
        let operation = self.draw_operation(slot, InvocationIndex::NONE);
        self.remember(slot);
        operation
    }

    /// Why an action that would have to wait is not taken.
    fn refused(&self, bytes: usize) -> Option<Refused> {
        let Options { queued_max, queued_bytes_max, .. } = self.options;
        if self.counts.queued >= queued_max {
            return Some(Refused::QueueFull { limit: queued_max });
        }
        let is_too_much = self.unfinished_bytes.saturating_add(bytes) > queued_bytes_max;
        is_too_much.then_some(Refused::QueueTooLarge { limit_bytes: queued_bytes_max })
    }

    fn merge(&mut self, now: &Now, slot: JournalSlot, submission: &Submission) -> OperationId {
        let task = self.tasks.get_mut(slot.0);
        let queue = &mut self.pools.get_mut(task.pool).queue;
        if submission.priority < task.priority {
            if task.is_queued() {
                queue.remove(task.waiting(slot));
                task.priority = submission.priority;
                queue.push(task.waiting(slot));
            } else {
                task.priority = submission.priority;
            }
        }
        let id = &submission.request_metadata.tool_invocation_id;
        let wanted = task.wanted().expect("finished tasks are joined by none");
        let known = queue.find_invocation(id).filter(|found| wanted.invocations.contains(found));
        let invocation = known.unwrap_or_else(|| queue.ask(id));
        let is_orphan = !task.operations.iter().any(|it| self.operations.get(*it).is_some_and(|it| !it.is_cancelled));
        if known.is_none() {
            match task.state {
                State::Queued(..) => queue.enter_lane(task.waiting(slot), invocation),
                State::Leased(..) | State::Finishing(..) => queue.started(invocation),
                State::Finished(_) => unreachable!("seen above"),
            }
            task.wanted_mut().expect("seen above").invocations.push(invocation);
        }
        let operation = self.draw_operation(slot, invocation);
        if is_orphan {
            // Nobody asks any more for those who did before.
            self.drop_idle_invocations(slot);
        }
        let task = self.task_mut(slot);
        if task.listeners == 0 {
            task.unheard_since = now.monotonic;
        }
        self.counts.merged_total += 1;
        self.journal(slot);
        operation
    }

    pub(super) fn insert_task(&mut self, task: Task) -> JournalSlot {
        self.pools.get_mut(task.pool).tasks += 1;
        JournalSlot(self.tasks.insert(Box::new(task)))
    }

    fn draw_operation(&mut self, slot: JournalSlot, invocation: InvocationIndex) -> OperationId {
        let id = loop {
            let id = OperationId((self.random.0)());
            if self.operations.get(id).is_none() {
                break id;
            }
        };
        self.insert_operation(id, Operation { task: slot, invocation, listeners: 0, is_cancelled: false });
        id
    }

    pub(super) fn insert_operation(&mut self, id: OperationId, operation: Operation) {
        let task = self.tasks.get_mut(operation.task.0);
        task.operations.push(id);
        self.pools.get_mut(task.pool).operations.insert(id);
        self.operations.insert(id, operation);
    }

    /// A task gets into the queue.
    pub(super) fn wait(&mut self, now: Duration, slot: JournalSlot) {
        let task = self.tasks.get(slot.0);
        let waiting = task.waiting(slot);
        let pool = self.pools.get_mut(task.pool);
        pool.queue.push(waiting);
        if let Some(deserted_at) = pool.platforms.deserted_at(waiting.kind) {
            let due = deserted_at.max(task.queued_at) + self.options.no_worker_patience;
            self.deadlines.at_latest(due, Matter::Kind(task.pool, waiting.kind));
        }
        if task.listeners == 0 {
            let due = (task.unheard_since + self.options.abandoned_after).max(now);
            self.deadlines.at_latest(due, Matter::Task(slot));
        }
    }
}

/// What a task weighs while it is not finished, as if it shared its platform with no other.
pub(super) fn queued_bytes(metadata: &reapi::RequestMetadata, platform: &reapi::Platform) -> usize {
    TASK_BYTES + metadata.encoded_len() + platform.encoded_len()
}

/// What the calls that may share the task have in common; `None` if it is shared with none.
pub(super) fn merge_key(
    pool: PoolIndex,
    action: Digest,
    do_not_cache: bool,
    skip_cache_lookup: bool,
) -> Option<MergeKey> {
    (!do_not_cache).then_some(MergeKey { pool, action, is_fresh: skip_cache_lookup })
}
