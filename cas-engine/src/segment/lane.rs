//! A lane: the open segment that takes the records of one lifetime class, and the appends to it.
//!
//! A lane is owned by whoever holds its lock: the writer for new records, the reclaimer for kept ones, the syncer for
//! the moment of moving a watermark. It knows nothing of the index but the keys it notes for the footer.

use std::io::{self, IoSlice};
use std::sync::Arc;

use cask_index::{Key, Location};

use super::Segment;
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

    /// Appends records that fit, in one positioned write. On an error nothing may be believed about the range.
    pub(crate) fn append(&mut self, records: &[Outgoing<'_>]) -> io::Result<Vec<Location>> {
        const ZEROS: [u8; RECORD_ALIGNMENT_BYTES] = [0; RECORD_ALIGNMENT_BYTES];
        let open = self.open.as_mut().expect("records are appended to an open lane");
        let mut headers = vec![[0_u8; RECORD_HEADER_BYTES_MAX]; records.len()];
        let mut locations = Vec::with_capacity(records.len());
        let mut offset_bytes = open.end_bytes;
        for (record, header) in records.iter().zip(&mut headers) {
            record.header.encode_into(&open.segment.place(self.store_id, offset_bytes), header);
            locations.push(Location::new(open.segment.number(), offset_bytes, record.length_bytes()));
            offset_bytes += record.length_bytes();
        }
        let mut pieces = Vec::with_capacity(records.len() * 3);
        for (record, header) in records.iter().zip(&headers) {
            let header = &header[..record.header.length_bytes()];
            let padding = record.length_bytes() as usize - header.len() - record.payload.len();
            pieces.extend(
                [header, record.payload, &ZEROS[..padding]]
                    .into_iter()
                    .filter(|piece| !piece.is_empty())
                    .map(IoSlice::new),
            );
        }
        open.segment.file().write_at(open.end_bytes, &pieces)?;
        open.end_bytes = offset_bytes;
        open.entries.extend(records.iter().zip(&locations).map(|(record, location)| FooterEntry {
            key: record.key,
            offset_bytes: location.offset_bytes(),
            length_bytes: location.length_bytes(),
            kind: record.header.kind,
            stamp: record.header.stamp,
        }));
        Ok(locations)
    }
}
