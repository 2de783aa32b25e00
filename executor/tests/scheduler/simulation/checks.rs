//! What must hold between any two calls.

use std::collections::{BTreeMap, BTreeSet};

use cask_executor::scheduler::{JournalSlot, LeaseId, OperationId, Stage};
use cask_proto::InstanceName;

use super::model::{CANCELLED, FAILED_PRECONDITION, Slot, UNAVAILABLE, fits};
use super::world::{INSTANCES, World};

impl World {
    /// The slot of each operation that has one, and whether its record says that it was cancelled.
    fn slot_of_op(&self) -> BTreeMap<OperationId, (JournalSlot, bool)> {
        let mut slot_of = BTreeMap::new();
        for (index, slot) in &self.model.slots {
            for operation in &slot.record.operations {
                let id = OperationId::parse(&operation.id).expect("an operation's id");
                let before = slot_of.insert(id, (*index, operation.is_cancelled));
                assert!(before.is_none(), "{id} is in two slots");
            }
        }
        slot_of
    }

    /// Everything.
    pub(crate) fn check(&mut self) {
        let slot_of = self.slot_of_op();
        for id in self.model.ops.keys().copied().collect::<Vec<_>>() {
            self.check_operation(id, slot_of.get(&id).copied());
        }
        for id in slot_of.keys() {
            assert!(self.model.ops.contains_key(id), "{id} is in the journal, but was never or is no more");
        }
        for instance in INSTANCES {
            let listed: Vec<_> = self.listed(instance);
            let known = self.model.ops.iter().filter(|(_, op)| op.instance == *instance);
            assert_eq!(listed, known.map(|(id, _)| *id).collect::<Vec<_>>());
        }
        self.check_workers();
        self.check_counts();
        self.check_nothing_waits_in_vain();
    }

    fn listed(&self, instance: &str) -> Vec<OperationId> {
        let instance = InstanceName::parse(instance).expect("a name");
        let mut listed: Vec<OperationId> = Vec::new();
        loop {
            let page = self.scheduler.operations(&instance, listed.last().copied(), 7);
            listed.extend(page.iter().map(|view| view.id));
            if page.len() < 7 {
                return listed;
            }
        }
    }

    fn check_operation(&mut self, id: OperationId, slot: Option<(JournalSlot, bool)>) {
        let view = self.scheduler.operation(id).expect("what is known is found");
        let slot = slot.map(|(index, is_cancelled)| (&self.model.slots[&index], is_cancelled));
        let op = self.model.ops.get_mut(&id).expect("it is known");
        if let Some((slot, is_cancelled)) = slot {
            let is_right = match &view.stage {
                Stage::Queued => slot.is_queued() && !is_cancelled,
                Stage::Executing => slot.is_leased() && !is_cancelled,
                Stage::Completed(_) => is_cancelled || slot.record.finished.is_some(),
            };
            assert!(is_right, "{id}: {:?}, but the journal has {slot:?}", view.stage);
        }
        let Stage::Completed(response) = view.stage else {
            assert!(op.outcome.is_none(), "{id} ended and goes on");
            assert!(!op.was_cancelled, "{id} was cancelled and goes on");
            return;
        };
        let code = response.status.as_ref().map_or(0, |status| status.code);
        let text = response.status.as_ref().map_or(&response.message, |status| &status.message);
        if let Some((before, code_before, _)) = &op.outcome {
            assert_eq!((before, *code_before), (text, code), "{id} ended twice");
            return;
        }
        op.outcome = Some((text.clone(), code, self.model.now));
        if op.was_restored {
            return;
        }
        let options = &self.model.options;
        match (code, slot) {
            (0, None) => assert_eq!(text, "from the cache"),
            (0, Some((slot, _))) => {
                let action = slot.record.action_digest.as_ref().expect("set");
                assert!(text.starts_with(&action.hash), "the result of another action: {text} for {}", action.hash);
            }
            (CANCELLED, _) if op.was_cancelled => {}
            (UNAVAILABLE, Some(_)) if text.contains("nobody listened") => assert_eq!(op.listeners, 0, "{text}"),
            (UNAVAILABLE, Some((slot, _))) => assert!(slot.record.attempt >= options.attempts_max, "{slot:?}"),
            (FAILED_PRECONDITION, Some((slot, _))) => {
                let since = slot.deserted_at.expect("no worker is there").max(slot.queued_at);
                assert!(self.model.now >= since + options.no_worker_patience, "{slot:?} at {:?}", self.model.now);
            }
            other => panic!("{id} ended with {other:?}: {text}"),
        }
    }

    fn check_workers(&self) {
        let slots_of_lease: BTreeMap<LeaseId, &Slot> =
            self.model.slots.values().filter_map(|slot| Some((slot.lease()?, slot))).collect();
        let mut seen = BTreeSet::new();
        for view in self.scheduler.workers() {
            for lease in &view.leases {
                assert!(seen.insert(*lease), "{lease} is held twice");
                assert!(slots_of_lease.contains_key(lease), "{lease} is of no task");
            }
            let Some(session) = self.model.sessions.get(&view.session) else {
                assert!(view.is_away && view.platforms.is_empty(), "a worker that never was: {view:?}");
                continue;
            };
            assert!(view.leases.len() <= session.leases_max, "too much for {view:?}");
            assert_eq!((view.is_away, view.is_draining), (session.away.is_some(), session.is_draining));
            for lease in &view.leases {
                let record = &slots_of_lease[lease].record;
                assert!(fits(&view.platforms, record.platform.as_ref()), "{record:?} on {view:?}");
                assert_eq!(record.instance_name, view.instance.as_str());
            }
        }
        for lease in slots_of_lease.keys() {
            let is_finishing = self.model.finishing.contains(lease);
            assert!(seen.contains(lease) || is_finishing, "{lease} is of a task, and no worker has it");
        }
    }

    fn check_counts(&self) {
        let counts = self.scheduler.counts();
        let connected = || self.model.sessions.values().filter(|it| it.away.is_none());
        assert_eq!(counts.queued, self.model.slots.values().filter(|it| it.is_queued()).count());
        assert_eq!(counts.leased, self.model.slots.values().filter(|it| it.is_leased()).count());
        assert_eq!(counts.operations, self.model.ops.len());
        assert_eq!(counts.workers, connected().count());
        assert_eq!(counts.slots, connected().map(|it| it.concurrency as usize).sum::<usize>());
    }

    /// No task waits that a worker with room could run.
    fn check_nothing_waits_in_vain(&self) {
        for view in self.scheduler.workers() {
            let Some(session) = self.model.sessions.get(&view.session) else { continue };
            let takes_some = session.away.is_none() && !session.is_draining && !session.is_resting;
            if takes_some && view.leases.len() < view.concurrency as usize {
                let waits = self.model.slots.values().find(|slot| slot.is_queued() && session.may_run(slot));
                assert!(waits.is_none(), "{waits:?} waits, and {view:?} has room");
            }
        }
    }

    /// What must hold when the scheduler was just told the time.
    pub(crate) fn check_time(&self) {
        let (now, options) = (self.model.now, &self.model.options);
        let next = self.scheduler.next_deadline();
        assert!(next.is_none_or(|next| next > now), "due at {next:?}, and it was {now:?} already");
        for session in self.model.sessions.values() {
            let until = session.away.map_or(session.heard + options.worker_timeout, |at| at + options.reconnect_grace);
            assert!(until > now, "lost for long: {session:?}");
        }
        for slot in self.model.slots.values().filter(|slot| slot.is_queued()) {
            let Some(deserted_at) = slot.deserted_at else { continue };
            let until = deserted_at.max(slot.queued_at) + options.no_worker_patience;
            assert!(until > now, "waits for nobody: {slot:?}");
        }
    }
}
