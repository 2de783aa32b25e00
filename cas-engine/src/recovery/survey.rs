//! The first step of opening: which segments there are, which life each is in, where the log ends.
//!
//! Two blocks of a sealed segment are read, header and trailer. Those without a trailer of their life are scanned, since
//! the lanes must know where to go on. Everything that cannot be read is left out and logged; only a folder that cannot be
//! listed stops a start.

use std::io::IoSlice;
use std::sync::Arc;

use cask_index::{Keyer, Location};
use parking_lot::Mutex;

use super::scan::{Scanned, scan};
use super::{Threads, for_each};
use crate::config::Plan;
use crate::disk::{Disk, SegmentFile};
use crate::error::OpenError;
use crate::format::footer::{TRAILER_BYTES, Trailer};
use crate::format::record::{RECORD_HEADER_BYTES_MAX, RecordHeader, RecordPlace};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::superblock::Superblock;
use crate::format::touches::TouchSnapshot;
use crate::segment::Segment;
use crate::segment::lane::{Lane, OpenSegment};
use crate::segment::ledger::{Ledger, Sealed};
use crate::touch_snapshot;

/// The store's segments, and what is still to be entered into the index.
pub(crate) struct Surveyed {
    pub(crate) ledger: Ledger,
    pub(crate) lanes: [Lane; 4],
    /// Segments that take no more records and have no footer yet.
    pub(crate) sealing: Vec<OpenSegment>,
    /// Newest first.
    pub(crate) lives: Vec<Life>,
    pub(crate) snapshot: TouchSnapshot,
    pub(crate) sequence_max: u64,
    pub(crate) entry_count: u64,
    pub(crate) corrupt_record_count: u64,
}

/// One life of a segment as its file tells it.
#[derive(Debug)]
pub(crate) struct Life {
    pub(super) header: SegmentHeader,
    pub(super) contents: Contents,
}

#[derive(Debug)]
pub(super) enum Contents {
    /// Sealed; the entries are read when they are entered.
    Footer(Trailer),
    /// Not sealed.
    Records(Scanned),
}

impl Life {
    pub(super) fn entry_count(&self) -> u64 {
        match &self.contents {
            Contents::Footer(trailer) => u64::from(trailer.entry_count),
            Contents::Records(found) => found.entries.len() as u64,
        }
    }

    /// When the last record can have been written, at the latest.
    pub(super) fn written_ms(&self) -> u64 {
        match &self.contents {
            Contents::Footer(trailer) => trailer.sealed_ms,
            Contents::Records(_) => self.header.opened_ms,
        }
    }
}

type File = Arc<dyn SegmentFile>;

/// A segment file, and the life it is in; `None`: it holds nothing that can be used.
struct Examined {
    number: u32,
    file: File,
    life: Option<Life>,
}

/// Reads the store's files. `plan` may be of another `max_size` than the store had: segments beyond it are removed.
pub(crate) fn survey(
    disk: &Arc<dyn Disk>,
    plan: &Plan,
    superblock: &Superblock,
    keyer: &Keyer,
    threads: Threads,
) -> Result<Surveyed, OpenError> {
    let io = |action: &'static str| move |source| OpenError::Io { action, path: "segments".into(), source };
    let numbers = segment_numbers(&**disk).map_err(io("list"))?;
    let examined = Mutex::new(Vec::with_capacity(numbers.len()));
    for_each(threads.reading, &numbers, |number| {
        if let Some(one) = examine(&**disk, *number, plan, superblock, keyer) {
            examined.lock().push(one);
        }
        true
    });
    // Threads finish in any order.
    let mut examined = examined.into_inner();
    examined.sort_unstable_by_key(|one| (one.life.as_ref().map_or(0, |life| life.header.sequence), one.number));
    shrink(&**disk, plan, &mut examined).map_err(io("remove"))?;

    let snapshot = disk.read_small(touch_snapshot::FILE_NAME).unwrap_or_else(|error| {
        tracing::warn!(event = "touches_not_read", %error, "the order of eviction is that of writing");
        None
    });
    let snapshot = snapshot.and_then(|bytes| TouchSnapshot::decode(&bytes)).unwrap_or_default();
    // An orderly close knows every segment in use; the others were free, and what they hold was dropped.
    let was_free = |life: &Life| {
        let place = (life.header.number, life.header.sequence);
        superblock.clean && !snapshot.segments.is_empty() && !snapshot.segments.contains_key(&place)
    };

    let numbers_max = examined.iter().map(|one| one.number + 1).max().unwrap_or(0).max(plan.segment_count_max);
    let ledger = Ledger::new(Arc::clone(disk), plan.geometry.segment_size_bytes, plan.segment_count_max, numbers_max);
    let mut lanes = LaneClass::ALL.map(|_| Lane::new(plan.geometry.segment_size_bytes, superblock.store_id));
    let (mut free, mut sealed, mut sealing, mut lives) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut sequence_max = 0;
    // In order of sequence, so that free ones are used again oldest first: see the ledger.
    for Examined { number, file, life } in examined {
        let segment = Arc::new(Segment::new_closed(number, file));
        ledger.add_existing(Arc::clone(&segment));
        sequence_max = sequence_max.max(life.as_ref().map_or(0, |life| life.header.sequence));
        let Some(life) = life.filter(|life| !was_free(life)) else {
            free.push(number);
            continue;
        };
        let sequence = life.header.sequence;
        segment.open_life(sequence);
        match &life.contents {
            Contents::Footer(trailer) => {
                let holds_actions = life.header.class == LaneClass::Action;
                sealed.push(Sealed { number, sequence, sealed_ms: trailer.sealed_ms, retry_at_ms: 0, holds_actions });
            }
            Contents::Records(found) => {
                make_durable(&segment, &life.header, superblock);
                let (end_bytes, entries) = (found.end_bytes, found.entries.clone());
                let open = OpenSegment { segment, end_bytes, synced_count: entries.len(), entries };
                if found.is_unreadable {
                    sealing.push(open);
                } else {
                    // Of each class the newest stays open, the others get their footer.
                    sealing.extend(lanes[life.header.class.index()].open.replace(open));
                }
            }
        }
        lives.push(life);
    }
    ledger.recovered(free, sealed, sequence_max);
    lives.reverse();
    let corrupt = |life: &Life| match &life.contents {
        Contents::Footer(_) => 0,
        Contents::Records(found) => found.corrupt_count,
    };
    Ok(Surveyed {
        ledger,
        lanes,
        sealing,
        entry_count: lives.iter().map(Life::entry_count).sum(),
        corrupt_record_count: lives.iter().map(corrupt).sum(),
        lives,
        snapshot,
        sequence_max,
    })
}

/// A killed process may have left header and records in the page cache only. They are reported present, and appended to, from now
/// on, so they have to be as durable as the promise says. After a failed sync the kernel takes the pages for clean, so the
/// header, on which everything in the segment depends, is written again. When the disk refuses, the segment is quarantined
/// at the next sync; what was found in it stays.
fn make_durable(segment: &Segment, header: &SegmentHeader, superblock: &Superblock) {
    let bytes = header.encode(&superblock.store_id);
    let durable = segment.file().write_at(0, &[IoSlice::new(&bytes)]).and_then(|()| segment.sync());
    if let Err(error) = durable {
        segment.fail(&error);
        tracing::error!(event = "sync_failed", segment = header.number, %error, "what a crash left may not be durable");
    }
}

fn segment_numbers(disk: &dyn Disk) -> std::io::Result<Vec<u32>> {
    let mut numbers = disk.segment_numbers()?;
    numbers.sort_unstable();
    numbers.retain(|number| {
        let in_range = *number < Location::SEGMENT_COUNT_MAX;
        if !in_range {
            tracing::warn!(event = "stray_file", number, "a segment number out of range, left alone");
        }
        in_range
    });
    Ok(numbers)
}

fn examine(disk: &dyn Disk, number: u32, plan: &Plan, superblock: &Superblock, keyer: &Keyer) -> Option<Examined> {
    let size_bytes = plan.geometry.segment_size_bytes;
    let file = match disk.open_segment(number, size_bytes) {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(event = "segment_unreadable", number, %error, "left out; its blobs are misses");
            return None;
        }
    };
    let trailer = read(&*file, size_bytes - TRAILER_BYTES, TRAILER_BYTES)
        .and_then(|trailer| Trailer::decode(trailer, size_bytes));
    let header = read(&*file, 0, SEGMENT_HEADER_BYTES)
        .and_then(|header| SegmentHeader::decode(header, number, &superblock.store_id))
        .or_else(|| header_from_trailer(&*file, number, trailer?, superblock));
    let life = header.map(|header| {
        let contents = match trailer.filter(|trailer| trailer.sequence == header.sequence) {
            Some(trailer) => Contents::Footer(trailer),
            None => Contents::Records(scan(&*file, size_bytes, superblock.store_id, header.sequence, keyer)),
        };
        Life { header, contents }
    });
    Some(Examined { number, file, life })
}

/// `None`, and logged, where the device gives no answer.
pub(super) fn read(file: &dyn SegmentFile, offset_bytes: u32, length_bytes: u32) -> Option<&[u8]> {
    match file.make_resident(offset_bytes, length_bytes) {
        Ok(()) => Some(file.slice(offset_bytes, length_bytes)),
        Err(error) => {
            tracing::error!(event = "read_failed", offset = offset_bytes, %error);
            None
        }
    }
}

/// A damaged header must not cost the whole segment: the trailer of a sealed one knows its life, and the first record,
/// which is tied to store and life, vouches for it.
fn header_from_trailer(
    file: &dyn SegmentFile,
    number: u32,
    trailer: Trailer,
    superblock: &Superblock,
) -> Option<SegmentHeader> {
    let sequence = trailer.sequence;
    let place = RecordPlace { store_id: superblock.store_id, sequence, offset_bytes: SEGMENT_HEADER_BYTES };
    let first = read(file, SEGMENT_HEADER_BYTES, RECORD_HEADER_BYTES_MAX as u32)?;
    RecordHeader::decode(first, &place)?;
    tracing::error!(event = "segment_header_damaged", number, sequence, "taken from the footer instead");
    // A sealed segment takes no more records; what is left of its class is the order of its reclaim, which is strictest so.
    Some(SegmentHeader { number, sequence, class: LaneClass::Action, opened_ms: 0 })
}

/// `max_size` was lowered: free files go first, then the oldest segments. `examined` is in order of sequence, free first.
fn shrink(disk: &dyn Disk, plan: &Plan, examined: &mut Vec<Examined>) -> std::io::Result<()> {
    let surplus = examined.len().saturating_sub(plan.segment_count_max as usize);
    let free_count = examined.iter().take_while(|one| one.life.is_none()).count();
    // One less than there may be, so that reclaim has a segment to move to what it keeps.
    let surplus = if surplus > 0 && surplus >= free_count { surplus + 1 } else { surplus };
    if surplus > free_count {
        tracing::warn!(
            event = "store_shrunk",
            segments = surplus - free_count,
            "max_size was lowered: the oldest segments are dropped"
        );
    }
    examined.drain(..surplus).try_for_each(|one| disk.remove_segment(one.number))
}
