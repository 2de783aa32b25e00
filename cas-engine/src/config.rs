//! Validated options and the geometry that follows from them.

use std::time::Duration;

use cask_index::{EpochLength, Location};

use crate::disk::DiskAdapter;
use crate::error::OpenError;

/// When an upload is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the write reached the kernel: survives kill -9; a power cut loses at most the last 100 ms or so.
    Written,
    /// After a (grouped) fdatasync: survives a power cut.
    Synced,
}

/// Whether the store compresses what comes as it is. What comes as zstd is stored as zstd either way, where that pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Never.
    Off,
    /// Payloads of blobs become zstd frames, each on its own, where that saves an eighth.
    Zstd,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bound on the bytes of all files of the store, metadata included.
    pub max_size_bytes: u64,
    /// How long a digest reported present is meant to stay readable (the target).
    pub lease: Duration,
    /// How long it stays readable come what may (the floor).
    pub lease_floor: Duration,
    /// When an upload is acknowledged.
    pub durability: Durability,
    /// Whether it compresses what it is given.
    pub compression: Compression,
    /// How batches of writes reach the disk.
    pub disk_adapter: DiskAdapter,
    /// Size of one segment file, a power of two; `None`: chosen from `max_size_bytes`. Used when the store is made,
    /// an existing store keeps the size it has.
    pub segment_size_bytes: Option<u32>,
    /// Entries the index is made for; `None`: chosen from `max_size_bytes` and what recovery finds.
    pub index_capacity: Option<u64>,
    /// Larger blobs are refused with `TooLarge`; `None`: half of `max_size_bytes`.
    pub blob_size_bytes_max: Option<u64>,
    /// Everything stored is read and hashed again once in this time; zero: never.
    pub scrub_period: Duration,
}

impl EngineOptions {
    /// Defaults (lease 4 h, floor 10 min, `Written`, no compression, scrubbed in 14 days) for a store of `max_size_bytes`.
    pub fn new(max_size_bytes: u64) -> Self {
        Self {
            max_size_bytes,
            lease: Duration::from_secs(4 * 3600),
            lease_floor: Duration::from_secs(600),
            durability: Durability::Written,
            compression: Compression::Off,
            disk_adapter: DiskAdapter::Auto,
            segment_size_bytes: None,
            index_capacity: None,
            blob_size_bytes_max: None,
            scrub_period: Duration::from_secs(14 * 24 * 3600),
        }
    }
}

const MIB: u64 = 1 << 20;
/// Smallest segment, for tests and the simulator, which want a store that turns over in a moment: its parts are 4 KiB.
pub(crate) const SEGMENT_SIZE_BYTES_MIN: u32 = 64 << 10;
/// Largest segment: a location's offset has 22 bits of 64-byte units.
pub(crate) const SEGMENT_SIZE_BYTES_MAX: u32 = 256 << 20;
/// Fewer segments than this leave no room to reclaim beside the open lanes.
pub(crate) const SEGMENT_COUNT_MIN: u64 = 12;
/// A blob is cut into parts of this size, or a sixteenth of a segment where that is less.
const PART_SIZE_BYTES_MAX: u32 = 1 << 20;
/// Expected bytes of store per blob when the index is sized: Bazel's outputs average 40 KB, so this is generous.
const BYTES_PER_BLOB_EXPECTED: u64 = 16 * 1024;
/// Never make an index for fewer entries than this (24 B each).
const INDEX_CAPACITY_MIN: u64 = 1 << 20;

/// Sizes that hold for the life of a store; kept in its superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of one segment file.
    pub segment_size_bytes: u32,
    /// Payload bytes of one record of a blob; larger blobs are cut into parts of this size.
    pub part_size_bytes: u32,
}

impl Geometry {
    /// The geometry a new store of these options gets.
    pub(crate) fn for_new_store(options: &EngineOptions) -> Result<Self, OpenError> {
        let segment_size_bytes = match options.segment_size_bytes {
            Some(size) => size,
            None if options.max_size_bytes > 1024 * 1024 * MIB => 256 << 20,
            None => (options.max_size_bytes / 64).next_power_of_two().clamp(MIB, 64 * MIB) as u32,
        };
        Self::new(segment_size_bytes)
    }

    /// Checks a segment size and derives the rest.
    pub(crate) fn new(segment_size_bytes: u32) -> Result<Self, OpenError> {
        if !segment_size_bytes.is_power_of_two()
            || !(SEGMENT_SIZE_BYTES_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&segment_size_bytes)
        {
            return Err(OpenError::Options(format!(
                "segment size {segment_size_bytes} must be a power of two from {SEGMENT_SIZE_BYTES_MIN} to {SEGMENT_SIZE_BYTES_MAX} bytes"
            )));
        }
        Ok(Self { segment_size_bytes, part_size_bytes: (segment_size_bytes / 16).min(PART_SIZE_BYTES_MAX) })
    }

    /// Largest payload of an action record: a quarter of a segment, and what a location's length can say.
    pub(crate) fn action_payload_bytes_max(self) -> u32 {
        (self.segment_size_bytes / 4).min(8 << 20)
    }
}

/// Options and geometry, checked against each other: what the open engine runs on.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) geometry: Geometry,
    pub(crate) durability: Durability,
    pub(crate) compression: Compression,
    pub(crate) max_size_bytes: u64,
    pub(crate) segment_count_max: u32,
    pub(crate) index_capacity: u64,
    pub(crate) blob_size_bytes_max: u64,
    pub(crate) lease_ms: u64,
    pub(crate) lease_floor_ms: u64,
    pub(crate) epochs: EpochLength,
    /// Bytes kept apart for everything that is not a segment; see [`Plan::metadata_bytes`].
    pub(crate) metadata_bytes_max: u64,
    /// 0: no scrubbing.
    pub(crate) scrub_period_ms: u64,
}

impl Plan {
    pub(crate) fn new(options: &EngineOptions, geometry: Geometry) -> Result<Self, OpenError> {
        if options.lease < options.lease_floor {
            return Err(OpenError::Options(format!(
                "lease ({:?}) is shorter than lease floor ({:?}); raise the lease or lower the floor",
                options.lease, options.lease_floor
            )));
        }
        let index_capacity = options
            .index_capacity
            .unwrap_or_else(|| (options.max_size_bytes / BYTES_PER_BLOB_EXPECTED).max(INDEX_CAPACITY_MIN))
            .max(1024);
        // Superblock and lock, each at most twice while being replaced, and the touch snapshot, a byte an entry, twice
        // for the same reason. A snapshot that would not fit is not written.
        let metadata_bytes_max = (64 * 1024 + 4 * index_capacity).min(options.max_size_bytes / 32);
        let segment_count =
            options.max_size_bytes.saturating_sub(metadata_bytes_max) / u64::from(geometry.segment_size_bytes);
        if segment_count < SEGMENT_COUNT_MIN {
            return Err(OpenError::Options(format!(
                "a max size of {} bytes is too small for a store of {} KiB segments (a store keeps the segment size it was made with); raise it to {} MiB or more",
                options.max_size_bytes,
                geometry.segment_size_bytes / 1024,
                ((SEGMENT_COUNT_MIN + 1) * u64::from(geometry.segment_size_bytes) * 32 / 31).div_ceil(MIB),
            )));
        }
        if segment_count > u64::from(Location::SEGMENT_COUNT_MAX) {
            return Err(OpenError::Options(format!(
                "max size {} needs {segment_count} segments, more than {}",
                options.max_size_bytes,
                Location::SEGMENT_COUNT_MAX
            )));
        }
        let lease_ms = millis(options.lease);
        Ok(Self {
            geometry,
            durability: options.durability,
            compression: options.compression,
            max_size_bytes: options.max_size_bytes,
            segment_count_max: segment_count as u32,
            index_capacity,
            blob_size_bytes_max: options.blob_size_bytes_max.unwrap_or(u64::MAX).min(options.max_size_bytes / 2),
            lease_ms,
            lease_floor_ms: millis(options.lease_floor),
            epochs: epoch_length(lease_ms, millis(options.lease_floor)),
            metadata_bytes_max,
            scrub_period_ms: millis(options.scrub_period),
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// The ring of touch epochs must span the lease. With no (or a short) lease it still orders touches. Periods shorter than
/// five seconds would only make work for the sweep; where there is no floor that short periods would keep exact, ten
/// minutes order the touches of a working day.
fn epoch_length(lease_ms: u64, lease_floor_ms: u64) -> EpochLength {
    let length_ms_min = if lease_floor_ms == 0 { 600_000 } else { 5000 };
    EpochLength { length_ms: lease_ms.div_ceil(u64::from(EpochLength::AGE_PERIODS_MAX) - 1).max(length_ms_min) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_follows_the_size() {
        for (max_size_mib, segment_mib) in
            [(16, 1), (64, 1), (256, 4), (1024, 16), (4096, 64), (51_200, 64), (2 << 20, 256)]
        {
            let geometry = Geometry::for_new_store(&EngineOptions::new(max_size_mib * MIB)).unwrap();
            assert_eq!(u64::from(geometry.segment_size_bytes), segment_mib * MIB, "{max_size_mib} MiB");
        }
    }

    #[test]
    fn the_ring_spans_the_lease() {
        for lease_s in [1_u64, 60, 600, 4 * 3600, 7 * 24 * 3600] {
            let epochs = epoch_length(lease_s * 1000, 1);
            assert!(epochs.length_ms * u64::from(EpochLength::AGE_PERIODS_MAX - 1) >= lease_s * 1000);
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let small = EngineOptions::new(4 * MIB);
        let geometry = Geometry::for_new_store(&small).unwrap();
        assert!(matches!(Plan::new(&small, geometry), Err(OpenError::Options(_))));
        let mut crossed = EngineOptions::new(1024 * MIB);
        crossed.lease = Duration::from_secs(1);
        assert!(matches!(Plan::new(&crossed, geometry), Err(OpenError::Options(_))));
        for wrong in [3 << 20, 32 << 10, 512 << 20] {
            assert!(matches!(Geometry::new(wrong), Err(OpenError::Options(_))), "{wrong}");
        }
        assert_eq!(Geometry::new(64 << 10).unwrap().part_size_bytes, 4096);
    }
}
