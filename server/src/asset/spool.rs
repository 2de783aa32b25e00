//! Bytes of a fetch whose digest is not known before they have all come: the store takes a blob by its digest, so they wait here.
//!
//! The first of them in memory, all in a file when there are more. The file has no name, so nothing of it stays when the process
//! goes, however it goes. All spools together have a bound; one that would exceed it fails.

use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// What stays in memory.
const MEMORY_BYTES_MAX: usize = 256 * 1024;
/// What is read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Where spools are, and what they may take together.
pub(super) struct SpoolRoom {
    folder: PathBuf,
    used_bytes: AtomicU64,
    bytes_max: u64,
}

/// Bytes that were received, to be read again from their beginning, any number of times.
pub(super) struct Spool {
    room: Arc<SpoolRoom>,
    memory: BytesMut,
    file: Option<File>,
    length_bytes: u64,
    /// Of the next piece.
    position: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("the fetches under way fill the room there is for them")]
    Full,
    // The error's own text may name the server's folders.
    #[error("the file that a fetch waits in failed: {}", .0.kind())]
    File(#[from] io::Error),
}

impl SpoolRoom {
    /// Files are made in `folder`, of `bytes_max` together.
    pub(super) fn new(folder: PathBuf, bytes_max: u64) -> Arc<SpoolRoom> {
        Arc::new(SpoolRoom { folder, used_bytes: AtomicU64::new(0), bytes_max })
    }

    pub(super) fn spool(self: &Arc<Self>) -> Spool {
        Spool { room: Arc::clone(self), memory: BytesMut::new(), file: None, length_bytes: 0, position: 0 }
    }

    /// What all spools hold now.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }
}

impl Spool {
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), SpoolError> {
        let bytes = data.len() as u64;
        let taken = self
            .room
            .used_bytes
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|used| *used <= self.room.bytes_max));
        taken.map_err(|_| SpoolError::Full)?;
        self.length_bytes += bytes;
        if self.file.is_none() && self.memory.len() + data.len() > MEMORY_BYTES_MAX {
            let folder = self.room.folder.clone();
            let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
            let file = self.file.insert(File::from_std(file.map_err(io::Error::other)??));
            file.write_all(&std::mem::take(&mut self.memory)).await?;
        }
        match &mut self.file {
            Some(file) => file.write_all(data).await?,
            None => self.memory.extend_from_slice(data),
        }
        Ok(())
    }

    pub(super) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Back to the beginning, to be read.
    pub(super) async fn rewind(&mut self) -> Result<(), SpoolError> {
        self.position = 0;
        if let Some(file) = &mut self.file {
            file.flush().await?;
            file.seek(SeekFrom::Start(0)).await?;
        }
        Ok(())
    }

    /// The next piece, never empty; `None` at the end. Not to be mixed with writes.
    pub(super) async fn next_piece(&mut self) -> Result<Option<Bytes>, SpoolError> {
        let length_bytes = usize::try_from(self.length_bytes - self.position).unwrap_or(usize::MAX).min(PIECE_BYTES);
        if length_bytes == 0 {
            return Ok(None);
        }
        let piece = if let Some(file) = &mut self.file {
            let mut piece = vec![0_u8; length_bytes];
            file.read_exact(&mut piece).await?;
            piece.into()
        } else {
            let position = self.position as usize;
            Bytes::copy_from_slice(&self.memory[position..position + length_bytes])
        };
        self.position += length_bytes as u64;
        Ok(Some(piece))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.room.used_bytes.fetch_sub(self.length_bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn replayed(spool: &mut Spool) -> Vec<u8> {
        let mut all = Vec::new();
        spool.rewind().await.expect("a beginning");
        while let Some(piece) = spool.next_piece().await.expect("a piece") {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn what_was_written_is_read_any_number_of_times_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = SpoolRoom::new(folder.path().to_owned(), 4 << 20);
        for length in [0, 1, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX + 1, 3 * MEMORY_BYTES_MAX + 17] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut spool = room.spool();
            for piece in content.chunks(100_000) {
                spool.write(piece).await.expect("room");
            }
            assert_eq!((spool.length_bytes(), room.used_bytes()), (length as u64, length as u64));
            assert_eq!(spool.file.is_some(), length > MEMORY_BYTES_MAX);
            assert!(replayed(&mut spool).await == content && replayed(&mut spool).await == content);
            assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
            drop(spool);
            assert_eq!(room.used_bytes(), 0);
        }
    }

    #[tokio::test]
    async fn spools_together_have_a_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let room = SpoolRoom::new(folder.path().to_owned(), 100);
        let (mut one, mut other) = (room.spool(), room.spool());
        one.write(&[1; 60]).await.expect("room");
        assert!(matches!(other.write(&[2; 41]).await, Err(SpoolError::Full)));
        drop(one);
        other.write(&[2; 100]).await.expect("the room that was given back");
        assert_eq!((other.length_bytes(), room.used_bytes()), (100, 100));
    }
}
