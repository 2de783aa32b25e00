//! Segments without a footer: the records are found by their headers.
//!
//! After anything that is no record the scan goes on at the next place where one may stand: a record that is damaged, or
//! that a power cut tore, does not hide those behind it. Neither does a sector that cannot be read.

use std::io;
use std::ops::Range;

use cask_index::{Keyer, Location};

use crate::core::is_media_error;
use crate::disk::SegmentFile;
use crate::format::footer::FooterEntry;
use crate::format::record::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES_MAX, RecordHeader, RecordPlace, payload_checksum,
};
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::walk::key_of;

const ALIGNMENT: u32 = RECORD_ALIGNMENT_BYTES as u32;
/// Read in one go; where that fails, in pages.
const PIECE_BYTES: u32 = 1 << 20;
const PAGE_BYTES: u32 = 4096;

/// What a segment of this life holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) entries: Vec<FooterEntry>,
    /// Where the last record ends.
    pub(super) end_bytes: u32,
    /// A part of it could not be read: nothing more is to be appended.
    pub(super) is_unreadable: bool,
    /// Why it could not be read, if not for the device: then nothing may be concluded from what was not found.
    pub(super) trouble: Option<io::Error>,
    /// Records whose header is sound and whose payload is not.
    pub(super) corrupt_count: u64,
}

/// Finds the records of the life `sequence`.
pub(super) fn scan(
    file: &dyn SegmentFile,
    size_bytes: u32,
    store_id: [u8; 16],
    sequence: u64,
    keyer: &Keyer,
) -> Scanned {
    let mut found = Scanned { end_bytes: SEGMENT_HEADER_BYTES, ..Scanned::default() };
    let (readable_ranges, trouble) = readable_ranges(file, size_bytes);
    found.trouble = trouble;
    let readable_bytes: u32 = readable_ranges.iter().map(|range| range.end - range.start).sum();
    found.is_unreadable = readable_bytes < size_bytes - SEGMENT_HEADER_BYTES;
    for readable in readable_ranges {
        let mut offset_bytes = readable.start.max(found.end_bytes).next_multiple_of(ALIGNMENT);
        while offset_bytes + ALIGNMENT <= readable.end {
            let bytes = file.slice(offset_bytes, readable.end - offset_bytes);
            let place = RecordPlace { store_id, sequence, offset_bytes };
            let header = RecordHeader::decode(&bytes[..bytes.len().min(RECORD_HEADER_BYTES_MAX)], &place)
                .filter(|header| header.record_length_bytes() <= Location::LENGTH_BYTES_MAX as usize);
            let Some(header) = header else {
                offset_bytes += ALIGNMENT;
                continue;
            };
            let payload = bytes[header.length_bytes()..].get(..header.stored_length_bytes as usize);
            let key = payload
                .filter(|payload| payload_checksum(payload) == header.payload_checksum)
                .and_then(|payload| key_of(&header, payload, keyer));
            let length_bytes = header.record_length_bytes() as u32;
            let end_bytes = u64::from(offset_bytes) + u64::from(length_bytes);
            match key.filter(|_| end_bytes <= u64::from(size_bytes)) {
                Some(key) => {
                    found.entries.push(FooterEntry {
                        key,
                        offset_bytes,
                        length_bytes,
                        kind: header.kind,
                        stamp: header.stamp,
                    });
                    offset_bytes += length_bytes;
                    found.end_bytes = offset_bytes;
                }
                None => {
                    found.corrupt_count += 1;
                    offset_bytes += ALIGNMENT;
                }
            }
        }
    }
    found
}

/// The parts of a segment that can be read, in order; the header's block is not among them.
fn readable_ranges(file: &dyn SegmentFile, size_bytes: u32) -> (Vec<Range<u32>>, Option<io::Error>) {
    let mut trouble = None;
    let mut ranges: Vec<Range<u32>> = Vec::new();
    let mut add = |range: Range<u32>| match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    };
    for piece in pieces(SEGMENT_HEADER_BYTES..size_bytes, PIECE_BYTES) {
        if file.make_resident(piece.start, piece.end - piece.start).is_ok() {
            add(piece);
            continue;
        }
        // One line for the piece: a hole or a dead region has thousands of pages.
        let mut first_lost = None;
        let mut lost_bytes = 0;
        for page in pieces(piece, PAGE_BYTES) {
            match file.make_resident(page.start, page.end - page.start) {
                Ok(()) => add(page),
                Err(error) if !is_media_error(&error) => {
                    trouble.get_or_insert(error);
                }
                Err(error) => {
                    lost_bytes += page.end - page.start;
                    first_lost.get_or_insert((page.start, error));
                }
            }
        }
        if let Some((offset, error)) = first_lost {
            tracing::error!(event = "read_failed", offset, lost_bytes, %error, "what stood there is lost");
        }
    }
    (ranges, trouble)
}

fn pieces(range: Range<u32>, bytes: u32) -> impl Iterator<Item = Range<u32>> {
    let end = range.end;
    range.step_by(bytes as usize).map(move |start| start..end.min(start.saturating_add(bytes)))
}
