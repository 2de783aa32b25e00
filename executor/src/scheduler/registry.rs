//! The workers: sessions, whether they are there, what they hold, which of them have room.
//!
//! Those with room stand in a set a shape, most free slots first, so that the emptiest worker that fits is found without a look
//! at any other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::platform::ShapeIndex;
use super::pool::PoolIndex;
use super::{JournalSlot, LeaseId, SessionId};

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) name: Arc<str>,
    pub(super) process_id: Arc<str>,
    pub(super) pool: PoolIndex,
    pub(super) shape: ShapeIndex,
    pub(super) concurrency: u32,
    pub(super) leases: BTreeMap<LeaseId, Held>,
    /// Takes no more.
    pub(super) is_draining: bool,
    /// It gave a task back, and gets no other before it was heard again: a worker with a fault would go through a queue in no
    /// time.
    pub(super) is_resting: bool,
    /// Counted to its shape as one that takes tasks or may come back to.
    pub(super) is_present: bool,
    pub(super) presence: Presence,
    /// As it stands among those with room.
    listed_free: u32,
}

/// Whether a worker is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Presence {
    Connected { heard: Duration },
    Away { until: Duration },
}

/// A lease of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) slot: JournalSlot,
    /// Heartbeats in a row that did not name it.
    pub(super) missed: u32,
}

impl Worker {
    pub(super) fn new(
        name: Arc<str>,
        process_id: Arc<str>,
        (pool, shape): (PoolIndex, ShapeIndex),
        concurrency: u32,
        presence: Presence,
    ) -> Self {
        Self {
            name,
            process_id,
            pool,
            shape,
            concurrency,
            leases: BTreeMap::new(),
            is_draining: false,
            is_resting: false,
            is_present: false,
            presence,
            listed_free: 0,
        }
    }

    pub(super) fn is_away(&self) -> bool {
        matches!(self.presence, Presence::Away { .. })
    }

    /// Slots that hold nothing, whether they may be filled or not.
    pub(super) fn room(&self) -> u32 {
        self.concurrency.saturating_sub(self.leases.len() as u32)
    }

    fn free(&self) -> u32 {
        if self.is_draining || self.is_resting || self.is_away() { 0 } else { self.room() }
    }
}

#[derive(Debug, Default)]
struct Row {
    with_room: BTreeSet<(Reverse<u32>, SessionId)>,
    /// Tasks taken from the queue.
    taken: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Registry {
    workers: BTreeMap<SessionId, Worker>,
    session_of: HashMap<Arc<str>, SessionId>,
    rows: BTreeMap<(PoolIndex, ShapeIndex), Row>,
    next_session: u64,
    connected: usize,
    slots: usize,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            workers: BTreeMap::new(),
            session_of: HashMap::new(),
            rows: BTreeMap::new(),
            next_session: 1,
            connected: 0,
            slots: 0,
        }
    }

    pub(super) fn insert(&mut self, worker: Worker) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let before = self.session_of.insert(worker.process_id.clone(), session);
        assert!(before.is_none(), "a process has one session");
        self.rows.entry((worker.pool, worker.shape)).or_default();
        self.count(&worker, true);
        self.workers.insert(session, worker);
        self.update(session);
        session
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<Worker> {
        let worker = self.workers.remove(&session)?;
        self.session_of.remove(&worker.process_id);
        if worker.listed_free > 0 {
            self.row(&worker).with_room.remove(&(Reverse(worker.listed_free), session));
        }
        self.count(&worker, false);
        Some(worker)
    }

    /// The shape has no workers any more.
    pub(super) fn remove_shape(&mut self, pool: PoolIndex, shape: ShapeIndex) {
        let row = self.rows.remove(&(pool, shape));
        assert!(row.is_none_or(|row| row.with_room.is_empty()), "its workers are gone");
    }

    fn row(&mut self, worker: &Worker) -> &mut Row {
        self.rows.get_mut(&(worker.pool, worker.shape)).expect("it has workers")
    }

    fn count(&mut self, worker: &Worker, is_added: bool) {
        if worker.is_away() {
            return;
        }
        if is_added {
            self.connected += 1;
            self.slots += worker.concurrency as usize;
        } else {
            self.connected -= 1;
            self.slots -= worker.concurrency as usize;
        }
    }

    pub(super) fn get(&self, session: SessionId) -> Option<&Worker> {
        self.workers.get(&session)
    }

    /// Changes a worker. Nothing if it is gone.
    pub(super) fn change<R>(&mut self, session: SessionId, change: impl FnOnce(&mut Worker) -> R) -> Option<R> {
        let worker = self.workers.get_mut(&session)?;
        let was_away = worker.is_away();
        let changed = change(worker);
        if worker.is_away() && !was_away {
            self.connected -= 1;
            self.slots -= worker.concurrency as usize;
        }
        self.update(session);
        Some(changed)
    }

    fn update(&mut self, session: SessionId) {
        let worker = self.workers.get_mut(&session).expect("it was just there");
        let (free, listed) = (worker.free(), worker.listed_free);
        if free != listed {
            worker.listed_free = free;
            let row = self.rows.get_mut(&(worker.pool, worker.shape)).expect("it has workers");
            if listed > 0 {
                row.with_room.remove(&(Reverse(listed), session));
            }
            if free > 0 {
                row.with_room.insert((Reverse(free), session));
            }
        }
    }

    pub(super) fn of_process(&self, process_id: &str) -> Option<SessionId> {
        self.session_of.get(process_id).copied()
    }

    /// The worker of these shapes with the most free slots; of equals the one that is there longest.
    pub(super) fn emptiest(&self, pool: PoolIndex, shapes: impl Iterator<Item = ShapeIndex>) -> Option<SessionId> {
        let firsts = shapes.filter_map(|shape| self.rows.get(&(pool, shape))?.with_room.first());
        firsts.min().map(|(_, session)| *session)
    }

    /// True if the worker may be given a task.
    pub(super) fn has_room(&self, session: SessionId) -> bool {
        self.workers.get(&session).is_some_and(|worker| worker.free() > 0)
    }

    /// Counts a task that a worker takes from the queue; returns true once in `every`, for its whole shape.
    pub(super) fn takes(&mut self, pool: PoolIndex, shape: ShapeIndex, every: u32) -> bool {
        let row = self.rows.get_mut(&(pool, shape)).expect("it has workers");
        row.taken = row.taken.wrapping_add(1);
        every > 0 && row.taken.is_multiple_of(every)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionId, &Worker)> {
        self.workers.iter().map(|(session, worker)| (*session, worker))
    }

    /// Workers that are connected.
    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    /// How many tasks they run at once, in all.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }
}
