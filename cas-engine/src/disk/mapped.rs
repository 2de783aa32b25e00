//! The mapping of a segment file: how its bytes are read, whichever way they are written.
//!
//! The page cache is the RAM tier, and Linux keeps it and the file coherent. Unsafe code: mapping the file and asking
//! the kernel about the mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

use super::residency::Residency;

/// A whole segment file, mapped read-only.
#[derive(Debug)]
pub(super) struct Mapping {
    map: Mmap,
    residency: Residency,
}

impl Mapping {
    pub(super) fn new(file: &File, size_bytes: u32) -> io::Result<Self> {
        // SAFETY: the file is ours alone (lock file), is never truncated while mapped (segments keep their size; a
        // removed file keeps its pages), and its bytes change only through the writes of its `FolderFile`, which the
        // segment protocol directs to ranges of which no slice exists.
        let map = unsafe { MmapOptions::new().len(size_bytes as usize).map(file)? };
        // Readers want single records, not the neighbours of a fault: the read-ahead is ours to decide.
        map.advise(memmap2::Advice::Random)?;
        Ok(Self { residency: Residency::of(map.len(), rustix::param::page_size()), map })
    }

    /// Pages that cover the range: (address of the first, length in bytes).
    fn pages(&self, offset_bytes: u32, length_bytes: u32) -> (usize, usize) {
        let page = rustix::param::page_size();
        let first = offset_bytes as usize / page * page;
        let end = (offset_bytes as usize + length_bytes as usize).min(self.map.len());
        (first, end.saturating_sub(first))
    }

    pub(super) fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8] {
        &self.map[offset_bytes as usize..][..length_bytes as usize]
    }

    pub(super) fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        self.residency.of_range(first, length, |first, length| self.pages_in_memory(first, length))
    }

    /// Asks the kernel about a range of at most 64 pages that begins at a page and lies inside the mapping: a bit for each page that
    /// is in memory.
    fn pages_in_memory(&self, first: usize, length: usize) -> u64 {
        let mut residency = [0_u8; u64::BITS as usize];
        let pages = length.div_ceil(rustix::param::page_size());
        assert!(pages <= residency.len(), "so much is not asked about at once");
        // SAFETY: the range lies inside the mapping (the caller clamped it) and starts at a page; `residency` has a byte for
        // each page asked about.
        let result =
            unsafe { libc::mincore(self.map.as_ptr().add(first) as *mut libc::c_void, length, residency.as_mut_ptr()) };
        if result != 0 {
            return 0;
        }
        residency[..pages].iter().rev().fold(0, |bits, state| bits << 1 | u64::from(state & 1))
    }

    pub(super) fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()> {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        // Populating alone would go to the disk page by page and wait each time, since the mapping has no read-ahead: this
        // asks for the whole range at once, in large requests. It is advice; what it did not do, populating does.
        let _ = self.map.advise_range(memmap2::Advice::WillNeed, first, length);
        match self.map.advise_range(memmap2::Advice::PopulateRead, first, length) {
            // Kernels before 5.14 do not know it: the fault then happens on the caller's thread, which may wait.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Pages that the kernel may let go first.
    pub(super) fn no_longer_needed(&self, offset_bytes: u32, length_bytes: u32) {
        let (first, length) = self.pages(offset_bytes, length_bytes);
        // SAFETY: the range lies inside the mapping (`pages` clamps it) and starts at a page. The advice changes no byte: pages
        // that go are read again when they are looked at.
        let advised = unsafe {
            let start = self.map.as_ptr().add(first) as *mut std::ffi::c_void;
            rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxPageOut)
        };
        // Kernels before 5.4 do not know it.
        let _ = advised;
        // Not before: who looks while the pages go would note them as seen.
        self.residency.forget(first, length);
    }
}
