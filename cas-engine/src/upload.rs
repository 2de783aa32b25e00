//! Streaming uploads: verified while they arrive, visible all at once or not at all.
//!
//! A blob up to a part's size is staged in memory and becomes one record. A larger one is a sequence of part records,
//! keyed by a nonce of its own and written while the stream still runs, and a head record: the head is submitted only
//! when the whole hash is right, entered only when every part is stored, and only it makes the blob visible. Parts
//! without a head are garbage that reclaim drops.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Digest, Hasher};

use crate::commit_queue::{Completion, Publish, Submission};
use crate::core::Core;
use crate::error::EngineError;
use crate::format::record::{PartTag, RecordHeader, RecordKind, payload_checksum};
use crate::format::segment::LaneClass;
use crate::large_upload::LargeUpload;

/// Staging starts at this capacity: a stream that promises much and sends little holds little.
const STAGING_BYTES_FIRST: u64 = 64 * 1024;

/// What `begin_upload` found.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub enum BeginUpload {
    /// Stored already (and touched): nothing to send.
    Present,
    /// To be sent.
    Upload(Upload),
}

/// One streaming upload: append in order, flush each full part, finish. Dropping it abandons the upload.
///
/// It owns no thread and never blocks. It holds at most one part in memory; `flush_part` and `finish` hand that to the
/// writer, which frees it before the completion runs.
pub struct Upload {
    core: Arc<Core>,
    digest: Digest,
    hasher: Hasher,
    received_bytes: u64,
    staged: Vec<u8>,
    large: Option<Arc<LargeUpload>>,
    part_count: u32,
}

impl Upload {
    pub(crate) fn begin(core: &Arc<Core>, digest: Digest) -> Result<BeginUpload, EngineError> {
        let hasher = Hasher::new(digest.function(), digest.size_bytes());
        let limit_bytes = core.plan.blob_size_bytes_max;
        if digest.size_bytes() > limit_bytes {
            return Err(EngineError::TooLarge { size_bytes: digest.size_bytes(), limit_bytes });
        }
        if core.contains(&digest) {
            return Ok(BeginUpload::Present);
        }
        if core.queue.is_closed() {
            return Err(EngineError::Closed);
        }
        core.require_loaded()?;
        if let Some(until_ms) = core.ledger.exhausted_until_ms(core.clock.now_ms()) {
            return Err(core.full(until_ms));
        }
        let part_size_bytes = u64::from(core.plan.geometry.part_size_bytes);
        let large = (digest.size_bytes() > part_size_bytes).then(|| core.large_uploads.begin(core.draw_nonce()));
        core.counters.uploads_open.fetch_add(1, Ordering::Relaxed);
        Ok(BeginUpload::Upload(Self {
            core: Arc::clone(core),
            digest,
            hasher,
            received_bytes: 0,
            staged: Vec::with_capacity(digest.size_bytes().min(STAGING_BYTES_FIRST) as usize),
            large,
            part_count: 0,
        }))
    }

    /// What is being uploaded.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes accepted so far.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// How many bytes `append` takes before the part is full. Zero: call `flush_part` first. Unbounded once the digest's
    /// size is reached: there is no right data any more, and `append` says so.
    pub fn part_room_bytes(&self) -> usize {
        if self.received_bytes == self.digest.size_bytes() {
            return usize::MAX;
        }
        self.core.plan.geometry.part_size_bytes as usize - self.staged.len()
    }

    /// True when the part is full and more data is still to come.
    pub fn needs_flush(&self) -> bool {
        self.part_room_bytes() == 0 && self.received_bytes < self.digest.size_bytes()
    }

    /// Hashes and stages `data`, at most `part_room_bytes()` long (else it panics: the caller's broken invariant).
    ///
    /// # Errors
    /// `Mismatch` as soon as more bytes than the digest's size have come; nothing of `data` is taken then.
    pub fn append(&mut self, data: &[u8]) -> Result<(), EngineError> {
        if data.len() as u64 > self.digest.size_bytes() - self.received_bytes {
            return Err(self.mismatch(format!("more than {} bytes were sent", self.digest.size_bytes())));
        }
        assert!(
            data.len() <= self.part_room_bytes(),
            "a part takes {} bytes, not {}",
            self.part_room_bytes(),
            data.len()
        );
        self.hasher.update(data);
        if self.part_count > 0 && self.staged.capacity() == 0 {
            // Who has sent a whole part will send the next one.
            let left = self.digest.size_bytes() - self.received_bytes;
            self.staged.reserve_exact(left.min(u64::from(self.core.plan.geometry.part_size_bytes)) as usize);
        }
        self.staged.extend_from_slice(data);
        self.received_bytes += data.len() as u64;
        Ok(())
    }

    /// Hands the full part to the writer.
    pub fn flush_part(&mut self, done: Completion) {
        assert!(self.needs_flush(), "only a full part that is not the last is flushed");
        self.submit_part(Some(done));
    }

    fn submit_part(&mut self, done: Option<Completion>) {
        let large = self.large.as_ref().expect("only a large blob has parts");
        let tag = PartTag { nonce: large.nonce(), number: self.part_count };
        self.part_count += 1;
        let payload = std::mem::take(&mut self.staged);
        self.core.queue.submit(
            Submission {
                class: LaneClass::Large,
                key: self.core.keyer.part(tag.nonce, tag.number),
                header: header_of(RecordKind::Part, self.digest, Some(tag), &payload),
                payload,
                publish: Publish::Part(Arc::clone(large)),
                done,
            },
            false,
        );
    }

    /// Verifies size and hash and hands the rest to the writer; `done` runs when the blob is readable. Another upload
    /// of the same digest that committed meanwhile makes this one a success.
    ///
    /// # Errors
    /// `Mismatch`; `done` is dropped unused then, and nothing is stored.
    pub fn finish(mut self, done: Completion) -> Result<(), EngineError> {
        if self.received_bytes != self.digest.size_bytes() {
            return Err(self.mismatch(format!("only {} bytes were sent", self.received_bytes)));
        }
        let found = self.hasher.clone().finish(self.received_bytes).within(self.digest.namespace());
        if found != self.digest {
            return Err(self.mismatch(format!("the content hashes to {}", found.hash_hex())));
        }
        if self.core.contains(&self.digest) {
            done(Ok(()));
            return Ok(());
        }
        // Known to have failed already: not queued, so that nobody else who uploads the blob waits for it.
        if let Some(Err(error)) = self.large.as_ref().map(|large| large.require_intact()) {
            done(Err(error));
            return Ok(());
        }
        let key = self.core.keyer.blob(&self.digest);
        let submission = if self.large.is_some() {
            self.submit_part(None);
            let large = self.large.take().expect("checked above");
            let tag = PartTag { nonce: large.nonce(), number: self.part_count };
            Submission {
                class: LaneClass::Large,
                key,
                header: RecordHeader {
                    stamp: self.core.draw_stamp(),
                    ..header_of(RecordKind::Head, self.digest, Some(tag), &[])
                },
                payload: Vec::new(),
                publish: Publish::Head(large),
                done: Some(done),
            }
        } else {
            let payload = std::mem::take(&mut self.staged);
            Submission {
                class: LaneClass::Small,
                key,
                header: header_of(RecordKind::Blob, self.digest, None, &payload),
                payload,
                publish: Publish::Entry,
                done: Some(done),
            }
        };
        self.core.queue.submit(submission, true);
        Ok(())
    }

    fn mismatch(&self, found: String) -> EngineError {
        EngineError::Mismatch { expected: self.digest, found }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.core.counters.uploads_open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn header_of(kind: RecordKind, digest: Digest, part: Option<PartTag>, payload: &[u8]) -> RecordHeader {
    RecordHeader {
        kind,
        digest,
        part,
        stamp: 0,
        stored_length_bytes: payload.len() as u32,
        payload_checksum: payload_checksum(payload),
    }
}
