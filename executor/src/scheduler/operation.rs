//! Operations: what calls of Execute were given. Where an operation is, is where its task is, unless it was cancelled.

use std::collections::BTreeMap;

use super::queue::InvocationIndex;
use super::{JournalSlot, OperationId};

/// Operations that a task may have. More of them begin another: a record holds them all, and is written with each.
pub(super) const PER_TASK_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) task: JournalSlot,
    /// Who asked; of meaning while the task is not finished.
    pub(super) invocation: InvocationIndex,
    /// Streams.
    pub(super) listeners: u32,
    /// It ended with CANCELLED, whatever becomes of its task.
    pub(super) is_cancelled: bool,
}

/// All of them, by id.
#[derive(Debug)]
pub(super) struct Operations {
    by_id: BTreeMap<OperationId, Operation>,
}

impl Operations {
    pub(super) fn new() -> Self {
        Self { by_id: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, id: OperationId, operation: Operation) {
        let before = self.by_id.insert(id, operation);
        assert!(before.is_none(), "identifiers are random");
    }

    pub(super) fn get(&self, id: OperationId) -> Option<&Operation> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: OperationId) -> Option<&mut Operation> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: OperationId) -> Option<Operation> {
        self.by_id.remove(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}
