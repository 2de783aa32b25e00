//! Opening: from files to a running store.
//!
//! The footers of the sealed segments are the checkpoint, there is no other: 32 bytes a record are read, in parallel.
//! Segments without a footer (at most a few) are scanned record by record; checksums decide what counts, and a damaged
//! record costs only itself. Then the index is filled in order of sequence, so that the newest record of a key wins,
//! and heads of large blobs that lost a part are taken out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cask_index::{EpochLength, Inserted, Key, Keyer, Location, Table, TouchEpoch};
use parking_lot::Mutex;

use crate::config::Plan;
use crate::disk::{Disk, SegmentFile};
use crate::error::OpenError;
use crate::format::action::ActionPayload;
use crate::format::footer::{Footer, FooterEntry, TRAILER_BYTES};
use crate::format::record::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES_MAX, RecordHeader, RecordKind, RecordPlace, payload_checksum,
};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::format::superblock::Superblock;
use crate::format::touches::TouchSnapshot;
use crate::segment::Segment;
use crate::segment::lane::{Lane, OpenSegment, location_of};
use crate::segment::ledger::{Ledger, Sealed};
use crate::touch_snapshot;

/// What a store consists of once its files are read.
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    pub(crate) index: Table,
    pub(crate) lanes: [Lane; 4],
    /// Full segments that a crash left without footer.
    pub(crate) sealing: Vec<OpenSegment>,
    pub(crate) sequence_max: u64,
    pub(crate) stamp_max: u64,
    pub(crate) blob_count: u64,
    pub(crate) action_count: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) corrupt_record_count: u64,
}

/// One life of a segment as its file tells it.
struct Life {
    header: SegmentHeader,
    file: Arc<dyn SegmentFile>,
    entries: Vec<FooterEntry>,
    end_bytes: u32,
    /// `None`: no footer.
    sealed_ms: Option<u64>,
    corrupt_count: u64,
}

/// Reads the store's files.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    plan: &Plan,
    superblock: &Superblock,
    keyer: &Keyer,
    now_ms: u64,
) -> Result<Recovered, OpenError> {
    let io = |action: &'static str| move |source| OpenError::Io { action, path: "segments".into(), source };
    let (mut lives, mut free) = read_headers(disk, plan, superblock).map_err(io("read"))?;
    shrink(disk, plan, &mut lives, &mut free).map_err(io("remove"))?;
    let numbers_max = lives.iter().map(|life| life.header.number).chain(free.iter().map(|(number, _)| *number)).max();
    let numbers_max = plan.segment_count_max.max(numbers_max.map_or(0, |number| number + 1));
    read_entries(&mut lives, plan, superblock, keyer);
    lives.sort_unstable_by_key(|life| life.header.sequence);

    let entry_count: u64 = lives.iter().map(|life| life.entries.len() as u64).sum();
    let index = Table::with_capacity(plan.index_capacity.max(entry_count / 4 * 5)).map_err(|source| OpenError::Io {
        action: "allocate",
        path: "index".into(),
        source,
    })?;
    let snapshot = disk.read_small(touch_snapshot::FILE_NAME).map_err(io("read"))?;
    let snapshot = snapshot.and_then(|bytes| TouchSnapshot::decode(&bytes)).unwrap_or_default();
    if superblock.clean && !snapshot.segments.is_empty() {
        // An orderly close knows every segment in use; the others were free, and what they hold was dropped.
        let (known, released): (Vec<Life>, Vec<Life>) = lives
            .into_iter()
            .partition(|life| snapshot.segments.contains_key(&(life.header.number, life.header.sequence)));
        lives = known;
        free.extend(released.into_iter().map(|life| (life.header.number, life.file)));
    }
    let mut filling = Filling {
        index: &index,
        keyer,
        superblock,
        plan,
        snapshot: &snapshot,
        now_ms,
        blob_count: 0,
        action_count: 0,
        stored_bytes: 0,
    };
    filling.enter_all(&lives);
    let Filling { blob_count, action_count, stored_bytes, .. } = filling;

    let ledger = Ledger::new(Arc::clone(disk), plan.geometry.segment_size_bytes, plan.segment_count_max, numbers_max);
    let stamp_max = lives.iter().flat_map(|life| &life.entries).map(|entry| entry.stamp).max().unwrap_or(0);
    let sequence_max = lives.last().map_or(0, |life| life.header.sequence);
    let corrupt_record_count = lives.iter().map(|life| life.corrupt_count).sum::<u64>();
    for (number, file) in &free {
        ledger.add_existing(Arc::new(Segment::new_closed(*number, Arc::clone(file))));
    }
    let mut lanes = LaneClass::ALL.map(|_| Lane::new(plan.geometry.segment_size_bytes, superblock.store_id));
    let (mut sealed, mut sealing) = (Vec::new(), Vec::new());
    for life in lives {
        let segment = Arc::new(Segment::new_closed(life.header.number, life.file));
        segment.open_life(life.header.sequence);
        ledger.add_existing(Arc::clone(&segment));
        match life.sealed_ms {
            Some(sealed_ms) => sealed.push(Sealed {
                number: life.header.number,
                sequence: life.header.sequence,
                sealed_ms,
                retry_at_ms: 0,
            }),
            None => {
                let open = OpenSegment { segment, end_bytes: life.end_bytes, entries: life.entries, synced_count: 0 };
                // In order of sequence: of each class the newest stays open, the others get their footer.
                sealing.extend(lanes[life.header.class.index()].open.replace(open));
            }
        }
    }
    ledger.recovered(free.into_iter().map(|(number, _)| number).collect(), sealed, sequence_max);
    Ok(Recovered {
        ledger,
        index,
        lanes,
        sealing,
        sequence_max,
        stamp_max,
        blob_count,
        action_count,
        stored_bytes,
        corrupt_record_count,
    })
}

type FreeFile = (u32, Arc<dyn SegmentFile>);

fn read_headers(
    disk: &Arc<dyn Disk>,
    plan: &Plan,
    superblock: &Superblock,
) -> std::io::Result<(Vec<Life>, Vec<FreeFile>)> {
    let (mut lives, mut free) = (Vec::new(), Vec::new());
    for number in disk.segment_numbers()? {
        if number >= Location::SEGMENT_COUNT_MAX {
            tracing::warn!(event = "stray_file", number, "a segment number out of range, left alone");
            continue;
        }
        let file = disk.open_segment(number, plan.geometry.segment_size_bytes)?;
        let header = file.make_resident(0, SEGMENT_HEADER_BYTES).map(|()| {
            SegmentHeader::decode(file.slice(0, SEGMENT_HEADER_BYTES), number, &superblock.store_id)
                .or_else(|| header_from_footer(&*file, number, plan, superblock))
        });
        match header {
            Ok(Some(header)) => lives.push(Life {
                header,
                file,
                entries: Vec::new(),
                end_bytes: SEGMENT_HEADER_BYTES,
                sealed_ms: None,
                corrupt_count: 0,
            }),
            Ok(None) => free.push((number, file)),
            Err(error) => {
                tracing::error!(event = "segment_unreadable", number, %error, "its blobs are misses");
                free.push((number, file));
            }
        }
    }
    Ok((lives, free))
}

/// A damaged header must not cost the whole segment: the trailer of a sealed one knows its life, and the first record, which is
/// tied to store and life, vouches for it.
fn header_from_footer(
    file: &dyn SegmentFile,
    number: u32,
    plan: &Plan,
    superblock: &Superblock,
) -> Option<SegmentHeader> {
    let trailer_at = plan.geometry.segment_size_bytes - TRAILER_BYTES;
    file.make_resident(trailer_at, TRAILER_BYTES).ok()?;
    let sequence = Footer::sequence_of(file.slice(trailer_at, TRAILER_BYTES))?;
    let place = RecordPlace { store_id: superblock.store_id, sequence, offset_bytes: SEGMENT_HEADER_BYTES };
    let header_bytes = RECORD_HEADER_BYTES_MAX as u32;
    file.make_resident(SEGMENT_HEADER_BYTES, header_bytes).ok()?;
    RecordHeader::decode(file.slice(SEGMENT_HEADER_BYTES, header_bytes), &place)?;
    tracing::error!(event = "segment_header_damaged", number, sequence, "taken from the footer instead");
    // A sealed segment takes no more records, so its class no longer matters.
    Some(SegmentHeader { number, sequence, class: LaneClass::Reinserted, opened_ms: 0 })
}

/// `max_size` was lowered: free files go first, then the oldest segments.
fn shrink(disk: &Arc<dyn Disk>, plan: &Plan, lives: &mut Vec<Life>, free: &mut Vec<FreeFile>) -> std::io::Result<()> {
    let surplus = (lives.len() + free.len()).saturating_sub(plan.segment_count_max as usize);
    // One less than there may be, so that reclaim has a segment to move to what it keeps.
    let surplus = if surplus > 0 && surplus >= free.len() { surplus + 1 } else { surplus };
    lives.sort_unstable_by_key(|life| life.header.sequence);
    let from_free = surplus.min(free.len());
    let gone = free.drain(..from_free).map(|(number, _)| number).collect::<Vec<_>>();
    let oldest = lives.drain(..surplus - from_free).map(|life| life.header.number).collect::<Vec<_>>();
    if !oldest.is_empty() {
        tracing::warn!(
            event = "store_shrunk",
            segments = oldest.len(),
            "max_size was lowered: the oldest segments are dropped"
        );
    }
    gone.into_iter().chain(oldest).try_for_each(|number| disk.remove_segment(number))
}

fn read_entries(lives: &mut [Life], plan: &Plan, superblock: &Superblock, keyer: &Keyer) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(lives.len().max(1));
    let next = AtomicUsize::new(0);
    let lives: Vec<Mutex<&mut Life>> = lives.iter_mut().map(Mutex::new).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(life) = lives.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut life = life.lock();
                    if !life.read_footer(plan.geometry.segment_size_bytes) {
                        life.scan(plan.geometry.segment_size_bytes, superblock, keyer);
                    }
                }
            });
        }
    });
}

impl Life {
    fn read_footer(&mut self, size_bytes: u32) -> bool {
        let read = |length_bytes: u32| {
            self.file.make_resident(size_bytes - length_bytes, length_bytes).ok()?;
            Some(self.file.slice(size_bytes - length_bytes, length_bytes))
        };
        let footer = read(TRAILER_BYTES)
            .and_then(|trailer| Footer::announced_bytes(trailer, self.header.sequence, size_bytes))
            .and_then(|announced| Footer::decode(read(announced)?, size_bytes));
        let Some(footer) = footer else { return false };
        self.entries = footer.entries;
        self.end_bytes = footer.end_bytes;
        self.sealed_ms = Some(footer.sealed_ms);
        true
    }

    /// Finds records by their headers. After anything else it goes on at the next place where one may stand: a damaged
    /// record, or one that a power cut tore, does not hide those behind it.
    fn scan(&mut self, size_bytes: u32, superblock: &Superblock, keyer: &Keyer) {
        if let Err(error) = self.file.make_resident(0, size_bytes) {
            tracing::error!(event = "segment_unreadable", number = self.header.number, %error, "reading what can be read is left to fsck");
            return;
        }
        let mut offset_bytes = SEGMENT_HEADER_BYTES;
        while offset_bytes + (RECORD_ALIGNMENT_BYTES as u32) <= size_bytes {
            let bytes = self.file.slice(offset_bytes, size_bytes - offset_bytes);
            let place = RecordPlace { store_id: superblock.store_id, sequence: self.header.sequence, offset_bytes };
            let header = RecordHeader::decode(&bytes[..bytes.len().min(RECORD_HEADER_BYTES_MAX)], &place)
                .filter(|header| header.record_length_bytes() <= bytes.len().min(Location::LENGTH_BYTES_MAX as usize));
            let Some(header) = header else {
                offset_bytes += RECORD_ALIGNMENT_BYTES as u32;
                continue;
            };
            let payload = &bytes[header.length_bytes()..][..header.stored_length_bytes as usize];
            match key_of(&header, payload, keyer).filter(|_| payload_checksum(payload) == header.payload_checksum) {
                Some(key) => {
                    let length_bytes = header.record_length_bytes() as u32;
                    self.entries.push(FooterEntry {
                        key,
                        offset_bytes,
                        length_bytes,
                        kind: header.kind,
                        stamp: header.stamp,
                    });
                    offset_bytes += length_bytes;
                    self.end_bytes = offset_bytes;
                }
                None => {
                    self.corrupt_count += 1;
                    offset_bytes += RECORD_ALIGNMENT_BYTES as u32;
                }
            }
        }
    }
}

/// The index key a record is entered under.
fn key_of(header: &RecordHeader, payload: &[u8], keyer: &Keyer) -> Option<Key> {
    match header.kind {
        RecordKind::Blob | RecordKind::Head => Some(keyer.blob(&header.digest)),
        RecordKind::Part => header.part.map(|tag| keyer.part(tag.nonce, tag.number)),
        RecordKind::Action => {
            let payload = ActionPayload::decode(&bytes::Bytes::copy_from_slice(payload))?;
            Some(keyer.action(payload.instance()?, &header.digest))
        }
    }
}

/// Fills the index. Blobs and parts first: records of one key are alike, so the newest segment's will do. Then heads and
/// actions in order of their stamps: reclaim may have moved an older one into a newer segment, and a head counts only if
/// all its parts are there.
struct Filling<'a> {
    index: &'a Table,
    keyer: &'a Keyer,
    superblock: &'a Superblock,
    plan: &'a Plan,
    snapshot: &'a TouchSnapshot,
    now_ms: u64,
    blob_count: u64,
    action_count: u64,
    stored_bytes: u64,
}

/// What the snapshot has of a segment, a byte a record.
type SavedTouches<'a> = Option<&'a [u8]>;

impl<'a> Filling<'a> {
    /// `lives` in order of sequence.
    fn enter_all(&mut self, lives: &[Life]) {
        let mut stamped = Vec::new();
        for life in lives {
            let saved = self.saved_of(life);
            for (position, entry) in life.entries.iter().enumerate() {
                match entry.kind {
                    RecordKind::Blob | RecordKind::Part => self.enter(life, saved, position, entry),
                    RecordKind::Head | RecordKind::Action => stamped.push((entry.stamp, life, position)),
                }
            }
        }
        stamped.sort_by_key(|(stamp, _, _)| *stamp);
        for (_, life, position) in stamped {
            let entry = &life.entries[position];
            if entry.kind == RecordKind::Action || self.is_complete(life, entry) {
                self.enter(life, self.saved_of(life), position, entry);
            }
        }
    }

    /// Looked up once a segment, not once a record.
    fn saved_of(&self, life: &Life) -> SavedTouches<'a> {
        self.snapshot.segments.get(&(life.header.number, life.header.sequence)).map(Vec::as_slice)
    }

    /// When and how the record was last touched; `None` for one that a clean store had dropped.
    fn touch(&self, life: &Life, saved: SavedTouches<'_>, position: usize) -> Option<(TouchEpoch, bool)> {
        let epochs = self.plan.epochs;
        if let Some(raw) = saved.and_then(|touches| touches.get(position)) {
            match touch_snapshot::restore(self.snapshot, epochs, *raw, self.now_ms) {
                Some(touch) => return Some(touch),
                // A clean store's snapshot knows every entry: what is not in it was dropped (damaged, superseded).
                None if self.superblock.clean => return None,
                None => {}
            }
        }
        let written_ms = life.sealed_ms.unwrap_or(life.header.opened_ms).min(self.now_ms);
        let ring_ms = u64::from(EpochLength::AGE_PERIODS_MAX).saturating_mul(epochs.length_ms);
        let known = self.now_ms - written_ms < ring_ms;
        Some((if known { epochs.epoch_at(written_ms) } else { TouchEpoch::OLD }, false))
    }

    fn enter(&mut self, life: &Life, saved: SavedTouches<'_>, position: usize, entry: &FooterEntry) {
        let Some((touched, hit)) = self.touch(life, saved, position) else { return };
        match self.index.insert(entry.key, location_of(life.header.number, entry), touched) {
            Ok(Inserted::New) => match entry.kind {
                RecordKind::Blob | RecordKind::Head => self.blob_count += 1,
                RecordKind::Action => self.action_count += 1,
                RecordKind::Part => {}
            },
            Ok(Inserted::Replaced(before)) => self.stored_bytes -= u64::from(before.location.length_bytes()),
            Err(full) => {
                tracing::warn!(event = "index_full", %full, "an entry is left out; raise index_capacity");
                return;
            }
        }
        self.stored_bytes += u64::from(entry.length_bytes);
        if hit {
            self.index.touch(entry.key, touched);
        }
    }

    /// A head is published after its parts, but a power cut may keep the one and lose the other.
    fn is_complete(&self, life: &Life, entry: &FooterEntry) -> bool {
        let place = RecordPlace {
            store_id: self.superblock.store_id,
            sequence: life.header.sequence,
            offset_bytes: entry.offset_bytes,
        };
        let resident = life.file.make_resident(entry.offset_bytes, entry.length_bytes);
        let head = resident
            .ok()
            .and_then(|()| RecordHeader::decode(life.file.slice(entry.offset_bytes, entry.length_bytes), &place));
        head.is_some_and(|head| {
            let tag = head.part.unwrap_or_default();
            let part_count = head.digest.size_bytes().div_ceil(u64::from(self.plan.geometry.part_size_bytes));
            u64::from(tag.number) == part_count
                && (0..tag.number).all(|number| self.index.get(self.keyer.part(tag.nonce, number)).is_some())
        })
    }
}
