//! Following a log: stored pieces first, then what is in memory, then what is still to come.

use std::sync::Arc;

use bytes::Bytes;
use cask_engine::EngineError;
use cask_index::Digest;
use tokio::sync::watch;

use super::record::Piece;
use super::{LogError, OpenLog};
use crate::cache::{Cache, Wire};

/// What a reader is given at once.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// One reader's place in a log.
pub(crate) struct LogReader {
    cache: Cache,
    source: Source,
    position: u64,
    end: u64,
}

/// Where its bytes come from.
pub(super) enum Source {
    Open { log: Arc<OpenLog>, changes: watch::Receiver<()> },
    Finished(Vec<Piece>),
}

/// What is to be done for the next chunk.
enum Next {
    Chunk(Bytes),
    /// Of this piece, from there on.
    Stored(Digest, u64),
    Wait,
    End,
    Gone,
}

impl LogReader {
    pub(super) fn new(cache: Cache, source: Source, position: u64, end: u64) -> LogReader {
        LogReader { cache, source, position, end }
    }

    /// The next bytes, never none; `None` at the end of a finished log or of what was asked for. Waits while the log is open and has
    /// nothing more. Cancel-safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            if self.position >= self.end {
                return Ok(None);
            }
            if let Source::Open { changes, .. } = &mut self.source {
                // Before the look, so that no change after it is missed.
                changes.mark_unchanged();
            }
            let mut chunk = match self.look() {
                Next::Chunk(chunk) => chunk,
                Next::Stored(digest, offset) => {
                    let read = async {
                        let mut blob = self.cache.read(&digest, offset, Some(CHUNK_BYTES_MAX as u64), Wire::Plain)?;
                        blob.next_chunk().await
                    };
                    match read.await {
                        Ok(Some(chunk)) => chunk,
                        // A piece of a log is as much lost when it is not found as when it is damaged.
                        Ok(None) | Err(EngineError::NotFound) => return Err(EngineError::DataLoss(digest).into()),
                        Err(error) => return Err(error.into()),
                    }
                }
                Next::Wait => {
                    let Source::Open { changes, .. } = &mut self.source else { return Ok(None) };
                    // The sender lives in the log, which this reader holds.
                    let _ = changes.changed().await;
                    continue;
                }
                Next::End => return Ok(None),
                Next::Gone => return Err(LogError::Unknown),
            };
            chunk.truncate(usize::try_from(self.end - self.position).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX));
            self.position += chunk.len() as u64;
            return Ok(Some(chunk));
        }
    }

    fn look(&self) -> Next {
        match &self.source {
            Source::Finished(pieces) => stored(pieces, self.position).unwrap_or(Next::End),
            Source::Open { log, .. } => {
                let content = log.content.lock();
                if let Some(next) = stored(&content.pieces, self.position) {
                    return next;
                }
                let in_tail = usize::try_from(self.position - content.stored_bytes()).unwrap_or(usize::MAX);
                match content.tail.get(in_tail..) {
                    Some(rest) if !rest.is_empty() => {
                        Next::Chunk(Bytes::copy_from_slice(&rest[..rest.len().min(CHUNK_BYTES_MAX)]))
                    }
                    _ if content.is_finished => Next::End,
                    _ if content.is_forgotten => Next::Gone,
                    _ => Next::Wait,
                }
            }
        }
    }
}

/// The piece that `position` is in; `None` behind the last.
fn stored(pieces: &[Piece], position: u64) -> Option<Next> {
    let piece = pieces.get(pieces.partition_point(|piece| piece.end <= position))?;
    let start = piece.end - piece.digest.size_bytes();
    Some(Next::Stored(piece.digest, position - start))
}
