//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;
use std::time::Duration;

use cask_index::Digest;

/// A failed operation on an open store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// Not in the store, or found corrupt just now, which is the same to a client.
    #[error("not found")]
    NotFound,
    /// The bytes do not hash to the digest, or are more or fewer than it says. Permanent.
    #[error("content does not match {expected}: {found}")]
    Mismatch {
        /// What the caller promised.
        expected: Digest,
        /// What came instead, in words.
        found: String,
    },
    /// Larger than the store takes. Permanent.
    #[error("{size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// Size asked for.
        size_bytes: u64,
        /// The largest size that is accepted.
        limit_bytes: u64,
    },
    /// No room without breaking the lease floor, or the disk or another limit is full.
    #[error("{advice}")]
    Full {
        /// When trying again may succeed.
        retry_after: Duration,
        /// What is full, and what an operator can do.
        advice: String,
    },
    /// Found corrupt or unreadable after a part of it had been handed out.
    #[error("data loss in {0}")]
    DataLoss(Digest),
    /// The disk failed; the data of this call is not stored.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The index is still being filled after a start: whether it is there is not known yet. Soon over.
    #[error("the store is still loading its index")]
    Loading,
    /// The engine is shutting down.
    #[error("shutting down")]
    Closed,
}

/// What a client is told to wait when the disk itself is full: as long as the store waits before it asks the disk again.
const DISK_FULL_RETRY: Duration = Duration::from_secs(5);

impl EngineError {
    /// A failed write. Some file systems find out only then that they are full, whatever was reserved before.
    pub(crate) fn of_write(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full {
                retry_after: DISK_FULL_RETRY,
                advice: "the disk under the store is full; free some, or lower --max-size".to_owned(),
            };
        }
        Self::Storage(error.to_string())
    }
}

/// Why a folder could not be opened as a store. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder holds other things than a store.
    #[error(
        "{folder} is not empty and holds no Cask store (no superblock); choose an empty folder or the folder of a store"
    )]
    NotAStore {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process has it open.
    #[error("{folder} is in use by another process; a store can be open only once")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// Made by a newer Cask.
    #[error(
        "{folder} has on-disk format {found}, this version reads up to {supported}; use a newer Cask or another folder"
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Version in the superblock.
        found: u32,
        /// Newest version this build reads.
        supported: u32,
    },
    /// The superblock cannot be trusted.
    #[error("{folder} has a damaged superblock ({reason}); the store cannot be opened")]
    DamagedSuperblock {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// io_uring was asked for by name.
    #[error(
        "io_uring is asked for and not to be had ({reason}); allow it, or choose the disk adapter auto or positioned"
    )]
    NoUring {
        /// What stands in the way.
        reason: String,
    },
    /// The options make no sense together.
    #[error("{0}")]
    Options(String),
    /// The thread that fills the index failed.
    #[error("the index could not be filled; the log says why")]
    Unloaded,
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_is_not_a_disk_that_failed() {
        let full = EngineError::of_write(&std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(matches!(full, EngineError::Full { .. }), "{full}");
        let failed = EngineError::of_write(&std::io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(failed, EngineError::Storage(_)), "{failed}");
    }
}

/// Why an isolated instance gets no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The name holds a line break.
    #[error("a name of an isolated instance has no line breaks")]
    Name,
    /// 255 names have one already.
    #[error("a store has room for 255 isolated instances, ever")]
    TooMany,
    /// What says which name has which number cannot be believed. To guess could show one tenant's blobs to another.
    #[error("the file `namespaces` in the store's folder is damaged or gone; restore it, or delete the store")]
    Damaged,
    /// The file could not be read or written.
    #[error("the file `namespaces` in the store's folder cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
}
