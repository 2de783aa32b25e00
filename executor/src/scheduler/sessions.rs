//! What workers say: they come, live, go, come back, and finish what they were given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cask_proto::{reapi, workers};

use super::deadlines::Matter;
use super::platform::Offer;
use super::registry::{Held, Presence, Worker};
use super::task::{Progress, Run, State};
use super::{
    Effect, Finishing, Joined, JournalSlot, LeaseId, NotYours, Now, Scheduler, SessionId, WorkerHello, WorkerView,
};

/// Heartbeats in a row without a lease that say that the worker does not have it. The first may have crossed the assignment.
const MISSED_MAX: u32 = 2;

impl Scheduler {
    /// A worker is there.
    pub fn join(&mut self, now: &Now, hello: WorkerHello) -> Joined {
        let before = self.registry.of_process(&hello.process_id);
        let before = before.and_then(|session| Some((session, self.remove_worker(now, session)?)));
        let (mut left, mut is_draining) = (BTreeMap::new(), false);
        if let Some((session, worker)) = before {
            if !worker.is_away() {
                self.effects.push(Effect::CloseSession { session });
            }
            left = worker.leases;
            is_draining = worker.is_draining;
        }
        let pool = self.pools.find_or_insert(&hello.instance);
        let shape = self.pools.get_mut(pool).platforms.add_worker(Offer::of(&hello.platforms));
        let mut worker = Worker::new(
            hello.name.into(),
            hello.process_id.into(),
            (pool, shape),
            hello.concurrency.max(1),
            Presence::Connected { heard: now.monotonic },
        );
        // Nothing new before it is known what it has.
        worker.is_resting = true;
        worker.is_draining = is_draining;
        let session = self.registry.insert(worker);
        self.set_present(now, session, !is_draining);
        self.deadlines.at_latest(now.monotonic + self.options.worker_timeout, Matter::Worker(session));
        // First what is its; then, if there is room, what was taken from it and is to be had again.
        let held: BTreeSet<_> = hello.held.into_iter().collect();
        let (its, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|lease| left.contains_key(lease));
        let mut kept = Vec::new();
        for lease in its.into_iter().chain(others) {
            if self.keep(session, lease, left.get(&lease).copied()) {
                left.remove(&lease);
                kept.push(lease);
            }
        }
        for (_, held) in left {
            // What is finished needs no worker.
            if matches!(self.task(held.slot).state, State::Leased(..)) {
                self.lose(now, held.slot, "the worker came back without it", false);
            }
        }
        self.registry.change(session, |worker| worker.is_resting = false);
        self.fill(session);
        Joined { session, kept }
    }

    /// Gives a worker that comes back a lease of its, if it is still to be had. `held` is what its session of before had.
    fn keep(&mut self, session: SessionId, lease: LeaseId, held: Option<Held>) -> bool {
        let Some(slot) = self.leases.get(&lease).copied() else { return false };
        let has_room = self.registry.get(session).is_some_and(|worker| worker.room() > 0);
        match &self.task(slot).state {
            State::Leased(..) if held.is_some() && self.may_run(session, slot) => self.move_lease(session, lease, slot),
            // Without room it may forget what it finished as well: the result is here.
            State::Finishing(_, run) if self.is_process(session, &run.process_id) && (held.is_some() || has_room) => {
                self.move_lease(session, lease, slot);
            }
            State::Queued(..) => return self.reclaim(session, lease, slot),
            State::Leased(..) | State::Finishing(..) | State::Finished(_) => return false,
        }
        true
    }

    fn move_lease(&mut self, session: SessionId, lease: LeaseId, slot: JournalSlot) {
        self.task_mut(slot).run_mut().expect("it is leased").session = session;
        self.registry.change(session, |worker| worker.leases.insert(lease, Held { slot, missed: 0 }));
    }

    /// A task that was taken from a worker and waits goes on there, if the worker has it all the same.
    fn reclaim(&mut self, session: SessionId, lease: LeaseId, slot: JournalSlot) -> bool {
        let State::Queued(_, Some(lost)) = &self.task(slot).state else { return false };
        let has_room = self.registry.get(session).is_some_and(|worker| worker.room() > 0);
        if !has_room
            || lost.lease != lease
            || !self.is_process(session, &lost.process_id)
            || !self.may_run(session, slot)
        {
            return false;
        }
        self.unqueue(slot);
        self.lease(slot, session, lease);
        self.task_mut(slot).attempt -= 1;
        self.journal(slot);
        self.changed(slot);
        true
    }

    fn is_process(&self, session: SessionId, process_id: &str) -> bool {
        self.registry.get(session).is_some_and(|worker| *worker.process_id == *process_id)
    }

    /// True if the worker's instance and platforms are the task's.
    fn may_run(&self, session: SessionId, slot: JournalSlot) -> bool {
        let (Some(worker), task) = (self.registry.get(session), self.task(slot)) else { return false };
        let kind = task.wanted().expect("only what is not finished runs").kind;
        worker.pool == task.pool && self.pools.get(task.pool).platforms.fits(worker.shape, kind)
    }

    /// A worker's stream broke. Its leases wait for it for [`Options::reconnect_grace`](super::Options::reconnect_grace).
    pub fn leave(&mut self, now: &Now, session: SessionId) {
        let until = now.monotonic + self.options.reconnect_grace;
        if self.registry.get(session).is_none_or(Worker::is_away) {
            return;
        }
        self.registry.change(session, |worker| worker.presence = Presence::Away { until });
        self.deadlines.at_latest(until, Matter::Worker(session));
    }

    /// A worker lives and holds these.
    pub fn heartbeat(&mut self, now: &Now, session: SessionId, leases: &[LeaseId]) {
        if !self.hear(now, session) {
            return;
        }
        self.registry.change(session, |worker| worker.leases.values_mut().for_each(|held| held.missed += 1));
        for lease in leases {
            let is_held = self
                .registry
                .change(session, |worker| worker.leases.get_mut(lease).map(|held| held.missed = 0).is_some());
            if is_held == Some(true) {
                continue;
            }
            let slot = self.leases.get(lease).copied();
            if !slot.is_some_and(|slot| self.reclaim(session, *lease, slot)) {
                self.effects.push(Effect::CancelLease { session, lease: *lease });
            }
        }
        let missed: Vec<_> = self.registry.get(session).map_or_else(Vec::new, |worker| {
            let missed = worker.leases.iter().filter(|(_, held)| held.missed >= MISSED_MAX);
            missed.map(|(lease, held)| (*lease, held.slot)).collect()
        });
        if !missed.is_empty() {
            // Nothing new before all that it does not have waits: then the next is the next by its turn.
            self.registry.change(session, |worker| worker.is_resting = true);
        }
        for (lease, slot) in missed {
            if matches!(self.task(slot).state, State::Leased(..)) {
                self.registry.change(session, |worker| worker.leases.remove(&lease));
                self.lose(now, slot, "the worker did not know of it", true);
            }
        }
        self.registry.change(session, |worker| worker.is_resting = false);
        self.fill(session);
    }

    /// True if the session is there; then it lives.
    fn hear(&mut self, now: &Now, session: SessionId) -> bool {
        let heard = self.registry.change(session, |worker| match &mut worker.presence {
            Presence::Connected { heard } => {
                *heard = now.monotonic;
                true
            }
            Presence::Away { .. } => false,
        });
        heard == Some(true)
    }

    /// A worker asks for no more, or an operator wants it to get no more. It stays so for the life of its process, or until
    /// [`Scheduler::undrain`].
    pub fn drain(&mut self, now: &Now, session: SessionId) {
        self.registry.change(session, |worker| worker.is_draining = true);
        self.set_present(now, session, false);
    }

    /// A worker that was draining takes work again: a bot that is well again. Workers of ours never ask for it.
    pub fn undrain(&mut self, now: &Now, session: SessionId) {
        if self.registry.change(session, |worker| std::mem::take(&mut worker.is_draining)) == Some(true) {
            self.set_present(now, session, true);
            self.fill(session);
        }
    }

    /// What a worker said of a run that goes on.
    pub fn progress(&mut self, now: &Now, session: SessionId, progress: workers::Progress) -> Result<(), NotYours> {
        let lease = LeaseId::parse(&progress.lease_id).map_err(|_| NotYours)?;
        let slot = self.held(now, session, lease)?;
        let run = self.task_mut(slot).run_mut().expect("it is held");
        let known = run.progress.get_or_insert_default();
        let Progress { metadata, stdout_stream_name, stderr_stream_name } = known.as_mut();
        if progress.partial_metadata.is_some() {
            *metadata = progress.partial_metadata;
        }
        for (known, said) in
            [(stdout_stream_name, progress.stdout_stream_name), (stderr_stream_name, progress.stderr_stream_name)]
        {
            if !said.is_empty() {
                *known = said;
            }
        }
        self.changed(slot);
        Ok(())
    }

    /// The task of a lease that is the session's.
    fn held(&mut self, now: &Now, session: SessionId, lease: LeaseId) -> Result<JournalSlot, NotYours> {
        self.hear(now, session);
        let slot = self.leases.get(&lease).copied().ok_or(NotYours)?;
        let is_its = |run: &Run| run.session == session && run.lease == lease;
        if self.task(slot).run().is_some_and(is_its) { Ok(slot) } else { Err(NotYours) }
    }

    /// A worker finished a run. The lease stays until [`Scheduler::finish`], whatever becomes of the worker. `None`: it said so
    /// before, and its result is on its way; there is nothing to be done about it again.
    pub fn begin_finish(
        &mut self,
        now: &Now,
        session: SessionId,
        lease: LeaseId,
    ) -> Result<Option<Finishing>, NotYours> {
        let slot = self.held(now, session, lease)?;
        let task = self.tasks.get_mut(slot.0);
        if !matches!(task.state, State::Leased(..)) {
            return Ok(None);
        }
        task.state.begin_finish();
        let worker_name = task.run().expect("it is held").worker_name.clone();
        let instance = self.pools.get(task.pool).name.clone();
        let (action, do_not_cache, queued) = (task.action, task.do_not_cache, task.queued_wall);
        Ok(Some(Finishing { instance, action, do_not_cache, queued, worker_name }))
    }

    /// The session that has a lease now: a worker that came back has it in another than it was given it in.
    pub fn holder(&self, lease: LeaseId) -> Option<SessionId> {
        let slot = self.leases.get(&lease)?;
        self.task(*slot).run().filter(|run| run.lease == lease).map(|run| run.session)
    }

    /// What a worker said it finished is no result: another attempt, while there are some left. Nothing if the task ended meanwhile.
    /// The worker, which may be another session by now, or none, is treated as in [`Scheduler::give_back`].
    pub fn reject(&mut self, now: &Now, lease: LeaseId, reason: &str) {
        let Some(slot) = self.leases.get(&lease).copied() else { return };
        let State::Finishing(_, run) = &self.task(slot).state else { return };
        let session = run.session;
        self.registry.change(session, |worker| {
            worker.leases.remove(&lease);
            worker.is_resting = true;
        });
        self.lose(now, slot, reason, false);
    }

    /// The result is where it belongs: all operations of the task are done. Nothing if they were cancelled meanwhile.
    pub fn finish(&mut self, now: &Now, lease: LeaseId, response: reapi::ExecuteResponse) {
        let Some(slot) = self.leases.get(&lease).copied() else { return };
        if matches!(self.task(slot).state, State::Finishing(..))
            && let Some(session) = self.end(now, slot, Arc::new(response))
        {
            self.fill(session);
        }
    }

    /// A worker could not run it and it is not the action's fault: another attempt, while there are some left. The worker gets
    /// nothing before its next heartbeat, so that others come first.
    pub fn give_back(&mut self, now: &Now, session: SessionId, lease: LeaseId, reason: &str) -> Result<(), NotYours> {
        let slot = self.held(now, session, lease)?;
        if !matches!(self.task(slot).state, State::Leased(..)) {
            return Err(NotYours);
        }
        self.registry.change(session, |worker| {
            worker.leases.remove(&lease);
            worker.is_resting = true;
        });
        self.lose(now, slot, reason, false);
        Ok(())
    }

    /// For pages and metrics.
    pub fn workers(&self) -> Vec<WorkerView> {
        let view = |(session, worker): (SessionId, &Worker)| {
            let pool = self.pools.get(worker.pool);
            WorkerView {
                session,
                name: worker.name.to_string(),
                instance: pool.name.clone(),
                concurrency: worker.concurrency,
                leases: worker.leases.keys().copied().collect(),
                is_draining: worker.is_draining,
                is_away: worker.is_away(),
                platforms: pool.platforms.offer(worker.shape).to_wire(),
            }
        };
        self.registry.iter().map(view).collect()
    }

    /// Takes a worker out; what becomes of its leases is the caller's.
    pub(super) fn remove_worker(&mut self, now: &Now, session: SessionId) -> Option<Worker> {
        self.set_present(now, session, false);
        let worker = self.registry.remove(session)?;
        self.deadlines.remove(Matter::Worker(session));
        if self.pools.get_mut(worker.pool).platforms.remove_worker(worker.shape) {
            self.registry.remove_shape(worker.pool, worker.shape);
        }
        self.pools.remove_if_unused(worker.pool);
        Some(worker)
    }

    /// A worker is lost, with all it holds.
    pub(super) fn lose_worker(&mut self, now: &Now, session: SessionId, reason: &str) {
        let Some(worker) = self.remove_worker(now, session) else { return };
        for (_, held) in worker.leases {
            // What is finished needs no worker.
            if matches!(self.task(held.slot).state, State::Leased(..)) {
                self.lose(now, held.slot, reason, true);
            }
        }
    }

    /// A worker takes tasks, or may come back to, or does not.
    pub(super) fn set_present(&mut self, now: &Now, session: SessionId, is_present: bool) {
        let changed = self.registry.change(session, |worker| {
            let before = std::mem::replace(&mut worker.is_present, is_present);
            (before != is_present).then_some((worker.pool, worker.shape))
        });
        let Some(Some((pool_index, shape))) = changed else { return };
        let pool = self.pools.get_mut(pool_index);
        for kind in pool.platforms.set_present(now.monotonic, shape, is_present) {
            if pool.queue.has(kind) {
                let due = now.monotonic + self.options.no_worker_patience;
                self.deadlines.at_latest(due, Matter::Kind(pool_index, kind));
            }
        }
    }
}
