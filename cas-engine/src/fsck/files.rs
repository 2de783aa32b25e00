//! A stopped store's folder as a check sees it: locked, and changed by nobody, not even by opening it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use crate::engine::SUPERBLOCK_NAME;
use crate::error::OpenError;
use crate::namespaces::NAMESPACES_NAME;
use crate::touch_snapshot;
use crate::walk::SegmentBytes;

const LOCK: &str = "lock";
pub(super) const SEGMENTS: &str = "segments";
/// Read at once. A record is at most 16 MiB.
const WINDOW_BYTES: u32 = 4 << 20;

/// The locked folder.
pub(super) struct StoreFolder {
    pub(super) path: PathBuf,
    /// Held, never read.
    _lock: File,
}

/// What is in the folder.
#[derive(Default)]
pub(super) struct Listing {
    /// Numbers of the segment files and their lengths, ascending.
    pub(super) segments: Vec<(u32, u64)>,
    pub(super) strays: Vec<PathBuf>,
    pub(super) leftovers: Vec<PathBuf>,
}

impl StoreFolder {
    /// # Errors
    /// `NotAStore`, `InUse`, `Io`.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |action, path: PathBuf| move |source| OpenError::Io { action, path, source };
        fs::read_dir(path).map_err(failed("list", path.to_owned()))?;
        if !path.join(SUPERBLOCK_NAME).exists() && !path.join(SEGMENTS).is_dir() {
            return Err(OpenError::NotAStore { folder: path.to_owned() });
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            // On a file system that is mounted read-only there may still be something to check.
            .or_else(|_| File::open(&lock_path))
            .map_err(failed("open", lock_path.clone()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::InUse { folder: path.to_owned() }),
            Err(error) => Err(failed("lock", lock_path)(error.into())),
        }
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".new") {
                listing.leftovers.push(name.as_ref().into());
            } else if ![SUPERBLOCK_NAME, NAMESPACES_NAME, touch_snapshot::FILE_NAME, LOCK, SEGMENTS, "lost+found"]
                .contains(&&*name)
            {
                listing.strays.push(name.as_ref().into());
            }
        }
        let segments = match fs::read_dir(self.path.join(SEGMENTS)) {
            Ok(segments) => segments,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            Err(error) => return Err(error),
        };
        for entry in segments {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = u32::from_str_radix(&name, 16)
                .ok()
                .filter(|number| *name == format!("{number:08x}") && *number < cask_index::Location::SEGMENT_COUNT_MAX);
            match number {
                Some(number) => listing.segments.push((number, entry.metadata()?.len())),
                None => listing.strays.push(Path::new(SEGMENTS).join(&*name)),
            }
        }
        listing.segments.sort_unstable();
        listing.strays.sort_unstable();
        Ok(listing)
    }

    /// `None` when there is none.
    pub(super) fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Atomic and durable.
    pub(super) fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn open(&self, number: u32, size_bytes: u32) -> io::Result<FileBytes> {
        let file = File::open(self.path.join(segment_path(number)))?;
        Ok(FileBytes { file, size_bytes, at_bytes: 0, window: Vec::new(), read_bytes: 0 })
    }

    pub(super) fn open_to_write(&self, number: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(segment_path(number)))
    }
}

/// Relative to the store's folder.
pub(super) fn segment_path(number: u32) -> PathBuf {
    Path::new(SEGMENTS).join(format!("{number:08x}"))
}

/// Gives a segment file its length, and its blocks where the file system can.
pub(super) fn give_length(file: &File, size_bytes: u32) -> io::Result<()> {
    file.set_len(u64::from(size_bytes))?;
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, u64::from(size_bytes)) {
        Ok(()) | Err(Errno::OPNOTSUPP) => file.sync_all(),
        Err(error) => Err(error.into()),
    }
}

/// A segment file, read by position through a window. What a short file lacks reads as zeros, as it will once it has its
/// length.
pub(super) struct FileBytes {
    file: File,
    size_bytes: u32,
    at_bytes: u32,
    window: Vec<u8>,
    /// Bytes asked of the file so far.
    pub(super) read_bytes: u64,
}

impl FileBytes {
    /// Without reading ahead.
    pub(super) fn bytes_exact(&mut self, offset_bytes: u32, length_bytes: u32) -> io::Result<&[u8]> {
        self.fill(offset_bytes, length_bytes)?;
        Ok(&self.window)
    }

    fn fill(&mut self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        self.window.clear();
        self.window.resize(length_bytes as usize, 0);
        self.at_bytes = offset_bytes;
        let mut filled = 0;
        while filled < self.window.len() {
            match self.file.read_at(&mut self.window[filled..], u64::from(offset_bytes) + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        self.read_bytes += filled as u64;
        Ok(())
    }
}

impl SegmentBytes for FileBytes {
    fn bytes(&mut self, offset_bytes: u32, length_bytes: u32) -> io::Result<&[u8]> {
        let end_bytes = offset_bytes + length_bytes;
        if offset_bytes < self.at_bytes || end_bytes as usize > self.at_bytes as usize + self.window.len() {
            let ahead_bytes = length_bytes.max(WINDOW_BYTES.min(self.size_bytes.saturating_sub(offset_bytes)));
            if self.fill(offset_bytes, ahead_bytes).is_err() {
                self.fill(offset_bytes, length_bytes)?;
            }
        }
        Ok(&self.window[(offset_bytes - self.at_bytes) as usize..][..length_bytes as usize])
    }
}
