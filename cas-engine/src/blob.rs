//! A stored blob, opened for reading.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cask_index::{Digest, Key, Location};

use crate::core::{Core, Looked};
use crate::encoding::{self, INLINE_DECODE_BYTES_MAX};
use crate::error::EngineError;
use crate::format::record::{Encoding, PartTag, RecordHeader, RecordKind};

/// A stored blob, opened for reading: touched once, pins nothing until a chunk is taken.
pub struct Blob {
    core: Arc<Core>,
    digest: Digest,
    key: Key,
    /// Read from the head of a large blob by the first chunk.
    head: OnceLock<PartTag>,
    handed_out: AtomicBool,
}

/// A record of a blob: its payload as it is stored, pinned, and which bytes of the blob it stands for.
pub struct StoredChunk {
    encoding: Encoding,
    payload: Bytes,
    raw: Range<u64>,
    /// Where it stands, in case it turns out damaged.
    key: Key,
    location: Location,
}

impl StoredChunk {
    /// How the payload is stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Bytes of the payload as it is stored.
    pub fn stored_bytes(&self) -> usize {
        self.payload.len()
    }

    /// The bytes of the blob that it stands for.
    pub fn raw_range(&self) -> Range<u64> {
        self.raw.clone()
    }

    /// Decoding it is not for a thread that must not be held up.
    pub fn takes_a_while(&self) -> bool {
        self.encoding != Encoding::Raw && self.raw.end - self.raw.start > INLINE_DECODE_BYTES_MAX
    }
}

impl Blob {
    /// Touches the blob; `NotFound` when it is not there.
    pub(crate) fn open(core: &Arc<Core>, digest: &Digest) -> Result<Self, EngineError> {
        let loaded = core.require_loaded();
        if !core.contains(digest) {
            loaded?;
            return Err(EngineError::NotFound);
        }
        Ok(Self {
            core: Arc::clone(core),
            digest: *digest,
            key: core.keyer.blob(digest),
            head: OnceLock::new(),
            handed_out: AtomicBool::new(false),
        })
    }

    /// Size of the blob.
    pub fn size_bytes(&self) -> u64 {
        self.digest.size_bytes()
    }

    /// The verified bytes from `offset` to the end of its part (1 MiB at most). Never copied where they are stored as they
    /// are: the `Bytes` pins their segment. Empty only at `offset == size_bytes()`; a larger offset panics (the caller's
    /// broken invariant).
    ///
    /// With `may_block` false, `Ok(None)` says that the range is not in memory, or is encoded and takes a while: ask again,
    /// with true, from a thread that may wait.
    ///
    /// # Errors
    /// `NotFound` when the blob is gone or damaged and nothing of it was handed out yet, `DataLoss` afterwards.
    pub fn chunk_at(&self, offset: u64, may_block: bool) -> Result<Option<Bytes>, EngineError> {
        assert!(offset <= self.size_bytes(), "offset {offset} is beyond the end of {}", self.digest);
        if offset == self.size_bytes() {
            return Ok(Some(Bytes::new()));
        }
        let Some(stored) = self.stored_at(offset, may_block)? else { return Ok(None) };
        if !may_block && stored.takes_a_while() {
            return Ok(None);
        }
        let skip = (offset - stored.raw.start) as usize;
        Ok(Some(self.decoded(&stored)?.slice(skip..)))
    }

    /// The record that the byte at `offset` is in, as it is stored: checked against its header, pinned, not decoded.
    /// An offset at or beyond the end panics (the caller's broken invariant). `may_block` and errors as for
    /// [`Blob::chunk_at`], which serves whoever wants bytes.
    pub fn stored_at(&self, offset: u64, may_block: bool) -> Result<Option<StoredChunk>, EngineError> {
        assert!(offset < self.size_bytes(), "offset {offset} is not in {}", self.digest);
        // A slow download is a use: its lease runs from the last chunk, not from the first.
        self.core.index.touch(self.key, self.core.epoch());
        let part_size_bytes = self.core.plan.geometry.part_size_bytes;
        let (key, looked) = if self.size_bytes() <= u64::from(part_size_bytes) {
            let is_it = |header: &RecordHeader| header.kind == RecordKind::Blob && header.digest == self.digest;
            (self.key, self.core.look(self.key, may_block, is_it))
        } else {
            let Some(head) = self.head(may_block)? else { return Ok(None) };
            let number = (offset / u64::from(part_size_bytes)) as u32;
            let key = self.core.keyer.part(head.nonce, number);
            let looked = self.core.look(key, may_block, |header| self.is_part(header, head, number));
            if matches!(looked, Looked::Absent | Looked::Corrupt) {
                self.core.forget_head(self.key, head.nonce);
            }
            (key, looked)
        };
        match looked {
            Looked::Payload(header, range) => {
                let start = offset - offset % u64::from(part_size_bytes);
                let raw = start..start + header.raw_length_bytes(part_size_bytes);
                let is_whole = header.encoding != Encoding::Raw || u64::from(range.length_bytes) == raw.end - start;
                if !is_whole {
                    return Err(self.lost());
                }
                let location = Location::new(
                    range.pin.segment().number(),
                    range.offset_bytes - header.length_bytes() as u32,
                    header.record_length_bytes() as u32,
                );
                let payload = Bytes::from_owner(range);
                Ok(Some(StoredChunk { encoding: header.encoding, payload, raw, key, location }))
            }
            Looked::NotResident => Ok(None),
            Looked::Unreadable(error) => Err(EngineError::Storage(error)),
            Looked::Absent | Looked::Corrupt => Err(self.lost()),
        }
    }

    /// The bytes that the record stands for: not copied if it is stored as it is. The caller may wait, or has seen that it
    /// does not take a while.
    ///
    /// # Errors
    /// As [`Blob::chunk_at`]. What does not decode is damaged, and a miss from then on.
    pub fn decoded(&self, stored: &StoredChunk) -> Result<Bytes, EngineError> {
        let raw = match stored.encoding {
            Encoding::Raw => stored.payload.clone(),
            Encoding::Zstd => {
                let Some(raw) = encoding::decode_zstd(&stored.payload, (stored.raw.end - stored.raw.start) as usize)
                else {
                    self.core.drop_corrupt(stored.key, stored.location);
                    if let Some(head) = self.head.get() {
                        self.core.forget_head(self.key, head.nonce);
                    }
                    return Err(self.lost());
                };
                raw.into()
            }
        };
        self.handed_out.store(true, Ordering::Relaxed);
        Ok(raw)
    }

    /// The payload as it is stored: not copied, whatever its encoding.
    pub fn as_stored(&self, stored: StoredChunk) -> Bytes {
        self.handed_out.store(true, Ordering::Relaxed);
        stored.payload
    }

    fn is_part(&self, header: &RecordHeader, head: PartTag, number: u32) -> bool {
        header.kind == RecordKind::Part
            && header.digest == self.digest
            && header.part == Some(PartTag { nonce: head.nonce, number })
    }

    fn head(&self, may_block: bool) -> Result<Option<PartTag>, EngineError> {
        if let Some(head) = self.head.get() {
            return Ok(Some(*head));
        }
        let looked = self
            .core
            .look(self.key, may_block, |header| header.kind == RecordKind::Head && header.digest == self.digest);
        match looked {
            Looked::Payload(header, _) => {
                let head = header.part.expect("a head's header has its part tag");
                Ok(Some(*self.head.get_or_init(|| head)))
            }
            Looked::NotResident => Ok(None),
            Looked::Unreadable(error) => Err(EngineError::Storage(error)),
            Looked::Absent | Looked::Corrupt => Err(self.lost()),
        }
    }

    fn lost(&self) -> EngineError {
        if self.handed_out.load(Ordering::Relaxed) { EngineError::DataLoss(self.digest) } else { EngineError::NotFound }
    }

    /// The whole blob as one `Bytes`; not copied when it is one record. Waits for the disk.
    pub(crate) fn read_all(&self) -> Result<Bytes, EngineError> {
        let first = self.blocking_chunk(0)?;
        if first.len() as u64 == self.size_bytes() {
            return Ok(first);
        }
        let mut whole = Vec::with_capacity(self.size_bytes() as usize);
        whole.extend_from_slice(&first);
        while (whole.len() as u64) < self.size_bytes() {
            whole.extend_from_slice(&self.blocking_chunk(whole.len() as u64)?);
        }
        Ok(whole.into())
    }

    fn blocking_chunk(&self, offset: u64) -> Result<Bytes, EngineError> {
        Ok(self.chunk_at(offset, true)?.expect("a look that may block always answers"))
    }
}
