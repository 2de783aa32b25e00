//! Splicing: a blob put together from chunks that are stored, checked against its digest, and stored whole.

use cask_engine::EngineError;
use cask_index::{Digest, Hasher};

use super::{ChunkList, ChunkMapping, ChunkingError, ChunkingFunction, apart};
use crate::cache::{Cache, UploadSession, Wire};

impl Cache {
    /// Stores the blob that `chunks` make and remembers that they do; `function` is how the client says that it cut. A blob that is there
    /// is not stored again, but the chunks must be its all the same. Blob and chunks are leased.
    pub(crate) async fn splice(
        &self,
        chunks: ChunkList,
        function: Option<ChunkingFunction>,
    ) -> Result<(), ChunkingError> {
        let blob = chunks.blob();
        chunks.check_sizes()?;
        let (count, first) = self.first_missing(&chunks).await?;
        if let Some(first) = first {
            return Err(ChunkingError::ChunksMissing { count, first });
        }
        // Also [blob] for the blob itself, which is present if its chunks are, and says nothing worth remembering.
        if blob.is_empty_blob() || chunks.iter().any(|chunk| chunk == blob) {
            return Ok(());
        }
        // Sizes that the function never has would break the clients that count on them.
        let function = function.filter(|function| function.can_have_made(&chunks));
        if let Some(known) = self.mapping(blob, function).await?
            && known.chunks.packed() == chunks.packed()
        {
            return Ok(());
        }
        let slot = self.chunking_slot().await?;
        let cache = self.clone();
        let work = async move {
            let _slot = slot;
            match cache.begin_upload(blob).await? {
                Some(upload) => cache.assemble(&chunks, upload).await?,
                None => cache.compare(&chunks).await?,
            }
            cache.remember(&ChunkMapping { chunks, function }).await;
            Ok(())
        };
        apart(work).await
    }

    async fn assemble(&self, chunks: &ChunkList, mut upload: UploadSession) -> Result<(), ChunkingError> {
        for chunk in chunks.iter() {
            let mut stream = self.read(&chunk, 0, None, Wire::Plain).map_err(|error| chunk_error(error, chunk))?;
            while let Some(piece) = stream.next_chunk().await.map_err(|error| chunk_error(error, chunk))? {
                upload.write(&piece).await?;
                tokio::task::yield_now().await;
            }
        }
        Ok(upload.finish().await?)
    }

    /// Checks that the chunks are those of a blob that is there.
    async fn compare(&self, chunks: &ChunkList) -> Result<(), ChunkingError> {
        let blob = chunks.blob();
        let mut hasher = Hasher::new(blob.function(), blob.size_bytes());
        for chunk in chunks.iter() {
            let mut stream = self.read(&chunk, 0, None, Wire::Plain).map_err(|error| chunk_error(error, chunk))?;
            while let Some(piece) = stream.next_chunk().await.map_err(|error| chunk_error(error, chunk))? {
                hasher.update(&piece);
                tokio::task::yield_now().await;
            }
        }
        let found = hasher.finish(blob.size_bytes()).within(blob.namespace());
        if found == blob {
            return Ok(());
        }
        Err(EngineError::Mismatch { expected: blob, found: found.to_string() }.into())
    }
}

/// A chunk that was there and cannot be read is as good as absent: the client can send it again.
fn chunk_error(error: EngineError, chunk: Digest) -> ChunkingError {
    match error {
        EngineError::NotFound | EngineError::DataLoss(_) => ChunkingError::ChunksMissing { count: 1, first: chunk },
        error => error.into(),
    }
}
