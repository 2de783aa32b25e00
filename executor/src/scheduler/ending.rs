//! Tasks come to an end, or go back into the queue; results are remembered and forgotten.

use std::sync::Arc;

use cask_proto::reapi;
use prost::Message as _;

use super::deadlines::Matter;
use super::platform::KindIndex;
use super::pool::PoolIndex;
use super::submitting::merge_key;
use super::task::{Finished, Lost, State};
use super::{Effect, JournalSlot, LeaseId, Now, Options, Scheduler, SessionId, response};

/// What a finished task weighs beside its response: itself, its operations, who asked, about.
const FINISHED_BYTES: usize = 1024;

impl Scheduler {
    pub(super) fn finished(&self, now: &Now, response: Arc<reapi::ExecuteResponse>, is_journalled: bool) -> Finished {
        Finished {
            bytes: FINISHED_BYTES + response.encoded_len(),
            response,
            wall: now.wall,
            forget_at: now.monotonic + self.options.finished_retention,
            is_journalled,
        }
    }

    /// All operations of a task are done. Returns the worker that gets room by it; the caller fills it.
    #[must_use]
    pub(super) fn end(
        &mut self,
        now: &Now,
        slot: JournalSlot,
        response: Arc<reapi::ExecuteResponse>,
    ) -> Option<SessionId> {
        let finished = self.finished(now, response, true);
        let task = self.tasks.get_mut(slot.0);
        let pool_index = task.pool;
        let pool = self.pools.get_mut(pool_index);
        if task.is_queued() {
            pool.queue.remove(task.waiting(slot));
        }
        if let Some(key) = merge_key(pool_index, task.action, task.do_not_cache, task.skip_cache_lookup) {
            self.merges.remove(key, slot);
        }
        self.deadlines.remove(Matter::Task(slot));
        let (wanted, run, lost) = task.state.finish(finished);
        for invocation in wanted.invocations {
            if run.is_some() {
                pool.queue.stopped(invocation);
            }
            pool.queue.ask_no_more(invocation);
        }
        self.unfinished_bytes -= task.bytes;
        let operations_left = !task.operations.is_empty();
        if let Some(lost) = lost {
            self.leases.remove(&lost.lease);
        }
        let session = run.map(|run| {
            self.leases.remove(&run.lease);
            self.registry.change(run.session, |worker| worker.leases.remove(&run.lease));
            run.session
        });
        if session.is_some() {
            self.counts.leased -= 1;
        } else {
            self.counts.queued -= 1;
        }
        self.counts.finished_total += 1;
        self.forget_task_of_kind(pool_index, wanted.kind);
        self.remember(slot);
        if operations_left {
            self.journal(slot);
            self.changed(slot);
        }
        session
    }

    /// A worker does not have a task any more and did not finish it: another attempt, while there are some left. The lease is
    /// gone from the worker already. `keeps_lease` if the worker may come back with it.
    pub(super) fn lose(&mut self, now: &Now, slot: JournalSlot, reason: &str, keeps_lease: bool) {
        let attempts_max = self.options.attempts_max;
        let task = self.tasks.get_mut(slot.0);
        task.attempt += 1;
        if task.attempt >= attempts_max {
            let response = response::attempts_used_up(task.attempt, reason);
            let _gone = self.end(now, slot, Arc::new(response));
            return;
        }
        let run = task.run().expect("only a leased task is lost");
        let lost = Lost { lease: run.lease, process_id: run.process_id.clone() };
        if !keeps_lease {
            self.leases.remove(&lost.lease);
        }
        task.state.requeue(keeps_lease.then_some(lost));
        let queue = &mut self.pools.get_mut(task.pool).queue;
        for invocation in &task.wanted().expect("it is queued").invocations {
            queue.stopped(*invocation);
        }
        self.counts.leased -= 1;
        self.counts.queued += 1;
        self.place(now, slot);
    }

    /// A worker is told to stop a run whose task ended without it.
    pub(super) fn stop(&mut self, session: SessionId, lease: LeaseId) {
        if self.registry.get(session).is_some_and(|worker| !worker.is_away()) {
            self.effects.push(Effect::CancelLease { session, lease });
        }
    }

    pub(super) fn forget_task_of_kind(&mut self, pool: PoolIndex, kind: KindIndex) {
        if let Some(forgotten) = self.pools.get_mut(pool).platforms.remove_task(kind) {
            self.deadlines.remove(Matter::Kind(pool, forgotten));
        }
    }

    /// Keeps a task that is finished for as long as it should be, and no more of them than there should be.
    pub(super) fn remember(&mut self, slot: JournalSlot) {
        let task = self.tasks.get(slot.0);
        let State::Finished(finished) = &task.state else { panic!("only finished tasks are remembered") };
        let Options { finished_bytes_max, known_bytes_max, .. } = self.options;
        let retention = self.retentions.of(finished);
        retention.add(finished.bytes);
        if task.listeners == 0 {
            retention.unheard(finished.forget_at, slot);
        }
        if task.operations.is_empty() {
            self.forget(slot);
        }
        while let Some(excess) = self.retentions.run.excess(finished_bytes_max, slot) {
            self.forget(excess);
        }
        while let Some(excess) = self.retentions.known.excess(known_bytes_max, slot) {
            self.forget(excess);
        }
    }

    /// Forgets a finished task and its operations.
    pub(super) fn forget(&mut self, slot: JournalSlot) {
        let task = self.tasks.remove(slot.0);
        let State::Finished(finished) = &task.state else { panic!("only finished tasks are forgotten") };
        let retention = self.retentions.of(finished);
        retention.subtract(finished.bytes);
        retention.remove(finished.forget_at, slot);
        let pool = self.pools.get_mut(task.pool);
        pool.tasks -= 1;
        for operation in task.operations {
            pool.operations.remove(&operation);
            self.operations.remove(operation);
        }
        self.pools.remove_if_unused(task.pool);
        if finished.is_journalled {
            self.effects.push(Effect::Journal { slot, record: None });
        }
    }
}
