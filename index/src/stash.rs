//! [`Stash`]: a shard's bounded overflow, for keys whose two buckets are both full.
//!
//! While a table is filled, hardly anybody overflows. A cache that has been full for long is another matter: entries leave
//! in the order they came, wherever they stand, and at load 0.8 every 40th key then finds 16 taken slots (simulated;
//! 0.9 % at load 0.75, 0.2 % at 0.7). Since entries never move, these need a place of their own: a second, small two-choice
//! table of the same buckets, 5 % of the first. It is less than half full then, so that it overflows in turn is out of
//! the question.
//!
//! A count spares readers the search while the stash is empty. Entries stay until they are removed, as everywhere: moving
//! them back to a bucket that found room would need readers that retry.

use crate::key;
use crate::sync::{AtomicU64, Ordering};

/// Buckets of a stash for a shard of so many buckets: every twentieth, and two at least.
pub(crate) fn bucket_count(shard_bucket_count: usize) -> usize {
    shard_bucket_count.div_ceil(20).max(2)
}

/// Says whether there is anything in a shard's stash. The entries stand in the table's memory.
///
/// A cache line of its own: it is read by every lookup that misses, and the shard's lock beside it is written by every
/// insert.
#[repr(align(64))]
pub(crate) struct Stash {
    entry_count: AtomicU64,
}

impl Stash {
    pub(crate) fn new() -> Self {
        Stash { entry_count: AtomicU64::new(0) }
    }

    /// False: a reader must search the key's two buckets of the stash.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed, all of them: who comes after an insert sees count and entry; who comes beside it may miss either.
        self.entry_count.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn entry_count(&self) -> u64 {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// After an entry was published in one of the buckets, under the shard's lock.
    pub(crate) fn entry_added(&self) {
        self.entry_count.fetch_add(1, Ordering::Relaxed);
    }

    /// After an entry was removed from one of the buckets, under the shard's lock.
    pub(crate) fn entry_removed(&self) {
        self.entry_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The two buckets of a key among the `bucket_count` (at least two) of a stash; they differ.
#[inline]
pub(crate) fn buckets_of(stash_fraction: u64, bucket_count: usize) -> (usize, usize) {
    let (first, rest) = key::scale(stash_fraction, bucket_count);
    let (second, _) = key::scale(rest, bucket_count);
    (first, other_than(first, second))
}

/// `index`, or a neighbour of it when it is `taken`.
#[inline]
pub(crate) fn other_than(taken: usize, index: usize) -> usize {
    match index {
        _ if index != taken => index,
        0 => 1,
        _ => index - 1,
    }
}
