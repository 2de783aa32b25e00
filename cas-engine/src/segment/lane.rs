//! A lane: the open segment that takes the records of one lifetime class, and the appends to it.
//!
//! Records are appended by one thread a lane, the writer or, kept ones, the reclaimer: it plans the append, writes, and
//! commits it. The lock is for what others see, so it need not be held in between: the syncer takes it for the moment of
//! moving a watermark, whoever meets an error of the disk to take the segment away. It knows nothing of the index but the keys it notes for the footer.

use std::io::{self, IoSlice};
use std::sync::Arc;

use cask_index::{Key, Location};

use super::Segment;
use crate::disk::Until;
use crate::format::footer::{Footer, FooterEntry, footer_bytes};
use crate::format::record::{RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES_MAX, RecordHeader};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES, SegmentHeader};

/// A record about to be written.
pub(crate) struct Outgoing<'a> {
    pub(crate) key: Key,
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
}

impl Outgoing<'_> {
    fn length_bytes(&self) -> u32 {
        self.header.record_length_bytes() as u32
    }
}

/// A segment that takes records, or took its last and waits for its footer.
pub(crate) struct OpenSegment {
    pub(crate) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(crate) end_bytes: u32,
    pub(crate) entries: Vec<FooterEntry>,
    /// Entries known to be durable.
    pub(crate) synced_count: usize,
}

impl OpenSegment {
    /// Starts a life of a free segment: its header is durable before the first record, so that after a power cut an
    /// old footer is never believed over half-overwritten records.
    pub(crate) fn begin(
        segment: Arc<Segment>,
        sequence: u64,
        class: LaneClass,
        store_id: &[u8; 16],
        now_ms: u64,
    ) -> io::Result<Self> {
        let header = SegmentHeader { number: segment.number(), sequence, class, opened_ms: now_ms };
        segment.forget_failure();
        segment.file().write_at(0, &[IoSlice::new(&header.encode(store_id))])?;
        segment.sync()?;
        segment.open_life(sequence);
        Ok(Self { segment, end_bytes: SEGMENT_HEADER_BYTES, entries: Vec::new(), synced_count: 0 })
    }

    /// Bytes that records may still take, their footer entries counted.
    fn fits(&self, record_bytes: u64, record_count: usize, segment_size_bytes: u32) -> bool {
        u64::from(self.end_bytes) + record_bytes + footer_bytes(self.entries.len() + record_count)
            <= u64::from(segment_size_bytes)
    }

    /// Locations of the entries that are not known to be durable.
    pub(crate) fn unsynced(&self) -> impl Iterator<Item = (Key, Location)> + '_ {
        let number = self.segment.number();
        self.entries[self.synced_count..].iter().map(move |entry| (entry.key, location_of(number, entry)))
    }

    /// Writes the footer. All records are durable (see the syncer), so a footer never speaks of lost ones.
    pub(crate) fn write_footer(&self, sealed_ms: u64, segment_size_bytes: u32) -> io::Result<()> {
        let footer = Footer {
            sequence: self.segment.sequence(),
            sealed_ms,
            end_bytes: self.end_bytes,
            entries: self.entries.clone(),
        };
        let bytes = footer.encode();
        self.segment.file().write_at(segment_size_bytes - bytes.len() as u32, &[IoSlice::new(&bytes)])
    }
}

/// The location a footer entry of segment `number` speaks of.
pub(crate) fn location_of(number: u32, entry: &FooterEntry) -> Location {
    Location::new(number, entry.offset_bytes, entry.length_bytes)
}

/// One open segment at most.
pub(crate) struct Lane {
    segment_size_bytes: u32,
    store_id: [u8; 16],
    pub(crate) open: Option<OpenSegment>,
}

impl Lane {
    pub(crate) fn new(segment_size_bytes: u32, store_id: [u8; 16]) -> Self {
        Self { segment_size_bytes, store_id, open: None }
    }

    /// How many of the records, from the first, fit into the open segment: 0 when there is none.
    pub(crate) fn fitting_count(&self, records: &[Outgoing<'_>]) -> usize {
        let Some(open) = &self.open else { return 0 };
        let mut bytes = 0;
        let fits = |(position, record): &(usize, &Outgoing<'_>)| {
            bytes += u64::from(record.length_bytes());
            open.fits(bytes, position + 1, self.segment_size_bytes)
        };
        records.iter().enumerate().take_while(fits).count()
    }

    /// Where the records go, which fit, and their headers; nothing is changed by it.
    pub(crate) fn plan(&self, records: &[Outgoing<'_>]) -> Append {
        let open = self.open.as_ref().expect("records are appended to an open lane");
        let mut headers = vec![[0_u8; RECORD_HEADER_BYTES_MAX]; records.len()];
        let mut entries = Vec::with_capacity(records.len());
        let mut offset_bytes = open.end_bytes;
        for (record, header) in records.iter().zip(&mut headers) {
            record.header.encode_into(&open.segment.place(self.store_id, offset_bytes), header);
            entries.push(FooterEntry {
                key: record.key,
                offset_bytes,
                length_bytes: record.length_bytes(),
                kind: record.header.kind,
                stamp: record.header.stamp,
            });
            offset_bytes += record.length_bytes();
        }
        Append {
            segment: Arc::clone(&open.segment),
            offset_bytes: open.end_bytes,
            end_bytes: offset_bytes,
            headers,
            entries,
        }
    }

    /// The append is on the disk. False when the segment was taken out of use meanwhile: then it counts as failed.
    pub(crate) fn commit(&mut self, append: &Append, until: Until) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| Arc::ptr_eq(&open.segment, &append.segment)) else {
            return false;
        };
        assert_eq!(open.end_bytes, append.offset_bytes, "a lane has one writer");
        open.end_bytes = append.end_bytes;
        open.entries.extend_from_slice(&append.entries);
        if until == Until::Synced {
            open.synced_count = open.entries.len();
        }
        true
    }

    /// Appends records that fit, in one positioned write. On an error nothing may be believed about the range.
    pub(crate) fn append(&mut self, records: &[Outgoing<'_>]) -> io::Result<Vec<Location>> {
        let append = self.plan(records);
        append.segment.file().write_at(append.offset_bytes, &append.pieces(records))?;
        assert!(self.commit(&append, Until::Written), "the lane is held");
        Ok(append.locations().collect())
    }
}

/// Records on their way into an open segment. The lane need not be held while they are written: nobody else writes to
/// its segment, and what is written is not known to anybody before `commit`.
pub(crate) struct Append {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset_bytes: u32,
    end_bytes: u32,
    headers: Vec<[u8; RECORD_HEADER_BYTES_MAX]>,
    entries: Vec<FooterEntry>,
}

impl Append {
    /// What to write at `offset_bytes`. `records` are those that were planned.
    pub(crate) fn pieces<'a>(&'a self, records: &[Outgoing<'a>]) -> Vec<IoSlice<'a>> {
        const ZEROS: [u8; RECORD_ALIGNMENT_BYTES] = [0; RECORD_ALIGNMENT_BYTES];
        assert_eq!(records.len(), self.entries.len(), "the records that were planned are written");
        let mut pieces = Vec::with_capacity(records.len() * 3);
        for (record, header) in records.iter().zip(&self.headers) {
            let header = &header[..record.header.length_bytes()];
            let padding = record.length_bytes() as usize - header.len() - record.payload.len();
            pieces.extend(
                [header, record.payload, &ZEROS[..padding]]
                    .into_iter()
                    .filter(|piece| !piece.is_empty())
                    .map(IoSlice::new),
            );
        }
        pieces
    }

    /// Where the records stand then.
    pub(crate) fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        let number = self.segment.number();
        self.entries.iter().map(move |entry| location_of(number, entry))
    }

    /// Bytes of the records.
    pub(crate) fn length_bytes(&self) -> u32 {
        self.end_bytes - self.offset_bytes
    }
}
