//! [`Stash`]: a shard's bounded overflow, for keys whose two buckets are both full.
//!
//! At the load a table is made for this happens to almost nobody, but "almost" over a billion inserts is sometimes. The
//! stash is a few more buckets of the same memory, searched slot by slot, and a count that spares readers the search
//! while it is zero. Entries stay where they are until they are removed, as everywhere: moving them back to a bucket that
//! found room would need readers that retry.

use std::ops::Range;

use crate::sync::{AtomicU32, Ordering};

/// Buckets of a shard's stash.
pub(crate) const BUCKETS: usize = if cfg!(loom) { 1 } else { 4 };

/// A cache line of its own: it is read by every lookup that misses, and the shard's lock beside it would be written by
/// every insert.
#[repr(align(64))]
pub(crate) struct Stash {
    entry_count: AtomicU32,
    first_bucket: usize,
}

impl Stash {
    /// The stash in the `BUCKETS` buckets from `first_bucket` on.
    pub(crate) fn new(first_bucket: usize) -> Self {
        Stash { entry_count: AtomicU32::new(0), first_bucket }
    }

    /// The buckets a reader must search: none while the stash is empty.
    #[inline]
    pub(crate) fn buckets_in_use(&self) -> Range<usize> {
        // Acquire, and release below: who sees the count sees the entry. A reader that sees a zero instead came before
        // the insert was done.
        if self.entry_count.load(Ordering::Acquire) == 0 { 0..0 } else { self.buckets() }
    }

    pub(crate) fn buckets(&self) -> Range<usize> {
        self.first_bucket..self.first_bucket + BUCKETS
    }

    pub(crate) fn holds_bucket(&self, bucket: usize) -> bool {
        self.buckets().contains(&bucket)
    }

    pub(crate) fn entry_count(&self) -> u32 {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// After an entry was published in one of the buckets, under the shard's lock.
    pub(crate) fn entry_added(&self) {
        self.entry_count.fetch_add(1, Ordering::Release);
    }

    /// After an entry was removed from one of the buckets, under the shard's lock.
    pub(crate) fn entry_removed(&self) {
        self.entry_count.fetch_sub(1, Ordering::Release);
    }
}
