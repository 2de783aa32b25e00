//! What belongs to one instance: its platforms, its queue, its operations. Instances never mix. A pool is there while anything is
//! in it.

use std::collections::{BTreeSet, HashMap};

use cask_proto::InstanceName;

use super::OperationId;
use super::platform::Platforms;
use super::queue::Queue;
use super::slots::Slots;

/// An instance, as a number while anything of it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolIndex(pub(super) u32);

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: InstanceName,
    pub(super) platforms: Platforms,
    pub(super) queue: Queue,
    pub(super) operations: BTreeSet<OperationId>,
    /// Tasks, finished ones too.
    pub(super) tasks: usize,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Pools {
    pools: Slots<Pool>,
    index_of: HashMap<InstanceName, PoolIndex>,
}

impl Pools {
    pub(super) fn new() -> Self {
        Self { pools: Slots::new(), index_of: HashMap::new() }
    }

    pub(super) fn find(&self, name: &InstanceName) -> Option<PoolIndex> {
        self.index_of.get(name).copied()
    }

    pub(super) fn find_or_insert(&mut self, name: &InstanceName) -> PoolIndex {
        if let Some(index) = self.find(name) {
            return index;
        }
        let pool = Pool {
            name: name.clone(),
            platforms: Platforms::new(),
            queue: Queue::new(),
            operations: BTreeSet::new(),
            tasks: 0,
        };
        let index = PoolIndex(self.pools.insert(pool));
        self.index_of.insert(name.clone(), index);
        index
    }

    pub(super) fn remove_if_unused(&mut self, index: PoolIndex) {
        let pool = self.pools.get(index.0);
        if pool.tasks == 0 && pool.operations.is_empty() && pool.platforms.is_unused() {
            let pool = self.pools.remove(index.0);
            self.index_of.remove(&pool.name);
        }
    }

    pub(super) fn get(&self, index: PoolIndex) -> &Pool {
        self.pools.get(index.0)
    }

    pub(super) fn find_index(&self, index: PoolIndex) -> Option<&Pool> {
        self.pools.find(index.0)
    }

    pub(super) fn get_mut(&mut self, index: PoolIndex) -> &mut Pool {
        self.pools.get_mut(index.0)
    }
}
