//! The segment header: the first 4 KiB block of a segment file. It says which life of the file this is.
//!
//! A segment file is recycled for ever; each life has a new sequence number, drawn from one counter of the store. The
//! sequence is part of every record's header checksum, so what an earlier life left behind is never believed.
//!
//! ```text
//! 0        8        12       16               24       28       32               48               56
//! | magic  | version| number | sequence       | class  | zero   | store id (16)  | opened ms      |
//! 56       60
//! | crc32c | zero to 2048, then the same 60 bytes again, zero to 4096
//! ```
//!
//! The header stands twice, in sectors of their own: a damaged one must not cost a segment that has no footer yet. Segments
//! begun before there was a second copy have zeros there.

use super::layout::{get_array, get_u32, get_u64, put_u32, put_u64};
use super::{FORMAT_VERSION, is_read};

const MAGIC: [u8; 8] = *b"CASKSEGM";
const VERSION_AT: usize = MAGIC.len();
const NUMBER_AT: usize = VERSION_AT + 4;
const SEQUENCE_AT: usize = NUMBER_AT + 4;
const CLASS_AT: usize = SEQUENCE_AT + 8;
const STORE_ID_AT: usize = CLASS_AT + 8;
const OPENED_AT: usize = STORE_ID_AT + 16;
const CRC_AT: usize = OPENED_AT + 8;
const END_AT: usize = CRC_AT + 4;
/// Where the second copy stands: the middle of the block, whatever the device's sectors.
const COPY_AT: usize = SEGMENT_HEADER_BYTES as usize / 2;
const _: () = assert!(COPY_AT + END_AT <= SEGMENT_HEADER_BYTES as usize);

/// Bytes before the first record.
pub const SEGMENT_HEADER_BYTES: u32 = 4096;

/// Which records a segment takes: records of different lifetime never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum LaneClass {
    /// New blobs of one record.
    Small = 1,
    /// Parts and heads of blobs larger than a part.
    Large = 2,
    /// Records that reclaim kept.
    Reinserted = 3,
    /// Action records.
    Action = 4,
}

impl LaneClass {
    /// In the order of their numbers.
    pub const ALL: [LaneClass; 4] = [LaneClass::Small, LaneClass::Large, LaneClass::Reinserted, LaneClass::Action];

    fn from_u32(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u32 == raw)
    }

    /// Position in arrays of one element per lane.
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// The decoded header of one life of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The file's number, as in its name.
    pub number: u32,
    /// The life of the file.
    pub sequence: u64,
    /// What it takes.
    pub class: LaneClass,
    /// When the life began, since the Unix epoch.
    pub opened_ms: u64,
}

impl SegmentHeader {
    /// The block at the start of the file.
    pub fn encode(&self, store_id: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0_u8; SEGMENT_HEADER_BYTES as usize];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, VERSION_AT, FORMAT_VERSION);
        put_u32(&mut bytes, NUMBER_AT, self.number);
        put_u64(&mut bytes, SEQUENCE_AT, self.sequence);
        put_u32(&mut bytes, CLASS_AT, self.class as u32);
        bytes[STORE_ID_AT..OPENED_AT].copy_from_slice(store_id);
        put_u64(&mut bytes, OPENED_AT, self.opened_ms);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        put_u32(&mut bytes, CRC_AT, crc);
        bytes.copy_within(..END_AT, COPY_AT);
        bytes
    }

    /// `None` when neither copy in the bytes is the header of segment `number` of this store: never used, damaged or foreign.
    pub fn decode(bytes: &[u8], number: u32, store_id: &[u8; 16]) -> Option<Self> {
        Self::decode_copy(bytes, number, store_id)
            .or_else(|| Self::decode_copy(bytes.get(COPY_AT..)?, number, store_id))
    }

    /// False when a copy is damaged or says something else than this header. A second copy that was never written is whole.
    pub fn is_whole(&self, bytes: &[u8], store_id: &[u8; 16]) -> bool {
        let (first, copy) = bytes.split_at(COPY_AT);
        let is_this = |copy| Self::decode_copy(copy, self.number, store_id).is_some_and(|header| header == *self);
        is_this(first) && (is_this(copy) || copy[..END_AT].iter().all(|byte| *byte == 0))
    }

    /// The store that a header, of whichever segment, names; for who has lost the superblock.
    pub fn store_id_of(bytes: &[u8]) -> Option<[u8; 16]> {
        [Some(bytes), bytes.get(COPY_AT..)]
            .into_iter()
            .flatten()
            .find_map(|copy| Self::checks(copy).then(|| get_array(copy, STORE_ID_AT)))
    }

    fn checks(bytes: &[u8]) -> bool {
        bytes.len() >= END_AT
            && bytes[..VERSION_AT] == MAGIC
            && crc32c::crc32c(&bytes[..CRC_AT]) == get_u32(bytes, CRC_AT)
            && is_read(get_u32(bytes, VERSION_AT))
    }

    fn decode_copy(bytes: &[u8], number: u32, store_id: &[u8; 16]) -> Option<Self> {
        let valid = Self::checks(bytes)
            && get_u32(bytes, NUMBER_AT) == number
            && get_array::<16>(bytes, STORE_ID_AT) == *store_id;
        if !valid {
            return None;
        }
        Some(Self {
            number,
            sequence: get_u64(bytes, SEQUENCE_AT),
            class: LaneClass::from_u32(get_u32(bytes, CLASS_AT))?,
            opened_ms: get_u64(bytes, OPENED_AT),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_round_trip() {
        let header =
            SegmentHeader { number: 7, sequence: 0x0102_0304, class: LaneClass::Large, opened_ms: 1_700_000_000_000 };
        let id = *b"0123456789abcdef";
        let bytes = header.encode(&id);
        let golden = "4341534b5345474d020000000700000004030201000000000200000000000000303132333435363738396162636465660068e5cf8b010000";
        assert_eq!(bytes[..CRC_AT].iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
        assert_eq!(SegmentHeader::decode(&bytes, 7, &id), Some(header));
        assert_eq!(SegmentHeader::decode(&bytes, 8, &id), None, "a header of another segment");
        assert_eq!(SegmentHeader::decode(&bytes, 7, b"another store id"), None, "a header of another store");
        assert!(header.is_whole(&bytes, &id));
        assert_eq!(SegmentHeader::store_id_of(&bytes), Some(id));
        for bit in 0..END_AT * 8 {
            let flip = |bytes: &mut [u8], at: usize| bytes[at + bit / 8] ^= 1 << (bit % 8);
            let mut damaged = bytes.clone();
            for at in [0, COPY_AT] {
                flip(&mut damaged, at);
                assert_eq!(SegmentHeader::decode(&damaged, 7, &id), Some(header), "bit {bit}: one copy does");
                assert!(!header.is_whole(&damaged, &id), "bit {bit} at {at} is not noticed");
                flip(&mut damaged, at);
            }
            flip(&mut damaged, 0);
            flip(&mut damaged, COPY_AT);
            assert_eq!(SegmentHeader::decode(&damaged, 7, &id), None, "bit {bit} in both copies");
        }
        let mut without_copy = bytes;
        without_copy[COPY_AT..].fill(0);
        assert_eq!(SegmentHeader::decode(&without_copy, 7, &id), Some(header), "begun before there was a copy");
        assert!(header.is_whole(&without_copy, &id));
    }
}
