//! What the scheduler said it does, followed effect by effect, and what it may say.
//!
//! The journal's records are the model's tasks: each change of a task writes one, so the model knows what the scheduler believes
//! without looking into it, and a restart begins with what the records say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cask_executor::scheduler::{Effect, JournalSlot, LeaseId, OperationId, Options, SessionId};
use cask_proto::queue::TaskRecord;
use cask_proto::{reapi, workers};

pub(crate) const CANCELLED: i32 = 1;
pub(crate) const FAILED_PRECONDITION: i32 = 9;
pub(crate) const UNAVAILABLE: i32 = 14;

/// A task.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) record: TaskRecord,
    /// Of arrival.
    pub(crate) order: usize,
    pub(crate) queued_at: Duration,
    /// Those it waits or runs for.
    pub(crate) invocations: BTreeSet<String>,
    /// Since when no worker is there for it.
    pub(crate) deserted_at: Option<Duration>,
}

impl Slot {
    pub(crate) fn is_queued(&self) -> bool {
        self.record.lease.is_none() && self.record.finished.is_none()
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.record.lease.is_some() && self.record.finished.is_none()
    }

    pub(crate) fn lease(&self) -> Option<LeaseId> {
        let lease = self.record.lease.as_ref().filter(|_| self.record.finished.is_none());
        lease.map(|lease| LeaseId::parse(&lease.lease_id).expect("a lease's id"))
    }
}

/// A session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) process_id: String,
    pub(crate) instance: String,
    pub(crate) concurrency: u32,
    /// As many, or what it kept when it came: it may hold a result that the server heard of, and forgot in a restart, beside
    /// what it was given for it.
    pub(crate) leases_max: usize,
    pub(crate) platforms: Vec<reapi::Platform>,
    pub(crate) is_draining: bool,
    pub(crate) is_resting: bool,
    pub(crate) heard: Duration,
    /// Since when, if its stream broke.
    pub(crate) away: Option<Duration>,
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Of the call; after a restart, of the first call for the task.
    pub(crate) invocation: String,
    pub(crate) instance: String,
    pub(crate) listeners: u32,
    pub(crate) was_cancelled: bool,
    /// It may have ended in the life before.
    pub(crate) was_restored: bool,
    /// Message and code, and when it was first seen.
    pub(crate) outcome: Option<(String, i32, Duration)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) options: Options,
    pub(crate) now: Duration,
    pub(crate) slots: BTreeMap<JournalSlot, Slot>,
    pub(crate) ops: BTreeMap<OperationId, Op>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Of tasks whose results are on their way.
    pub(crate) finishing: BTreeSet<LeaseId>,
    /// Which process each lease was given to, ever.
    pub(crate) holder_of: BTreeMap<LeaseId, String>,
    /// Instance and platforms, and picks since one was not by turn.
    since_oldest: BTreeMap<String, u32>,
    arrivals: usize,
}

/// True if the worker's platforms have what is asked for. Written again, slowly, from the rule's words.
pub(crate) fn fits(platforms: &[reapi::Platform], wanted: Option<&reapi::Platform>) -> bool {
    let Some(wanted) = wanted.filter(|wanted| !wanted.properties.is_empty()) else { return true };
    let families: BTreeSet<_> =
        wanted.properties.iter().filter(|it| it.name == "OSFamily").map(|it| &it.value).collect();
    families.len() < 2
        && platforms.iter().any(|platform| {
            wanted.properties.iter().all(|asked| {
                let mut same_name = platform.properties.iter().filter(|it| it.name == asked.name);
                same_name.any(|it| it.value == "*" || it.value == asked.value)
            })
        })
}

impl Model {
    pub(crate) fn new(options: Options, now: Duration) -> Self {
        Self {
            options,
            now,
            slots: BTreeMap::new(),
            ops: BTreeMap::new(),
            sessions: BTreeMap::new(),
            finishing: BTreeSet::new(),
            holder_of: BTreeMap::new(),
            since_oldest: BTreeMap::new(),
            arrivals: 0,
        }
    }

    /// A new process began with these records.
    pub(crate) fn restarted(&mut self, now: Duration, records: &[(JournalSlot, TaskRecord)]) {
        *self = Self::new(self.options.clone(), now);
        let mut records = records.to_vec();
        records.sort_by_key(|(slot, record)| {
            let queued = record.queued_timestamp.expect("set");
            (queued.seconds, queued.nanos, *slot)
        });
        for (slot, record) in records {
            let invocation = record.request_metadata.clone().unwrap_or_default().tool_invocation_id;
            for operation in &record.operations {
                let id = OperationId::parse(&operation.id).expect("an operation's id");
                let op = Op {
                    invocation: invocation.clone(),
                    instance: record.instance_name.clone(),
                    listeners: 0,
                    // A cancellation that did not reach the journal never was.
                    was_cancelled: operation.is_cancelled,
                    was_restored: true,
                    // Whoever saw a result that did not reach the journal may see another.
                    outcome: None,
                };
                self.ops.insert(id, op);
            }
            self.set(slot, record);
            self.slots.get_mut(&slot).expect("just set").invocations = [invocation].into();
        }
        self.look_for_workers();
    }

    /// Follows what the scheduler did in one call.
    pub(crate) fn follow(&mut self, effects: &[Effect]) {
        let mut effects = effects.iter().peekable();
        while let Some(effect) = effects.next() {
            match effect {
                Effect::Journal { slot, record: Some(record) } => {
                    if let Some(Effect::Assign { session, assignment }) = effects.peek() {
                        self.check_assignment(*slot, record, *session, assignment);
                    }
                    self.set(*slot, (**record).clone());
                }
                Effect::Journal { slot, record: None } => self.forget(*slot),
                Effect::Assign { session, assignment } => {
                    let is_written = |slot: &Slot| slot.lease().is_some_and(|it| it.to_string() == assignment.lease_id);
                    assert!(self.slots.values().any(is_written), "an assignment is in the journal before it goes out");
                    self.expect_connected(*session);
                }
                Effect::CancelLease { session, .. } => self.expect_connected(*session),
                Effect::CloseSession { session } => {
                    self.expect_connected(*session);
                    self.sessions.remove(session);
                }
                Effect::Changed { .. } => {}
            }
        }
    }

    fn expect_connected(&self, session: SessionId) {
        let found = self.sessions.get(&session);
        assert!(found.is_some_and(|it| it.away.is_none()), "an effect for {session:?}, which is not there: {found:?}");
    }

    fn set(&mut self, index: JournalSlot, record: TaskRecord) {
        let mut invocations = BTreeSet::new();
        for operation in &record.operations {
            let id = OperationId::parse(&operation.id).expect("an operation's id");
            if let Some(op) = self.ops.get(&id)
                && !operation.is_cancelled
            {
                invocations.insert(op.invocation.clone());
            }
        }
        if let Some(lease) = &record.lease {
            let id = LeaseId::parse(&lease.lease_id).expect("a lease's id");
            let holder = self.holder_of.entry(id).or_insert_with(|| lease.process_id.clone());
            assert_eq!(*holder, lease.process_id, "a lease is one process's");
        }
        let Some(before) = self.slots.get_mut(&index) else {
            let slot = Slot { record, order: self.arrivals, queued_at: self.now, invocations, deserted_at: None };
            self.arrivals += 1;
            self.slots.insert(index, slot);
            return;
        };
        assert_eq!(before.record.action_digest, record.action_digest, "a slot is reused only after it was let go");
        if let Some(finished) = &before.record.finished {
            assert_eq!(Some(finished), record.finished.as_ref(), "what is finished stays as it is");
        }
        if before.is_leased() && record.lease.is_none() && record.finished.is_none() {
            assert_eq!(record.attempt, before.record.attempt + 1, "each loss is an attempt");
        }
        if !invocations.is_empty() {
            before.invocations = invocations;
        }
        before.record = record;
    }

    fn forget(&mut self, index: JournalSlot) {
        let slot = self.slots.remove(&index);
        for operation in slot.iter().flat_map(|slot| &slot.record.operations) {
            let id = OperationId::parse(&operation.id).expect("an operation's id");
            if let Some(op) = self.ops.remove(&id) {
                self.check_forgotten(&op);
            }
        }
    }

    pub(crate) fn check_forgotten(&self, op: &Op) {
        assert_eq!(op.listeners, 0, "nobody is told that what it listens to never was");
        if self.options.finished_bytes_max > 1 << 20 && !op.was_restored {
            let (_, _, at) = op.outcome.as_ref().expect("only what is finished is forgotten");
            let age = self.now.checked_sub(*at).expect("time goes on");
            assert!(age >= self.options.finished_retention, "forgotten after {age:?}");
        }
    }

    fn running(&self, instance: &str, invocation: &str) -> usize {
        let is_its = |slot: &&Slot| slot.record.instance_name == instance && slot.invocations.contains(invocation);
        self.slots.values().filter(|slot| slot.is_leased()).filter(is_its).count()
    }

    /// What an invocation's task is chosen by.
    fn turn(&self, slot: &Slot) -> (i32, usize, usize) {
        let running = slot.invocations.iter().map(|it| self.running(&slot.record.instance_name, it)).min();
        (slot.record.priority, running.expect("somebody asked"), slot.order)
    }

    fn check_assignment(
        &mut self,
        index: JournalSlot,
        record: &TaskRecord,
        session: SessionId,
        assignment: &workers::Assignment,
    ) {
        self.expect_connected(session);
        let worker = self.sessions[&session].clone();
        assert!(!worker.is_draining && !worker.is_resting, "a task for a worker that takes none: {worker:?}");
        assert_eq!(worker.instance, record.instance_name, "instances never mix");
        assert!(fits(&worker.platforms, record.platform.as_ref()), "{:?} for {worker:?}", record.platform);
        assert_eq!(assignment.attempt, record.attempt);
        assert_eq!(assignment.action_digest, record.action_digest);
        let candidates: Vec<_> =
            self.slots.iter().filter(|(_, slot)| slot.is_queued() && worker.may_run(slot)).collect();
        let Some((_, taken)) = candidates.iter().find(|(candidate, _)| **candidate == index) else {
            assert!(candidates.is_empty(), "one that comes is served before those that wait: {candidates:?}");
            return;
        };
        let next = candidates.iter().map(|(_, slot)| self.turn(slot)).min().expect("it is one of them");
        let is_oldest = candidates.iter().all(|(_, slot)| taken.order <= slot.order);
        let is_by_turn = self.turn(taken) == next;
        let row = format!("{} {:?}", worker.instance, canonical(&worker.platforms));
        let since = self.since_oldest.entry(row).or_insert(0);
        *since += 1;
        if !is_by_turn {
            assert!(is_oldest, "neither next nor oldest: {taken:?} of {candidates:?}");
            assert!(*since >= self.options.oldest_first_every, "out of turn again after {since} assignments");
            *since = 0;
        }
    }

    /// Notes for which tasks no worker is there.
    pub(crate) fn look_for_workers(&mut self) {
        // What is finished keeps what was known of it, and has no platform any more.
        for slot in self.slots.values_mut().filter(|slot| slot.record.finished.is_none()) {
            let is_served = self.sessions.values().any(|worker| !worker.is_draining && worker.may_run(slot));
            slot.deserted_at = if is_served { None } else { Some(slot.deserted_at.unwrap_or(self.now)) };
        }
    }
}

impl Session {
    pub(crate) fn may_run(&self, slot: &Slot) -> bool {
        self.instance == slot.record.instance_name && fits(&self.platforms, slot.record.platform.as_ref())
    }
}

fn canonical(platforms: &[reapi::Platform]) -> BTreeSet<BTreeSet<(&str, &str)>> {
    platforms.iter().map(|it| it.properties.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect()).collect()
}
