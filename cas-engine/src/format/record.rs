//! Records: what a segment is made of. A header, a payload, zeros up to the next 64-byte boundary.
//!
//! ```text
//! 0     2   3    4    5    6    7    8                16       20       24               32               64
//! |magic|ver|kind|enc |func|flag|ns  | raw size       | stored | crc32c | payload xxh3   | hash, first 32  |
//!
//! with flag EXTENDED, 64 bytes more:
//! 64                               96               104      108      112              120      128
//! | hash, last 32                  | nonce          | number | zero   | stamp          | zero   |
//! ```
//!
//! `enc` says how the payload is stored: 0 as it is, 1 as a zstd stream. Length and checksum are of what is stored.
//!
//! The header's CRC-32C is seeded with the store's id, the segment's sequence and the record's offset: a header left by an earlier
//! life of the segment, written to the wrong place, or from another store fails it. The payload's checksum is plain
//! XXH3-64, so that reclaim can copy a payload and its checksum unchanged, and what is copied stays checked end to end.

use cask_index::{Digest, DigestFunction, Namespace};

use super::layout::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};

const MAGIC: u16 = 0xCA5C;
const VERSION: u8 = 1;
const FLAG_EXTENDED: u8 = 1;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = MAGIC_AT + 2;
const KIND_AT: usize = VERSION_AT + 1;
const ENCODING_AT: usize = KIND_AT + 1;
const FUNCTION_AT: usize = ENCODING_AT + 1;
const FLAGS_AT: usize = FUNCTION_AT + 1;
const NAMESPACE_AT: usize = FLAGS_AT + 1;
const RAW_SIZE_AT: usize = NAMESPACE_AT + 1;
const STORED_AT: usize = RAW_SIZE_AT + 8;
const CRC_AT: usize = STORED_AT + 4;
const CHECKSUM_AT: usize = CRC_AT + 4;
const HASH_AT: usize = CHECKSUM_AT + 8;
const HASH_REST_AT: usize = HASH_AT + 32;
const NONCE_AT: usize = HASH_REST_AT + 32;
const NUMBER_AT: usize = NONCE_AT + 8;
const STAMP_AT: usize = NUMBER_AT + 8;

/// Records start at multiples of this.
pub const RECORD_ALIGNMENT_BYTES: usize = 64;
const PLAIN_BYTES: usize = 64;
/// Header with the extension; the most a header takes.
pub const RECORD_HEADER_BYTES_MAX: usize = 128;
const _: () = assert!(HASH_REST_AT == PLAIN_BYTES && STAMP_AT + 8 <= RECORD_HEADER_BYTES_MAX);

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A whole blob.
    Blob = 1,
    /// One part of a large blob; its digest is the whole blob's.
    Part = 2,
    /// The head of a large blob: no payload; says that all parts are there, and where to find them (nonce, count).
    Head = 3,
    /// An action result with its closure; its digest is the action's.
    Action = 4,
}

impl RecordKind {
    /// From the byte on disk.
    pub fn from_u8(raw: u8) -> Option<Self> {
        [Self::Blob, Self::Part, Self::Head, Self::Action].into_iter().find(|kind| *kind as u8 == raw)
    }
}

/// How a payload is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// As it is.
    #[default]
    Raw = 0,
    /// A complete zstd stream (RFC 8878), of one frame or several, that decodes to exactly the bytes that the record
    /// stands for. Blobs and parts only.
    Zstd = 1,
}

impl Encoding {
    /// From the byte on disk.
    pub fn from_u8(raw: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd].into_iter().find(|encoding| *encoding as u8 == raw)
    }
}

/// Which upload a part or head belongs to, and which part it is (for a head: how many there are).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartTag {
    /// Drawn for each upload of a large blob, so that parts of two uploads never mix.
    pub nonce: u64,
    /// Part number from 0, or the number of parts.
    pub number: u32,
}

/// The decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the payload is.
    pub kind: RecordKind,
    /// How it is stored; anything but `Raw` for blobs and parts only.
    pub encoding: Encoding,
    /// Digest of the blob, of the blob this is a part of, or of the action.
    pub digest: Digest,
    /// For parts and heads.
    pub part: Option<PartTag>,
    /// For heads and actions, of which another may be written under the same key: the later one has the greater stamp,
    /// wherever reclaim has moved either. 56 bits. 0 for the others: their key says what they are.
    pub stamp: u64,
    /// Bytes of payload that follow the header.
    pub stored_length_bytes: u32,
    /// XXH3-64 of the payload as it is stored.
    pub payload_checksum: u64,
}

/// Where a record stands; what its header checksum is tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// The store's id.
    pub store_id: [u8; 16],
    /// The life of the segment.
    pub sequence: u64,
    /// Bytes from the start of the segment file.
    pub offset_bytes: u32,
}

/// XXH3-64 of a payload.
pub fn payload_checksum(payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// Bytes from a record's start to the next one's.
pub fn record_length_bytes(header_length_bytes: usize, stored_length_bytes: usize) -> usize {
    (header_length_bytes + stored_length_bytes).next_multiple_of(RECORD_ALIGNMENT_BYTES)
}

impl RecordHeader {
    /// 64, or 128 where the hash, the part tag or the stamp needs the extension.
    pub fn length_bytes(&self) -> usize {
        Self::length_bytes_for(self.digest.function(), self.kind)
    }

    /// As [`RecordHeader::length_bytes`], before there is a header.
    pub fn length_bytes_for(function: DigestFunction, kind: RecordKind) -> usize {
        if kind != RecordKind::Blob || function.hash_length_bytes() > 32 {
            RECORD_HEADER_BYTES_MAX
        } else {
            PLAIN_BYTES
        }
    }

    /// Bytes of a blob that the record stands for, however it is stored. 0 for heads and actions.
    pub fn raw_length_bytes(&self, part_size_bytes: u32) -> u64 {
        let part_size_bytes = u64::from(part_size_bytes);
        match self.kind {
            RecordKind::Blob => self.digest.size_bytes(),
            RecordKind::Part => {
                let before = self.part.map_or(0, |tag| u64::from(tag.number)) * part_size_bytes;
                self.digest.size_bytes().saturating_sub(before).min(part_size_bytes)
            }
            RecordKind::Head | RecordKind::Action => 0,
        }
    }

    /// Bytes from this record's start to the next one's.
    pub fn record_length_bytes(&self) -> usize {
        record_length_bytes(self.length_bytes(), self.stored_length_bytes as usize)
    }

    /// Writes the header into the first `length_bytes()` of `bytes`.
    pub fn encode_into(&self, place: &RecordPlace, bytes: &mut [u8]) {
        let bytes = &mut bytes[..self.length_bytes()];
        bytes.fill(0);
        put_u16(bytes, MAGIC_AT, MAGIC);
        bytes[VERSION_AT] = VERSION;
        bytes[KIND_AT] = self.kind as u8;
        bytes[ENCODING_AT] = self.encoding as u8;
        bytes[FUNCTION_AT] = self.digest.function().wire_number();
        bytes[NAMESPACE_AT] = self.digest.namespace().number();
        put_u64(bytes, RAW_SIZE_AT, self.digest.size_bytes());
        put_u32(bytes, STORED_AT, self.stored_length_bytes);
        put_u64(bytes, CHECKSUM_AT, self.payload_checksum);
        let hash = self.digest.hash();
        let head = hash.len().min(32);
        bytes[HASH_AT..HASH_AT + head].copy_from_slice(&hash[..head]);
        if bytes.len() == RECORD_HEADER_BYTES_MAX {
            bytes[FLAGS_AT] = FLAG_EXTENDED;
            bytes[HASH_REST_AT..HASH_REST_AT + hash.len() - head].copy_from_slice(&hash[head..]);
            let part = self.part.unwrap_or_default();
            put_u64(bytes, NONCE_AT, part.nonce);
            put_u32(bytes, NUMBER_AT, part.number);
            put_u64(bytes, STAMP_AT, self.stamp);
        }
        let crc = header_crc(bytes, place);
        put_u32(bytes, CRC_AT, crc);
    }

    /// Reads untrusted bytes, which start where a record may stand. `None`: there is no record of this life here.
    pub fn decode(bytes: &[u8], place: &RecordPlace) -> Option<Self> {
        if bytes.len() < PLAIN_BYTES || get_u16(bytes, MAGIC_AT) != MAGIC || bytes[VERSION_AT] != VERSION {
            return None;
        }
        let extended = bytes[FLAGS_AT] & FLAG_EXTENDED != 0;
        let length_bytes = if extended { RECORD_HEADER_BYTES_MAX } else { PLAIN_BYTES };
        if bytes.len() < length_bytes || header_crc(&bytes[..length_bytes], place) != get_u32(bytes, CRC_AT) {
            return None;
        }
        let kind = RecordKind::from_u8(bytes[KIND_AT])?;
        let function = DigestFunction::from_wire_number(i32::from(bytes[FUNCTION_AT]))?;
        let has_part = matches!(kind, RecordKind::Part | RecordKind::Head);
        let encoding = Encoding::from_u8(bytes[ENCODING_AT])?;
        let may_be_encoded = matches!(kind, RecordKind::Blob | RecordKind::Part);
        if length_bytes != Self::length_bytes_for(function, kind) || (encoding != Encoding::Raw && !may_be_encoded) {
            return None;
        }
        let mut hash = [0_u8; 64];
        hash[..32].copy_from_slice(&bytes[HASH_AT..HASH_REST_AT]);
        if extended {
            hash[32..].copy_from_slice(&bytes[HASH_REST_AT..NONCE_AT]);
        }
        let digest = Digest::new(function, &hash[..function.hash_length_bytes()], get_u64(bytes, RAW_SIZE_AT))
            .ok()?
            .within(Namespace::from_number(bytes[NAMESPACE_AT]));
        Some(Self {
            kind,
            encoding,
            digest,
            part: has_part.then(|| PartTag { nonce: get_u64(bytes, NONCE_AT), number: get_u32(bytes, NUMBER_AT) }),
            stamp: if extended { get_u64(bytes, STAMP_AT) } else { 0 },
            stored_length_bytes: get_u32(bytes, STORED_AT),
            payload_checksum: get_u64(bytes, CHECKSUM_AT),
        })
    }
}

/// CRC-32C over place and header, the checksum field itself read as zero.
fn header_crc(header: &[u8], place: &RecordPlace) -> u32 {
    let mut seed = [0_u8; 28];
    seed[..16].copy_from_slice(&place.store_id);
    put_u64(&mut seed, 16, place.sequence);
    put_u32(&mut seed, 24, place.offset_bytes);
    let crc = crc32c::crc32c(&seed);
    let crc = crc32c::crc32c_append(crc, &header[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &header[CHECKSUM_AT..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: RecordPlace = RecordPlace { store_id: *b"0123456789abcdef", sequence: 42, offset_bytes: 8192 };

    fn headers() -> Vec<RecordHeader> {
        let mut headers = Vec::new();
        for function in DigestFunction::ALL {
            let hash: Vec<u8> = (1..=function.hash_length_bytes() as u8).collect();
            let digest = Digest::new(function, &hash, 1234).unwrap().within(Namespace::from_number(200));
            let part_tag = Some(PartTag { nonce: 0x1122_3344_5566_7788, number: 3 });
            for (kind, encoding, part) in [
                (RecordKind::Blob, Encoding::Raw, None),
                (RecordKind::Blob, Encoding::Zstd, None),
                (RecordKind::Part, Encoding::Raw, part_tag),
                (RecordKind::Part, Encoding::Zstd, part_tag),
                (RecordKind::Head, Encoding::Raw, Some(PartTag { nonce: 9, number: 17 })),
                (RecordKind::Action, Encoding::Raw, None),
            ] {
                headers.push(RecordHeader {
                    kind,
                    encoding,
                    digest,
                    part,
                    stamp: if matches!(kind, RecordKind::Head | RecordKind::Action) {
                        0x00AB_CDEF_0123_4567
                    } else {
                        0
                    },
                    stored_length_bytes: 1234,
                    payload_checksum: 0x0102_0304_0506_0708,
                });
            }
        }
        headers
    }

    #[test]
    fn round_trip_of_every_kind_and_function() {
        for header in headers() {
            let mut bytes = [0xff_u8; RECORD_HEADER_BYTES_MAX];
            header.encode_into(&PLACE, &mut bytes);
            assert_eq!(RecordHeader::decode(&bytes, &PLACE), Some(header));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        for header in headers() {
            let mut bytes = vec![0_u8; header.length_bytes()];
            header.encode_into(&PLACE, &mut bytes);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(RecordHeader::decode(&bytes, &PLACE), None, "{header:?} bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn a_header_is_believed_only_in_its_place() {
        let header = headers()[0];
        let mut bytes = [0_u8; RECORD_HEADER_BYTES_MAX];
        header.encode_into(&PLACE, &mut bytes);
        for place in [
            RecordPlace { sequence: 43, ..PLACE },
            RecordPlace { offset_bytes: 8256, ..PLACE },
            RecordPlace { store_id: *b"fedcba9876543210", ..PLACE },
        ] {
            assert_eq!(RecordHeader::decode(&bytes, &place), None, "{place:?}");
        }
    }

    #[test]
    fn golden_bytes() {
        let digest = Digest::new(DigestFunction::Sha256, &(0..32).collect::<Vec<u8>>(), 5).unwrap();
        let header = RecordHeader {
            kind: RecordKind::Blob,
            encoding: Encoding::Raw,
            digest,
            part: None,
            stamp: 0,
            stored_length_bytes: 5,
            payload_checksum: payload_checksum(b"hello"),
        };
        let mut bytes = [0_u8; PLAIN_BYTES];
        header.encode_into(&PLACE, &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (before, rest) = hex.split_at(CRC_AT * 2);
        assert_eq!(before, "5cca010100010000050000000000000005000000");
        assert_eq!(&rest[24..], "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        assert_eq!(&rest[8..24], format!("{:016x}", payload_checksum(b"hello").swap_bytes()));

        RecordHeader { encoding: Encoding::Zstd, stored_length_bytes: 3, ..header }.encode_into(&PLACE, &mut bytes);
        let hex: String = bytes[..CRC_AT].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5cca010101010000050000000000000003000000");
    }

    #[test]
    fn an_encoding_where_there_is_none_or_an_unknown_one_is_no_header() {
        for header in headers().into_iter().filter(|header| header.encoding == Encoding::Raw) {
            for encoding in [Encoding::Zstd as u8, 2, 255] {
                let mut bytes = vec![0; header.length_bytes()];
                header.encode_into(&PLACE, &mut bytes);
                bytes[ENCODING_AT] = encoding;
                let crc = header_crc(&bytes, &PLACE);
                put_u32(&mut bytes, CRC_AT, crc);
                let may_be = encoding == 1 && matches!(header.kind, RecordKind::Blob | RecordKind::Part);
                assert_eq!(RecordHeader::decode(&bytes, &PLACE).is_some(), may_be, "{header:?} as {encoding}");
            }
        }
    }

    #[test]
    fn raw_lengths_follow_from_the_digest() {
        let hash = [1; 32];
        for (kind, number, size_bytes, raw_bytes) in [
            (RecordKind::Blob, 0, 70, 70),
            (RecordKind::Part, 0, 250, 100),
            (RecordKind::Part, 1, 250, 100),
            (RecordKind::Part, 2, 250, 50),
            (RecordKind::Part, 3, 250, 0),
            (RecordKind::Part, u32::MAX, 250, 0),
            (RecordKind::Head, 3, 250, 0),
        ] {
            let header = RecordHeader {
                kind,
                encoding: Encoding::Raw,
                digest: Digest::new(DigestFunction::Sha256, &hash, size_bytes).unwrap(),
                part: Some(PartTag { nonce: 1, number }),
                stamp: 0,
                stored_length_bytes: 0,
                payload_checksum: 0,
            };
            assert_eq!(header.raw_length_bytes(100), raw_bytes, "{kind:?} {number}");
        }
    }
}
