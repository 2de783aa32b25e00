//! What the engine asks of a disk. Adapters do nothing clever: no retries, no caching, no policy.
//!
//! [`FolderDisk`](folder::FolderDisk) is the real one (positioned writes, reads through a mapping); tests put a faulty
//! or simulated one in its place.

pub mod folder;

use std::io::{self, IoSlice};
use std::sync::Arc;

/// A folder of segment files of one size and a few small files.
pub trait Disk: Send + Sync + 'static {
    /// The whole of a small file; `None` when there is none.
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file atomically and durably: after a crash it is the old or the new one.
    fn replace_small(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Numbers of the segment files there are, in any order.
    fn segment_numbers(&self) -> io::Result<Vec<u32>>;
    /// Opens an existing segment file of `size_bytes`.
    fn open_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>>;
    /// Makes a segment file with all its space allocated; leaves nothing behind when that fails (disk full).
    fn create_segment(&self, number: u32, size_bytes: u32) -> io::Result<Arc<dyn SegmentFile>>;
    /// Removes a segment file.
    fn remove_segment(&self, number: u32) -> io::Result<()>;
}

/// One segment file: fixed size, written by position, read as memory.
pub trait SegmentFile: Send + Sync + 'static {
    /// Writes all pieces, one after the other, from `offset_bytes` on.
    fn write_at(&self, offset_bytes: u32, pieces: &[IoSlice<'_>]) -> io::Result<()>;
    /// Makes all completed writes durable.
    fn sync(&self) -> io::Result<()>;
    /// The bytes of a range, as they are now. The caller holds a pin on the segment and only looks at ranges that
    /// nobody writes while the pin lives (see `segment::Segment`).
    fn slice(&self, offset_bytes: u32, length_bytes: u32) -> &[u8];
    /// True when reading the range will not wait for the device.
    fn is_resident(&self, offset_bytes: u32, length_bytes: u32) -> bool;
    /// Reads the range into memory, waiting for the device; a media error is an error here and not a signal later.
    fn make_resident(&self, offset_bytes: u32, length_bytes: u32) -> io::Result<()>;
    /// The range was brought into memory for one look and will not be needed soon: the memory may go to others. A hint.
    fn no_longer_needed(&self, _offset_bytes: u32, _length_bytes: u32) {}
}
