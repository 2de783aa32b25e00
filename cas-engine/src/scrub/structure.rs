//! Checking what is no record: a sealed segment's header and footer.
//!
//! A running store needs neither, until reclaim asks the footer what the segment holds, and a restart asks both. So what
//! rotted is written again while everything needed is at hand: the life is known, and the records say the rest. All of it
//! happens under a pin, so that the segment cannot begin another life; a crash in the middle leaves a damaged footer,
//! as it was.

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use super::Reading;
use crate::core::Core;
use crate::format::footer::{Footer, FooterEntry, TRAILER_BYTES, footer_bytes};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::segment::ledger::Sealed;
use crate::segment::{Pin, Segment};
use crate::walk::{LifePlace, Mapped, Stands, key_of, walk};

impl Core {
    /// Checks header and footer; gives what the footer lists. `None` when the segment lives another life by now.
    pub(super) fn check_structure(&self, sealed: Sealed, reading: &mut Reading) -> Option<Vec<FooterEntry>> {
        let pin = Pin::take(self.ledger.segment(sealed.number)?)?;
        if pin.segment().sequence() != sealed.sequence {
            return None;
        }
        reading.bytes += u64::from(SEGMENT_HEADER_BYTES);
        self.check_header(pin.segment(), sealed);
        let footer = self.read_footer(sealed).or_else(|| self.restore_footer(sealed))?;
        reading.bytes += footer_bytes(footer.entries.len());
        Some(footer.entries)
    }

    /// The caller holds a pin.
    fn check_header(&self, segment: &Segment, sealed: Sealed) {
        let store_id = &self.superblock.store_id;
        let read = segment.file().make_resident(0, SEGMENT_HEADER_BYTES);
        let bytes = read.map(|()| segment.file().slice(0, SEGMENT_HEADER_BYTES)).unwrap_or_default();
        let found =
            SegmentHeader::decode(bytes, sealed.number, store_id).filter(|header| header.sequence == sealed.sequence);
        if found.is_some_and(|header| header.is_whole(bytes, store_id)) {
            return;
        }
        // A sealed segment takes no more records, so a lost class no longer matters.
        let header = found.unwrap_or(SegmentHeader {
            number: sealed.number,
            sequence: sealed.sequence,
            class: LaneClass::Reinserted,
            opened_ms: sealed.sealed_ms,
        });
        let written = segment.file().write_at(0, &[IoSlice::new(&header.encode(store_id))]);
        self.note_restored("header", segment, written);
    }

    /// A sealed segment's footer cannot be read: finds the records by their headers, writes a footer of them, and takes
    /// out of the index what else points there, for nobody would ever take it out later.
    pub(crate) fn restore_footer(&self, sealed: Sealed) -> Option<Footer> {
        let pin = Pin::take(self.ledger.segment(sealed.number)?)?;
        let segment = pin.segment();
        if segment.sequence() != sealed.sequence {
            return None;
        }
        let size_bytes = self.plan.geometry.segment_size_bytes;
        let life = LifePlace { store_id: self.superblock.store_id, sequence: sealed.sequence };
        let mut footer = Footer {
            sequence: sealed.sequence,
            sealed_ms: sealed.sealed_ms,
            end_bytes: SEGMENT_HEADER_BYTES,
            entries: Vec::new(),
        };
        let mut bytes = Mapped::new(segment.file(), size_bytes);
        walk(&mut bytes, &life, SEGMENT_HEADER_BYTES, size_bytes - TRAILER_BYTES, |offset_bytes, stands| {
            if let Stands::Record { header, payload } = stands
                && let Some(key) = key_of(&header, payload, &self.keyer)
            {
                let length_bytes = header.record_length_bytes() as u32;
                let (kind, stamp) = (header.kind, header.stamp);
                footer.entries.push(FooterEntry { key, offset_bytes, length_bytes, kind, stamp });
                footer.end_bytes = offset_bytes + length_bytes;
            }
            true
        });
        let encoded = footer.encode();
        // The records were written with room for a footer of at least as many.
        let at_bytes = size_bytes.checked_sub(encoded.len() as u32).filter(|at| *at >= footer.end_bytes)?;
        let written = segment.file().write_at(at_bytes, &[IoSlice::new(&encoded)]);
        self.note_restored("footer", segment, written);
        let is_found =
            |offset_bytes: u32| footer.entries.binary_search_by_key(&offset_bytes, |entry| entry.offset_bytes).is_ok();
        let lost = self
            .index
            .remove_located(|location| location.segment() == sealed.number && !is_found(location.offset_bytes()));
        if lost > 0 {
            self.counters.corrupt_records.fetch_add(lost, Ordering::Relaxed);
            tracing::error!(
                event = "corrupt_records",
                segment = sealed.number,
                lost,
                "records beside a damaged footer are misses from now on"
            );
        }
        Some(footer)
    }

    fn note_restored(&self, structure: &'static str, segment: &Segment, written: io::Result<()>) {
        match written.and_then(|()| segment.sync()) {
            Ok(()) => {
                self.counters.restored_structures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    event = "structure_restored",
                    structure,
                    segment = segment.number(),
                    sequence = segment.sequence(),
                    "it was damaged, and is written again from what its records say"
                );
            }
            Err(error) => self.retire(segment, &error),
        }
    }
}
