//! Reading a blob as a stream of chunks.
//!
//! A chunk is a slice of the engine's memory, never copied. What is in memory is handed out inline; what has to come from the disk
//! is fetched on a blocking thread, and then one chunk is fetched ahead while the client takes the one before. So a stream holds
//! two chunks at most, and a slow disk or a slow client holds up nobody else. Dropping the stream at any point is safe;
//! a fetch that is under way ends by itself and its chunk is dropped.

use std::sync::Arc;

use bytes::Bytes;
use cask_engine::{Blob, EngineError};
use cask_index::Digest;
use tokio::task::JoinHandle;

use super::Cache;

/// Largest chunk handed out, whatever the engine's part size is: what one message of a read stream carries.
pub(crate) const CHUNK_SIZE_BYTES_MAX: usize = 1024 * 1024;

/// A blob's bytes in order, one chunk at a time.
pub(crate) struct BlobStream {
    blob: Arc<Blob>,
    /// Where the next chunk begins.
    position: u64,
    end: u64,
    /// The chunk at `position`, on its way from the disk.
    ahead: Option<JoinHandle<Result<Bytes, EngineError>>>,
}

impl Cache {
    /// Opens a blob for reading from `offset`, at most `limit` bytes of it (`None`: to its end). The caller has checked
    /// `offset` against the digest's size; one beyond it yields nothing.
    #[expect(clippy::unused_async, reason = "opening may come to wait for a disk; callers are async anyway")]
    pub(crate) async fn read(
        &self,
        digest: &Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<BlobStream, EngineError> {
        let blob = self.engine().read(digest)?;
        let size_bytes = blob.size_bytes();
        let end = limit.map_or(size_bytes, |limit| offset.saturating_add(limit).min(size_bytes));
        Ok(BlobStream { blob: Arc::new(blob), position: offset, end, ahead: None })
    }

    /// A whole blob as one `Bytes`, at most `limit_bytes` of it (`TooLarge` above).
    pub(crate) async fn read_whole(&self, digest: &Digest, limit_bytes: u64) -> Result<Bytes, EngineError> {
        if digest.size_bytes() > limit_bytes {
            return Err(EngineError::TooLarge { size_bytes: digest.size_bytes(), limit_bytes });
        }
        let blob = self.engine().read(digest)?;
        if let Some(chunk) = blob.chunk_at(0, false)?
            && chunk.len() as u64 == blob.size_bytes()
        {
            return Ok(chunk);
        }
        let (engine, digest) = (self.engine().clone(), *digest);
        super::blocking(move || engine.read_all(&digest, limit_bytes)).await
    }
}

impl BlobStream {
    /// The whole blob's size, whatever part of it this stream yields.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.blob.size_bytes()
    }

    /// Bytes still to come.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// The next chunk, never empty and at most 1 MiB; `None` at the end. An error ends the stream: `DataLoss` when what
    /// was handed out so far is a beginning without an end. Cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, EngineError> {
        if self.remaining_bytes() == 0 {
            return Ok(None);
        }
        let (mut chunk, was_cold) = match &mut self.ahead {
            Some(fetch) => {
                let fetched = fetch.await;
                self.ahead = None;
                (super::joined(fetched)?, true)
            }
            None => {
                if let Some(chunk) = self.blob.chunk_at(self.position, false)? {
                    (chunk, false)
                } else {
                    let fetched = self.ahead.insert(self.fetch()).await;
                    self.ahead = None;
                    (super::joined(fetched)?, true)
                }
            }
        };
        chunk.truncate(CHUNK_SIZE_BYTES_MAX.min(usize::try_from(self.remaining_bytes()).unwrap_or(usize::MAX)));
        assert!(!chunk.is_empty(), "the engine answered with an empty chunk before the end of a blob");
        self.position += chunk.len() as u64;
        // Where one chunk was cold the next one will be; reading ahead of a stream that memory serves would only pin more.
        if was_cold && self.remaining_bytes() > 0 {
            self.ahead = Some(self.fetch());
        }
        Ok(Some(chunk))
    }

    fn fetch(&self) -> JoinHandle<Result<Bytes, EngineError>> {
        let (blob, position) = (Arc::clone(&self.blob), self.position);
        tokio::task::spawn_blocking(move || {
            let chunk = blob.chunk_at(position, true)?;
            Ok(chunk.expect("the engine declined to wait for the disk although it was told to"))
        })
    }
}
