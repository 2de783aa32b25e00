//! The footer of a sealed segment: one fixed-size entry a record, so that recovery reads 32 bytes a blob instead of the
//! blobs. Entries end at a fixed place, the trailer, so that it is found without knowing how many there are.
//!
//! ```text
//! entry   0                16       20       24   25                32
//!         | key (16)       | offset | length |kind| stamp           |      offset and length in bytes, stamp 56 bits
//!
//! trailer 0        8        12       16               24       28       32               40               48       52
//!         | magic  | version| count  | sequence       | end    | zero   | sealed ms      | entries xxh3   | crc32c | zero to 64
//! ```
//! `end` is the offset at which the records end. The trailer is the last 64 bytes of the file, the entries stand
//! before it.

use cask_index::{Key, Location};

use super::layout::{get_array, get_u32, get_u64, put_u32, put_u64};
use super::record::RecordKind;
use super::{FORMAT_VERSION, is_read};

const MAGIC: [u8; 8] = *b"CASKFOOT";
const VERSION_AT: usize = MAGIC.len();
const COUNT_AT: usize = VERSION_AT + 4;
const SEQUENCE_AT: usize = COUNT_AT + 4;
const END_AT: usize = SEQUENCE_AT + 8;
const SEALED_AT: usize = END_AT + 8;
const CHECKSUM_AT: usize = SEALED_AT + 8;
const CRC_AT: usize = CHECKSUM_AT + 8;
/// Bytes of the trailer.
pub const TRAILER_BYTES: u32 = 64;
/// Bytes of one entry.
pub const FOOTER_ENTRY_BYTES: u32 = 32;
const _: () = assert!(CRC_AT + 4 <= TRAILER_BYTES as usize);

/// What recovery needs to know of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterEntry {
    /// The key it is entered under.
    pub key: Key,
    /// Where the record starts.
    pub offset_bytes: u32,
    /// Header, payload and padding.
    pub length_bytes: u32,
    /// What the record holds.
    pub kind: RecordKind,
    /// The record's stamp.
    pub stamp: u64,
}

impl FooterEntry {
    fn encode_into(&self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.key.to_bytes());
        put_u32(bytes, 16, self.offset_bytes);
        put_u32(bytes, 20, self.length_bytes);
        put_u64(bytes, 24, self.stamp << 8 | self.kind as u64);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            key: Key::from_bytes(get_array(bytes, 0)),
            offset_bytes: get_u32(bytes, 16),
            length_bytes: get_u32(bytes, 20),
            kind: RecordKind::from_u8(bytes[24])?,
            stamp: get_u64(bytes, 24) >> 8,
        })
    }
}

/// A decoded footer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The life of the segment.
    pub sequence: u64,
    /// When it was sealed, since the Unix epoch.
    pub sealed_ms: u64,
    /// Offset at which the records end.
    pub end_bytes: u32,
    /// In the order of the records.
    pub entries: Vec<FooterEntry>,
}

/// Bytes that a footer of `entry_count` entries takes at the end of the segment.
pub fn footer_bytes(entry_count: usize) -> u64 {
    entry_count as u64 * u64::from(FOOTER_ENTRY_BYTES) + u64::from(TRAILER_BYTES)
}

impl Footer {
    /// The last `footer_bytes(entries)` bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let entry_bytes = self.entries.len() * FOOTER_ENTRY_BYTES as usize;
        let mut bytes = vec![0_u8; entry_bytes + TRAILER_BYTES as usize];
        let (body, trailer) = bytes.split_at_mut(entry_bytes);
        for (entry, slot) in self.entries.iter().zip(body.chunks_exact_mut(FOOTER_ENTRY_BYTES as usize)) {
            entry.encode_into(slot);
        }
        trailer[..VERSION_AT].copy_from_slice(&MAGIC);
        put_u32(trailer, VERSION_AT, FORMAT_VERSION);
        put_u32(trailer, COUNT_AT, self.entries.len() as u32);
        put_u64(trailer, SEQUENCE_AT, self.sequence);
        put_u32(trailer, END_AT, self.end_bytes);
        put_u64(trailer, SEALED_AT, self.sealed_ms);
        put_u64(trailer, CHECKSUM_AT, xxhash_rust::xxh3::xxh3_64(body));
        let crc = crc32c::crc32c(&trailer[..CRC_AT]);
        put_u32(trailer, CRC_AT, crc);
        bytes
    }

    /// The life that a trailer speaks of; `None` when it is no trailer.
    pub fn sequence_of(trailer: &[u8]) -> Option<u64> {
        let valid = trailer.len() == TRAILER_BYTES as usize
            && trailer[..VERSION_AT] == MAGIC
            && crc32c::crc32c(&trailer[..CRC_AT]) == get_u32(trailer, CRC_AT)
            && is_read(get_u32(trailer, VERSION_AT));
        valid.then(|| get_u64(trailer, SEQUENCE_AT))
    }

    /// Bytes of footer that the trailer (the last 64 bytes of a segment of `sequence`) announces; `None` when it is
    /// no trailer of this life.
    pub fn announced_bytes(trailer: &[u8], sequence: u64, segment_size_bytes: u32) -> Option<u32> {
        let valid = Self::sequence_of(trailer) == Some(sequence);
        let bytes = footer_bytes(get_u32(trailer, COUNT_AT) as usize);
        (valid && bytes <= u64::from(segment_size_bytes)).then_some(bytes as u32)
    }

    /// Reads the whole footer, `announced_bytes` long. `None` when its checksum or an entry is wrong.
    pub fn decode(bytes: &[u8], segment_size_bytes: u32) -> Option<Self> {
        let view = FooterView::new(bytes, segment_size_bytes)?;
        Some(Self {
            sequence: view.sequence(),
            sealed_ms: view.sealed_ms(),
            end_bytes: view.end_bytes(),
            entries: view.entries().collect(),
        })
    }
}

/// A checked footer, read where it lies: recovery goes through millions of entries and keeps none of them.
#[derive(Clone, Copy)]
pub struct FooterView<'a> {
    body: &'a [u8],
    trailer: &'a [u8],
}

impl<'a> FooterView<'a> {
    /// Of the last `announced_bytes` of a segment. `None` when the checksum or an entry is wrong.
    pub fn new(bytes: &'a [u8], segment_size_bytes: u32) -> Option<Self> {
        let (body, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_BYTES as usize)?)?;
        let in_bounds = |entry: &FooterEntry| {
            entry.offset_bytes.checked_add(entry.length_bytes).is_some_and(|end| end <= segment_size_bytes)
                && entry.offset_bytes.is_multiple_of(64)
                && entry.length_bytes.is_multiple_of(64)
                && (1..=Location::LENGTH_BYTES_MAX).contains(&entry.length_bytes)
        };
        let sound = get_u64(trailer, CHECKSUM_AT) == xxhash_rust::xxh3::xxh3_64(body)
            && slots(body).all(|slot| FooterEntry::decode(slot).as_ref().is_some_and(in_bounds));
        sound.then_some(Self { body, trailer })
    }

    /// The life of the segment.
    pub fn sequence(&self) -> u64 {
        get_u64(self.trailer, SEQUENCE_AT)
    }

    /// When it was sealed, since the Unix epoch.
    pub fn sealed_ms(&self) -> u64 {
        get_u64(self.trailer, SEALED_AT)
    }

    /// Offset at which the records end.
    pub fn end_bytes(&self) -> u32 {
        get_u32(self.trailer, END_AT)
    }

    /// In the order of the records.
    pub fn entries(&self) -> impl Iterator<Item = FooterEntry> + use<'a> {
        slots(self.body).map(|slot| FooterEntry::decode(slot).expect("every entry was decoded by `new`"))
    }
}

fn slots(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.chunks_exact(FOOTER_ENTRY_BYTES as usize)
}

/// What a trailer says without its entries being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The life of the segment.
    pub sequence: u64,
    /// When it was sealed, since the Unix epoch.
    pub sealed_ms: u64,
    /// Records of the segment.
    pub entry_count: u32,
    /// Bytes of the footer, trailer included.
    pub footer_bytes: u32,
}

impl Trailer {
    /// The last 64 bytes of a segment; `None` when they are no trailer.
    pub fn decode(bytes: &[u8], segment_size_bytes: u32) -> Option<Self> {
        let sequence = Footer::sequence_of(bytes)?;
        let footer_bytes = Footer::announced_bytes(bytes, sequence, segment_size_bytes)?;
        Some(Self {
            sequence,
            sealed_ms: get_u64(bytes, SEALED_AT),
            entry_count: get_u32(bytes, COUNT_AT),
            footer_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Footer {
        let entry = |number: u32| FooterEntry {
            key: Key::from_bytes([number as u8; 16]),
            offset_bytes: 4096 + number * 128,
            length_bytes: 128,
            kind: RecordKind::Blob,
            stamp: u64::from(number) << 40,
        };
        Footer {
            sequence: 77,
            sealed_ms: 1_700_000_000_000,
            end_bytes: 4096 + 3 * 128,
            entries: (0..3).map(entry).collect(),
        }
    }

    #[test]
    fn round_trip_and_golden_entry() {
        let footer = example();
        let bytes = footer.encode();
        assert_eq!(bytes.len() as u64, footer_bytes(3));
        let trailer = &bytes[bytes.len() - 64..];
        assert_eq!(Footer::announced_bytes(trailer, 77, 1 << 20), Some(bytes.len() as u32));
        assert_eq!(Footer::announced_bytes(trailer, 78, 1 << 20), None, "the trailer of an earlier life");
        assert_eq!(Footer::decode(&bytes, 1 << 20), Some(footer));
        let golden: Vec<u8> = [[1; 16].as_slice(), &[0x80, 0x10, 0, 0, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]].concat();
        assert_eq!(&bytes[32..64], golden);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let bytes = example().encode();
        let meaningful = bytes.len() - (TRAILER_BYTES as usize - CRC_AT - 4);
        for bit in 0..meaningful * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let trailer = &damaged[damaged.len() - 64..];
            let believed = Footer::announced_bytes(trailer, 77, 1 << 20)
                .and_then(|length| damaged.get(damaged.len() - length as usize..))
                .and_then(|footer| Footer::decode(footer, 1 << 20));
            assert_eq!(believed, None, "bit {bit}");
        }
    }
}
