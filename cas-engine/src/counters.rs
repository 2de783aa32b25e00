//! Counters of the engine and their snapshot.

use std::sync::atomic::{AtomicU64, Ordering};

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) uploads_open: AtomicU64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) reinserted_bytes: AtomicU64,
    pub(crate) reclaimed_segments: AtomicU64,
    pub(crate) spared_segments: AtomicU64,
    pub(crate) dropped_records: AtomicU64,
    pub(crate) lease_broken: AtomicU64,
    pub(crate) uploads_refused: AtomicU64,
    pub(crate) corrupt_records: AtomicU64,
    pub(crate) quarantined_segments: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) scrubbed_records: AtomicU64,
    pub(crate) scrub_cycles: AtomicU64,
    pub(crate) scrub_cycle_ended_ms: AtomicU64,
    pub(crate) restored_structures: AtomicU64,
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A point-in-time copy of the counters and gauges; becomes metrics. `*_total` only grow while the store is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Blobs, parts of large blobs and action results in the index.
    pub entry_count: u64,
    /// Address space of the index.
    pub index_memory_bytes: u64,
    /// Every record that is stored is in the index; false for a while after a start.
    pub index_complete: bool,
    /// Bytes of the store's files.
    pub disk_bytes: u64,
    /// The bound on them.
    pub max_size_bytes: u64,
    /// Segments that hold nothing.
    pub segments_free: u64,
    /// Segment files.
    pub segments_total: u64,
    /// Segment files that there may be.
    pub segments_max: u64,
    /// Uploads begun and neither finished nor dropped.
    pub uploads_open: u64,
    /// Chunks of blobs handed out and not given back yet: each keeps its segment from being written over.
    pub pins: u64,
    /// Bytes of new records written.
    pub appended_bytes_total: u64,
    /// Bytes of records that reclaim wrote again.
    pub reinserted_bytes_total: u64,
    /// Segments made free by reclaim.
    pub reclaimed_segments_total: u64,
    /// Times a segment was left as it is for another turn, because most of it is in use.
    pub spared_segments_total: u64,
    /// Records dropped by reclaim.
    pub dropped_records_total: u64,
    /// Records dropped before their lease (not its floor) was over.
    pub lease_broken_total: u64,
    /// The horizon that the store really keeps, in milliseconds: within the last hour or two, no record was dropped
    /// sooner than this after its last touch. Until the first drop, the time since the store was opened. It is known up
    /// to the reach of the touch epochs, a little over the lease.
    pub horizon_ms: u64,
    /// Uploads refused because the store was full.
    pub uploads_refused_total: u64,
    /// Records that failed their checks.
    pub corrupt_records_total: u64,
    /// Segments taken out of use because the disk failed under them.
    pub quarantined_segments_total: u64,
    /// Bytes that the scrubber read.
    pub scrubbed_bytes_total: u64,
    /// Records that it checked; a large blob counts as one.
    pub scrubbed_records_total: u64,
    /// Times that it came round: everything stored when the cycle began was checked.
    pub scrub_cycles_total: u64,
    /// When it came round last, milliseconds since the Unix epoch; 0: not since the store was opened.
    pub scrub_cycle_ended_ms: u64,
    /// Segment headers and footers that were found damaged and written again from what is known of their records.
    pub restored_structures_total: u64,
}
