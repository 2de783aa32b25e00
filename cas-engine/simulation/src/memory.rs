//! The page cache of one simulated segment file: bytes that are written through a shared reference while slices of
//! other ranges are alive, as a mapped file's are.
//!
//! This is the only module of the crate with unsafe code.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

/// A fixed number of bytes with interior mutability.
///
/// Who may write when is the engine's segment protocol: a range of which a slice is alive is not written. The simulation
/// checks that from outside, by holding chunks and comparing them with what they were; it lets faults change bytes only
/// while it holds none.
pub struct Memory {
    bytes: Box<[UnsafeCell<u8>]>,
}

// SAFETY: `read` and `write` are the only ways to the bytes. Writers are serialised by the owner's lock (`disk::Image`), and
// a writer and a reader of one range never run at once: each simulated engine is stepped by one thread, and the threads
// of its recovery only read.
unsafe impl Sync for Memory {}

impl Memory {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.iter().map(|byte| UnsafeCell::new(*byte)).collect() }
    }

    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        Self::new(&vec![0; length])
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of a range, as they are now.
    pub fn read(&self, offset: usize, length: usize) -> &[u8] {
        let cells = &self.bytes[offset..][..length];
        // SAFETY: the cells are in bounds and initialised, `UnsafeCell<u8>` has the layout of `u8`, and nobody writes the
        // range while the slice lives (see the type).
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
    }

    /// Writes `data` at `offset`. `data` must not be a slice of this memory's range.
    pub fn write(&self, offset: usize, data: &[u8]) {
        let cells = &self.bytes[offset..][..data.len()];
        // SAFETY: the cells are in bounds, may be written through a shared reference because they are `UnsafeCell`s, and do
        // not overlap `data`: callers pass bytes that they own.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), UnsafeCell::raw_get(cells.as_ptr()), data.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_one_range_survives_writes_to_another() {
        let memory = Memory::zeroed(64);
        memory.write(0, &[1; 8]);
        let slice = memory.read(0, 8);
        memory.write(8, &[2; 8]);
        assert_eq!(slice, [1; 8]);
        assert_eq!(memory.read(4, 8), [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!((memory.len(), memory.is_empty()), (64, false));
    }
}
