//! Touch epochs: when an entry was last asked for, in six bits, and their arithmetic.
//!
//! Time is cut into periods of [`EpochLength::length_ms`]. Period `p` is written as `1 + p % 63`; 0 means longer ago than
//! anybody cares. The ring is divided so that each of the 63 distances back from the present has one meaning:
//!
//! ```text
//! distance  0 ....................... 48  49 .......... 56  57 ........ 62
//!           age in periods                due to be swept   ahead of the reader's clock
//! ```
//! A sweep ([`Table::age`](crate::Table::age)) at least every 8 periods takes what is older than 48 off the ring, so the
//! distances 49 to 56 are the slack between two sweeps. The rest belongs to touches *ahead* of the clock they are read
//! with: a sweep or a reclaim reads the clock once and works on for a while, and a touch that lands meanwhile in the next
//! period must count as fresh. Taken for 62 periods old, it would lose its lease.

/// Distinct periods.
const RING_PERIODS: u64 = 63;

/// Distances above this are touches ahead of the clock.
const BEHIND_PERIODS_MAX: u64 = EpochLength::AGE_PERIODS_MAX as u64 + SWEEP_PERIODS_MAX;

/// Periods that may pass between two sweeps.
const SWEEP_PERIODS_MAX: u64 = 8;

const _: () = assert!(BEHIND_PERIODS_MAX < RING_PERIODS);

/// 6-bit touch epoch: 0 = beyond the horizon, 1..=63 a ring of periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TouchEpoch(u8);

const _: () = assert!(size_of::<TouchEpoch>() == 1);

impl TouchEpoch {
    /// Touched longer ago than the ring reaches, or never.
    pub const OLD: TouchEpoch = TouchEpoch(0);

    /// Bits of an epoch in a fingerprint word.
    pub(crate) const BITS: u32 = 6;

    /// As stored in a footer entry; values over 63 read as `OLD`.
    #[inline]
    pub fn from_u8(raw: u8) -> Self {
        if u64::from(raw) <= RING_PERIODS { TouchEpoch(raw) } else { Self::OLD }
    }

    /// As stored in a footer entry.
    #[inline]
    pub fn as_u8(self) -> u8 {
        self.0
    }
}

/// Arithmetic between wall-clock milliseconds and touch epochs. A store keeps one length for its life in memory.
#[derive(Clone, Copy, Debug)]
pub struct EpochLength {
    /// Milliseconds a period lasts; not 0.
    pub length_ms: u64,
}

impl EpochLength {
    /// Periods the ring can tell apart before an entry must have been swept to `OLD` (48 of 63, the rest is slack).
    pub const AGE_PERIODS_MAX: u8 = 48;

    /// The epoch of a moment.
    #[inline]
    pub fn epoch_at(&self, now_ms: u64) -> TouchEpoch {
        TouchEpoch(1 + self.ring_position(now_ms) as u8)
    }

    /// Whole periods since the touch, `None` for OLD. 0 = touched in the current period (or in one slightly ahead of
    /// `now_ms`). A touch `age` periods ago happened less than `(age + 1) * length_ms` and more than
    /// `(age - 1) * length_ms` ago.
    #[inline]
    pub fn age_periods(&self, now_ms: u64, touched: TouchEpoch) -> Option<u8> {
        if touched == TouchEpoch::OLD {
            return None;
        }
        let position = u64::from(touched.0) - 1;
        let distance = (self.ring_position(now_ms) + RING_PERIODS - position) % RING_PERIODS;
        Some(if distance > BEHIND_PERIODS_MAX { 0 } else { distance as u8 })
    }

    fn ring_position(&self, now_ms: u64) -> u64 {
        now_ms / self.length_ms % RING_PERIODS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCHS: EpochLength = EpochLength { length_ms: 1000 };

    #[test]
    fn epochs_walk_the_ring() {
        for (now_ms, epoch) in [(0, 1), (999, 1), (1000, 2), (62_000, 63), (63_000, 1), (u64::MAX, 13)] {
            assert_eq!(EPOCHS.epoch_at(now_ms).as_u8(), epoch, "{now_ms}");
        }
    }

    #[test]
    fn raw_values_beyond_the_ring_are_old() {
        for raw in 0..=u8::MAX {
            assert_eq!(TouchEpoch::from_u8(raw).as_u8(), if raw <= 63 { raw } else { 0 });
        }
    }

    #[test]
    fn every_distance_has_one_meaning_wherever_the_ring_stands() {
        for start in 0..RING_PERIODS {
            let now_ms = (1_000_000 * RING_PERIODS + start) * EPOCHS.length_ms + 500;
            assert_eq!(EPOCHS.age_periods(now_ms, TouchEpoch::OLD), None);
            for distance in 0..=BEHIND_PERIODS_MAX {
                let touched = EPOCHS.epoch_at(now_ms - distance * EPOCHS.length_ms);
                assert_eq!(EPOCHS.age_periods(now_ms, touched), Some(distance as u8), "{distance}");
            }
            for ahead in 1..RING_PERIODS - BEHIND_PERIODS_MAX {
                let touched = EPOCHS.epoch_at(now_ms + ahead * EPOCHS.length_ms);
                assert_eq!(EPOCHS.age_periods(now_ms, touched), Some(0), "{ahead} ahead");
            }
        }
    }

    /// The bound that leases are computed from.
    #[test]
    fn an_age_bounds_the_time_since_the_touch() {
        for touched_ms in (0..3000).step_by(37) {
            let touched = EPOCHS.epoch_at(touched_ms);
            for elapsed_ms in (0..48_000).step_by(91) {
                let age = u64::from(EPOCHS.age_periods(touched_ms + elapsed_ms, touched).unwrap());
                assert!(elapsed_ms < (age + 1) * EPOCHS.length_ms, "{touched_ms} {elapsed_ms} {age}");
                assert!(elapsed_ms + EPOCHS.length_ms > age * EPOCHS.length_ms, "{touched_ms} {elapsed_ms} {age}");
            }
        }
    }
}
