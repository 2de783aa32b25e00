//! Time passes: what is due, and nothing else, is looked at.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use super::deadlines::Matter;
use super::platform::KindIndex;
use super::pool::PoolIndex;
use super::registry::Presence;
use super::{Effect, JournalSlot, Now, Scheduler, SessionId, response};

impl Scheduler {
    /// Does what is due: lost workers, tasks that no worker can run, forgotten operations.
    pub fn tick(&mut self, now: &Now) {
        while let Some(matter) = self.deadlines.pop_due(now.monotonic) {
            match matter {
                Matter::Worker(session) => self.look_at_worker(now, session),
                Matter::Kind(pool, kind) => self.look_at_kind(now, pool, kind),
                Matter::Task(slot) => self.look_at_task(now, slot),
            }
        }
        while let Some(slot) = self.retentions.due(now.monotonic) {
            self.forget(slot);
        }
    }

    /// When the next call of [`Scheduler::tick`] has something to do, as `monotonic` time; never later than that.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().into_iter().chain(self.retentions.first()).min()
    }

    fn look_at_worker(&mut self, now: &Now, session: SessionId) {
        let Some(worker) = self.registry.get(session) else { return };
        let (due, is_connected) = match worker.presence {
            Presence::Connected { heard } => (heard + self.options.worker_timeout, true),
            Presence::Away { until } => (until, false),
        };
        if due > now.monotonic {
            self.deadlines.at_latest(due, Matter::Worker(session));
            return;
        }
        if is_connected {
            self.effects.push(Effect::CloseSession { session });
        }
        let reason = if is_connected { "the worker said nothing for too long" } else { "the worker did not come back" };
        self.lose_worker(now, session, reason);
    }

    fn look_at_kind(&mut self, now: &Now, pool_index: PoolIndex, kind: KindIndex) {
        let patience = self.options.no_worker_patience;
        // The pool may be gone, and its number another's: then this is a look too much.
        while let Some(pool) = self.pools.find_index(pool_index) {
            let Some(deserted_at) = pool.platforms.deserted_at(kind) else { return };
            let Some(slot) = pool.queue.oldest(iter::once(kind)) else { return };
            let due = deserted_at.max(self.task(slot).queued_at) + patience;
            if due > now.monotonic {
                self.deadlines.at_latest(due, Matter::Kind(pool_index, kind));
                return;
            }
            let response = response::no_worker(&pool.name, pool.platforms.requirements(kind), patience);
            let _nobody = self.end(now, slot, Arc::new(response));
        }
    }

    fn look_at_task(&mut self, now: &Now, slot: JournalSlot) {
        let Some(task) = self.tasks.find(slot.0) else { return };
        if !task.is_queued() || task.listeners > 0 {
            return;
        }
        let due = task.unheard_since + self.options.abandoned_after;
        if due > now.monotonic {
            self.deadlines.at_latest(due, Matter::Task(slot));
            return;
        }
        let response = response::abandoned(self.options.abandoned_after);
        let _nobody = self.end(now, slot, Arc::new(response));
    }
}
