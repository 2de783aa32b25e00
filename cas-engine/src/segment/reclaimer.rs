//! The reclaimer's step: makes the oldest sealed segment free again.
//!
//! Candidates are looked at in order of sequence (FIFO). What [`judge`] says to keep is appended to the reinserted lane
//! and synced before the index is pointed there; the rest leaves the index; then the segment drains and is free. Runs
//! ahead of need, never on a request's path.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use cask_index::{Found, Key, Location};

use super::lane::{Outgoing, location_of};
use super::lease::{LeaseTerms, Unit, Verdict, judge};
use super::ledger::Sealed;
use super::{Pin, PinnedRange};
use crate::core::Core;
use crate::format::footer::{Footer, TRAILER_BYTES};
use crate::format::record::{RecordHeader, RecordKind, payload_checksum};
use crate::format::segment::LaneClass;
use crate::writer::Unopened;

/// A segment of which at most half must be kept is taken at once; otherwise the best of this many candidates.
const CANDIDATES_WEIGHED: usize = 8;
/// Payload bytes moved in one append.
const MOVE_BYTES_MAX: usize = 4 << 20;
/// After a candidate could not be handled (a failed read or write), how long until it is looked at again.
const TROUBLE_RETRY_MS: u64 = 10_000;
/// The disk is full and the store too small yet to reclaim anything: how long uploads are refused before a new try.
const DISK_FULL_RETRY_MS: u64 = 5_000;

/// What a step of the reclaimer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimStep {
    /// Enough is free.
    Idle,
    /// A segment was reclaimed.
    Reclaimed,
    /// Space is needed and nothing can be reclaimed before this time.
    Exhausted {
        /// Milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// Space is needed and nothing is sealed yet, or the reinserted lane has to wait for a segment to drain.
    Waits,
}

/// A live record of the segment under judgement.
struct LiveRecord {
    key: Key,
    location: Location,
    /// Position in the units.
    unit: usize,
    /// Whose touches decide over it, as judged: its own entry, or for a part the head's.
    judged: Touched,
}

/// An entry as the judge saw it.
#[derive(Clone, Copy)]
struct Touched {
    key: Key,
    found: Found,
}

/// A candidate and what is to become of it.
struct Judged {
    sealed: Sealed,
    records: Vec<LiveRecord>,
    keep: Vec<bool>,
    floor: Vec<bool>,
    kept_bytes: u64,
    leases_broken: u64,
}

impl Core {
    /// Segments that should be free: enough for every lane to renew while reclaim works.
    pub(crate) fn low_water(&self) -> u32 {
        (self.plan.segment_count_max / 64).max(3)
    }

    fn index_is_crowded(&self) -> bool {
        self.index.entry_count() * 100 >= self.index.slot_count() * 78
    }

    pub(crate) fn step_reclaimer(&self) -> ReclaimStep {
        let now_ms = self.clock.now_ms();
        let crowded = self.index_is_crowded();
        if !crowded && !self.ledger.needs_reclaim(self.low_water(), now_ms) {
            return ReclaimStep::Idle;
        }
        let candidates = self.ledger.candidates(now_ms);
        let segment_bytes = u64::from(self.plan.geometry.segment_size_bytes);
        let mut best: Option<Judged> = None;
        let mut weighed = 0;
        for sealed in candidates {
            match self.judge_segment(sealed, now_ms) {
                Some(judged) => {
                    weighed += 1;
                    if best.as_ref().is_none_or(|best| judged.kept_bytes < best.kept_bytes) {
                        best = Some(judged);
                    }
                    let good_enough = best.as_ref().is_some_and(|best| best.kept_bytes * 2 <= segment_bytes);
                    if good_enough || weighed == CANDIDATES_WEIGHED {
                        break;
                    }
                }
                None => continue,
            }
        }
        match best {
            Some(judged) => self.reclaim(judged, now_ms),
            None if crowded && self.ledger.available_count(now_ms) >= self.low_water() => ReclaimStep::Idle,
            None => match self.ledger.earliest_retry_ms() {
                Some(until_ms) if until_ms > now_ms => {
                    self.ledger.declare_exhausted(until_ms);
                    ReclaimStep::Exhausted { until_ms }
                }
                None if self.ledger.disk_is_full(now_ms)
                    && self.ledger.nothing_to_reclaim()
                    && self.sealing.lock().is_empty() =>
                {
                    let until_ms = now_ms + DISK_FULL_RETRY_MS;
                    self.ledger.declare_exhausted(until_ms);
                    ReclaimStep::Exhausted { until_ms }
                }
                _ => ReclaimStep::Waits,
            },
        }
    }

    /// `None`: not now; the ledger knows when to look again.
    fn judge_segment(&self, sealed: Sealed, now_ms: u64) -> Option<Judged> {
        let Some(footer) = self.read_footer(sealed).or_else(|| self.restore_footer(sealed)) else {
            tracing::error!(
                event = "footer_unreadable",
                segment = sealed.number,
                "a sealed segment's footer cannot be read"
            );
            self.ledger.set_retry(sealed.sequence, now_ms + TROUBLE_RETRY_MS);
            return None;
        };
        let mut units = Vec::new();
        let mut records = Vec::new();
        let mut large: HashMap<Key, usize> = HashMap::new();
        for entry in &footer.entries {
            let location = location_of(sealed.number, entry);
            let Some(found) = self.index.get(entry.key).filter(|found| found.location == location) else { continue };
            let bytes = u64::from(entry.length_bytes);
            if entry.kind != RecordKind::Part {
                let judged = Touched { key: entry.key, found };
                records.push(LiveRecord { key: entry.key, location, unit: units.len(), judged });
                units.push(self.unit_of(found, bytes, sealed, now_ms));
                continue;
            }
            match self.part_owner(location) {
                PartOwner::Head(judged) => {
                    let unit = *large.entry(judged.key).or_insert_with(|| {
                        units.push(self.unit_of(judged.found, 0, sealed, now_ms));
                        units.len() - 1
                    });
                    units[unit].bytes += bytes;
                    records.push(LiveRecord { key: entry.key, location, unit, judged });
                }
                PartOwner::Upload => {
                    let judged = Touched { key: entry.key, found };
                    records.push(LiveRecord { key: entry.key, location, unit: units.len(), judged });
                    units.push(Unit {
                        bytes,
                        age_periods: None,
                        hit: false,
                        protected_for_ms: self.plan.epochs.length_ms,
                    });
                }
                PartOwner::Nobody => {
                    self.index.remove(entry.key, location);
                }
            }
        }
        let terms = LeaseTerms {
            lease_ms: self.plan.lease_ms,
            lease_floor_ms: self.plan.lease_floor_ms,
            epochs: self.plan.epochs,
            outlived_lease: now_ms.saturating_sub(sealed.sealed_ms) >= self.plan.lease_ms,
            credit_bytes: self.rewrite_credit_bytes(),
        };
        match judge(&units, u64::from(self.plan.geometry.segment_size_bytes), &terms) {
            Verdict::Reclaim { keep, floor, kept_bytes, leases_broken } => {
                let keep = records.iter().map(|record| keep[record.unit]).collect();
                let floor = records.iter().map(|record| floor[record.unit]).collect();
                Some(Judged { sealed, records, keep, floor, kept_bytes, leases_broken })
            }
            Verdict::TooYoung { retry_after_ms } => {
                self.ledger.set_retry(sealed.sequence, now_ms + retry_after_ms);
                None
            }
        }
    }

    fn rewrite_credit_bytes(&self) -> u64 {
        let appended = self.counters.appended_bytes.load(Ordering::Relaxed);
        let rewritten = self.counters.reinserted_bytes.load(Ordering::Relaxed);
        self.rewrite_credit.lock().update(appended, rewritten)
    }

    fn unit_of(&self, found: Found, bytes: u64, sealed: Sealed, now_ms: u64) -> Unit {
        Unit {
            bytes,
            age_periods: self.plan.epochs.age_periods(now_ms, found.touched),
            hit: found.hit,
            protected_for_ms: self.crash_protection_left_ms(sealed, now_ms),
        }
    }

    fn crash_protection_left_ms(&self, sealed: Sealed, now_ms: u64) -> u64 {
        if sealed.sequence <= self.crash_protection.sequence_max {
            self.crash_protection.until_ms.saturating_sub(now_ms)
        } else {
            0
        }
    }

    pub(crate) fn read_footer(&self, sealed: Sealed) -> Option<Footer> {
        let segment = self.ledger.segment(sealed.number)?;
        let pin = Pin::take(segment)?;
        let size_bytes = self.plan.geometry.segment_size_bytes;
        let read = |length_bytes: u32| {
            let offset_bytes = size_bytes - length_bytes;
            segment.file().make_resident(offset_bytes, length_bytes).ok()?;
            Some(segment.file().slice(offset_bytes, length_bytes))
        };
        let announced = Footer::announced_bytes(read(TRAILER_BYTES)?, sealed.sequence, size_bytes)?;
        let footer = Footer::decode(read(announced)?, size_bytes);
        drop(pin);
        footer
    }

    fn part_owner(&self, location: Location) -> PartOwner {
        let Some((part, _range)) = self.header_of_record(location) else { return PartOwner::Nobody };
        let Some(tag) = part.part else { return PartOwner::Nobody };
        let head_key = self.keyer.blob(&part.digest);
        match self.head_of(head_key, tag.nonce) {
            Some(judged) => PartOwner::Head(judged),
            None if self.large_uploads.contains(tag.nonce) => PartOwner::Upload,
            // The head may have been entered between the two looks.
            None => self.head_of(head_key, tag.nonce).map_or(PartOwner::Nobody, PartOwner::Head),
        }
    }

    fn head_of(&self, head_key: Key, nonce: u64) -> Option<Touched> {
        let found = self.index.get(head_key)?;
        let (head, _) = self.header_of_record(found.location)?;
        let names_it = head.kind == RecordKind::Head && head.part?.nonce == nonce;
        names_it.then_some(Touched { key: head_key, found })
    }

    fn reclaim(&self, judged: Judged, now_ms: u64) -> ReclaimStep {
        let Judged { sealed, records, keep, floor, kept_bytes, mut leases_broken } = judged;
        let (mut kept, mut dropped) = (Vec::with_capacity(records.len()), 0_u64);
        for ((record, keep), floor) in records.into_iter().zip(keep).zip(floor) {
            // Who was told "present" since the judgement has a lease: what cannot be dropped is kept.
            if keep || !self.drop_untouched(&record) {
                kept.push((record, floor));
            } else {
                dropped += 1;
            }
        }
        let mut moved = self.move_records(kept.iter().map(|(record, _)| record));
        if matches!(moved, Err(Unopened::Space(_))) && self.ledger.is_wedged(now_ms) {
            // Nothing is free, nothing will be, and what is to be kept has nowhere to go: only the floor is sacred.
            kept.retain(|(record, floor)| {
                let goes = !floor && self.drop_untouched(record);
                dropped += u64::from(goes);
                leases_broken += u64::from(goes);
                !goes
            });
            moved = self.move_records(kept.iter().map(|(record, _)| record));
        }
        match moved {
            Ok(()) => {}
            Err(Unopened::Space(_)) => return ReclaimStep::Waits,
            Err(Unopened::Failed(error)) => {
                tracing::error!(event = "reclaim_failed", segment = sealed.number, %error, "cannot move what must be kept");
                self.ledger.set_retry(sealed.sequence, now_ms + TROUBLE_RETRY_MS);
                return ReclaimStep::Waits;
            }
        }
        self.counters.dropped_records.fetch_add(dropped, Ordering::Relaxed);
        self.counters.lease_broken.fetch_add(leases_broken, Ordering::Relaxed);
        self.counters.reclaimed_segments.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            event = "segment_reclaimed",
            segment = sealed.number,
            sequence = sealed.sequence,
            kept = kept.len(),
            kept_bytes,
            dropped,
            leases_broken,
        );
        self.ledger.release(sealed.number);
        ReclaimStep::Reclaimed
    }

    /// False when it was touched since it was judged. A large blob without one of its parts must not be reported
    /// present, so its head goes first.
    fn drop_untouched(&self, record: &LiveRecord) -> bool {
        let Touched { key, found } = record.judged;
        if key == record.key {
            return self.index.remove_untouched(key, found) || self.index.get(key).is_none();
        }
        let headless = self.index.remove_untouched(key, found) || self.index.get(key).is_none();
        if headless {
            self.index.remove(record.key, record.location);
        }
        headless
    }

    /// Appends the records to the reinserted lane, syncs, points the index at the copies. Records that fail their
    /// checks on the way are dropped: a bad copy is worse than a miss.
    fn move_records<'a>(&self, records: impl Iterator<Item = &'a LiveRecord>) -> Result<(), Unopened> {
        let mut lane = self.lane(LaneClass::Reinserted).lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for record in records {
            bytes += record.location.length_bytes() as usize;
            batch.push(record);
            if bytes >= MOVE_BYTES_MAX {
                self.move_batch(&mut lane, &batch)?;
                batch.clear();
                bytes = 0;
            }
        }
        self.move_batch(&mut lane, &batch)
    }

    fn move_batch(&self, lane: &mut super::lane::Lane, batch: &[&LiveRecord]) -> Result<(), Unopened> {
        let checked: Vec<(&LiveRecord, RecordHeader, PinnedRange)> =
            batch.iter().filter_map(|record| self.check_for_move(record)).collect();
        let outgoing: Vec<Outgoing<'_>> = checked
            .iter()
            .map(|(record, header, payload)| Outgoing { key: record.key, header: *header, payload: payload.as_ref() })
            .collect();
        let mut moved = 0;
        while moved < outgoing.len() {
            let count = lane.fitting_count(&outgoing[moved..]);
            if count == 0 {
                self.renew(lane, LaneClass::Reinserted)?;
                continue;
            }
            let appended = lane.append(&outgoing[moved..moved + count]);
            let segment = lane.open.as_ref().map(|open| std::sync::Arc::clone(&open.segment));
            // What was durable in the old segment must be durable in the new one before the old one is given away.
            let synced = appended.and_then(|locations| {
                segment.expect("just appended to").sync()?;
                Ok(locations)
            });
            let locations = match synced {
                Ok(locations) => locations,
                Err(error) => {
                    self.abandon(lane, &error);
                    return Err(Unopened::Failed(crate::error::EngineError::Storage(error.to_string())));
                }
            };
            for ((record, _, _), to) in checked[moved..].iter().zip(&locations) {
                self.index.relocate(record.key, record.location, *to);
                self.counters.reinserted_bytes.fetch_add(u64::from(to.length_bytes()), Ordering::Relaxed);
            }
            if let Some(open) = lane.open.as_mut() {
                open.synced_count = open.entries.len();
            }
            moved += count;
        }
        Ok(())
    }

    fn check_for_move<'a>(&self, record: &'a LiveRecord) -> Option<(&'a LiveRecord, RecordHeader, PinnedRange)> {
        let range = self.pin(record.location)?;
        let checked =
            range.make_resident().ok().and_then(|()| self.header_at(&range, record.location)).and_then(|header| {
                let payload = range.narrow(header.length_bytes() as u32, header.stored_length_bytes);
                (payload_checksum(payload.as_ref()) == header.payload_checksum).then_some((record, header, payload))
            });
        if checked.is_none() {
            self.drop_corrupt(record.key, record.location);
            if record.judged.key != record.key {
                self.index.remove(record.judged.key, record.judged.found.location);
            }
        }
        checked
    }
}

enum PartOwner {
    /// This head names it.
    Head(Touched),
    /// An upload under way.
    Upload,
    Nobody,
}
