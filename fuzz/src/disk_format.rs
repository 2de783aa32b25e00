//! What the engine reads from its files. The bytes on a disk are nobody's word: they may be torn, flipped or somebody
//! else's.
//!
//! A random input never has the right checksum, so each target mends it first, and then asks what a sound checksum over
//! nonsense does; and it damages what it has encoded itself, which must be noticed.

use bytes::Bytes;
use cask_engine::format::action::ActionPayload;
use cask_engine::format::footer::{Footer, FooterEntry, FooterView, TRAILER_BYTES, Trailer};
use cask_engine::format::record::{Encoding, PartTag, RECORD_HEADER_BYTES_MAX, RecordHeader, RecordKind, RecordPlace};
use cask_engine::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use cask_engine::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use cask_engine::format::touches::TouchSnapshot;
use cask_index::{Digest, DigestFunction, Key};

const SEGMENT_BYTES: u32 = 1 << 20;

/// Takes numbers off the front of an input; zeros when it has ended.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let length = self.0.len().min(N);
        field[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        field
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Flips one bit of `bytes`.
fn flip(bytes: &mut [u8], bit: u32) {
    let bit = bit as usize % (bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Record headers: as they are, of any fields, and with one bit flipped.
pub fn record(data: &[u8]) -> bool {
    let mut fields = Fields(data);
    let place = RecordPlace { store_id: fields.take(), sequence: fields.u64(), offset_bytes: fields.u32() };
    let _ = RecordHeader::decode(fields.0, &place);

    let Some(kind) = RecordKind::from_u8(fields.u8()) else { return false };
    let function = DigestFunction::ALL[usize::from(fields.u8()) % DigestFunction::ALL.len()];
    let hash = fields.take::<64>();
    let Ok(digest) = Digest::new(function, &hash[..function.hash_length_bytes()], fields.u64()) else { return false };
    let has_part = matches!(kind, RecordKind::Part | RecordKind::Head);
    let may_be_encoded = matches!(kind, RecordKind::Blob | RecordKind::Part);
    let mut header = RecordHeader {
        kind,
        encoding: if may_be_encoded && hash[63] & 1 == 1 { Encoding::Zstd } else { Encoding::Raw },
        digest,
        part: has_part.then(|| PartTag { nonce: fields.u64(), number: fields.u32() }),
        stamp: fields.u64(),
        stored_length_bytes: fields.u32(),
        payload_checksum: fields.u64(),
    };
    if header.length_bytes() < RECORD_HEADER_BYTES_MAX {
        // A short header has no room for one.
        header.stamp = 0;
    }
    let mut bytes = vec![0; header.length_bytes()];
    header.encode_into(&place, &mut bytes);
    assert_eq!(RecordHeader::decode(&bytes, &place), Some(header));
    let elsewhere = RecordPlace { offset_bytes: place.offset_bytes ^ 64, ..place };
    assert_eq!(RecordHeader::decode(&bytes, &elsewhere), None, "a header is of its place");
    flip(&mut bytes, fields.u32());
    assert_eq!(RecordHeader::decode(&bytes, &place), None, "a flipped bit is noticed");
    true
}

/// Footers: as they are, of any entries, and with one bit flipped.
pub fn footer(data: &[u8]) -> bool {
    let _ = FooterView::new(data, SEGMENT_BYTES).map(|view| view.entries().count());
    let _ = Trailer::decode(data, SEGMENT_BYTES);

    let mut fields = Fields(data);
    let (sequence, sealed_ms, bit) = (fields.u64(), fields.u64(), fields.u32());
    let mut entries = Vec::new();
    while !fields.0.is_empty() {
        let (scale, kind) = (fields.u8(), fields.u8());
        // Mostly multiples of a record's alignment, as they should be.
        let unit = if scale & 1 == 0 { 64 } else { 1 };
        let entry = FooterEntry {
            key: Key::from_bytes(fields.take()),
            offset_bytes: fields.u32().wrapping_mul(unit) >> (scale >> 3),
            length_bytes: fields.u32().wrapping_mul(unit) >> (scale >> 3),
            kind: RecordKind::from_u8(kind % 4 + 1).expect("four kinds"),
            stamp: fields.u64() >> 8,
        };
        entries.push(entry);
    }
    let footer = Footer { sequence, sealed_ms, end_bytes: bit, entries };
    let is_sound = footer.entries.iter().all(|entry| {
        let end = u64::from(entry.offset_bytes) + u64::from(entry.length_bytes);
        end <= u64::from(SEGMENT_BYTES)
            && entry.length_bytes > 0
            && entry.offset_bytes.is_multiple_of(64)
            && entry.length_bytes.is_multiple_of(64)
    });
    let mut bytes = footer.encode();
    let decoded = Footer::decode(&bytes, SEGMENT_BYTES);
    assert!(is_sound || decoded.is_none(), "an entry that leads out of the segment is not believed");
    let within_length = footer.entries.iter().all(|entry| entry.length_bytes <= 1 << 24);
    if is_sound && within_length {
        assert_eq!(decoded.as_ref(), Some(&footer));
    }
    let trailer_at = bytes.len() - TRAILER_BYTES as usize;
    if footer.entries.is_empty() {
        return is_sound;
    }
    flip(&mut bytes[..trailer_at], bit);
    assert_eq!(Footer::decode(&bytes, SEGMENT_BYTES), None, "a flipped bit is noticed");
    is_sound
}

/// Superblocks with a sound checksum over anything.
pub fn superblock(data: &[u8]) -> bool {
    const CRC_AT: usize = 80;
    let _ = Superblock::decode(data);
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let length = data.len().min(CRC_AT);
    bytes[..length].copy_from_slice(&data[..length]);
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let Ok(superblock) = Superblock::decode(&bytes) else { return false };
    let encoded = superblock.encode();
    assert_eq!(Superblock::decode(&encoded), Ok(superblock));
    true
}

/// Segment headers with a sound checksum over anything.
pub fn segment_header(data: &[u8]) -> bool {
    const CRC_AT: usize = 56;
    const STORE_ID: [u8; 16] = *b"0123456789abcdef";
    let _ = SegmentHeader::decode(data, 1, &STORE_ID);
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
    let length = data.len().min(CRC_AT);
    bytes[..length].copy_from_slice(&data[..length]);
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let Some(header) = SegmentHeader::decode(&bytes, 1, &STORE_ID) else { return false };
    assert_eq!(header.number, 1);
    assert_eq!(SegmentHeader::decode(&header.encode(&STORE_ID), 1, &STORE_ID), Some(header));
    true
}

/// Touch snapshots with a sound checksum over anything.
pub fn touch_snapshot(data: &[u8]) -> bool {
    let _ = TouchSnapshot::decode(data);
    let mut bytes = data.to_vec();
    bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(data).to_le_bytes());
    let Some(snapshot) = TouchSnapshot::decode(&bytes) else { return false };
    let encoded = snapshot.encode();
    assert_eq!(encoded.len() as u64, snapshot.encoded_bytes());
    assert_eq!(TouchSnapshot::decode(&encoded), Some(snapshot));
    true
}

/// The payload of an action record: its checksum is the record's, so anything may come.
pub fn action_payload(data: &[u8]) -> bool {
    let Some(payload) = ActionPayload::decode(&Bytes::copy_from_slice(data)) else { return false };
    let instance_bytes = u32::from_le_bytes(data[4..8].try_into().expect("four bytes")) as usize;
    let accounted = 8 + payload.closure().count() * 16 + instance_bytes + payload.value.len();
    assert_eq!(accounted, data.len(), "every byte is somebody's");
    assert!(payload.instance().is_none_or(|instance| payload.is_of(instance)));
    true
}
