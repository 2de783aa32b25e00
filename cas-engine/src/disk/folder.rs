//! A store in a folder: `superblock`, `touches`, `lock` and `segments/<8 hex digits>`.
//!
//! What is the same whichever way segments are written stands here: the lock that keeps a second process out, names,
//! allocation, small files. Reads go through a mapping (`mapped`), single writes are positioned ones, and batches go the
//! way that was chosen when the folder was opened ([`DiskAdapter`]).

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::Errno;

use super::mapped::Mapping;
use super::uring::{RingUse, Uring};
use super::{Disk, SegmentFile, SegmentWrite, Until, positioned};
use crate::error::OpenError;

const SUPERBLOCK: &str = "superblock";
const LOCK: &str = "lock";
const SEGMENTS: &str = "segments";
/// `lost+found` is what a freshly made file system holds.
const IGNORED_NAMES: [&str; 3] = ["lost+found", LOCK, SEGMENTS];
/// What every disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// How batches of writes reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskAdapter {
    /// What is measured to be best (docs/decisions/0004): positioned writes, and io_uring to sync several files at once
    /// where the kernel offers it.
    #[default]
    Auto,
    /// Everything through io_uring; where it is not to be had the store is not opened.
    Uring,
    /// Positioned writes and fdatasync, one after the other.
    Positioned,
}

/// The disk adapter for a folder of a file system.
pub struct FolderDisk {
    folder: PathBuf,
    /// Held, never read: the lock lives as long as the open file.
    _lock: File,
    /// `None`: by position.
    uring: Option<Uring>,
}

impl FolderDisk {
    /// As `open_with`, by position.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        Self::lock(folder)
    }

    /// Creates the folder where needed, takes its lock, and refuses a folder with other things in it. Then finds out
    /// whether the adapter works here, and logs which one is used and why.
    pub fn open_with(folder: &Path, adapter: DiskAdapter) -> Result<Self, OpenError> {
        let mut disk = Self::lock(folder)?;
        let (uring, reason) = choose(adapter, |ring_use| Uring::probe(folder, ring_use))?;
        disk.uring = uring;
        tracing::info!(event = "disk_adapter", adapter = disk.way_of_writing(), reason, "how segments are written");
        Ok(disk)
    }

    fn lock(folder: &Path) -> Result<Self, OpenError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
        Self::refuse_foreign(folder)?;
        let lock_path = folder.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenError::InUse { folder: folder.to_owned() }),
            Err(error) => return Err(failed("lock", &lock_path)(error.into())),
        }
        let segments = folder.join(SEGMENTS);
        fs::create_dir_all(&segments).map_err(failed("create", &segments))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock, uring: None })
    }

    /// A folder without superblock may only hold what a store that was never finished, or a fresh file system, leaves.
    fn refuse_foreign(folder: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::Io { action: "list", path: folder.to_owned(), source };
        if folder.join(SUPERBLOCK).exists() {
            return Ok(());
        }
        // Segments without the superblock that explains them are somebody's data: never written over.
        let segments = folder.join(SEGMENTS);
        if segments.is_dir() && fs::read_dir(&segments).map_err(failed)?.next().is_some() {
            return Err(OpenError::DamagedSuperblock {
                folder: folder.to_owned(),
                reason: "it is missing, but there are segments".to_owned(),
            });
        }
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            if !IGNORED_NAMES.contains(&name.as_ref()) && !name.ends_with(".new") {
                return Err(OpenError::NotAStore { folder: folder.to_owned() });
            }
        }
        Ok(())
    }

    /// On a full disk: what fits a sector is written over in place, which takes no new block and is all or nothing like the
    /// rename. A store on a full disk opens and serves thanks to this.
    fn overwrite_sector(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.folder.join(name))?;
        if bytes.len() > SECTOR_BYTES || file.metadata()?.len() != bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        self.folder.join(SEGMENTS).join(format!("{number:08x}"))
    }
}

impl Disk for FolderDisk {
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.folder.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.folder.join(format!("{name}.new"));
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&fresh);
            if error.kind() == io::ErrorKind::StorageFull {
                return self.overwrite_sector(name, bytes).map_err(|_| error);
            }
            return Err(error);
        }
        fs::rename(&fresh, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }

    fn segment_numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.folder.join(SEGMENTS))? {
            let name = entry?.file_name();
            // Stray files are not ours to judge: they are left alone and do not stop a start.
            match name.to_str().and_then(segment_number) {
                Some(number) => numbers.push(number),
                None => {
                    tracing::warn!(event = "stray_file", name = %name.to_string_lossy(), "not a segment, left alone")
                }
            }
        }
        Ok(numbers)
    }

    fn open_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.segment_path(number))?;
        let length_bytes = file.metadata()?.len();
        if length_bytes != u64::from(size_bytes) {
            // A crash while it was made, or somebody's hand. A short file must never be mapped whole (touching its end
            // would be a bus error), so it gets its length back; records that are gone fail their checksums.
            tracing::warn!(event = "segment_length_repaired", number, length_bytes, size_bytes);
            file.set_len(u64::from(size_bytes))?;
            match allocate(&file, size_bytes) {
                // A full disk must not stop the start: what the file still holds is read, and a write into what could
                // not be reserved fails when it comes to that.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(event = "segment_not_reserved", number, %error, "the disk is full");
                }
                outcome => outcome?,
            }
        }
        let written_to = written_to(&file).map_or(size_bytes, |offset| offset.min(u64::from(size_bytes)) as u32);
        Ok(Arc::new(FolderFile::new(file, size_bytes, written_to)?))
    }

    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.segment_path(number);
        // Never over a file that is there: it may hold records, and could not be opened when the store was.
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        let made = allocate(&file, size_bytes).and_then(|()| {
            file.sync_all()?;
            FolderFile::new(file, size_bytes, 0)
        });
        match made {
            Ok(file) => {
                File::open(self.folder.join(SEGMENTS))?.sync_all()?;
                Ok(Arc::new(file))
            }
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn remove_segment(&self, number: u32) -> io::Result<()> {
        fs::remove_file(self.segment_path(number))
    }

    fn write_batch(&self, writes: &mut [SegmentWrite<'_>]) {
        for write in &*writes {
            if let Some(file) = FolderFile::of(write.file) {
                file.enter(write.offset_bytes, positioned::bytes_of(write.pieces), write.until);
            }
        }
        match &self.uring {
            Some(uring) => uring.write_batch(writes),
            None => writes.iter_mut().for_each(SegmentWrite::run),
        }
    }

    fn way_of_writing(&self) -> &'static str {
        match self.uring.as_ref().map(Uring::ring_use) {
            None => "positioned writes",
            Some(RingUse::ParallelSyncs) => "positioned writes, io_uring for parallel syncs",
            Some(RingUse::Everything) => "io_uring",
        }
    }
}

/// The ring, if there is to be one, and why so.
fn choose<R>(
    adapter: DiskAdapter,
    probe: impl FnOnce(RingUse) -> Result<R, String>,
) -> Result<(Option<R>, String), OpenError> {
    match adapter {
        DiskAdapter::Positioned => Ok((None, "asked for".to_owned())),
        DiskAdapter::Uring => match probe(RingUse::Everything) {
            Ok(ring) => Ok((Some(ring), "asked for".to_owned())),
            Err(reason) => Err(OpenError::NoUring { reason }),
        },
        DiskAdapter::Auto => match probe(RingUse::ParallelSyncs) {
            Ok(ring) => Ok((Some(ring), "io_uring works here".to_owned())),
            Err(reason) => Ok((None, reason)),
        },
    }
}

/// The number in a segment file's name; only the spelling that we write counts.
fn segment_number(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (name == format!("{number:08x}")).then_some(number)
}

/// Reserves every block, so that a later write never meets a full disk.
fn allocate(file: &File, size_bytes: u32) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, u64::from(size_bytes)) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0_u8; 1 << 20];
            let mut offset = 0;
            while offset < u64::from(size_bytes) {
                let length = (u64::from(size_bytes) - offset).min(zeros.len() as u64);
                file.write_all_at(&zeros[..length as usize], offset)?;
                offset += length;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The first write of a block that is only allocated makes the file system write its journal, which makes a small synced
/// write half as slow again. So such a write brings this much of what follows into use with it.
const AHEAD_BYTES: u32 = 256 * 1024;
/// A larger write pays for its blocks itself.
const SMALL_WRITE_BYTES_MAX: usize = 64 * 1024;

/// Names files that were opened, for ever.
static NEXT_FILE_ID: AtomicU64 = AtomicU64::new(1);

/// Where the hole begins that reaches to the file's end: blocks that are allocated and were never written are a hole too.
/// `None`: there is data up to the end, or no knowing.
fn written_to(file: &File) -> Option<u64> {
    let hole = rustix::fs::seek(file, SeekFrom::Hole(0)).ok()?;
    (rustix::fs::seek(file, SeekFrom::Data(hole)) == Err(Errno::NXIO)).then_some(hole)
}

/// A segment file of a folder.
#[derive(Debug)]
pub(super) struct FolderFile {
    id: u64,
    file: File,
    mapping: Mapping,
    size_bytes: u32,
    /// From here on nothing was ever written. Held while zeros are written there, so that nothing else is.
    written_to: Mutex<u32>,
}

impl FolderFile {
    fn new(file: File, size_bytes: u32, written_to: u32) -> io::Result<Self> {
        let mapping = Mapping::new(&file, size_bytes)?;
        let id = NEXT_FILE_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, file, mapping, size_bytes, written_to: Mutex::new(written_to) })
    }

    /// Whether the file is as long as that still: looking at mapped pages behind a file's end ends the process. What the kernel said
    /// a moment ago of its pages says nothing of a file that somebody has cut short since.
    fn reaches(&self, end_bytes: u32) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|status| status.st_size >= i64::from(end_bytes))
    }

    /// The file behind the trait, if it is one of ours.
    pub(super) fn of(file: &dyn SegmentFile) -> Option<&Self> {
        (file as &dyn Any).downcast_ref()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Called before each write of `length_bytes`: where that is small, to be synced at once, and about to enter blocks
    /// that were never written, zeroes the next ones behind it, which changes nothing that can be read.
    fn enter(&self, offset_bytes: u32, length_bytes: usize, until: Until) {
        let end = (offset_bytes as usize + length_bytes).min(self.size_bytes as usize) as u32;
        let mut written_to = self.written_to.lock();
        if length_bytes == 0 || end <= *written_to {
            return;
        }
        *written_to = end;
        if until == Until::Synced && length_bytes <= SMALL_WRITE_BYTES_MAX {
            let ahead = AHEAD_BYTES.min(self.size_bytes - end);
            let zeros = vec![0; ahead as usize];
            *written_to += ahead;
            // Failing costs nothing but time: what matters is written, and its errors are seen, later.
            let _ = positioned::write(&self.file, end, &[IoSlice::new(&zeros)], 0);
        }
    }
}

impl SegmentFile for FolderFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        self.enter(offset_bytes, positioned::bytes_of(pieces), Until::Written);
        positioned::write(&self.file, offset_bytes, pieces, 0)
    }

    fn sync(&self) -> io::Result<()> {
        positioned::sync(&self.file)
    }

    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        self.mapping.slice(offset_bytes, length_bytes)
    }

    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        self.mapping.is_resident(offset_bytes, length_bytes) && self.reaches(offset_bytes + length_bytes)
    }

    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        self.mapping.make_resident(offset_bytes, length_bytes)
    }

    fn no_longer_needed(&self, offset_bytes: u32, length_bytes: u32) {
        self.mapping.no_longer_needed(offset_bytes, length_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_replaced_only_where_that_is_allowed() {
        let works = |ring_use| Ok(ring_use);
        let forbidden = |_| Err::<RingUse, _>("Operation not permitted".to_owned());
        let used = |adapter| choose(adapter, works).unwrap().0;
        assert_eq!(used(DiskAdapter::Auto), Some(RingUse::ParallelSyncs));
        assert_eq!(used(DiskAdapter::Uring), Some(RingUse::Everything));
        assert_eq!(used(DiskAdapter::Positioned), None);
        assert_eq!(choose(DiskAdapter::Auto, forbidden).unwrap(), (None, "Operation not permitted".to_owned()));
        assert_eq!(choose(DiskAdapter::Positioned, forbidden).unwrap().0, None);
        let error = choose(DiskAdapter::Uring, forbidden).unwrap_err().to_string();
        assert!(error.contains("not permitted") && error.contains("auto or positioned"), "{error}");
    }

    #[test]
    fn memory_is_given_back_and_the_bytes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FolderDisk::open(folder.path()).unwrap();
        let file = disk.create_segment(0, 1 << 20).unwrap();
        file.write_at(4096, &[IoSlice::new(&[7; 8192])]).unwrap();
        file.sync().unwrap();
        for (offset_bytes, length_bytes) in [(4096, 8192), (5000, 64), ((1 << 20) - 64, 64), (0, 1 << 20)] {
            file.make_resident(offset_bytes, length_bytes).unwrap();
            assert!(file.is_resident(offset_bytes, length_bytes));
            file.no_longer_needed(offset_bytes, length_bytes);
            assert_eq!(file.slice(4096, 8192), [7; 8192]);
        }
    }
}
