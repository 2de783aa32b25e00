//! Walking through the records of a segment, whatever has become of it: for the scrubber when a footer is lost, and for
//! `fsck`, which believes no footer.
//!
//! Every place that is a multiple of 64 may hold a header. A header is tied to store, life and offset, so what an earlier
//! life left, or what a payload holds, is not taken for one. A damaged header costs its own record only: the walk goes on
//! at the next place where one may stand. Nothing here writes, and nothing is kept but what the visitor keeps.

use std::io;
use std::ops::Range;

use cask_index::{Key, Keyer, Location};

use crate::disk::SegmentFile;
use crate::format::action::ActionPayload;
use crate::format::record::{
    RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES_MAX, RecordHeader, RecordKind, RecordPlace, payload_checksum,
};

/// Bytes of a segment, from wherever they are read.
pub(crate) trait SegmentBytes {
    /// The bytes of a range; an error says that the device could not give all of them.
    fn bytes(&mut self, offset_bytes: u32, length_bytes: u32) -> io::Result<&[u8]>;
}

/// The bytes of an open segment; the caller holds a pin.
pub(crate) struct Mapped<'a> {
    file: &'a dyn SegmentFile,
    size_bytes: u32,
    /// What was asked of the device last: a walk looks at every 64 bytes, and is not to ask for each.
    resident: Range<u32>,
}

/// Asked of the device at once.
const RESIDENT_BYTES: u32 = 1 << 20;

impl<'a> Mapped<'a> {
    pub(crate) fn new(file: &'a dyn SegmentFile, size_bytes: u32) -> Self {
        Self { file, size_bytes, resident: 0..0 }
    }
}

impl SegmentBytes for Mapped<'_> {
    fn bytes(&mut self, offset_bytes: u32, length_bytes: u32) -> io::Result<&[u8]> {
        let end_bytes = offset_bytes + length_bytes;
        if offset_bytes < self.resident.start || end_bytes > self.resident.end {
            let ahead_bytes = length_bytes.max(RESIDENT_BYTES).min(self.size_bytes - offset_bytes);
            // Where the device refuses a part of what is ahead, what was asked for may still be readable.
            match self.file.make_resident(offset_bytes, ahead_bytes) {
                Ok(()) => self.resident = offset_bytes..offset_bytes + ahead_bytes,
                Err(_) => self.file.make_resident(offset_bytes, length_bytes)?,
            }
        }
        Ok(self.file.slice(offset_bytes, length_bytes))
    }
}

/// One life of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LifePlace {
    pub(crate) store_id: [u8; 16],
    pub(crate) sequence: u64,
}

impl LifePlace {
    pub(crate) fn at(&self, offset_bytes: u32) -> RecordPlace {
        RecordPlace { store_id: self.store_id, sequence: self.sequence, offset_bytes }
    }
}

/// What stands somewhere in the log.
pub(crate) enum Stands<'a> {
    /// A header that checks, and a payload that has the header's checksum.
    Record { header: RecordHeader, payload: &'a [u8] },
    /// A header that checks, and a payload that does not.
    BadPayload { header: RecordHeader },
    /// A header that checks, and a payload that the device does not give.
    Unreadable { header: RecordHeader, error: io::Error },
    /// No header.
    Nothing,
    /// The device does not give these bytes: there may be a header.
    Hidden { error: io::Error },
}

const ALIGNMENT: u32 = RECORD_ALIGNMENT_BYTES as u32;

/// Calls `visit` with the offset of everything between `from_bytes` and `to_bytes`, in order: records once, other places
/// every 64 bytes. `false` ends the walk.
pub(crate) fn walk(
    bytes: &mut dyn SegmentBytes,
    life: &LifePlace,
    from_bytes: u32,
    to_bytes: u32,
    mut visit: impl FnMut(u32, Stands<'_>) -> bool,
) {
    let mut offset_bytes = from_bytes;
    while offset_bytes + ALIGNMENT <= to_bytes {
        let stands = look_at(bytes, life, offset_bytes, to_bytes);
        let length_bytes = match &stands {
            Stands::Record { header, .. } | Stands::BadPayload { header } | Stands::Unreadable { header, .. } => {
                header.record_length_bytes() as u32
            }
            Stands::Nothing | Stands::Hidden { .. } => ALIGNMENT,
        };
        if !visit(offset_bytes, stands) {
            return;
        }
        offset_bytes += length_bytes;
    }
}

/// What stands at `offset_bytes`; records do not reach beyond `to_bytes`.
pub(crate) fn look_at<'a>(
    bytes: &'a mut dyn SegmentBytes,
    life: &LifePlace,
    offset_bytes: u32,
    to_bytes: u32,
) -> Stands<'a> {
    let room_bytes = to_bytes - offset_bytes;
    let header = match bytes.bytes(offset_bytes, room_bytes.min(RECORD_HEADER_BYTES_MAX as u32)) {
        Ok(bytes) => RecordHeader::decode(bytes, &life.at(offset_bytes)),
        Err(error) => return Stands::Hidden { error },
    };
    let fits = |header: &RecordHeader| {
        header.record_length_bytes() as u64 <= u64::from(room_bytes.min(Location::LENGTH_BYTES_MAX))
    };
    let Some(header) = header.filter(fits) else { return Stands::Nothing };
    match bytes.bytes(offset_bytes + header.length_bytes() as u32, header.stored_length_bytes) {
        Ok(payload) if payload_checksum(payload) == header.payload_checksum => Stands::Record { header, payload },
        Ok(_) => Stands::BadPayload { header },
        Err(error) => Stands::Unreadable { header, error },
    }
}

/// The index key that a sound record is entered under; `None` for an action whose payload makes no sense.
pub(crate) fn key_of(header: &RecordHeader, payload: &[u8], keyer: &Keyer) -> Option<Key> {
    match header.kind {
        RecordKind::Blob | RecordKind::Head => Some(keyer.blob(&header.digest)),
        RecordKind::Part => header.part.map(|tag| keyer.part(tag.nonce, tag.number)),
        RecordKind::Action => {
            let payload = ActionPayload::decode(&bytes::Bytes::copy_from_slice(payload))?;
            Some(keyer.action(payload.instance()?, &header.digest))
        }
    }
}
