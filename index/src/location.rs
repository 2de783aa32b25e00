//! [`Location`]: where a record stands in the store, packed into one word so that it is read and written atomically.
//!
//! ```text
//! 63                     40 39                   18 17               0
//! | segment (24)           | offset / 64 B (22)    | length / 64 B (18) |
//! ```
//! Reach: 2^24 segments, offsets below 256 MiB, lengths below 16 MiB. Memory only: the layout is not on disk.

/// Where a record stands: a segment, and a byte range in it in units of 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location(u64);

const LENGTH_BITS: u32 = 18;
const OFFSET_BITS: u32 = 22;
const SEGMENT_BITS: u32 = 24;
const _: () = assert!(LENGTH_BITS + OFFSET_BITS + SEGMENT_BITS == u64::BITS);
const _: () = assert!(size_of::<Location>() == 8);

impl Location {
    /// Offsets and lengths are multiples of this.
    pub const UNIT_BYTES: u32 = 64;
    /// Segment numbers are below this.
    pub const SEGMENT_COUNT_MAX: u32 = 1 << SEGMENT_BITS;
    /// The largest offset: 256 MiB less one unit.
    pub const OFFSET_BYTES_MAX: u32 = ((1 << OFFSET_BITS) - 1) * Self::UNIT_BYTES;
    /// The largest length: 16 MiB less one unit.
    pub const LENGTH_BYTES_MAX: u32 = ((1 << LENGTH_BITS) - 1) * Self::UNIT_BYTES;

    /// `offset_bytes` and `length_bytes` are multiples of [`UNIT_BYTES`](Self::UNIT_BYTES).
    ///
    /// # Panics
    /// When something is out of range: the engine's geometry keeps records inside, so that is a broken invariant.
    #[inline]
    pub fn new(segment: u32, offset_bytes: u32, length_bytes: u32) -> Self {
        assert!(segment < Self::SEGMENT_COUNT_MAX, "segment {segment} is out of range");
        assert!(
            offset_bytes.is_multiple_of(Self::UNIT_BYTES) && offset_bytes <= Self::OFFSET_BYTES_MAX,
            "offset {offset_bytes} is out of range or not aligned"
        );
        assert!(
            length_bytes.is_multiple_of(Self::UNIT_BYTES) && length_bytes <= Self::LENGTH_BYTES_MAX,
            "length {length_bytes} is out of range or not aligned"
        );
        let (offset, length) = (offset_bytes / Self::UNIT_BYTES, length_bytes / Self::UNIT_BYTES);
        Location(
            u64::from(segment) << (OFFSET_BITS + LENGTH_BITS) | u64::from(offset) << LENGTH_BITS | u64::from(length),
        )
    }

    /// Number of the segment.
    #[inline]
    pub fn segment(self) -> u32 {
        (self.0 >> (OFFSET_BITS + LENGTH_BITS)) as u32
    }

    /// Where the record begins in its segment.
    #[inline]
    pub fn offset_bytes(self) -> u32 {
        (self.0 >> LENGTH_BITS) as u32 % (1 << OFFSET_BITS) * Self::UNIT_BYTES
    }

    /// Length of the record with its header and padding.
    #[inline]
    pub fn length_bytes(self) -> u32 {
        self.0 as u32 % (1 << LENGTH_BITS) * Self::UNIT_BYTES
    }

    #[inline]
    pub(crate) fn to_word(self) -> u64 {
        self.0
    }

    /// Every word is a location; the table only ever reads words back that it wrote (or the zero of fresh memory).
    #[inline]
    pub(crate) fn from_word(word: u64) -> Self {
        Location(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lead_back_at_the_corners() {
        let segments = [0, 1, 0x00aa_aaaa, Location::SEGMENT_COUNT_MAX - 1];
        let offsets = [0, 64, 0x0555_5540, Location::OFFSET_BYTES_MAX];
        let lengths = [0, 64, 0x00aa_aa80, Location::LENGTH_BYTES_MAX];
        for segment in segments {
            for offset in offsets {
                for length in lengths {
                    let location = Location::new(segment, offset, length);
                    let parts = (location.segment(), location.offset_bytes(), location.length_bytes());
                    assert_eq!(parts, (segment, offset, length));
                    assert_eq!(Location::from_word(location.to_word()), location);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_a_broken_invariant() {
        let bad = [
            (Location::SEGMENT_COUNT_MAX, 0, 0),
            (0, Location::OFFSET_BYTES_MAX + 64, 0),
            (0, 0, Location::LENGTH_BYTES_MAX + 64),
            (0, 63, 0),
            (0, 0, 65),
        ];
        for (segment, offset, length) in bad {
            let made = std::panic::catch_unwind(|| Location::new(segment, offset, length));
            assert!(made.is_err(), "{segment} {offset} {length}");
        }
    }
}
