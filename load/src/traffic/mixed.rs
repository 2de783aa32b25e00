//! What a company of builds asks of its cache, request by request.
//!
//! For 100 actions that are looked up, with the share `h` of them found (docs/benchmarking.md has the same table):
//!
//! ```text
//!   action-hit      100 h        each result names two outputs
//!   action-miss     100 (1-h)
//!   read             75 h        outputs that the build wants on its disk; sizes below
//!   find-missing    100 (1-h)    64 digests each: inputs of the action that has to run; four of five are there
//!   write           300 (1-h)    Action (142 B), Command (3 KiB) and an output of each action that ran, a stream each
//!   action-update   100 (1-h)
//! ```
//!
//! Bazel asks so: it looks every action up, downloads outputs as streams, uploads as streams, and never batches. Requests are
//! drawn independently, since what a server sees of many builds at once is mixed anyway.

/// Sizes of outputs in bytes, and how many of 10,000 have them: half are below 10 KB, the mean is 80 KB, and the largest
/// four of a thousand are two fifths of the bytes.
pub(crate) const OUTPUT_SIZES: [(u64, u32); 8] = [
    (512, 2000),
    (4 << 10, 3000),
    (16 << 10, 2500),
    (64 << 10, 1700),
    (256 << 10, 600),
    (1 << 20, 160),
    (4 << 20, 35),
    (32 << 20, 5),
];

/// Sizes of an action's own messages.
pub(crate) const MESSAGE_SIZES: [u64; 2] = [142, 3 << 10];

/// Digests a request of find-missing, and how many of them are there.
pub(crate) const FIND_BATCH: usize = 64;
/// The share of those that are there.
pub(crate) const FIND_HIT_RATE: f64 = 0.8;
/// Outputs an action's result names.
pub(crate) const OUTPUTS: usize = 2;
/// Different results that are asked for, digests that are looked for, and bytes of blobs of each size that are read.
pub(crate) const ACTIONS: usize = 2000;
/// Digests that are looked for.
pub(crate) const FIND_BLOBS: usize = 64 * 512;
/// Bytes of the blobs of each size that are read in turn, and how many of them at most.
pub(crate) const READ_BYTES: u64 = 64 << 20;
/// Blobs of each size at most.
pub(crate) const READ_BLOBS_MAX: u64 = 500;

/// How often each kind is drawn, for a hit rate: action-hit, action-miss, read, find-missing, write of each message,
/// write of an output, action-update. In ten-thousandths of 100 actions.
pub(crate) struct Weights {
    pub(crate) action_hit: u32,
    pub(crate) per_miss: u32,
    pub(crate) read: u32,
}

impl Weights {
    /// For the share of actions that are found.
    pub(crate) fn new(hit_rate: f64) -> Self {
        let of = |count: f64| (count * 10_000.0).round() as u32;
        Self { action_hit: of(100.0 * hit_rate), per_miss: of(100.0 * (1.0 - hit_rate)), read: of(75.0 * hit_rate) }
    }
}

/// The part of a weight that blobs of one size get.
pub(crate) fn share(weight: u32, of_ten_thousand: u32) -> u32 {
    (u64::from(weight) * u64::from(of_ten_thousand) / 10_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_as_documented() {
        let count: u32 = OUTPUT_SIZES.iter().map(|(_, share)| share).sum();
        assert_eq!(count, 10_000);
        let bytes: u64 = OUTPUT_SIZES.iter().map(|(size, share)| size * u64::from(*share)).sum();
        assert!((78_000..84_000).contains(&(bytes / 10_000)), "a mean of {}", bytes / 10_000);
        let large: u64 = OUTPUT_SIZES[6..].iter().map(|(size, share)| size * u64::from(*share)).sum();
        assert!((large as f64 / bytes as f64 - 0.4).abs() < 0.05, "{}", large as f64 / bytes as f64);
    }
}
