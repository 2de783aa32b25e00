//! Cask's log-structured blob store. Knows nothing of gRPC; has no async.
#![allow(missing_docs)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cask_index::Digest;

pub mod clock {
    /// Injected time. Milliseconds since the Unix epoch, never going back within one process.
    pub trait Clock: Send + Sync + 'static {
        fn now_ms(&self) -> u64;
    }
    #[derive(Default)]
    pub struct SystemClock {}
    impl SystemClock {
        pub fn new() -> Self {
            Self {}
        }
    }
    impl Clock for SystemClock {
        fn now_ms(&self) -> u64 {
            todo!()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Written,
    Synced,
}

#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub max_size_bytes: u64,
    pub lease: Duration,
    pub lease_floor: Duration,
    pub durability: Durability,
    /// `None`: chosen from `max_size_bytes` at creation (a store keeps the geometry it was made with).
    pub segment_size_bytes: Option<u32>,
    /// Entries the index is made for; `None`: chosen from `max_size_bytes` and what recovery finds.
    pub index_capacity: Option<u64>,
    /// Blobs above this are refused with `TooLarge`; `None`: what the store can hold.
    pub blob_size_bytes_max: Option<u64>,
}
impl EngineOptions {
    pub fn new(_max_size_bytes: u64) -> Self {
        todo!()
    }
}

/// Why a folder could not be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Placeholder(String),
}

/// One variant for each thing a caller can do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// Not in the store (or was found corrupt just now, which is the same to a client).
    #[error("not found")]
    NotFound,
    /// The bytes do not hash to the digest, or are more or fewer than it says. Permanent.
    #[error("content does not match {expected}: {found}")]
    Mismatch { expected: Digest, found: String },
    /// Permanent.
    #[error("{size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge { size_bytes: u64, limit_bytes: u64 },
    /// This digest function is not served. Permanent.
    #[error("unsupported digest function {0:?}")]
    UnsupportedFunction(cask_index::DigestFunction),
    /// No room without breaking the lease floor, or the disk is full; `retry_after` says when to try again.
    #[error("store is full: {advice}")]
    Full { retry_after: Duration, advice: String },
    /// Found corrupt or unreadable after a part of it had been handed out.
    #[error("data loss in {0}")]
    DataLoss(Digest),
    /// The disk failed; the data of this call is not stored.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The engine is shutting down.
    #[error("shutting down")]
    Closed,
}

/// What opening found; printed at start.
#[derive(Clone, Debug)]
pub struct OpenReport {
    pub blob_count: u64,
    pub action_count: u64,
    pub stored_bytes: u64,
    pub segment_count: u32,
    pub segment_size_bytes: u32,
    pub index_memory_bytes: u64,
    pub clean_shutdown: bool,
    pub corrupt_record_count: u64,
    pub elapsed: Duration,
}

/// A point-in-time copy of the counters; becomes metrics.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    pub entry_count: u64,
    pub index_memory_bytes: u64,
    pub disk_bytes: u64,
    pub max_size_bytes: u64,
    pub segments_free: u64,
    pub segments_total: u64,
    pub uploads_open: u64,
    pub appended_bytes_total: u64,
    pub reinserted_bytes_total: u64,
    pub reclaimed_segments_total: u64,
    pub dropped_records_total: u64,
    pub lease_broken_total: u64,
    pub uploads_refused_total: u64,
    pub corrupt_records_total: u64,
    pub quarantined_segments_total: u64,
}

/// Called once, on an engine thread, when the data is stored (to the configured durability) or has failed.
/// Must not block.
pub type Completion = Box<dyn FnOnce(Result<(), EngineError>) + Send + 'static>;

pub enum BeginUpload {
    /// Stored already (and touched): nothing to send.
    Present,
    Upload(Upload),
}

/// One streaming upload: append in order, flush each full part, finish. Dropping it abandons the upload.
/// Owns no thread and never blocks: memory held is at most one part (`part_size_bytes`), handed to the engine's
/// writer by `flush_part` or `finish`, and freed when the completion has run.
pub struct Upload {}
impl Upload {
    pub fn digest(&self) -> &Digest {
        todo!()
    }
    /// Bytes accepted so far.
    pub fn received_bytes(&self) -> u64 {
        todo!()
    }
    /// How many bytes `append` takes before the part is full. Zero: call `flush_part` first.
    pub fn part_room_bytes(&self) -> usize {
        todo!()
    }
    /// Hashes and stages `data`, whose length is at most `part_room_bytes()` (a broken invariant panics).
    /// `Mismatch` as soon as more bytes than the digest's size have come. An error ends the upload.
    pub fn append(&mut self, _data: &[u8]) -> Result<(), EngineError> {
        todo!()
    }
    /// True when the part is full and more data is still to come.
    pub fn needs_flush(&self) -> bool {
        todo!()
    }
    /// Hands the full part to the writer.
    pub fn flush_part(&mut self, _done: Completion) {
        todo!()
    }
    /// Verifies size and hash and hands the rest to the writer; `done` runs when the blob is readable. A mismatch is
    /// returned at once and nothing is stored. Another upload of the same digest that committed meanwhile makes this
    /// one a success.
    pub fn finish(self, _done: Completion) -> Result<(), EngineError> {
        todo!()
    }
}

/// A stored blob, opened for reading: pins nothing until a chunk is taken, touches the blob once.
pub struct Blob {}
impl Blob {
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }
    /// The verified bytes from `offset` to the end of its part (at most one part, 1 MiB): never copied, the `Bytes`
    /// pins its segment. Empty only at `offset == size`. `may_block`: when false and the range is not in memory,
    /// returns `Ok(None)` and the caller asks again, with true, from a thread that may wait for the disk.
    pub fn chunk_at(&self, _offset: u64, _may_block: bool) -> Result<Option<Bytes>, EngineError> {
        todo!()
    }
}

/// The store. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {}
impl Engine {
    /// Opens or creates the store in `folder` and starts its background threads.
    pub fn open(
        _folder: &Path,
        _options: EngineOptions,
        _clock: Arc<dyn clock::Clock>,
    ) -> Result<(Engine, OpenReport), OpenError> {
        todo!()
    }
    /// Positions of the absent digests, in order, appended to `absent`; present ones are leased. The empty blob is
    /// always present.
    pub fn find_missing(&self, _digests: &[Digest], _absent: &mut Vec<usize>) {
        todo!()
    }
    /// As `find_missing` for one, and touches.
    pub fn contains(&self, _digest: &Digest) -> bool {
        todo!()
    }
    pub fn read(&self, _digest: &Digest) -> Result<Blob, EngineError> {
        todo!()
    }
    /// Whole blob as one `Bytes`; `TooLarge` above `limit_bytes`. May block on the disk. One part: no copy.
    pub fn read_all(&self, _digest: &Digest, _limit_bytes: u64) -> Result<Bytes, EngineError> {
        todo!()
    }
    pub fn begin_upload(&self, _digest: Digest) -> Result<BeginUpload, EngineError> {
        todo!()
    }
    /// One whole blob: begin, append, finish. `done` runs exactly once, also for errors found at once.
    pub fn put(&self, _digest: Digest, _data: &[u8], _done: Completion) {
        todo!()
    }
    /// Stores `value` (opaque to the engine) with the closure of blobs it needs. Last writer wins.
    pub fn put_action(&self, _instance: &str, _action: &Digest, _value: &[u8], _closure: &[Digest], _done: Completion) {
        todo!()
    }
    /// The value, its closure probed and touched; `NotFound` when it or any blob of the closure is absent.
    pub fn get_action(&self, _instance: &str, _action: &Digest) -> Result<Bytes, EngineError> {
        todo!()
    }
    pub fn blob_size_bytes_max(&self) -> u64 {
        todo!()
    }
    pub fn part_size_bytes(&self) -> usize {
        todo!()
    }
    pub fn action_value_size_bytes_max(&self) -> usize {
        todo!()
    }
    pub fn stats(&self) -> EngineStats {
        todo!()
    }
    /// Refuses new work, writes out what is queued, seals, marks the store clean, joins the threads. Idempotent.
    pub fn close(&self) -> Result<(), EngineError> {
        todo!()
    }
}
