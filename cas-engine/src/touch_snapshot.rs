//! Saving and restoring when entries were touched, so that the order of eviction survives a restart.
//!
//! Written at close and once every period of the epochs, small (a byte an entry) and best effort: a snapshot that is
//! missing, damaged, stale or too large for its share of the store costs order, never data.

use std::collections::HashMap;

use cask_index::{Found, TouchEpoch};

use crate::core::Core;
use crate::format::footer::FooterEntry;
use crate::format::segment::LaneClass;
use crate::format::touches::TouchSnapshot;
use crate::segment::lane::location_of;

pub(crate) const FILE_NAME: &str = "touches";
/// What the superblock, the lock and the folders themselves may take of the metadata's share.
const OTHER_METADATA_BYTES: u64 = 32 * 1024;
pub(crate) const NO_ENTRY: u8 = 0;
const OLDER_THAN_THE_RING: u8 = 1;
const AGE_BASE: u8 = 2;
const HIT: u8 = 0x80;

impl Core {
    /// False when there are too many records for the snapshot's share of the store.
    pub(crate) fn save_touches(&self) -> std::io::Result<bool> {
        let now_ms = self.clock.now_ms();
        let mut segments = HashMap::new();
        for sealed in self.ledger.sealed_segments() {
            let touches =
                self.read_footer(sealed).map(|footer| self.touches_of(sealed.number, &footer.entries, now_ms));
            segments.insert((sealed.number, sealed.sequence), touches.unwrap_or_default());
        }
        for number in self.ledger.quarantined_segments() {
            if let Some(segment) = self.ledger.segment(number) {
                segments.insert((number, segment.sequence()), Vec::new());
            }
        }
        for class in LaneClass::ALL {
            let lane = self.lane(class).lock();
            if let Some(open) = &lane.open {
                let number = open.segment.number();
                segments.insert((number, open.segment.sequence()), self.touches_of(number, &open.entries, now_ms));
            }
        }
        let snapshot = TouchSnapshot { saved_ms: now_ms, period_ms: self.plan.epochs.length_ms, segments };
        // Twice: the old one stands beside the new one until that is complete.
        if snapshot.encoded_bytes() * 2 + OTHER_METADATA_BYTES > self.plan.metadata_bytes_max {
            tracing::warn!(
                event = "touches_not_saved",
                bytes = snapshot.encoded_bytes(),
                "too many records for a touch snapshot"
            );
            // An old snapshot is worse than none.
            self.disk.replace_small(FILE_NAME, &TouchSnapshot::default().encode())?;
            return Ok(false);
        }
        self.disk.replace_small(FILE_NAME, &snapshot.encode())?;
        Ok(true)
    }

    fn touches_of(&self, number: u32, entries: &[FooterEntry], now_ms: u64) -> Vec<u8> {
        // Nobody knows when what a crash left was touched before it: as long as that protects it, it counts as touched when the
        // store was opened, or an orderly close would take the protection away.
        let protection = self.crash_protection;
        let segment = self.ledger.segment(number);
        let protected = segment.is_some_and(|segment| segment.sequence() <= protection.sequence_max)
            && now_ms < protection.until_ms;
        let opened_ms = protection.until_ms.saturating_sub(self.plan.lease_floor_ms);
        let age_max = if protected { now_ms.saturating_sub(opened_ms) / self.plan.epochs.length_ms } else { u64::MAX };
        let age_max = u8::try_from(age_max).unwrap_or(u8::MAX);
        let touch = |entry: &FooterEntry| match self.index.get(entry.key) {
            Some(Found { location, touched, hit }) if location == location_of(number, entry) => {
                let age = match self.plan.epochs.age_periods(now_ms, touched) {
                    Some(age) => AGE_BASE + age.min(age_max),
                    None if protected => AGE_BASE + age_max.min(cask_index::EpochLength::AGE_PERIODS_MAX),
                    None => OLDER_THAN_THE_RING,
                };
                age | if hit { HIT } else { 0 }
            }
            _ => NO_ENTRY,
        };
        entries.iter().map(touch).collect()
    }
}

/// The touch that a snapshot's byte stands for, seen from `now_ms`. `None`: it says nothing of this entry.
pub(crate) fn restore(
    snapshot: &TouchSnapshot,
    epochs: cask_index::EpochLength,
    raw: u8,
    now_ms: u64,
) -> Option<(TouchEpoch, bool)> {
    let hit = raw & HIT != 0;
    match raw & !HIT {
        NO_ENTRY => None,
        OLDER_THAN_THE_RING => Some((TouchEpoch::OLD, hit)),
        age => {
            let touched_ms =
                snapshot.saved_ms.saturating_sub(u64::from(age - AGE_BASE).saturating_mul(snapshot.period_ms));
            // A clock that was set back must not make anything younger than now.
            let touched_ms = touched_ms.min(now_ms);
            let age_ms = now_ms - touched_ms;
            let known = age_ms < u64::from(cask_index::EpochLength::AGE_PERIODS_MAX) * epochs.length_ms;
            Some((if known { epochs.epoch_at(touched_ms) } else { TouchEpoch::OLD }, hit))
        }
    }
}
