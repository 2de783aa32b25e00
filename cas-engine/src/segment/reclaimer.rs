//! The reclaimer's step: makes a sealed segment free again.
//!
//! Segments are looked at as their turns come (`turns`). What [`judge`] says to keep is appended to the reinserted lane,
//! or to the action lane if it is an action's, and synced before the index is pointed there; the rest leaves the index;
//! then the segment drains and is free. One that is too good to be emptied is spared: it gets another turn, and what
//! was hit in it has to be hit again by then. Runs ahead of need, never on a request's path. A step looks at a few
//! segments, however many there are.
//!
//! Nothing here takes a lock that FindMissing or a read would wait for: both go to the table, whose readers take none, and
//! a pin is a counter. What is shared is memory bandwidth and the device.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Found, Key, Location};

use super::lane::{Outgoing, location_of};
use super::lease::{Fate, LeaseTerms, RewriteBudget, Sentence, Unit, Verdict, judge};
use super::ledger::{Sealed, Shortage};
use super::{Pin, PinnedRange, Segment};
use crate::core::{Core, is_media_error};
use crate::error::EngineError;
use crate::format::footer::{Footer, TRAILER_BYTES, footer_bytes};
use crate::format::record::{RecordHeader, RecordKind, payload_checksum};
use crate::format::segment::{LaneClass, SEGMENT_HEADER_BYTES};
use crate::writer::Unopened;

/// Segments looked at in one step.
const LOOKS_MAX: usize = 8;
/// A segment of which at most this share is kept is taken at once; otherwise the best of those looked at.
const GOOD_SHARE_MAX: (u64, u64) = (1, 4);
/// Payload bytes moved in one append.
const MOVE_BYTES_MAX: usize = 4 << 20;
/// After a candidate could not be handled (a failed read or write), how long until it is looked at again.
const TROUBLE_RETRY_MS: u64 = 10_000;
/// The index is crowded and dropping nothing would relieve it: how long until a segment is looked at again.
const CROWDED_RETRY_MS: u64 = 10_000;
/// The disk is full and the store too small yet to reclaim anything: how long uploads are refused before a new try.
const DISK_FULL_RETRY_MS: u64 = 5_000;

/// A pass over the segments of actions lasts at least so long.
const ACTION_PASS_MS_MIN: u64 = 60_000;

/// Segments of actions up to `sequence_max` may be written again whole: see `Core::may_move_whole`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActionPass {
    sequence_max: u64,
    began_ms: Option<u64>,
}

/// What a step of the reclaimer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimStep {
    /// Enough is free.
    Idle,
    /// A segment was reclaimed.
    Reclaimed,
    /// Some were looked at and none could be taken; there are more to look at.
    Looked,
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
    is_action: bool,
}

/// An entry as the judge saw it.
#[derive(Clone, Copy)]
pub(crate) struct Touched {
    pub(crate) key: Key,
    pub(crate) found: Found,
}

/// A candidate and what is to become of it.
struct Judged {
    sealed: Sealed,
    records: Vec<LiveRecord>,
    units: Vec<Unit>,
    sentence: Sentence,
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
        let space_is_needed = self.ledger.needs_reclaim(self.low_water(), now_ms);
        if !space_is_needed && !self.index_is_crowded() {
            return ReclaimStep::Idle;
        }
        let budget = if space_is_needed {
            self.rewrite_budget()
        } else {
            // Room is needed in the index, and only what leaves it makes room there.
            RewriteBudget::NONE
        };
        let candidates = self.ledger.candidates(LOOKS_MAX, now_ms);
        let none_to_look_at = candidates.is_empty();
        let judged = candidates.into_iter().filter_map(|sealed| self.judge_segment(sealed, budget, now_ms));
        match self.choose(judged, space_is_needed, now_ms) {
            Some(judged) => self.reclaim(judged, now_ms),
            None if !none_to_look_at => ReclaimStep::Looked,
            None if !space_is_needed => ReclaimStep::Idle,
            None => self.nothing_to_take(now_ms),
        }
    }

    /// The first that is good enough, or the best. Those that are better left alone get another turn.
    fn choose(&self, judged: impl Iterator<Item = Judged>, space_is_needed: bool, now_ms: u64) -> Option<Judged> {
        let segment_bytes = u64::from(self.plan.geometry.segment_size_bytes);
        let mut best: Option<Judged> = None;
        let mut passed = Vec::new();
        for judged in judged {
            if !space_is_needed && judged.sentence.fates.iter().all(|fate| fate.keep) && !judged.records.is_empty() {
                // Rewriting it would make no room in the index.
                self.ledger.set_retry(judged.sealed.number, now_ms + CROWDED_RETRY_MS);
                continue;
            }
            let good = !judged.sentence.spare
                && judged.sentence.kept_bytes * GOOD_SHARE_MAX.1 <= segment_bytes * GOOD_SHARE_MAX.0;
            let is_better = best.as_ref().is_none_or(|best| {
                let order = |sentence: &Sentence| (sentence.breaks_lease(), sentence.spare, sentence.kept_bytes);
                order(&judged.sentence) < order(&best.sentence)
            });
            if is_better {
                passed.extend(best.replace(judged));
            } else {
                passed.push(judged);
            }
            if good {
                break;
            }
        }
        passed.iter().filter(|judged| judged.sentence.spare).for_each(|judged| self.spare(judged));
        // A store with room for its leases breaks none: what is leased nearly throughout is passed over, whatever it takes to
        // find another.
        let turn_steps = self.ledger.sealed_count() / LOOKS_MAX + 1;
        if space_is_needed
            && best.as_ref().is_some_and(|best| best.sentence.breaks_lease())
            && self.has_room_for_leases()
            && self.leased_share.lock().pass_over(turn_steps)
        {
            best.iter().for_each(|judged| self.spare(judged));
            return None;
        }
        best
    }

    /// Another turn. To be spared again, its records must be hit again.
    fn spare(&self, judged: &Judged) {
        for record in &judged.records {
            if record.judged.found.hit {
                let Touched { key, found } = record.judged;
                self.index.relocate(key, found.location, found.location);
            }
        }
        self.counters.spared_segments.fetch_add(1, Ordering::Relaxed);
        self.ledger.spare(judged.sealed.number);
    }

    fn nothing_to_take(&self, now_ms: u64) -> ReclaimStep {
        match self.ledger.earliest_retry_ms() {
            Some(until_ms) if until_ms > now_ms => {
                self.ledger.declare_exhausted(until_ms, Shortage::Floor);
                ReclaimStep::Exhausted { until_ms }
            }
            None if self.ledger.disk_is_full(now_ms)
                && self.ledger.nothing_to_reclaim()
                && self.sealing.lock().is_empty() =>
            {
                let until_ms = now_ms + DISK_FULL_RETRY_MS;
                self.ledger.declare_exhausted(until_ms, Shortage::Disk);
                ReclaimStep::Exhausted { until_ms }
            }
            _ => ReclaimStep::Waits,
        }
    }

    /// `None`: not now; the ledger knows when to look again.
    fn judge_segment(&self, sealed: Sealed, budget: RewriteBudget, now_ms: u64) -> Option<Judged> {
        let Some(footer) = self.read_footer(sealed).or_else(|| self.restore_footer(sealed)) else {
            tracing::error!(
                event = "footer_unreadable",
                segment = sealed.number,
                "a sealed segment's footer cannot be read"
            );
            self.ledger.set_retry(sealed.number, now_ms + TROUBLE_RETRY_MS);
            return None;
        };
        let mut units = Vec::new();
        let mut records = Vec::new();
        let mut large: HashMap<Key, usize> = HashMap::new();
        for entry in &footer.entries {
            let location = location_of(sealed.number, entry);
            let Some(found) = self.index.get(entry.key).filter(|found| found.location == location) else { continue };
            // With its place in the footer: small records must not look smaller than what they take when they are moved.
            let bytes = u64::from(entry.length_bytes) + footer_bytes(1) - footer_bytes(0);
            if entry.kind != RecordKind::Part {
                let judged = Touched { key: entry.key, found };
                let is_action = entry.kind == RecordKind::Action;
                records.push(LiveRecord { key: entry.key, location, unit: units.len(), judged, is_action });
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
                    records.push(LiveRecord { key: entry.key, location, unit, judged, is_action: false });
                }
                PartOwner::Upload => {
                    let judged = Touched { key: entry.key, found };
                    records.push(LiveRecord { key: entry.key, location, unit: units.len(), judged, is_action: false });
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
        let segment_bytes = u64::from(self.plan.geometry.segment_size_bytes);
        let mut terms = LeaseTerms {
            lease_ms: self.plan.lease_ms,
            lease_floor_ms: self.plan.lease_floor_ms,
            epochs: self.plan.epochs,
            outlived_lease: now_ms.saturating_sub(sealed.sealed_ms) >= self.plan.lease_ms,
            budget,
            window_ranks: self.window.lock().ranks(),
            roomy: true,
            whole: false,
        };
        let leased_bytes = terms.leased_bytes(&units);
        self.leased_share.lock().note(sealed.number, leased_bytes);
        // Without a budget room is needed in the index: then no lease is beyond price.
        terms.roomy = budget != RewriteBudget::NONE && self.has_room_for_leases();
        // What a segment takes: whoever keeps more of one than fits into the next makes no room.
        let overhead_bytes = u64::from(SEGMENT_HEADER_BYTES) + footer_bytes(0);
        let mut verdict = judge(&units, segment_bytes - overhead_bytes, &terms);
        let stays = |verdict: &Verdict, terms: &LeaseTerms| match verdict {
            Verdict::TooYoung { .. } => true,
            Verdict::Reclaim(sentence) => sentence.spare || (terms.roomy && sentence.breaks_lease()),
        };
        if sealed.holds_actions && stays(&verdict, &terms) && self.may_move_whole(sealed, now_ms) {
            terms.whole = true;
            verdict = judge(&units, segment_bytes - overhead_bytes, &terms);
        }
        match verdict {
            Verdict::Reclaim(sentence) => Some(Judged { sealed, records, units, sentence }),
            Verdict::TooYoung { retry_after_ms } => {
                self.ledger.set_retry(sealed.number, now_ms + retry_after_ms);
                None
            }
        }
    }

    /// Segments of actions are taken strictly in order, so one of which all is wanted must not stand in the way of those
    /// behind it: it is written again whole. Each once a pass, and a pass no more often than the floor is long, or a store of
    /// nothing but wanted actions would write itself again for ever.
    fn may_move_whole(&self, sealed: Sealed, now_ms: u64) -> bool {
        let mut pass = self.action_pass.lock();
        if sealed.sequence > pass.sequence_max {
            let length_ms = self.plan.lease_floor_ms.max(ACTION_PASS_MS_MIN);
            if pass.began_ms.is_some_and(|began_ms| now_ms.saturating_sub(began_ms) < length_ms) {
                return false;
            }
            *pass = ActionPass { sequence_max: self.ledger.sequence_last(), began_ms: Some(now_ms) };
        }
        true
    }

    fn has_room_for_leases(&self) -> bool {
        let segment_bytes = u64::from(self.plan.geometry.segment_size_bytes);
        self.leased_share.lock().is_roomy(self.ledger.sealed_count(), segment_bytes)
    }

    fn rewrite_budget(&self) -> RewriteBudget {
        let appended = self.counters.appended_bytes.load(Ordering::Relaxed);
        let rewritten = self.counters.reinserted_bytes.load(Ordering::Relaxed);
        self.rewrite_credit.lock().update(appended, rewritten, u64::from(self.plan.geometry.segment_size_bytes))
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
        let Some(range) = self.pin(location) else { return PartOwner::Nobody };
        if range.make_header_resident().is_err_and(|error| !is_media_error(&error)) {
            // It may be sound, so it is kept as those of uploads are, until it can be read.
            return PartOwner::Upload;
        }
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

    /// The head at this key, if it is that of the upload `nonce`.
    pub(crate) fn head_of(&self, head_key: Key, nonce: u64) -> Option<Touched> {
        let found = self.index.get(head_key)?;
        let (head, _) = self.header_of_record(found.location)?;
        let names_it = head.kind == RecordKind::Head && head.part?.nonce == nonce;
        names_it.then_some(Touched { key: head_key, found })
    }

    fn reclaim(&self, judged: Judged, now_ms: u64) -> ReclaimStep {
        let Judged { sealed, records, units, sentence } = judged;
        self.window.lock().note(&units, u64::from(self.plan.geometry.segment_size_bytes));
        let mut dropping = Dropping { core: self, now_ms, broken_units: HashSet::new() };
        // Who was told "present" since the judgement has a lease: what cannot be dropped is kept.
        let mut kept: Vec<(LiveRecord, Fate)> = records
            .into_iter()
            .map(|record| (sentence.fates[record.unit], record))
            .filter(|(fate, record)| fate.keep || !dropping.drop(record, fate))
            .map(|(fate, record)| (record, fate))
            .collect();
        let protect = self.crash_protection_left_ms(sealed, now_ms) > 0;
        let mut moved = self.move_records(&kept, protect);
        if matches!(moved, Err(Unopened::Space(_))) && self.ledger.is_wedged(now_ms) {
            // Nothing is free, nothing will be, and what is to be kept has nowhere to go: only the floor is sacred.
            kept.retain(|(record, fate)| fate.floor || !dropping.drop(record, fate));
            moved = self.move_records(&kept, protect);
        }
        match moved {
            Ok(()) => {}
            Err(Unopened::Space(_)) => return ReclaimStep::Waits,
            Err(Unopened::Failed(error)) => {
                tracing::error!(event = "reclaim_failed", segment = sealed.number, %error, "cannot move what must be kept");
                self.ledger.set_retry(sealed.number, now_ms + TROUBLE_RETRY_MS);
                return ReclaimStep::Waits;
            }
        }
        self.counters.reclaimed_segments.fetch_add(1, Ordering::Relaxed);
        self.leased_share.lock().forget(sealed.number);
        tracing::debug!(
            event = "segment_reclaimed",
            segment = sealed.number,
            sequence = sealed.sequence,
            kept = kept.len(),
            kept_bytes = sentence.kept_bytes,
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

    /// Appends the records to their lanes, syncs, points the index at the copies. Records that fail their checks on the
    /// way are dropped: a bad copy is worse than a miss. Those that an earlier, interrupted try moved are not moved again.
    /// `protect`: they count as touched now.
    fn move_records(&self, records: &[(LiveRecord, Fate)], protect: bool) -> Result<(), Unopened> {
        let stands =
            |record: &&LiveRecord| self.index.get(record.key).is_some_and(|found| found.location == record.location);
        for class in [LaneClass::Reinserted, LaneClass::Action] {
            let mut batch = Vec::new();
            let mut bytes = 0;
            let of_class = |record: &&LiveRecord| record.is_action == (class == LaneClass::Action);
            for record in records.iter().map(|(record, _)| record).filter(of_class).filter(stands) {
                bytes += record.location.length_bytes() as usize;
                batch.push(record);
                if bytes >= MOVE_BYTES_MAX {
                    self.move_batch(class, &batch, protect)?;
                    batch.clear();
                    bytes = 0;
                }
            }
            self.move_batch(class, &batch, protect)?;
        }
        Ok(())
    }

    fn move_batch(&self, class: LaneClass, batch: &[&LiveRecord], protect: bool) -> Result<(), Unopened> {
        let mut checked = Vec::with_capacity(batch.len());
        for record in batch {
            checked.extend(self.check_for_move(record)?);
        }
        let mut rest = checked.as_slice();
        while !rest.is_empty() {
            let Some(Appended { segment, records, locations, entry_count, taken }) = self.append_kept(class, rest)?
            else {
                break;
            };
            // What was durable in the old segment must be durable in the new one before the old one is given away. The
            // lane is free meanwhile: new action results go there too.
            if let Err(error) = segment.sync() {
                self.quarantine_segment(&segment, &error);
                return Err(Unopened::Failed(EngineError::Storage(error.to_string())));
            }
            for (record, to) in records.into_iter().zip(&locations) {
                if protect {
                    // The younger segment has no protection of its own, and nobody knows when this was touched before the crash.
                    self.index.touch(record.judged.key, self.epoch());
                }
                self.index.relocate(record.key, record.location, *to);
                self.counters.reinserted_bytes.fetch_add(u64::from(to.length_bytes()), Ordering::Relaxed);
                segment.published();
            }
            self.move_watermark(class, &segment, entry_count);
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Appends as many as the lane's segment takes, at least one; `None` when none of them is needed any more. They count
    /// as written and not yet published.
    fn append_kept<'a>(
        &self,
        class: LaneClass,
        records: &[(&'a LiveRecord, RecordHeader, PinnedRange)],
    ) -> Result<Option<Appended<'a>>, Unopened> {
        let _appending = (class == LaneClass::Action).then(|| self.action_appends.lock());
        // An action may have been put anew since it was judged. The old result must not follow it into a younger segment,
        // from which a crash would bring it back; nobody publishes one while this lock is held.
        let stands =
            |record: &LiveRecord| self.index.get(record.key).is_some_and(|found| found.location == record.location);
        let standing: Vec<usize> = (0..records.len()).filter(|position| stands(records[*position].0)).collect();
        if standing.is_empty() {
            return Ok(None);
        }
        let outgoing: Vec<Outgoing<'_>> = standing
            .iter()
            .map(|position| &records[*position])
            .map(|(record, header, payload)| Outgoing { key: record.key, header: *header, payload: payload.as_ref() })
            .collect();
        let mut lane = self.lane(class).lock();
        let mut count = lane.fitting_count(&outgoing);
        while count == 0 {
            // Whatever the lane, it is reclaim that asks: the reserve is for it.
            self.renew(&mut lane, class, LaneClass::Reinserted)?;
            count = lane.fitting_count(&outgoing);
        }
        match lane.append(&outgoing[..count]) {
            Ok(locations) => {
                let open = lane.open.as_ref().expect("just appended to");
                open.segment.written(locations.len());
                Ok(Some(Appended {
                    segment: Arc::clone(&open.segment),
                    records: standing[..count].iter().map(|position| records[*position].0).collect(),
                    locations,
                    entry_count: open.entries.len(),
                    taken: standing[count - 1] + 1,
                }))
            }
            Err(error) => {
                self.abandon(&mut lane, &error);
                Err(Unopened::Failed(EngineError::Storage(error.to_string())))
            }
        }
    }

    /// `None`, and taken out of the index, when it is damaged. An error when it cannot be read just now: it may be sound.
    fn check_for_move<'a>(
        &self,
        record: &'a LiveRecord,
    ) -> Result<Option<(&'a LiveRecord, RecordHeader, PinnedRange)>, Unopened> {
        let Some(range) = self.pin(record.location) else { return Ok(None) };
        let resident = match range.make_resident() {
            Err(error) if !is_media_error(&error) => {
                return Err(Unopened::Failed(EngineError::Storage(error.to_string())));
            }
            resident => resident,
        };
        let checked = resident.ok().and_then(|()| self.header_at(&range, record.location)).and_then(|header| {
            let payload = range.narrow(header.length_bytes() as u32, header.stored_length_bytes);
            (payload_checksum(payload.as_ref()) == header.payload_checksum).then_some((record, header, payload))
        });
        if checked.is_none() {
            self.drop_corrupt(record.key, record.location);
            if record.judged.key != record.key {
                self.index.remove(record.judged.key, record.judged.found.location);
            }
        }
        Ok(checked)
    }
}

/// What one append of kept records came to.
struct Appended<'a> {
    segment: Arc<Segment>,
    /// Those that were appended, and where they stand.
    records: Vec<&'a LiveRecord>,
    locations: Vec<Location>,
    /// Entries of the segment, with these.
    entry_count: usize,
    /// How many of those that were given are done with.
    taken: usize,
}

/// Drops records and keeps the account of it, at once: whatever else comes of the segment, they are gone.
struct Dropping<'a> {
    core: &'a Core,
    now_ms: u64,
    /// Units that were counted as broken leases: a large blob counts once.
    broken_units: HashSet<usize>,
}

impl Dropping<'_> {
    /// False when it was touched since it was judged.
    fn drop(&mut self, record: &LiveRecord, fate: &Fate) -> bool {
        if !self.core.drop_untouched(record) {
            return false;
        }
        self.core.counters.dropped_records.fetch_add(1, Ordering::Relaxed);
        let breaks_lease = fate.leased && self.broken_units.insert(record.unit);
        self.core.counters.lease_broken.fetch_add(u64::from(breaks_lease), Ordering::Relaxed);
        self.core.horizon.lock().dropped(fate.idle_ms_min, breaks_lease, self.now_ms);
        true
    }
}

enum PartOwner {
    /// This head names it.
    Head(Touched),
    /// An upload under way.
    Upload,
    Nobody,
}
