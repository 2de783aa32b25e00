//! Splitting: a blob's chunks from what is remembered, or cut and stored now.

use std::collections::VecDeque;

use bytes::Bytes;
use cask_chunking::Cutter;
use cask_engine::EngineError;
use cask_index::{Digest, Hasher};

use super::{ChunkList, ChunkMapping, ChunkingError, ChunkingFunction, apart};
use crate::cache::{Cache, PendingPut, Wire};

/// Chunks on their way to the disk while the next are cut.
const PENDING_PUTS_MAX: usize = 8;

/// Digests asked for at once.
const FIND_BATCH: usize = 4096;

impl Cache {
    /// The chunks of a stored blob, all of them stored and leased. `asked` is the function that the client prefers; any will do when it
    /// names none. A blob not longer than the function's chunks can be is its own only chunk, unless somebody spliced it otherwise.
    pub(crate) async fn split(
        &self,
        blob: Digest,
        asked: Option<ChunkingFunction>,
    ) -> Result<ChunkMapping, ChunkingError> {
        if blob.is_empty_blob() {
            return Ok(ChunkMapping { chunks: ChunkList::whole(blob), function: asked });
        }
        if !self.engine().contains(&blob)? {
            return Err(EngineError::NotFound.into());
        }
        if let Some(mapping) = self.remembered(blob, asked).await? {
            return Ok(mapping);
        }
        let function = asked.unwrap_or(ChunkingFunction::FastCdc2020);
        let chunk_bytes_max = function.chunker().chunk_size_bytes_max() as u64;
        if blob.size_bytes() <= chunk_bytes_max {
            return Ok(ChunkMapping { chunks: ChunkList::whole(blob), function: Some(function) });
        }
        let limit = self.limits().chunk_list_chunks_max;
        if blob.size_bytes().div_ceil(chunk_bytes_max) > limit as u64 {
            return Err(ChunkingError::TooManyChunks { limit });
        }
        let slot = self.chunking_slot().await?;
        // Others may have waited for their place with the same blob, and have been first.
        if let Some(mapping) = self.remembered(blob, asked).await? {
            return Ok(mapping);
        }
        let cache = self.clone();
        let work = async move {
            let _slot = slot;
            let mapping = ChunkMapping { chunks: cache.cut(blob, function).await?, function: Some(function) };
            cache.check_room_for(&mapping.chunks).await?;
            cache.remember(&mapping).await;
            Ok(mapping)
        };
        apart(work).await
    }

    async fn remembered(
        &self,
        blob: Digest,
        asked: Option<ChunkingFunction>,
    ) -> Result<Option<ChunkMapping>, EngineError> {
        if asked.is_some() {
            return self.mapping(blob, asked).await;
        }
        for function in ChunkingFunction::ALL.map(Some).into_iter().chain([None]) {
            if let Some(mapping) = self.mapping(blob, function).await? {
                return Ok(Some(mapping));
            }
        }
        Ok(None)
    }

    /// Cuts the blob and stores its chunks.
    async fn cut(&self, blob: Digest, function: ChunkingFunction) -> Result<ChunkList, ChunkingError> {
        let mut cutter = Cutter::new(function.chunker(), blob.size_bytes());
        let mut stream = self.read(&blob, 0, None, Wire::Plain)?;
        let mut chunks = Chunks { cache: self, list: ChunkList::new(blob), pending: VecDeque::new() };
        while let Some(piece) = stream.next_chunk().await? {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                rest = &rest[cutter.feed(rest)..];
                chunks.take_from(&mut cutter).await?;
            }
        }
        cutter.end();
        chunks.take_from(&mut cutter).await?;
        chunks.stored().await
    }

    /// A store that holds a blob and not its chunks beside it may have dropped the first of them for the last.
    async fn check_room_for(&self, chunks: &ChunkList) -> Result<(), EngineError> {
        match self.first_missing(chunks).await? {
            (0, _) => Ok(()),
            _ => Err(EngineError::Full {
                retry_after: std::time::Duration::from_secs(1),
                advice: "the store has no room for the blob's chunks beside it; read the blob whole".to_owned(),
            }),
        }
    }

    /// How many of the chunks are absent, and the first of them. The others are leased.
    pub(super) async fn first_missing(&self, chunks: &ChunkList) -> Result<(usize, Option<Digest>), EngineError> {
        let (mut count, mut first) = (0, None);
        let mut absent = Vec::new();
        for from in (0..chunks.len()).step_by(FIND_BATCH) {
            let batch: Vec<Digest> = chunks.range(from, chunks.len().min(from + FIND_BATCH)).collect();
            absent.clear();
            self.engine().find_missing(&batch, &mut absent)?;
            count += absent.len();
            first = first.or_else(|| absent.first().map(|position| batch[*position]));
            // Others on this thread have their turn.
            tokio::task::yield_now().await;
        }
        Ok((count, first))
    }
}

/// The chunks of a blob that is being cut.
struct Chunks<'a> {
    cache: &'a Cache,
    list: ChunkList,
    pending: VecDeque<PendingPut>,
}

impl Chunks<'_> {
    /// Stores what the cutter has ready.
    async fn take_from(&mut self, cutter: &mut Cutter) -> Result<(), ChunkingError> {
        let (blob, limit) = (self.list.blob(), self.cache.limits().chunk_list_chunks_max);
        while let Some(chunk) = cutter.next_chunk() {
            if self.list.len() == limit {
                return Err(ChunkingError::TooManyChunks { limit });
            }
            let digest = Hasher::digest(blob.function(), chunk).within(blob.namespace());
            self.list.push(&digest);
            if !self.cache.engine().contains(&digest)? {
                if self.pending.len() == PENDING_PUTS_MAX
                    && let Some(oldest) = self.pending.pop_front()
                {
                    oldest.stored().await?;
                }
                self.pending.push_back(self.cache.begin_put(digest, Bytes::copy_from_slice(chunk)).await?);
            }
            // Where nothing waits for the disk, nothing else would notice that the client has gone.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn stored(self) -> Result<ChunkList, ChunkingError> {
        for put in self.pending {
            put.stored().await?;
        }
        Ok(self.list)
    }
}
