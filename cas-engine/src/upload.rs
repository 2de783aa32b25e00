//! Streaming uploads: verified while they arrive, visible all at once or not at all.
//!
//! A blob up to a part's size is staged in memory and becomes one record. A larger one is a sequence of part records,
//! keyed by a nonce of its own and written while the stream still runs, and a head record: the head is submitted only
//! when the whole hash is right, entered only when every part is stored, and only it makes the blob visible. Parts
//! without a head are garbage that reclaim drops.
//!
//! Where the store compresses, that happens between the upload and the queue, in what `take_part` and `verify` hand out:
//! it takes a millisecond a MiB, so the caller chooses the thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Digest, Hasher};

use crate::commit_queue::{Completion, Publish, Submission};
use crate::config::Compression;
use crate::core::Core;
use crate::encoding::{self, INLINE_ENCODE_BYTES_MAX};
use crate::error::EngineError;
use crate::format::record::{Encoding, PartTag, RecordHeader, RecordKind, payload_checksum};
use crate::format::segment::LaneClass;
use crate::large_upload::LargeUpload;

/// Staging starts at this capacity: a stream that promises much and sends little holds little.
const STAGING_BYTES_FIRST: u64 = 64 * 1024;

impl Core {
    /// Whether a blob is to be sent; false: it is stored already (and was touched).
    ///
    /// # Errors
    /// `TooLarge`, `Closed`, `Loading`, `Full`.
    pub(crate) fn admit(&self, digest: &Digest) -> Result<bool, EngineError> {
        let limit_bytes = self.plan.blob_size_bytes_max;
        if digest.size_bytes() > limit_bytes {
            return Err(EngineError::TooLarge { size_bytes: digest.size_bytes(), limit_bytes });
        }
        if self.contains(digest) {
            return Ok(false);
        }
        if self.queue.is_closed() {
            return Err(EngineError::Closed);
        }
        self.require_loaded()?;
        match self.ledger.exhausted_until_ms(self.clock.now_ms()) {
            Some(until_ms) => Err(self.full(until_ms)),
            None => Ok(true),
        }
    }

    /// Whether the blob fits one record.
    pub(crate) fn is_one_record(&self, digest: &Digest) -> bool {
        digest.size_bytes() <= u64::from(self.plan.geometry.part_size_bytes)
    }
}

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
    compression: Compression,
}

impl Upload {
    pub(crate) fn begin(core: &Arc<Core>, digest: Digest) -> Result<BeginUpload, EngineError> {
        if !core.admit(&digest)? {
            return Ok(BeginUpload::Present);
        }
        let hasher = Hasher::new(digest.function(), digest.size_bytes());
        let large = (!core.is_one_record(&digest)).then(|| core.large_uploads.begin(core.draw_nonce()));
        core.counters.uploads_open.fetch_add(1, Ordering::Relaxed);
        Ok(BeginUpload::Upload(Self {
            core: Arc::clone(core),
            digest,
            hasher,
            received_bytes: 0,
            staged: Vec::with_capacity(digest.size_bytes().min(STAGING_BYTES_FIRST) as usize),
            large,
            part_count: 0,
            compression: core.plan.compression,
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

    /// The blob comes compressed, so those who read it will likely want it so: it is stored compressed where that pays,
    /// whatever the options say.
    pub fn prefer_compressed(&mut self) {
        self.compression = Compression::Zstd;
    }

    /// Whether a part is compressed before it is queued: then submitting one is work for the processor.
    pub fn compresses(&self) -> bool {
        self.compression != Compression::Off
    }

    /// Hands the full part to the writer.
    pub fn flush_part(&mut self, done: Completion) {
        self.take_part().submit(done);
    }

    /// Takes out the full part, to be submitted by any thread. The parts of an upload are submitted in their order, and all
    /// of them before its [`Verified`]; one that is dropped instead fails the upload.
    pub fn take_part(&mut self) -> FullPart {
        assert!(self.needs_flush(), "only a full part that is not the last is flushed");
        self.take_staged()
    }

    fn take_staged(&mut self) -> FullPart {
        let large = self.large.as_ref().expect("only a large blob has parts");
        let number = self.part_count;
        self.part_count += 1;
        FullPart {
            core: Arc::clone(&self.core),
            digest: self.digest,
            large: Arc::clone(large),
            number,
            compression: self.compression,
            raw: std::mem::take(&mut self.staged),
        }
    }

    /// Verifies size and hash and hands the rest to the writer; `done` runs when the blob is readable. Another upload
    /// of the same digest that committed meanwhile makes this one a success.
    ///
    /// # Errors
    /// `Mismatch`; `done` is dropped unused then, and nothing is stored.
    pub fn finish(self, done: Completion) -> Result<(), EngineError> {
        self.verify()?.submit(done);
        Ok(())
    }

    /// Verifies size and hash; what is left to do can be done by any thread.
    ///
    /// # Errors
    /// `Mismatch`; nothing is stored then.
    pub fn verify(mut self) -> Result<Verified, EngineError> {
        if self.received_bytes != self.digest.size_bytes() {
            return Err(self.mismatch(format!("only {} bytes were sent", self.received_bytes)));
        }
        self.require_hash(self.hasher.clone())?;
        let rest = if self.large.is_some() {
            let last = self.take_staged();
            Rest::Large { last, part_count: self.part_count }
        } else {
            Rest::Raw(std::mem::take(&mut self.staged))
        };
        Ok(Verified { core: Arc::clone(&self.core), digest: self.digest, compression: self.compression, rest })
    }

    /// Appends all of `data`, a part after the other.
    ///
    /// # Errors
    /// As `append`.
    pub(crate) fn append_whole(mut self, mut data: &[u8]) -> Result<Self, EngineError> {
        while !data.is_empty() {
            if self.needs_flush() {
                self.flush_part(Box::new(|_| {}));
            }
            let (piece, rest) = data.split_at(data.len().min(self.part_room_bytes()));
            self.append(piece)?;
            data = rest;
        }
        Ok(self)
    }

    /// Whether the blob is one record, which is what [`Upload::finish_zstd`] takes.
    pub fn is_one_record(&self) -> bool {
        self.large.is_none()
    }

    /// Stores a whole blob that came as a zstd stream: decodes and verifies it, and keeps the stream as it is if that
    /// pays and every reader can be given it. For blobs of one record, of which nothing was appended
    /// (else it panics: the caller's broken invariant). Work for the processor. `done` as for `finish`.
    ///
    /// # Errors
    /// `Mismatch`, also for what is no zstd stream; `done` is dropped unused then, and nothing is stored.
    pub fn finish_zstd(self, stream: Vec<u8>, done: Completion) -> Result<(), EngineError> {
        self.verify_zstd(stream)?.submit(done);
        Ok(())
    }

    /// As `finish_zstd`, up to what any thread can do.
    pub(crate) fn verify_zstd(self, stream: Vec<u8>) -> Result<Verified, EngineError> {
        assert!(self.is_one_record() && self.received_bytes == 0, "a stream is the whole of a blob of one record");
        let size_bytes = self.digest.size_bytes();
        // One record, so its size fits.
        let Some(raw) = encoding::decode_zstd(&stream, size_bytes as usize) else {
            return Err(self.mismatch(format!("what was sent is no zstd stream of {size_bytes} bytes")));
        };
        let mut hasher = self.hasher.clone();
        hasher.update(&raw);
        self.require_hash(hasher)?;
        let is_kept = encoding::pays(stream.len(), raw.len()) && encoding::is_for_every_reader(&stream);
        let rest = if is_kept { Rest::Zstd(stream) } else { Rest::Raw(raw) };
        let compression = Compression::Zstd;
        Ok(Verified { core: Arc::clone(&self.core), digest: self.digest, compression, rest })
    }

    fn require_hash(&self, hasher: Hasher) -> Result<(), EngineError> {
        let found = hasher.finish(self.digest.size_bytes()).within(self.digest.namespace());
        if found == self.digest {
            Ok(())
        } else {
            Err(self.mismatch(format!("the content hashes to {}", found.hash_hex())))
        }
    }

    fn mismatch(&self, found: String) -> EngineError {
        mismatch(&self.digest, found)
    }
}

pub(crate) fn mismatch(expected: &Digest, found: String) -> EngineError {
    EngineError::Mismatch { expected: *expected, found }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.core.counters.uploads_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A part on its way from its upload to the writer.
#[must_use = "an upload fails without its part"]
pub struct FullPart {
    core: Arc<Core>,
    digest: Digest,
    large: Arc<LargeUpload>,
    number: u32,
    compression: Compression,
    raw: Vec<u8>,
}

impl FullPart {
    /// Encodes it, as the options say, and hands it to the writer.
    pub fn submit(self, done: Completion) {
        self.hand_over(Some(done));
    }

    fn submit_with_head(self, part_count: u32, done: Completion) {
        let (core, digest, large) = (Arc::clone(&self.core), self.digest, Arc::clone(&self.large));
        // Known to have failed already: not queued, so that nobody else who uploads the blob waits for it.
        if let Err(error) = large.require_intact() {
            return done(Err(error));
        }
        self.hand_over(None);
        let tag = PartTag { nonce: large.nonce(), number: part_count };
        let header = header_of(RecordKind::Head, Encoding::Raw, digest, Some(tag), &[]);
        core.queue.submit(
            Submission {
                class: LaneClass::Large,
                key: core.keyer.blob(&digest),
                header: RecordHeader { stamp: core.draw_stamp(), ..header },
                payload: Vec::new(),
                publish: Publish::Head(large),
                done: Some(done),
            },
            true,
        );
    }

    fn hand_over(self, done: Option<Completion>) {
        let Self { core, digest, large, number, compression, raw } = self;
        let tag = PartTag { nonce: large.nonce(), number };
        let (encoding, payload) = encoding::encode(compression, raw);
        core.queue.submit(
            Submission {
                class: LaneClass::Large,
                key: core.keyer.part(tag.nonce, tag.number),
                header: header_of(RecordKind::Part, encoding, digest, Some(tag), &payload),
                payload,
                publish: Publish::Part(large),
                done,
            },
            false,
        );
    }
}

/// A blob whose bytes are right, with what of it the writer does not have yet. Nothing but verifying makes one.
#[must_use = "an upload that is not submitted stores nothing"]
pub struct Verified {
    core: Arc<Core>,
    digest: Digest,
    compression: Compression,
    rest: Rest,
}

enum Rest {
    /// The only record, to be encoded as the options say.
    Raw(Vec<u8>),
    /// The only record, a zstd stream.
    Zstd(Vec<u8>),
    /// The last part, before the head of so many.
    Large { last: FullPart, part_count: u32 },
}

impl Verified {
    /// Of a whole blob that is one record; the caller has verified size and hash.
    pub(crate) fn of_one_record(core: &Arc<Core>, digest: Digest, raw: Vec<u8>) -> Self {
        Self { core: Arc::clone(core), digest, compression: core.plan.compression, rest: Rest::Raw(raw) }
    }

    /// What was uploaded.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Submitting it is more work than a checksum: not for a thread that must not be held up.
    pub fn takes_a_while(&self) -> bool {
        let raw_bytes = match &self.rest {
            Rest::Raw(raw) | Rest::Large { last: FullPart { raw, .. }, .. } => raw.len(),
            Rest::Zstd(_) => 0,
        };
        self.compression != Compression::Off && raw_bytes > INLINE_ENCODE_BYTES_MAX
    }

    /// Encodes what is left and hands it to the writer; see [`Upload::finish`].
    pub fn submit(self, done: Completion) {
        let core = Arc::clone(&self.core);
        if let Some(submission) = self.into_submission(done) {
            core.queue.submit(submission, true);
        }
    }

    /// `None`: it is stored already, or was handed over in parts.
    pub(crate) fn into_submission(self, done: Completion) -> Option<Submission> {
        let Self { core, digest, compression, rest } = self;
        if core.contains(&digest) {
            done(Ok(()));
            return None;
        }
        let (encoding, payload) = match rest {
            Rest::Large { last, part_count } => {
                last.submit_with_head(part_count, done);
                return None;
            }
            Rest::Raw(raw) => encoding::encode(compression, raw),
            Rest::Zstd(stream) => (Encoding::Zstd, stream),
        };
        Some(Submission {
            class: LaneClass::Small,
            key: core.keyer.blob(&digest),
            header: header_of(RecordKind::Blob, encoding, digest, None, &payload),
            payload,
            publish: Publish::Entry,
            done: Some(done),
        })
    }
}

pub(crate) fn header_of(
    kind: RecordKind,
    encoding: Encoding,
    digest: Digest,
    part: Option<PartTag>,
    payload: &[u8],
) -> RecordHeader {
    RecordHeader {
        kind,
        encoding,
        digest,
        part,
        stamp: 0,
        stored_length_bytes: payload.len() as u32,
        payload_checksum: payload_checksum(payload),
    }
}
