//! [`Lines`]: a large array of cache lines of atomic words, zero until first written, given back on drop.
//!
//! Anonymous memory, so a table made for 100 million entries costs nothing until they come; huge pages when the array is
//! large, since a random probe misses the TLB on small ones. Reservation is not hidden from the kernel (no NORESERVE): a
//! table that cannot fit is an error at start, not a kill later.
//!
//! One of the crate's modules with `unsafe` code: mapping, viewing the mapping as lines, prefetching a line.
//! Under loom the array is a plain `Vec`, because loom's atomics are not plain words.
#![allow(unsafe_code)] // Mapped memory becomes a slice here, and a prefetch is an intrinsic; safe outside.

use std::io;
use std::ops::Deref;

use crate::bucket::SLOTS;
use crate::sync::AtomicU64;

/// One cache line: the fingerprint words or the location words of a bucket.
#[repr(C, align(64))]
pub(crate) struct Line {
    pub(crate) words: [AtomicU64; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

#[cfg(not(loom))]
pub(crate) use mapped::Lines;

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use rustix::mm;
    use std::ffi::c_void;
    use std::ptr::{NonNull, null_mut};

    const HUGE_PAGE_BYTES: usize = 2 << 20;
    /// Below this, rounding up to huge pages would waste more than the TLB gives.
    const HUGE_PAGES_FROM_BYTES: usize = 64 << 20;

    pub(crate) struct Lines {
        /// First line; inside the mapping, aligned for huge pages when these are used.
        first: NonNull<Line>,
        line_count: usize,
        mapping: NonNull<c_void>,
        mapping_bytes: usize,
    }

    impl Lines {
        /// Maps `line_count` zero lines (at least one); errors are the kernel's, or OutOfMemory beyond the address space.
        pub(crate) fn new(line_count: usize) -> io::Result<Self> {
            assert!(line_count > 0);
            let line_bytes = line_count.checked_mul(size_of::<Line>()).ok_or(io::ErrorKind::OutOfMemory)?;
            let huge = line_bytes >= HUGE_PAGES_FROM_BYTES;
            let slack_bytes = if huge { HUGE_PAGE_BYTES } else { 0 };
            let mapping_bytes = line_bytes.checked_add(slack_bytes).ok_or(io::ErrorKind::OutOfMemory)?;

            let protection = mm::ProtFlags::READ | mm::ProtFlags::WRITE;
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
            let mapping = unsafe { mm::mmap_anonymous(null_mut(), mapping_bytes, protection, mm::MapFlags::PRIVATE) }?;
            let mapping = NonNull::new(mapping).expect("the kernel maps nothing at address 0");

            let mut first = mapping;
            if huge {
                let skipped = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
                // SAFETY: `skipped` is below HUGE_PAGE_BYTES, by which the mapping is larger than the lines.
                first = unsafe { mapping.byte_add(skipped) };
                advise_huge_pages(first, line_bytes);
            }
            Ok(Lines { first: first.cast(), line_count, mapping, mapping_bytes })
        }

        /// Bytes of address space taken.
        pub(crate) fn reserved_bytes(&self) -> usize {
            self.mapping_bytes
        }

        /// Asks the processor to fetch a line that is about to be read; no effect but on time.
        #[inline]
        pub(crate) fn prefetch(&self, index: usize) {
            let line: *const Line = &self[index];
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: a prefetch may be given any address and this one is a valid line; SSE is part of x86_64.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            let _ = line;
        }
    }

    /// Only a wish: a kernel without huge pages refuses, and the lines work as well, slower.
    fn advise_huge_pages(first: NonNull<c_void>, length_bytes: usize) {
        #[cfg(target_os = "linux")]
        // SAFETY: the range lies in a mapping that we own and nobody reads yet; the advice does not change its content.
        let _ = unsafe { mm::madvise(first.as_ptr(), length_bytes, mm::Advice::LinuxHugepage) };
        #[cfg(not(target_os = "linux"))]
        let _ = (first, length_bytes);
    }

    impl Deref for Lines {
        type Target = [Line];

        #[inline]
        fn deref(&self) -> &[Line] {
            // SAFETY: `first` points to `line_count` lines inside a readable and writable mapping that lives as long as
            // `self`; the mapping is page-aligned, so lines are aligned; anonymous memory is zeroed, and a zero word is a
            // valid AtomicU64; the memory is only ever reached through these atomics.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.line_count) }
        }
    }

    impl Drop for Lines {
        fn drop(&mut self) {
            // SAFETY: exactly what `new` mapped, not unmapped before; borrows of the lines end before `self` does.
            let unmapped = unsafe { mm::munmap(self.mapping.as_ptr(), self.mapping_bytes) };
            debug_assert!(unmapped.is_ok(), "unmapping a whole mapping of ours cannot fail");
        }
    }

    // SAFETY: `Lines` owns its mapping, which is not tied to a thread, and its content is atomics.
    unsafe impl Send for Lines {}
    // SAFETY: shared access reaches only atomics.
    unsafe impl Sync for Lines {}
}

#[cfg(loom)]
pub(crate) struct Lines {
    lines: Vec<Line>,
}

#[cfg(loom)]
impl Lines {
    pub(crate) fn new(line_count: usize) -> io::Result<Self> {
        let line = || Line { words: std::array::from_fn(|_| AtomicU64::new(0)) };
        Ok(Lines { lines: (0..line_count).map(|_| line()).collect() })
    }

    pub(crate) fn reserved_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    pub(crate) fn prefetch(&self, _index: usize) {}
}

#[cfg(loom)]
impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.lines
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn lines_are_aligned_zero_and_keep_what_is_written() {
        let large = if cfg!(miri) { 100 } else { (96 << 20) / size_of::<Line>() };
        for line_count in [1, 64, large] {
            let lines = Lines::new(line_count).unwrap();
            assert_eq!(lines.len(), line_count);
            assert_eq!((&raw const lines[0]).addr() % size_of::<Line>(), 0);
            let last = &lines[line_count - 1];
            assert_eq!(last.words[SLOTS - 1].load(Ordering::Relaxed), 0);
            last.words[SLOTS - 1].store(7, Ordering::Relaxed);
            lines.prefetch(line_count - 1);
            assert_eq!(lines[line_count - 1].words[SLOTS - 1].load(Ordering::Relaxed), 7);
            assert!(lines.reserved_bytes() >= line_count * size_of::<Line>());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter gives up where the kernel refuses")]
    fn what_cannot_fit_is_an_error() {
        for line_count in [usize::MAX, usize::MAX / size_of::<Line>(), 1 << 56] {
            assert!(Lines::new(line_count).is_err(), "{line_count}");
        }
    }
}
