//! Operations from outside: who listens, how they stand, cancelling and forgetting them.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use cask_proto::{InstanceName, reapi};

use super::deadlines::Matter;
use super::task::State;
use super::{Effect, JournalSlot, Now, OperationId, OperationView, Scheduler, Stage, TaskView, UnknownOperation};

impl Scheduler {
    /// Somebody listens to an operation. One that nobody listens to or asks after for long enough is given up while it is queued.
    pub fn attach(&mut self, operation: OperationId) -> Result<(), UnknownOperation> {
        let operation = self.operations.get_mut(operation).ok_or(UnknownOperation)?;
        operation.listeners += 1;
        let slot = operation.task;
        let task = self.tasks.get_mut(slot.0);
        task.listeners += 1;
        if let State::Finished(finished) = &task.state {
            self.retentions.of(finished).remove(finished.forget_at, slot);
        }
        Ok(())
    }

    /// Somebody stopped listening.
    pub fn detach(&mut self, now: &Now, operation: OperationId) {
        let Some(operation) = self.operations.get_mut(operation) else { return };
        if operation.listeners > 0 {
            operation.listeners -= 1;
            let slot = operation.task;
            self.unlisten(now, slot, 1);
        }
    }

    /// Somebody who does not listen asks how an operation stands: as good a sign that it is wanted.
    pub fn ask_after(&mut self, now: &Now, operation: OperationId) {
        if let Some(operation) = self.operations.get(operation) {
            self.tasks.get_mut(operation.task.0).unheard_since = now.monotonic;
        }
    }

    /// So many streams less listen to a task.
    fn unlisten(&mut self, now: &Now, slot: JournalSlot, count: u32) {
        let task = self.tasks.get_mut(slot.0);
        task.listeners -= count;
        if task.listeners > 0 || count == 0 {
            return;
        }
        task.unheard_since = now.monotonic;
        match &task.state {
            State::Queued(..) => {
                self.deadlines.at_latest(now.monotonic + self.options.abandoned_after, Matter::Task(slot));
            }
            State::Leased(..) | State::Finishing(..) => {}
            State::Finished(finished) => self.retentions.of(finished).unheard(finished.forget_at, slot),
        }
    }

    /// How an operation stands.
    pub fn operation(&self, operation: OperationId) -> Option<OperationView> {
        let found = self.operations.get(operation)?;
        let task = self.task(found.task);
        let stage = match &task.state {
            _ if found.is_cancelled => Stage::Completed(self.cancelled.clone()),
            State::Queued(..) => Stage::Queued,
            State::Leased(..) | State::Finishing(..) => Stage::Executing,
            State::Finished(finished) => Stage::Completed(finished.response.clone()),
        };
        let run = task.run();
        let progress = run.and_then(|run| run.progress.as_deref());
        let mut metadata = progress.and_then(|it| it.metadata.clone()).unwrap_or_default();
        metadata.queued_timestamp = Some(task.queued_wall.into());
        if let Some(run) = run
            && metadata.worker.is_empty()
        {
            run.worker_name.as_ref().clone_into(&mut metadata.worker);
        }
        let task = TaskView {
            instance: self.pools.get(task.pool).name.clone(),
            action: task.action,
            stdout_stream_name: progress.map(|it| it.stdout_stream_name.clone()).unwrap_or_default(),
            stderr_stream_name: progress.map(|it| it.stderr_stream_name.clone()).unwrap_or_default(),
            partial_metadata: metadata,
            queued: task.queued_wall,
            priority: task.priority,
            worker: run.map(|run| (run.session, run.lease)),
            request_metadata: Arc::new(task.request_metadata.message()),
        };
        Some(OperationView { id: operation, stage, task })
    }

    /// Operations of an instance by rising id, those after `after`, at most `limit`.
    pub fn operations(&self, instance: &InstanceName, after: Option<OperationId>, limit: usize) -> Vec<OperationView> {
        let Some(pool) = self.pools.find(instance) else { return Vec::new() };
        let after = after.map_or(Unbounded, Excluded);
        let ids = self.pools.get(pool).operations.range((after, Unbounded)).take(limit);
        ids.map(|id| self.operation(*id).expect("the pool's operations are there")).collect()
    }

    /// Ends an operation with CANCELLED; its task goes on only for others. One that is finished stays as it is. One that is
    /// cancelled is journalled again: who asks twice may have been told that the journal failed.
    pub fn cancel(&mut self, now: &Now, operation: OperationId) -> Result<(), UnknownOperation> {
        let found = self.operations.get_mut(operation).ok_or(UnknownOperation)?;
        let slot = found.task;
        let outcome = match &self.tasks.get(slot.0).state {
            State::Finished(finished) => Some(&finished.response),
            State::Queued(..) | State::Leased(..) | State::Finishing(..) => None,
        };
        if found.is_cancelled || outcome.is_some() {
            if found.is_cancelled || outcome.is_some_and(|outcome| Arc::ptr_eq(outcome, &self.cancelled)) {
                self.journal_if_it_is_there(slot);
            }
            return Ok(());
        }
        if self.is_last_wish(operation, slot) {
            self.cancel_task(now, slot, self.cancelled.clone());
            return Ok(());
        }
        self.operations.get_mut(operation).expect("found above").is_cancelled = true;
        self.drop_idle_invocations(slot);
        self.journal(slot);
        self.effects.push(Effect::Changed { operation });
        Ok(())
    }

    /// Forgets an operation. Its task goes on: forgetting is not cancelling. A task in the queue that nobody can ask about any
    /// more is one that nobody listens to.
    pub fn delete(&mut self, now: &Now, operation: OperationId) -> Result<(), UnknownOperation> {
        let found = self.operations.remove(operation).ok_or(UnknownOperation)?;
        let slot = found.task;
        let task = self.tasks.get_mut(slot.0);
        task.operations.retain(|it| *it != operation);
        let (is_last, pool) = (task.operations.is_empty(), task.pool);
        self.pools.get_mut(pool).operations.remove(&operation);
        self.effects.push(Effect::Changed { operation });
        self.unlisten(now, slot, found.listeners);
        if is_last && self.task(slot).is_finished() {
            self.forget(slot);
        } else {
            self.drop_idle_invocations(slot);
            self.journal_if_it_is_there(slot);
        }
        Ok(())
    }

    /// Ends a task that is not finished before a worker did; the worker, if it has it, is told to stop.
    pub(super) fn cancel_task(&mut self, now: &Now, slot: JournalSlot, response: Arc<reapi::ExecuteResponse>) {
        let task = self.task(slot);
        let stopped = match &task.state {
            State::Leased(_, run) => Some((run.session, run.lease)),
            State::Queued(..) | State::Finishing(..) | State::Finished(_) => None,
        };
        let session = self.end(now, slot, response);
        if let Some((session, lease)) = stopped {
            self.stop(session, lease);
        }
        if let Some(session) = session {
            self.fill(session);
        }
    }

    /// True if no other operation of the task wants it to go on.
    fn is_last_wish(&self, operation: OperationId, slot: JournalSlot) -> bool {
        let others = self.task(slot).operations.iter().filter(|it| **it != operation);
        others.filter_map(|it| self.operations.get(*it)).all(|it| it.is_cancelled)
    }

    /// Invocations that have no operation in a task any more wait for it no more; but the last ones stay, for a task without
    /// operations stands in some lane too.
    pub(super) fn drop_idle_invocations(&mut self, slot: JournalSlot) {
        let task = self.tasks.get_mut(slot.0);
        let operations = task.operations.iter().filter_map(|it| self.operations.get(*it));
        let wanting: Vec<_> = operations.filter(|it| !it.is_cancelled).map(|it| it.invocation).collect();
        let Some(wanted) = task.wanted_mut() else { return };
        if wanting.is_empty() {
            return;
        }
        let idle: Vec<_> = wanted.invocations.extract_if(.., |it| !wanting.contains(it)).collect();
        let queue = &mut self.pools.get_mut(task.pool).queue;
        for invocation in idle {
            if task.is_queued() {
                queue.leave_lane(task.waiting(slot), invocation);
            } else {
                queue.stopped(invocation);
            }
            queue.ask_no_more(invocation);
        }
    }

    /// A result from the action cache is not in the journal.
    fn journal_if_it_is_there(&mut self, slot: JournalSlot) {
        let is_there = match &self.task(slot).state {
            State::Finished(finished) => finished.is_journalled,
            State::Queued(..) | State::Leased(..) | State::Finishing(..) => true,
        };
        if is_there {
            self.journal(slot);
        }
    }
}
