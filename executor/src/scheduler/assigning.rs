//! Tasks and workers come together.
//!
//! Between two calls no task waits that a worker with room could run. So a task that comes while one has room goes to it at once,
//! and only a worker that gets room has to look into the queue.

use std::time::Duration;

use cask_proto::digest::{function_field, to_wire};
use cask_proto::workers;

use super::registry::Held;
use super::task::Run;
use super::{Effect, JournalSlot, LeaseId, Now, Scheduler, SessionId};

impl Scheduler {
    /// A task that is nowhere gets to the emptiest worker, or into the queue.
    pub(super) fn place(&mut self, now: &Now, slot: JournalSlot) {
        let task = self.tasks.get(slot.0);
        let kind = task.wanted().expect("only what is not finished is placed").kind;
        let shapes = self.pools.get(task.pool).platforms.shapes_of(kind);
        if let Some(session) = self.registry.emptiest(task.pool, shapes) {
            self.assign_new(slot, session);
        } else {
            self.wait(now.monotonic, slot);
            self.journal(slot);
            self.changed(slot);
        }
    }

    /// Fills the room that a worker has.
    pub(super) fn fill(&mut self, session: SessionId) {
        while self.registry.has_room(session) {
            let worker = self.registry.get(session).expect("it has room");
            let (pool_index, shape) = (worker.pool, worker.shape);
            let pool = self.pools.get(pool_index);
            let kinds = || pool.platforms.kinds_of(shape);
            let Some(mut slot) = pool.queue.next(kinds()) else { return };
            if self.registry.takes(pool_index, shape, self.options.oldest_first_every) {
                slot = pool.queue.oldest(kinds()).expect("there is a next");
            }
            self.unqueue(slot);
            self.assign_new(slot, session);
        }
    }

    /// Takes a task out of the queue. It still counts as queued.
    pub(super) fn unqueue(&mut self, slot: JournalSlot) {
        let task = self.tasks.get(slot.0);
        self.pools.get_mut(task.pool).queue.remove(task.waiting(slot));
    }

    /// Gives a task, which is in no queue, to a worker.
    pub(super) fn assign_new(&mut self, slot: JournalSlot, session: SessionId) {
        let lease = loop {
            let lease = LeaseId((self.random.0)());
            if !self.leases.contains_key(&lease) {
                break lease;
            }
        };
        self.lease(slot, session, lease);
        let task = self.tasks.get(slot.0);
        let pool = self.pools.get(task.pool);
        let assignment = workers::Assignment {
            lease_id: lease.to_string(),
            instance_name: pool.name.as_str().to_owned(),
            action_digest: Some(to_wire(&task.action)),
            digest_function: function_field(task.action.function()),
            timeout: Some(wire_duration(task.timeout)),
            platform: Some(pool.platforms.platform(task.wanted().expect("it is leased").kind)),
            attempt: task.attempt,
            queued_timestamp: Some(task.queued_wall.into()),
            request_metadata: Some(task.request_metadata.message()),
        };
        self.counts.assigned_total += 1;
        self.journal(slot);
        self.effects.push(Effect::Assign { session, assignment: Box::new(assignment) });
        self.changed(slot);
    }

    /// A task, which is in no queue, is a worker's from now on, under this lease.
    pub(super) fn lease(&mut self, slot: JournalSlot, session: SessionId, lease: LeaseId) {
        let worker = self.registry.get(session).expect("given to a worker that is there");
        let run = Run {
            lease,
            session,
            worker_name: worker.name.clone(),
            process_id: worker.process_id.clone(),
            progress: None,
        };
        self.registry.change(session, |worker| worker.leases.insert(lease, Held { slot, missed: 0 }));
        let task = self.tasks.get_mut(slot.0);
        if let Some(lost) = task.state.assign(run) {
            self.leases.remove(&lost.lease);
        }
        self.leases.insert(lease, slot);
        let queue = &mut self.pools.get_mut(task.pool).queue;
        for invocation in &task.wanted().expect("it is leased").invocations {
            queue.started(*invocation);
        }
        self.counts.queued -= 1;
        self.counts.leased += 1;
    }
}

/// Longer ones than the wire can say do not occur: a timeout came over it.
fn wire_duration(duration: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
    prost_types::Duration::try_from(duration).unwrap_or(longest)
}
