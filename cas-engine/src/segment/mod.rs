//! Segments: the fixed-size files that make up the log.
//!
//! ```text
//!          take_free            seal               reclaim           last pin gone
//!   Free ------------> Open ------------> Sealed ------------> Draining ------------> Free
//!     |  ^               |                   |
//!     v  | a while       +---- disk fails ---+----> Quarantined   (not used again before a restart)
//!   Resting  (its opening failed)
//! ```
//! A reader pins a segment before it looks at its bytes; while a pin lives, published ranges are never written again.
//! The way to Free goes through [`Segment::close_if_unpinned`], which pins lose against: a pin taken too late is
//! refused, and its reader sees a miss.

pub(crate) mod horizon;
pub(crate) mod lane;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod reclaimer;
pub(crate) mod turns;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cask_index::Location;
use parking_lot::{Mutex, MutexGuard};

use crate::disk::{Disk, SegmentFile, SegmentWrite, Until};
use crate::format::record::{RECORD_HEADER_BYTES_MAX, RecordPlace};

/// Set in `pins` while the segment is not readable: it is free, or being opened for its next life.
const CLOSED: u32 = 1 << 31;

/// One segment file and who looks at it.
pub(crate) struct Segment {
    number: u32,
    file: Arc<dyn SegmentFile>,
    /// The present life; changes only while no pin can be taken.
    sequence: AtomicU64,
    pins: AtomicU32,
    /// Records that are written and not in the index yet. Until there are none the segment is not sealed: reclaim takes
    /// what the index does not know for dead.
    unpublished: AtomicU32,
    /// Held while the file is synced: the kernel reports a lost page once, to one of those who sync, and the others may
    /// not take their syncs for good before they know.
    syncing: Mutex<()>,
    /// The first error of a write or sync: for whoever syncs or publishes next.
    failure: Mutex<Option<String>>,
}

/// A write to one segment, or a sync of it, or both.
pub(crate) struct SegmentIo<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) offset_bytes: u32,
    pub(crate) pieces: &'a [IoSlice<'a>],
    pub(crate) until: Until,
}

/// Does all of it in one batch of the disk, no segment twice. A segment that failed before fails again and is not
/// touched.
pub(crate) fn run_batch(disk: &dyn Disk, batch: &[SegmentIo<'_>]) -> Vec<io::Result<()>> {
    // By number: whoever else holds several of these locks took them in the same order.
    let mut synced: Vec<&Segment> = batch.iter().filter(|io| io.until == Until::Synced).map(|io| io.segment).collect();
    synced.sort_unstable_by_key(|segment| segment.number);
    let _syncing: Vec<MutexGuard<'_, ()>> = synced.iter().map(|segment| segment.syncing.lock()).collect();
    let failures: Vec<Option<String>> = batch.iter().map(|io| io.segment.failure()).collect();
    let mut writes: Vec<SegmentWrite<'_>> = batch
        .iter()
        .zip(&failures)
        .filter(|(_, failure)| failure.is_none())
        .map(|(io, _)| SegmentWrite::new(io.segment.file(), io.offset_bytes, io.pieces, io.until))
        .collect();
    disk.write_batch(&mut writes);
    let mut results = writes.into_iter().map(|write| write.result);
    batch
        .iter()
        .zip(failures)
        .map(|(io, failure)| match failure {
            Some(failure) => Err(io::Error::other(failure)),
            None => results.next().expect("a result a write").inspect_err(|error| io.segment.fail(error)),
        })
        .collect()
}

impl Segment {
    /// A segment that cannot be read yet.
    pub(crate) fn new_closed(number: u32, file: Arc<dyn SegmentFile>) -> Self {
        Self {
            number,
            file,
            sequence: AtomicU64::new(0),
            pins: AtomicU32::new(CLOSED),
            unpublished: AtomicU32::new(0),
            syncing: Mutex::new(()),
            failure: Mutex::new(None),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn file(&self) -> &dyn SegmentFile {
        &*self.file
    }

    /// Makes all completed writes durable. Once this has failed, or a write has, it fails for ever.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let _syncing = self.syncing.lock();
        match self.failure() {
            Some(failure) => Err(io::Error::other(failure)),
            None => self.file.sync().inspect_err(|error| self.fail(error)),
        }
    }

    pub(crate) fn fail(&self, error: &io::Error) {
        self.failure.lock().get_or_insert_with(|| error.to_string());
    }

    /// A new life begins, and all that is on the file is to be written anew: what failed before says nothing of it. The
    /// caller owns the segment, which is closed.
    pub(crate) fn forget_failure(&self) {
        *self.failure.lock() = None;
    }

    /// The error after which nothing written here may be promised.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Starts a life: from now on readers may pin. The caller owns the segment, which is closed.
    pub(crate) fn open_life(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::Release);
        let before = self.pins.fetch_and(!CLOSED, Ordering::AcqRel);
        assert!(before & CLOSED != 0, "segment {} was opened twice", self.number);
    }

    /// Ends the life if nobody looks; afterwards no pin is given until `open_life`.
    pub(crate) fn close_if_unpinned(&self) -> bool {
        self.pins.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Pins that live now.
    pub(crate) fn pin_count(&self) -> u32 {
        self.pins.load(Ordering::Relaxed) & !CLOSED
    }

    pub(crate) fn written(&self, record_count: usize) {
        self.unpublished.fetch_add(record_count as u32, Ordering::AcqRel);
    }

    pub(crate) fn published(&self) {
        self.unpublished.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn is_published(&self) -> bool {
        self.unpublished.load(Ordering::Acquire) == 0
    }

    /// Where a record at `offset_bytes` stands, for its header checksum.
    pub(crate) fn place(&self, store_id: [u8; 16], offset_bytes: u32) -> RecordPlace {
        RecordPlace { store_id, sequence: self.sequence(), offset_bytes }
    }
}

/// Keeps a segment from being written over.
pub(crate) struct Pin {
    segment: Arc<Segment>,
}

impl Pin {
    /// `None` when the segment is closed.
    pub(crate) fn take(segment: &Arc<Segment>) -> Option<Self> {
        let before = segment.pins.fetch_add(1, Ordering::AcqRel);
        if before & CLOSED != 0 {
            segment.pins.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self { segment: Arc::clone(segment) })
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.segment.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A pinned range: the owner behind every `Bytes` that leaves the engine.
pub(crate) struct PinnedRange {
    pub(crate) pin: Pin,
    pub(crate) offset_bytes: u32,
    pub(crate) length_bytes: u32,
}

impl PinnedRange {
    /// The whole record at `location`.
    pub(crate) fn record(pin: Pin, location: Location) -> Self {
        Self { pin, offset_bytes: location.offset_bytes(), length_bytes: location.length_bytes() }
    }

    pub(crate) fn is_resident(&self) -> bool {
        self.pin.segment().file().is_resident(self.offset_bytes, self.length_bytes)
    }

    pub(crate) fn make_resident(&self) -> io::Result<()> {
        self.pin.segment().file().make_resident(self.offset_bytes, self.length_bytes)
    }

    /// As `make_resident`, for who looks at the header of a record alone.
    pub(crate) fn make_header_resident(&self) -> io::Result<()> {
        let length_bytes = self.length_bytes.min(RECORD_HEADER_BYTES_MAX as u32);
        self.pin.segment().file().make_resident(self.offset_bytes, length_bytes)
    }

    /// The bytes a header may take, and not those behind it: they may be on a page that nobody can read.
    pub(crate) fn header_bytes(&self) -> &[u8] {
        let length_bytes = self.length_bytes.min(RECORD_HEADER_BYTES_MAX as u32);
        self.pin.segment().file().slice(self.offset_bytes, length_bytes)
    }

    /// The same pin on `length_bytes` bytes from `skip_bytes` on.
    pub(crate) fn narrow(self, skip_bytes: u32, length_bytes: u32) -> Self {
        assert!(skip_bytes + length_bytes <= self.length_bytes, "a range is narrowed, never widened");
        Self { pin: self.pin, offset_bytes: self.offset_bytes + skip_bytes, length_bytes }
    }
}

impl AsRef<[u8]> for PinnedRange {
    fn as_ref(&self) -> &[u8] {
        self.pin.segment().file().slice(self.offset_bytes, self.length_bytes)
    }
}
