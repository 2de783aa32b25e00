//! Reading a blob as a stream of chunks, as it is or as zstd.
//!
//! A chunk is a slice of the engine's memory wherever it can be: what is stored as it is for a plain reader, what is stored
//! as zstd for a reader of zstd. What is stored the other way costs one step: for a plain reader it is decoded, into memory
//! that is paid for until the client has taken it; for a reader of zstd it is framed where it stands (see
//! `cask_engine::encoding`), never compressed. A reader of zstd who begins within a record gets the rest of it framed.
//!
//! What is in memory is handed out inline; what has to come from the disk is fetched on a blocking thread, and then one
//! record is fetched ahead while the client takes the one before. So a stream holds two records at most, and a slow disk
//! or a slow client holds up nobody else. Dropping the stream at any point is safe; work that is under way ends by itself and
//! what it gives is dropped.

use std::sync::Arc;

use bytes::Bytes;
use cask_engine::encoding::{EMPTY_FRAME, PlainFrame};
use cask_engine::format::record::Encoding;
use cask_engine::{Blob, EngineError, StoredChunk};
use cask_index::Digest;
use cask_proto::Compressor;
use tokio::task::JoinHandle;

use super::Cache;
use crate::access::limits::Permit;

/// Largest chunk handed out, whatever the engine's part size is: what one message of a read stream carries.
pub(crate) const CHUNK_SIZE_BYTES_MAX: usize = 1024 * 1024;

/// How a reader wants the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// As they are.
    Plain,
    /// As a zstd stream of one frame or several.
    Zstd,
}

/// A blob's bytes in order, one chunk at a time.
pub(crate) struct BlobStream {
    cache: Cache,
    blob: Arc<Blob>,
    wire: Wire,
    /// Where in the blob the next chunk begins.
    position: u64,
    end: u64,
    /// The record at `position`, looked at before it was asked for.
    looked_at: Option<StoredChunk>,
    /// The record at `position`, on its way from the disk.
    ahead: Option<JoinHandle<Result<StoredChunk, EngineError>>>,
    /// Bytes before `position` that are being framed.
    framed: Option<Framed>,
    is_begun: bool,
}

/// Content on its way into a zstd frame.
struct Framed {
    frame: PlainFrame,
    /// What follows the header handed out last.
    block: Bytes,
    /// What no header was handed out for yet.
    rest: Bytes,
}

impl Framed {
    fn new(content: Bytes) -> Self {
        Self { frame: PlainFrame::new(content.len() as u32), block: Bytes::new(), rest: content }
    }

    /// Headers and blocks in turn; `None` when the frame is complete.
    fn next_piece(&mut self) -> Option<Bytes> {
        if !self.block.is_empty() {
            return Some(std::mem::take(&mut self.block));
        }
        let (header, block_bytes) = self.frame.next_header()?;
        self.block = self.rest.split_to(block_bytes);
        Some(header.into())
    }
}

/// Decoded bytes, paid for while anybody holds them.
struct PaidBytes {
    bytes: Bytes,
    _room: Permit,
}

impl AsRef<[u8]> for PaidBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Cache {
    /// Opens a blob for reading from `offset`, at most `limit` bytes of it (`None`: to its end). The caller has checked
    /// `offset` against the digest's size; one beyond it yields nothing.
    pub(crate) fn read(
        &self,
        digest: &Digest,
        offset: u64,
        limit: Option<u64>,
        wire: Wire,
    ) -> Result<BlobStream, EngineError> {
        let blob = self.engine().read(digest)?;
        let size_bytes = blob.size_bytes();
        let end = limit.map_or(size_bytes, |limit| offset.saturating_add(limit).min(size_bytes));
        Ok(BlobStream {
            cache: self.clone(),
            blob: Arc::new(blob),
            wire,
            position: offset,
            end,
            looked_at: None,
            ahead: None,
            framed: None,
            is_begun: false,
        })
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

    /// As `read_whole`, but a blob that is one record stored as zstd is given as it is stored.
    pub(crate) async fn read_whole_either(
        &self,
        digest: &Digest,
        limit_bytes: u64,
    ) -> Result<(Bytes, Compressor), EngineError> {
        let is_one_record = digest.size_bytes() <= self.engine().part_size_bytes() as u64;
        if is_one_record && !digest.is_empty_blob() && digest.size_bytes() <= limit_bytes {
            let mut stream = self.read(digest, 0, None, Wire::Zstd)?;
            let (stored, _) = stream.stored().await?;
            return Ok(match stored.encoding() {
                Encoding::Raw => (stream.blob.decoded(&stored)?, Compressor::Identity),
                Encoding::Zstd => (stream.blob.as_stored(stored), Compressor::Zstd),
            });
        }
        Ok((self.read_whole(digest, limit_bytes).await?, Compressor::Identity))
    }
}

impl BlobStream {
    /// Bytes of the blob still to come.
    pub(crate) fn remaining_bytes(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// The same bytes as they are, for a reader of zstd that has not been given any.
    pub(crate) fn plain(self) -> Self {
        Self { wire: Wire::Plain, ..self }
    }

    /// Bytes that the stream will yield on the wire, where that is known before it is read.
    pub(crate) fn wire_bytes(&self) -> Option<u64> {
        match (self.wire, &self.looked_at) {
            (Wire::Plain, _) => Some(self.remaining_bytes()),
            (Wire::Zstd, Some(stored)) if stored.raw_range() == (self.position..self.end) => {
                Some(stored.stored_bytes() as u64)
            }
            (Wire::Zstd, _) => None,
        }
    }

    /// Whether the next bytes are stored as zstd. May wait for the disk. Cancel-safe.
    pub(crate) async fn is_stored_as_zstd(&mut self) -> Result<bool, EngineError> {
        if self.remaining_bytes() == 0 {
            return Ok(false);
        }
        let (stored, _) = self.stored().await?;
        let is_zstd = stored.encoding() == Encoding::Zstd;
        self.looked_at = Some(stored);
        Ok(is_zstd)
    }

    /// Whether nothing more comes of it. Of a stream of zstd only `next_chunk` can tell.
    pub(crate) fn is_at_end(&self) -> bool {
        self.wire == Wire::Plain && self.remaining_bytes() == 0
    }

    /// The next chunk if it is a slice of memory that can be had without waiting; `None` at the end and for all that
    /// `next_chunk` has to be asked for.
    pub(crate) fn next_chunk_in_memory(&mut self) -> Result<Option<Bytes>, EngineError> {
        let is_asked_for = self.ahead.is_some() || self.looked_at.is_some();
        if self.wire != Wire::Plain || is_asked_for || self.remaining_bytes() == 0 {
            return Ok(None);
        }
        let Some(stored) = self.blob.stored_at(self.position, false)? else { return Ok(None) };
        if stored.encoding() != Encoding::Raw {
            self.looked_at = Some(stored);
            return Ok(None);
        }
        let chunk = self.wanted_of(&self.blob.decoded(&stored)?, stored.raw_range().start);
        Ok(Some(chunk))
    }

    /// What of a record's content is wanted next; the stream goes on behind it.
    fn wanted_of(&mut self, content: &Bytes, content_begins: u64) -> Bytes {
        let mut content = content.slice((self.position - content_begins) as usize..);
        content.truncate(CHUNK_SIZE_BYTES_MAX.min(usize::try_from(self.remaining_bytes()).unwrap_or(usize::MAX)));
        assert!(!content.is_empty(), "the engine answered with an empty chunk before the end of a blob");
        self.position += content.len() as u64;
        content
    }

    /// The next chunk, never empty and at most 1 MiB; `None` at the end. An error ends the stream: `DataLoss` when what
    /// was handed out so far is a beginning without an end. Cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, EngineError> {
        if let Some(piece) = self.framed.as_mut().and_then(Framed::next_piece) {
            return Ok(Some(piece));
        }
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        if self.remaining_bytes() == 0 {
            // Nothing is no zstd stream to some decoders.
            let is_empty_stream = self.wire == Wire::Zstd && !is_begun;
            return Ok(is_empty_stream.then(|| Bytes::from_static(&EMPTY_FRAME)));
        }
        let (stored, was_cold) = self.stored().await?;
        let raw = stored.raw_range();
        let is_wanted_so = self.wire == Wire::Zstd && stored.encoding() == Encoding::Zstd && raw.start == self.position;
        let chunk = if is_wanted_so {
            self.position = raw.end;
            self.blob.as_stored(stored)
        } else {
            let content = self.content(stored).await?;
            let content = self.wanted_of(&content, raw.start);
            match self.wire {
                Wire::Plain => content,
                Wire::Zstd => {
                    let framed = self.framed.insert(Framed::new(content));
                    framed.next_piece().expect("a frame begins with a header")
                }
            }
        };
        // Where one chunk was cold the next one will be; reading ahead of a stream that memory serves would only pin more.
        if was_cold && self.remaining_bytes() > 0 {
            self.ahead = Some(self.fetch());
        }
        Ok(Some(chunk))
    }

    /// The record at `position`, and whether it had to come from the disk.
    async fn stored(&mut self) -> Result<(StoredChunk, bool), EngineError> {
        if let Some(stored) = self.looked_at.take() {
            return Ok((stored, false));
        }
        if self.ahead.is_none() {
            if let Some(stored) = self.blob.stored_at(self.position, false)? {
                return Ok((stored, false));
            }
            self.ahead = Some(self.fetch());
        }
        let fetched = self.ahead.as_mut().expect("it was just seen to").await;
        self.ahead = None;
        Ok((super::joined(fetched)?, true))
    }

    fn fetch(&self) -> JoinHandle<Result<StoredChunk, EngineError>> {
        let (blob, position) = (Arc::clone(&self.blob), self.position);
        tokio::task::spawn_blocking(move || {
            let stored = blob.stored_at(position, true)?;
            Ok(stored.expect("the engine declined to wait for the disk although it was told to"))
        })
    }

    /// The bytes that a record stands for.
    async fn content(&self, stored: StoredChunk) -> Result<Bytes, EngineError> {
        if stored.encoding() == Encoding::Raw {
            return self.blob.decoded(&stored);
        }
        let raw = stored.raw_range();
        let room = self.cache.decoded_room((raw.end - raw.start) as usize).await?;
        let bytes = if stored.takes_a_while() {
            let blob = Arc::clone(&self.blob);
            self.cache.on_processor(move || blob.decoded(&stored)).await?
        } else {
            self.blob.decoded(&stored)?
        };
        Ok(Bytes::from_owner(PaidBytes { bytes, _room: room }))
    }
}
