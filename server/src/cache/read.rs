//! Reading a blob as a stream of chunks.

use bytes::Bytes;
use cask_engine::EngineError;

/// A blob's bytes in order, one chunk at a time.
pub(crate) struct BlobStream {}

impl BlobStream {
    /// The whole blob's size, whatever part of it this stream yields.
    pub(crate) fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// The next chunk, never empty and at most 1 MiB; `None` at the end. Cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, EngineError> {
        todo!()
    }
}
