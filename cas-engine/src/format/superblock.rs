//! The superblock: what a store is. One small file, always replaced as a whole.
//!
//! ```text
//! 0        8        12       16               32                               64       68       72
//! | magic  | version| seg sz | store id (16)  | key seed (32)                  | part sz| flags  |
//! 72                 80       84
//! | created ms       | crc32c | zero to 128
//! ```

use super::FORMAT_VERSION;
use super::layout::{get_array, get_u32, get_u64, put_u32, put_u64};
use crate::config::Geometry;

const MAGIC: [u8; 8] = *b"CASKSTOR";
const VERSION_AT: usize = MAGIC.len();
const SEGMENT_SIZE_AT: usize = VERSION_AT + 4;
const STORE_ID_AT: usize = SEGMENT_SIZE_AT + 4;
const KEY_SEED_AT: usize = STORE_ID_AT + 16;
const PART_SIZE_AT: usize = KEY_SEED_AT + 32;
const FLAGS_AT: usize = PART_SIZE_AT + 4;
const CREATED_AT: usize = FLAGS_AT + 4;
const CRC_AT: usize = CREATED_AT + 8;

/// Bytes of the superblock file.
pub const SUPERBLOCK_BYTES: usize = 128;
const _: () = assert!(CRC_AT + 4 <= SUPERBLOCK_BYTES);

const FLAG_CLEAN: u32 = 1;
const FLAG_NAMESPACES: u32 = 2;

/// The decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Random; part of every record's header checksum, so a segment file of another store is never believed.
    pub store_id: [u8; 16],
    /// Secret the index keys are mixed with.
    pub key_seed: [u8; 32],
    /// Sizes that hold for the life of the store.
    pub geometry: Geometry,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The last process to have it open closed it in order.
    pub clean: bool,
    /// There is a file of namespaces, and without it nobody may guess.
    pub has_namespaces: bool,
}

/// Why bytes are no superblock this build can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Wrong length, magic or checksum, or a value out of range.
    #[error("{0}")]
    Damaged(&'static str),
    /// Written by a newer version.
    #[error("format {0} is newer than {FORMAT_VERSION}")]
    Newer(u32),
}

impl Superblock {
    /// The bytes of the file.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0_u8; SUPERBLOCK_BYTES];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, VERSION_AT, FORMAT_VERSION);
        put_u32(&mut bytes, SEGMENT_SIZE_AT, self.geometry.segment_size_bytes);
        bytes[STORE_ID_AT..KEY_SEED_AT].copy_from_slice(&self.store_id);
        bytes[KEY_SEED_AT..PART_SIZE_AT].copy_from_slice(&self.key_seed);
        put_u32(&mut bytes, PART_SIZE_AT, self.geometry.part_size_bytes);
        let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
        let flags = flag(self.clean, FLAG_CLEAN) | flag(self.has_namespaces, FLAG_NAMESPACES);
        put_u32(&mut bytes, FLAGS_AT, flags);
        put_u64(&mut bytes, CREATED_AT, self.created_ms);
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        put_u32(&mut bytes, CRC_AT, crc);
        bytes
    }

    /// Reads untrusted bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuperblockError> {
        if bytes.len() < VERSION_AT + 4 || bytes[..VERSION_AT] != MAGIC {
            return Err(SuperblockError::Damaged("no Cask magic"));
        }
        // A newer format may have another length and checksum, so its version is believed before anything else.
        let version = get_u32(bytes, VERSION_AT);
        if version > FORMAT_VERSION {
            return Err(SuperblockError::Newer(version));
        }
        if bytes.len() != SUPERBLOCK_BYTES {
            return Err(SuperblockError::Damaged("wrong length"));
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != get_u32(bytes, CRC_AT) {
            return Err(SuperblockError::Damaged("wrong checksum"));
        }
        let geometry = Geometry::new(get_u32(bytes, SEGMENT_SIZE_AT))
            .map_err(|_| SuperblockError::Damaged("segment size out of range"))?;
        if geometry.part_size_bytes != get_u32(bytes, PART_SIZE_AT) {
            return Err(SuperblockError::Damaged("part size does not fit the segment size"));
        }
        Ok(Self {
            store_id: get_array(bytes, STORE_ID_AT),
            key_seed: get_array(bytes, KEY_SEED_AT),
            geometry,
            created_ms: get_u64(bytes, CREATED_AT),
            clean: get_u32(bytes, FLAGS_AT) & FLAG_CLEAN != 0,
            has_namespaces: get_u32(bytes, FLAGS_AT) & FLAG_NAMESPACES != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Superblock {
        Superblock {
            store_id: *b"0123456789abcdef",
            key_seed: *b"an example seed of 32 bytes ....",
            geometry: Geometry::new(64 << 20).unwrap(),
            created_ms: 1_700_000_000_000,
            clean: true,
            has_namespaces: false,
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = example().encode();
        let golden = concat!(
            "4341534b53544f52", // magic
            "02000000",         // version
            "00000004",         // segment size
            "30313233343536373839616263646566",
            "616e206578616d706c652073656564206f66203332206279746573202e2e2e2e",
            "00001000",         // part size
            "01000000",         // flags
            "0068e5cf8b010000", // created
        );
        let hex: String = bytes[..CRC_AT].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        assert_eq!(Superblock::decode(&bytes).unwrap(), example());
        let with_namespaces = Superblock { has_namespaces: true, ..example() };
        assert_eq!(with_namespaces.encode()[FLAGS_AT], 3);
        assert_eq!(Superblock::decode(&with_namespaces.encode()).unwrap(), with_namespaces);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = example().encode();
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_says_so() {
        let mut bytes = example().encode();
        bytes[VERSION_AT] = 9;
        assert_eq!(Superblock::decode(&bytes), Err(SuperblockError::Newer(9)));
    }
}
