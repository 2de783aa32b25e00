//! The segment header: the first 4 KiB block of a segment file. It says which life of the file this is.
//!
//! A segment file is recycled for ever; each life has a new sequence number, drawn from one counter of the store. The
//! sequence is part of every record's header checksum, so what an earlier life left behind is never believed.
//!
//! ```text
//! 0        8        12       16               24       28       32               48               56
//! | magic  | version| number | sequence       | class  | zero   | store id (16)  | opened ms      |
//! 56       60
//! | crc32c | zero to 4096
//! ```

use super::FORMAT_VERSION;
use super::layout::{get_array, get_u32, get_u64, put_u32, put_u64};

const MAGIC: [u8; 8] = *b"CASKSEGM";
const VERSION_AT: usize = MAGIC.len();
const NUMBER_AT: usize = VERSION_AT + 4;
const SEQUENCE_AT: usize = NUMBER_AT + 4;
const CLASS_AT: usize = SEQUENCE_AT + 8;
const STORE_ID_AT: usize = CLASS_AT + 8;
const OPENED_AT: usize = STORE_ID_AT + 16;
const CRC_AT: usize = OPENED_AT + 8;

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
        bytes
    }

    /// `None` when the bytes are not the header of segment `number` of this store: never used, damaged or foreign.
    pub fn decode(bytes: &[u8], number: u32, store_id: &[u8; 16]) -> Option<Self> {
        let valid = bytes.len() >= CRC_AT + 4
            && bytes[..VERSION_AT] == MAGIC
            && crc32c::crc32c(&bytes[..CRC_AT]) == get_u32(bytes, CRC_AT)
            && get_u32(bytes, VERSION_AT) == FORMAT_VERSION
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
        let golden = "4341534b5345474d010000000700000004030201000000000200000000000000303132333435363738396162636465660068e5cf8b010000";
        assert_eq!(bytes[..CRC_AT].iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
        assert_eq!(SegmentHeader::decode(&bytes, 7, &id), Some(header));
        assert_eq!(SegmentHeader::decode(&bytes, 8, &id), None, "a header of another segment");
        assert_eq!(SegmentHeader::decode(&bytes, 7, b"another store id"), None, "a header of another store");
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged, 7, &id), None, "bit {bit}");
        }
    }
}
