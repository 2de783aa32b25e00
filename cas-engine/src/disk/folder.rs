//! A store in a folder: `superblock`, `touches`, `lock` and `segments/<8 hex digits>`.
//!
//! Writes are positioned writes, reads go through a shared read-only mapping of the whole file (the page cache is the
//! RAM tier, and Linux keeps the two coherent). A lock file keeps a second process out.
//!
//! This is the only module of the crate with unsafe code: mapping a file and asking the kernel about the mapping.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::{Disk, SegmentFile};
use crate::error::OpenError;

const SUPERBLOCK: &str = "superblock";
const LOCK: &str = "lock";
const SEGMENTS: &str = "segments";
/// `lost+found` is what a freshly made file system holds.
const IGNORED_NAMES: [&str; 3] = ["lost+found", LOCK, SEGMENTS];
/// What every disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// The kernel takes at most this many pieces a call.
const PIECES_PER_WRITE_MAX: usize = 1024;

/// The disk adapter for a folder of a file system.
#[derive(Debug)]
pub struct FolderDisk {
    folder: PathBuf,
    /// Held, never read: the lock lives as long as the open file.
    _lock: File,
}

impl FolderDisk {
    /// Creates the folder where needed, takes its lock, and refuses a folder with other things in it.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
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
        Ok(Self { folder: folder.to_owned(), _lock: lock })
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
        Ok(Arc::new(MappedFile::new(file, size_bytes)?))
    }

    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.segment_path(number);
        let made = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).and_then(|file| {
            allocate(&file, size_bytes)?;
            file.sync_all()?;
            MappedFile::new(file, size_bytes)
        });
        match made {
            Ok(mapped) => {
                File::open(self.folder.join(SEGMENTS))?.sync_all()?;
                Ok(Arc::new(mapped))
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

/// A segment file and its mapping.
#[derive(Debug)]
struct MappedFile {
    file: File,
    map: Mmap,
}

impl MappedFile {
    fn new(file: File, size_bytes: u32) -> io::Result<Self> {
        // SAFETY: the file is ours alone (lock file), is never truncated while mapped (segments keep their size; a
        // removed file keeps its pages), and its bytes change only through `write_at`, which the segment protocol
        // directs to ranges of which no slice exists.
        let map = unsafe { MmapOptions::new().len(size_bytes as usize).map(&file)? };
        // Readers want single records, not the neighbours of a fault: the read-ahead is ours to decide.
        map.advise(memmap2::Advice::Random)?;
        Ok(Self { file, map })
    }

    /// Pages that cover the range: (address of the first, length in bytes).
    fn pages(&self, offset_bytes: u32, length_bytes: u32) -> (usize, usize) {
        let page = rustix::param::page_size();
        let first = offset_bytes as usize / page * page;
        let end = (offset_bytes as usize + length_bytes as usize).min(self.map.len());
        (first, end.saturating_sub(first))
    }
}

impl SegmentFile for MappedFile {
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let mut offset = u64::from(offset_bytes);
        for group in pieces.chunks(PIECES_PER_WRITE_MAX) {
            let mut group = group.to_vec();
            let mut rest = group.as_mut_slice();
            while !rest.is_empty() {
                match rustix::io::pwritev(self.file.as_fd(), rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        &self.map[offset_bytes as usize..][..length_bytes as usize]
    }

    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        let mut residency = [0_u8; 1024];
        let page = rustix::param::page_size();
        (first..first + length).step_by(residency.len() * page).all(|start| {
            let length = (first + length - start).min(residency.len() * page);
            // SAFETY: the range lies inside the mapping (`pages` clamps it) and starts at a page; `residency` has one
            // byte for each page asked about.
            let result = unsafe {
                libc::mincore(self.map.as_ptr().add(start) as *mut libc::c_void, length, residency.as_mut_ptr())
            };
            result == 0 && residency[..length.div_ceil(page)].iter().all(|state| state & 1 == 1)
        })
    }

    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        match self.map.advise_range(memmap2::Advice::PopulateRead, first, length) {
            // Kernels before 5.14 do not know it: the fault then happens on the caller's thread, which may wait.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    fn no_longer_needed(&self, offset_bytes: u32, length_bytes: u32) {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        // SAFETY: the range lies inside the mapping (`pages` clamps it) and starts at a page. The advice changes no byte: pages
        // that go are read again when they are looked at.
        let advised = unsafe {
            let start = self.map.as_ptr().add(first) as *mut std::ffi::c_void;
            rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxPageOut)
        };
        // Kernels before 5.4 do not know it.
        let _ = advised;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
