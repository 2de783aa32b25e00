//! The touch snapshot: when each entry was last touched, so that the order of eviction survives a restart. One byte an
//! entry, in the order of the sealed segments' footers and the open segments' records.
//!
//! ```text
//! 0        8        12       16               24               32       36       40
//! | magic  | version| zero   | saved ms       | period ms      | segments       | zero to 40
//! then for each segment: | number u32 | count u32 | sequence u64 | count bytes |
//! last 8 bytes: xxh3 of all before
//! ```
//! A touch byte is the epoch's age in periods plus two, `HIT` added where the entry was hit since it was written; 0 is
//! "no entry", 1 "older than the ring".

use std::collections::HashMap;

use super::layout::{get_u32, get_u64, put_u32, put_u64};
use super::{FORMAT_VERSION, is_read};

const MAGIC: [u8; 8] = *b"CASKTOUC";
const HEADER_BYTES: usize = 40;
const SEGMENT_BYTES: usize = 16;

/// A snapshot in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TouchSnapshot {
    /// When it was taken, since the Unix epoch.
    pub saved_ms: u64,
    /// Length of the periods in which ages are counted.
    pub period_ms: u64,
    /// By (segment number, sequence): one byte a record.
    pub segments: HashMap<(u32, u64), Vec<u8>>,
}

impl TouchSnapshot {
    /// Bytes of the file.
    pub fn encoded_bytes(&self) -> u64 {
        let body: usize = self.segments.values().map(|touches| SEGMENT_BYTES + touches.len()).sum();
        (HEADER_BYTES + body + 8) as u64
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0_u8; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        put_u32(&mut bytes, 8, FORMAT_VERSION);
        put_u64(&mut bytes, 16, self.saved_ms);
        put_u64(&mut bytes, 24, self.period_ms);
        put_u32(&mut bytes, 32, self.segments.len() as u32);
        let mut segments: Vec<_> = self.segments.iter().collect();
        segments.sort_unstable_by_key(|(place, _)| **place);
        for ((number, sequence), touches) in segments {
            let mut header = [0_u8; SEGMENT_BYTES];
            put_u32(&mut header, 0, *number);
            put_u32(&mut header, 4, touches.len() as u32);
            put_u64(&mut header, 8, *sequence);
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(touches);
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when it cannot be believed; the order of eviction is then that of writing.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        if body.len() < HEADER_BYTES
            || body[..8] != MAGIC
            || get_u64(checksum, 0) != xxhash_rust::xxh3::xxh3_64(body)
            || !is_read(get_u32(body, 8))
        {
            return None;
        }
        let mut snapshot = Self { saved_ms: get_u64(body, 16), period_ms: get_u64(body, 24), segments: HashMap::new() };
        let mut rest = &body[HEADER_BYTES..];
        for _ in 0..get_u32(body, 32) {
            let (header, tail) = rest.split_at_checked(SEGMENT_BYTES)?;
            let (touches, tail) = tail.split_at_checked(get_u32(header, 4) as usize)?;
            snapshot.segments.insert((get_u32(header, 0), get_u64(header, 8)), touches.to_vec());
            rest = tail;
        }
        rest.is_empty().then_some(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let snapshot = TouchSnapshot {
            saved_ms: 5,
            period_ms: 7,
            segments: HashMap::from([((1, 10), vec![0, 1, 2, 255]), ((2, 9), vec![]), ((3, 11), vec![9; 100])]),
        };
        let bytes = snapshot.encode();
        assert_eq!(bytes.len() as u64, snapshot.encoded_bytes());
        assert_eq!(TouchSnapshot::decode(&bytes), Some(snapshot));
        for length in 0..bytes.len() {
            assert_eq!(TouchSnapshot::decode(&bytes[..length]), None, "cut at {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(TouchSnapshot::decode(&damaged), None, "bit {bit}");
        }
    }
}
