//! Which task a call may join: an unfinished one of the same action, in the same instance, where both may be cached.
//!
//! A call that wants no cached result must not get one that was on its way before anybody wanted a fresh one; so it joins only
//! tasks that began as such. A call without that wish joins either.

use std::collections::HashMap;

use cask_index::Digest;

use super::JournalSlot;
use super::pool::PoolIndex;

/// What identical calls have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MergeKey {
    pub(super) pool: PoolIndex,
    pub(super) action: Digest,
    /// Began as `skip_cache_lookup`.
    pub(super) is_fresh: bool,
}

/// The tasks that can be joined.
#[derive(Debug, Default)]
pub(super) struct Merges {
    tasks: HashMap<MergeKey, JournalSlot>,
}

impl Merges {
    /// The task that a call with this key joins.
    pub(super) fn find(&self, key: MergeKey) -> Option<JournalSlot> {
        let exact = self.tasks.get(&key);
        exact.or_else(|| self.tasks.get(&MergeKey { is_fresh: true, ..key })).copied()
    }

    /// From now on calls join this task.
    pub(super) fn insert(&mut self, key: MergeKey, task: JournalSlot) {
        self.tasks.insert(key, task);
    }

    /// The task cannot be joined any more. Nothing if calls join another by now.
    pub(super) fn remove(&mut self, key: MergeKey, task: JournalSlot) {
        if self.tasks.get(&key) == Some(&task) {
            self.tasks.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;

    use super::*;

    #[test]
    fn a_call_for_a_fresh_result_joins_only_its_like() {
        let action = Digest::new(DigestFunction::Sha256, &[1; 32], 5).expect("a digest");
        let key = |is_fresh| MergeKey { pool: PoolIndex(0), action, is_fresh };
        let (cached, fresh) = (JournalSlot(1), JournalSlot(2));
        let mut merges = Merges::default();
        assert_eq!((merges.find(key(false)), merges.find(key(true))), (None, None));
        merges.insert(key(false), cached);
        assert_eq!((merges.find(key(false)), merges.find(key(true))), (Some(cached), None));
        merges.insert(key(true), fresh);
        assert_eq!((merges.find(key(false)), merges.find(key(true))), (Some(cached), Some(fresh)));
        merges.remove(key(false), cached);
        merges.remove(key(true), cached);
        assert_eq!((merges.find(key(false)), merges.find(key(true))), (Some(fresh), Some(fresh)));
        let other = Digest::new(DigestFunction::Sha256, &[1; 32], 6).expect("a digest");
        assert_eq!(merges.find(MergeKey { action: other, ..key(false) }), None);
    }
}
