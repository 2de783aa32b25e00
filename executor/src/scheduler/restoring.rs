//! A new process takes over what the journal of the last one says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cask_proto::queue::TaskRecord;

use super::deadlines::Matter;
use super::journal::{self, Read, ReadStage};
use super::operation::Operation;
use super::platform::{Offer, Requirements};
use super::queue::InvocationIndex;
use super::registry::{Presence, Worker};
use super::submitting::{merge_key, queued_bytes};
use super::task::{Finished, Metadata, State, Task, Wanted};
use super::{Effect, JournalSlot, LeaseId, Now, OperationId, Scheduler, SessionId};

/// Slots are dense; one beyond this was never written.
const SLOT_MAX: u32 = 1 << 24;

impl Scheduler {
    /// Takes what the journal had when the last process ended. Called once, before anything else. Tasks that were leased wait
    /// for their workers to come back before they are queued again. Records that cannot be read are dropped.
    pub fn restore(&mut self, now: &Now, records: Vec<(JournalSlot, TaskRecord)>) {
        let mut slots = BTreeSet::new();
        let mut reads = Vec::new();
        for (slot, record) in records {
            match journal::read(record) {
                Ok(read) if slot.0 <= SLOT_MAX && slots.insert(slot) => reads.push((slot, read)),
                Ok(_) => tracing::error!(event = "queue.slot_unusable", slot = slot.0, "a task is lost"),
                Err(error) => {
                    tracing::error!(event = "queue.record_unreadable", slot = slot.0, %error, "a task is lost");
                    self.effects.push(Effect::Journal { slot, record: None });
                }
            }
        }
        reads.sort_by_key(|(slot, read)| (read.queued_wall, *slot));
        let mut tasks = BTreeMap::new();
        let mut rests = Vec::new();
        for (slot, read) in reads {
            let (task, rest) = self.restored(now, read);
            tasks.insert(slot.0, Box::new(task));
            rests.push((slot, rest));
        }
        self.tasks.fill(tasks);
        let mut finished = BTreeSet::new();
        for (slot, rest) in rests {
            if let Some(forget_at) = self.resume(now, slot, rest) {
                finished.insert((forget_at, slot));
            }
        }
        for (_, slot) in finished {
            self.remember(slot);
        }
    }

    /// The task of a record, without its operations.
    fn restored(&mut self, now: &Now, read: Read) -> (Task, Rest) {
        let pool_index = self.pools.find_or_insert(&read.instance);
        let pool = self.pools.get_mut(pool_index);
        pool.tasks += 1;
        let mut lease = None;
        let bytes = queued_bytes(&read.request_metadata, &read.platform);
        let state = match read.stage {
            ReadStage::Finished { response, wall } => {
                let retention = self.options.finished_retention;
                let age = now.wall.duration_since(wall).unwrap_or_default();
                let left = retention.saturating_sub(age);
                let finished = self.finished(now, Arc::from(response), true);
                State::Finished(Finished { wall, forget_at: now.monotonic + left, ..finished })
            }
            ReadStage::Queued | ReadStage::Leased { .. } => {
                let kind = pool.platforms.add_task(now.monotonic, Requirements::of(read.platform));
                let invocations = vec![pool.queue.ask(&read.request_metadata.tool_invocation_id)];
                if let ReadStage::Leased { lease: id, worker_name, process_id } = read.stage {
                    lease = Some(Holder { lease: id, worker_name: worker_name.into(), process_id: process_id.into() });
                }
                State::Queued(Wanted { kind, invocations }, None)
            }
        };
        let order = self.take_order();
        let task = Task {
            pool: pool_index,
            action: read.action,
            priority: read.priority,
            timeout: read.timeout,
            do_not_cache: read.do_not_cache,
            skip_cache_lookup: read.skip_cache_lookup,
            request_metadata: Metadata::of(&read.request_metadata),
            queued_wall: read.queued_wall,
            queued_at: now.monotonic,
            order,
            bytes,
            attempt: read.attempt,
            operations: Vec::new(),
            listeners: 0,
            unheard_since: now.monotonic,
            state,
        };
        (task, Rest { operations: read.operations, lease })
    }

    /// Puts a task, which is in its slot, where it belongs. A finished one is left to the caller, with the time when it is
    /// forgotten.
    fn resume(&mut self, now: &Now, slot: JournalSlot, rest: Rest) -> Option<Duration> {
        let task = self.task(slot);
        let invocations = task.wanted().map(|wanted| wanted.invocations.clone());
        let invocation = invocations.map_or(InvocationIndex::NONE, |invocations| invocations[0]);
        for (id, is_cancelled) in rest.operations {
            if self.operations.get(id).is_none() {
                self.insert_operation(id, Operation { task: slot, invocation, listeners: 0, is_cancelled });
            }
        }
        let task = self.task(slot);
        if let State::Finished(finished) = &task.state {
            return Some(finished.forget_at);
        }
        if let Some(key) = merge_key(task.pool, task.action, task.do_not_cache, task.skip_cache_lookup) {
            self.merges.insert(key, slot);
        }
        self.unfinished_bytes += self.task(slot).bytes;
        self.counts.queued += 1;
        match rest.lease {
            Some(holder) if !self.leases.contains_key(&holder.lease) => {
                let session = self.expected_worker(now, slot, &holder);
                self.lease(slot, session, holder.lease);
            }
            _ => self.wait(now.monotonic, slot),
        }
        None
    }

    /// The worker that held the lease of a task, as one that is away.
    fn expected_worker(&mut self, now: &Now, slot: JournalSlot, holder: &Holder) -> SessionId {
        if let Some(session) = self.registry.of_process(&holder.process_id) {
            return session;
        }
        let pool = self.task(slot).pool;
        let until = now.monotonic + self.options.restart_grace;
        // What it can run it says when it comes.
        let shape = self.pools.get_mut(pool).platforms.add_worker(Offer::of(&[]));
        let (name, process_id) = (holder.worker_name.clone(), holder.process_id.clone());
        let worker = Worker::new(name, process_id, (pool, shape), 0, Presence::Away { until });
        let session = self.registry.insert(worker);
        self.deadlines.at_latest(until, Matter::Worker(session));
        session
    }
}

/// What a record says beside the task itself.
struct Rest {
    operations: Vec<(OperationId, bool)>,
    lease: Option<Holder>,
}

/// Who had a task.
struct Holder {
    lease: LeaseId,
    worker_name: Arc<str>,
    process_id: Arc<str>,
}
