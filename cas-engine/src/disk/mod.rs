//! What the engine asks of a disk. Adapters do nothing clever: no retries, no caching, no policy.
//!
//! [`FolderDisk`](folder::FolderDisk) is the real one: reads go through a mapping (`mapped`), writes by position
//! (`positioned`) or through io_uring (`uring` decides what, `ring` does it). Tests put a faulty or simulated one in its
//! place.

pub mod folder;
mod mapped;
mod positioned;
mod residency;
mod ring;
mod uring;

use std::any::Any;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub use folder::DiskAdapter;

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
    /// Does all of the writes, in any order or at once, and returns when each has its result. No two of them may touch
    /// one range, and a sync promises nothing of another write of the same batch.
    fn write_batch(&self, writes: &mut [SegmentWrite<'_>]) {
        for write in writes {
            write.run();
        }
    }
    /// How batches are written, in words for the operator.
    fn way_of_writing(&self) -> &'static str {
        "a way of its own"
    }
}

/// One segment file: fixed size, written by position, read as memory.
pub trait SegmentFile: Any + Send + Sync + 'static {
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

/// When a write of a batch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The bytes are the kernel's.
    Written,
    /// They, and all that was written to the file before the batch, are on the device.
    Synced,
}

/// One write of a batch.
pub struct SegmentWrite<'a> {
    /// Where to.
    pub file: &'a dyn SegmentFile,
    /// Where the first piece goes.
    pub offset_bytes: u32,
    /// What to write, one piece after the other; none to only sync.
    pub pieces: &'a [IoSlice<'a>],
    /// When it is done.
    pub until: Until,
    /// What came of it: an error until the batch was run. After an error nothing may be believed of the range, and the
    /// file may hold other dirty pages that the kernel gave up.
    pub result: io::Result<()>,
}

impl<'a> SegmentWrite<'a> {
    /// A write that was not run yet.
    pub fn new(file: &'a dyn SegmentFile, offset_bytes: u32, pieces: &'a [IoSlice<'a>], until: Until) -> Self {
        // Whoever forgets a write has not written it.
        Self { file, offset_bytes, pieces, until, result: Err(io::ErrorKind::Other.into()) }
    }

    /// Does it on its own.
    fn run(&mut self) {
        self.result = self.run_write().and_then(|()| self.run_sync());
    }

    fn run_write(&self) -> io::Result<()> {
        if self.pieces.is_empty() { Ok(()) } else { self.file.write_at(self.offset_bytes, self.pieces) }
    }

    fn run_sync(&self) -> io::Result<()> {
        match self.until {
            Until::Written => Ok(()),
            Until::Synced => self.file.sync(),
        }
    }
}
