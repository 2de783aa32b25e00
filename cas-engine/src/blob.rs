//! A stored blob, opened for reading.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cask_index::{Digest, Key};

use crate::core::{Core, Looked};
use crate::error::EngineError;
use crate::format::record::{PartTag, RecordHeader, RecordKind};

/// A stored blob, opened for reading: touched once, pins nothing until a chunk is taken.
pub struct Blob {
    core: Arc<Core>,
    digest: Digest,
    key: Key,
    /// Read from the head of a large blob by the first chunk.
    head: OnceLock<PartTag>,
    handed_out: AtomicBool,
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

    /// The verified bytes from `offset` to the end of its part (1 MiB at most), never copied: the `Bytes` pins their
    /// segment. Empty only at `offset == size_bytes()`; a larger offset panics (the caller's broken invariant).
    ///
    /// With `may_block` false, `Ok(None)` says that the range is not in memory: ask again, with true, from a thread
    /// that may wait for the disk.
    ///
    /// # Errors
    /// `NotFound` when the blob is gone or damaged and nothing of it was handed out yet, `DataLoss` afterwards.
    pub fn chunk_at(&self, offset: u64, may_block: bool) -> Result<Option<Bytes>, EngineError> {
        assert!(offset <= self.size_bytes(), "offset {offset} is beyond the end of {}", self.digest);
        if offset == self.size_bytes() {
            return Ok(Some(Bytes::new()));
        }
        // A slow download is a use: its lease runs from the last chunk, not from the first.
        self.core.index.touch(self.key, self.core.epoch());
        let part_size_bytes = u64::from(self.core.plan.geometry.part_size_bytes);
        let looked = if self.size_bytes() <= part_size_bytes {
            self.core
                .look(self.key, may_block, |header| header.kind == RecordKind::Blob && header.digest == self.digest)
        } else {
            let Some(head) = self.head(may_block)? else { return Ok(None) };
            let number = (offset / part_size_bytes) as u32;
            let looked = self
                .core
                .look(self.core.keyer.part(head.nonce, number), may_block, |header| self.is_part(header, head, number));
            if matches!(looked, Looked::Absent | Looked::Corrupt) {
                self.core.forget_head(self.key, head.nonce);
            }
            looked
        };
        match looked {
            Looked::Payload(_, range) => {
                let skip = (offset % part_size_bytes) as u32;
                let expected = (self.size_bytes() - (offset - u64::from(skip))).min(part_size_bytes) as u32;
                if range.length_bytes != expected {
                    return Err(self.lost());
                }
                self.handed_out.store(true, Ordering::Relaxed);
                Ok(Some(Bytes::from_owner(range.narrow(skip, expected - skip))))
            }
            Looked::NotResident => Ok(None),
            Looked::Unreadable(error) => Err(EngineError::Storage(error)),
            Looked::Absent | Looked::Corrupt => Err(self.lost()),
        }
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
