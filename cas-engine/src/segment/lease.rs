//! What reclaim keeps of a segment: leases, recency, and the bound on write amplification. Pure arithmetic.
//!
//! Three reasons to keep a unit (a record, or the parts of one large blob), strongest first:
//! 1. *Floor*: touched within the lease floor. Always kept; a segment full of such is left alone.
//! 2. *Target*: touched within the lease, in a segment older than the lease (in a younger one what was never hit goes in
//!    the order it was written, which is the order of its last touch).
//! 3. *Recency*: hit since it was written.
//!
//! The last two are kept, last touched first, up to a quarter of the segment, or more on [`RewriteCredit`]. So over time
//! write amplification stays at 1.33, and yet a working set that was uploaded in one burst, so that whole segments are
//! hot, is kept whole. What is dropped inside its lease is counted: the store is too small for the promise.

use cask_index::EpochLength;

use crate::config::Plan;

/// This share of a segment may always be written again for recency.
const KEEP_SHARE: (u64, u64) = (1, 4);
/// A segment of which more than this share is protected by the floor is not worth reclaiming.
const FLOOR_SHARE_MAX: (u64, u64) = (15, 16);

/// What of a segment stands or falls together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Whole periods since it was touched; `None`: longer than the ring knows.
    pub(crate) age_periods: Option<u8>,
    /// Touched since it was written.
    pub(crate) hit: bool,
    /// Protected whatever its age says, for so many milliseconds yet: parts of an upload under way, and everything
    /// for a while after a crash.
    pub(crate) protected_for_ms: u64,
}

/// The promise, and how fast the store turns over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseTerms {
    pub(crate) lease_ms: u64,
    pub(crate) lease_floor_ms: u64,
    pub(crate) epochs: EpochLength,
    /// The segment was sealed longer ago than the lease.
    pub(crate) outlived_lease: bool,
    /// What [`RewriteCredit`] has.
    pub(crate) credit_bytes: u64,
}

/// Bytes that may be rewritten before write amplification exceeds its bound: a third of what is appended, saved up to a
/// limit, so that a store that was quiet for long does not rewrite itself for hours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RewriteCredit {
    bytes: u64,
    bytes_max: u64,
    appended_seen: u64,
    rewritten_seen: u64,
}

impl RewriteCredit {
    /// Full at the start: what was hot before a restart may be moved at once.
    pub(crate) fn new(plan: &Plan) -> Self {
        let bytes_max = (plan.max_size_bytes / 32).max(2 * u64::from(plan.geometry.segment_size_bytes));
        Self { bytes: bytes_max, bytes_max, appended_seen: 0, rewritten_seen: 0 }
    }

    /// Brings it up to date with the counters and says what there is.
    pub(crate) fn update(&mut self, appended_bytes: u64, rewritten_bytes: u64) -> u64 {
        let earned = (appended_bytes - self.appended_seen) / 3;
        let spent = rewritten_bytes - self.rewritten_seen;
        self.bytes = (self.bytes + earned).min(self.bytes_max).saturating_sub(spent);
        // What the division leaves over is earned the next time.
        self.appended_seen += earned * 3;
        self.rewritten_seen = rewritten_bytes;
        self.bytes
    }
}

/// What to do with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Keep the units so marked and reclaim the rest.
    Reclaim {
        keep: Vec<bool>,
        /// Those of them that the floor protects.
        floor: Vec<bool>,
        kept_bytes: u64,
        leases_broken: u64,
    },
    /// Too much is protected by the floor; worth a look again after this time.
    TooYoung { retry_after_ms: u64 },
}

impl LeaseTerms {
    /// Milliseconds for which the floor still protects a unit. A touch `age` periods ago is at least `age - 1` whole
    /// periods old, so this errs on the side of protecting.
    fn floor_left_ms(&self, unit: &Unit) -> u64 {
        let by_age = match unit.age_periods {
            Some(age) => self.lease_floor_ms.saturating_sub(u64::from(age.saturating_sub(1)) * self.epochs.length_ms),
            None => 0,
        };
        by_age.max(unit.protected_for_ms)
    }

    fn leased(&self, unit: &Unit) -> bool {
        unit.age_periods.is_some_and(|age| u64::from(age.saturating_sub(1)) * self.epochs.length_ms < self.lease_ms)
    }
}

/// Decides over the live units of a segment of `segment_bytes`.
pub(crate) fn judge(units: &[Unit], segment_bytes: u64, terms: &LeaseTerms) -> Verdict {
    let mut floor_left: Vec<(u64, u64)> =
        units.iter().map(|unit| (terms.floor_left_ms(unit), unit.bytes)).filter(|(left_ms, _)| *left_ms > 0).collect();
    let floor_bytes: u64 = floor_left.iter().map(|(_, bytes)| bytes).sum();
    let floor_bytes_max = segment_bytes * FLOOR_SHARE_MAX.0 / FLOOR_SHARE_MAX.1;
    if floor_bytes > floor_bytes_max {
        floor_left.sort_unstable();
        let mut excess = floor_bytes - floor_bytes_max;
        let last = floor_left.iter().find(|(_, bytes)| {
            let enough = *bytes >= excess;
            excess = excess.saturating_sub(*bytes);
            enough
        });
        return Verdict::TooYoung { retry_after_ms: last.map_or(1, |(left_ms, _)| *left_ms).max(1) };
    }

    let floor: Vec<bool> = units.iter().map(|unit| terms.floor_left_ms(unit) > 0).collect();
    let mut keep = floor.clone();
    let mut kept_bytes = floor_bytes;

    let share = segment_bytes * KEEP_SHARE.0 / KEEP_SHARE.1;
    let budget = share.max(terms.credit_bytes.min(floor_bytes_max));
    let wanted = |unit: &Unit| unit.hit || (terms.outlived_lease && terms.leased(unit));
    let mut rest: Vec<usize> =
        (0..units.len()).filter(|position| !keep[*position] && wanted(&units[*position])).collect();
    // Last touched first; the log's order decides between equals, for determinism.
    rest.sort_by_key(|position| (units[*position].age_periods.unwrap_or(u8::MAX), *position));
    for position in rest {
        if kept_bytes + units[position].bytes <= budget {
            kept_bytes += units[position].bytes;
            keep[position] = true;
        }
    }
    let leases_broken = units.iter().zip(&keep).filter(|(unit, keep)| !**keep && terms.leased(unit)).count() as u64;
    Verdict::Reclaim { keep, floor, kept_bytes, leases_broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn terms(lease_min: u64, floor_min: u64, outlived_lease: bool) -> LeaseTerms {
        LeaseTerms {
            lease_ms: lease_min * MINUTE,
            lease_floor_ms: floor_min * MINUTE,
            epochs: EpochLength { length_ms: 5 * MINUTE },
            outlived_lease,
            credit_bytes: 0,
        }
    }

    fn unit(bytes: u64, age_periods: Option<u8>, hit: bool) -> Unit {
        Unit { bytes, age_periods, hit, protected_for_ms: 0 }
    }

    fn kept(units: &[Unit], terms: &LeaseTerms) -> Vec<bool> {
        match judge(units, 1000, terms) {
            Verdict::Reclaim { keep, .. } => keep,
            Verdict::TooYoung { .. } => panic!("too young"),
        }
    }

    #[test]
    fn old_and_never_hit_is_dropped() {
        assert_eq!(kept(&[unit(900, None, false)], &terms(240, 10, true)), [false]);
    }

    #[test]
    fn what_the_floor_protects_is_kept_whatever_it_costs() {
        let units = [unit(600, Some(0), false), unit(300, Some(2), false), unit(100, Some(9), false)];
        assert_eq!(kept(&units, &terms(240, 10, false)), [true, true, false]);
    }

    #[test]
    fn a_segment_full_of_floor_is_left_alone_until_enough_of_it_ages() {
        let units = [unit(500, Some(0), false), unit(100, Some(2), false), unit(400, Some(1), false)];
        // Age 2 is at least 5 min old: 5 of the 10 min are left.
        assert_eq!(judge(&units, 1000, &terms(240, 10, false)), Verdict::TooYoung { retry_after_ms: 5 * MINUTE });
    }

    #[test]
    fn a_lease_is_kept_on_credit_last_touched_first_and_counted_when_it_is_not() {
        let units = [unit(400, Some(20), false), unit(400, Some(10), false), unit(200, None, false)];
        let mut terms = terms(240, 10, true);
        terms.credit_bytes = u64::MAX;
        assert_eq!(kept(&units, &terms), [true, true, false]);
        terms.credit_bytes = 500;
        let verdict = judge(&units, 1000, &terms);
        let keep = vec![false, true, false];
        assert_eq!(verdict, Verdict::Reclaim { keep, floor: vec![false; 3], kept_bytes: 400, leases_broken: 1 });
    }

    #[test]
    fn credit_is_earned_by_appends_and_saved_up_to_a_limit() {
        let mut credit = RewriteCredit { bytes: 0, bytes_max: 100, appended_seen: 0, rewritten_seen: 0 };
        assert_eq!(credit.update(30, 0), 10);
        assert_eq!(credit.update(31, 0), 10);
        assert_eq!(credit.update(33, 0), 11, "thirds are not lost");
        assert_eq!(credit.update(33, 5), 6);
        assert_eq!(credit.update(33, 50), 0, "what the floor took is not owed");
        assert_eq!(credit.update(9033, 50), 100);
    }

    #[test]
    fn a_store_that_turns_over_too_fast_keeps_what_was_hit_and_counts_the_rest() {
        let units =
            [unit(200, Some(9), false), unit(200, Some(4), false), unit(200, Some(8), true), unit(40, Some(30), true)];
        let verdict = judge(&units, 1000, &terms(240, 10, false));
        assert_eq!(
            verdict,
            Verdict::Reclaim {
                keep: vec![false, false, true, true],
                floor: vec![false; 4],
                kept_bytes: 240,
                leases_broken: 2
            }
        );
    }

    #[test]
    fn without_leases_what_was_hit_is_kept_up_to_a_quarter() {
        let units =
            [unit(200, Some(3), true), unit(200, Some(1), true), unit(200, Some(0), false), unit(50, None, true)];
        let verdict = judge(&units, 1000, &terms(0, 0, true));
        assert_eq!(
            verdict,
            Verdict::Reclaim {
                keep: vec![false, true, false, true],
                floor: vec![false; 4],
                kept_bytes: 250,
                leases_broken: 0
            }
        );
    }

    /// Tools uploaded together fill whole segments; dropping three quarters of them would be the quarter's letter and not
    /// its purpose.
    #[test]
    fn a_burst_that_is_hot_throughout_is_kept_on_credit() {
        let units = [unit(300, Some(0), true), unit(300, Some(0), true), unit(300, Some(0), true)];
        let mut terms = terms(0, 0, true);
        assert_eq!(kept(&units, &terms), [false, false, false], "each is more than a quarter");
        terms.credit_bytes = 700;
        assert_eq!(kept(&units, &terms), [true, true, false]);
        terms.credit_bytes = u64::MAX;
        assert_eq!(kept(&units, &terms), [true, true, true]);
        let all = [unit(500, Some(0), true), unit(500, Some(0), true)];
        assert_eq!(kept(&all, &terms), [true, false], "reclaim frees something");
    }

    #[test]
    fn protection_after_a_crash_counts_as_floor() {
        let mut fresh = unit(100, None, false);
        fresh.protected_for_ms = 10;
        assert_eq!(kept(&[fresh], &terms(240, 10, true)), [true]);
    }
}
