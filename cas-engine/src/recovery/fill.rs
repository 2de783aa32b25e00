//! The second step of opening: what the footers say goes into the index.
//!
//! 1. Blobs and parts of all segments: records of one key are alike, so the newest segment's will do.
//! 2. Heads, whose parts must all be there, and actions. Of two records of one key the later stamp counts, wherever
//!    reclaim has moved either, and an index entry has no stamp; so only what is met first is entered...
//! 3. ... and the few that found their key taken are compared with what stands there.
//!
//! The first two run on all cores, beside readers. Nothing is read but footers and the headers of heads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cask_index::{EpochLength, Key, Keyer, Location, Recovered, Restored, Table, TouchEpoch};
use parking_lot::Mutex;

use super::scan::scan;
use super::survey::{Contents, Life, read};
use super::{Loading, Threads, for_each};
use crate::config::Plan;
use crate::format::footer::{FooterEntry, FooterView};
use crate::format::record::{RecordHeader, RecordKind, RecordPlace};
use crate::format::superblock::Superblock;
use crate::format::touches::TouchSnapshot;
use crate::segment::Segment;
use crate::segment::lane::{OpenSegment, location_of};
use crate::segment::ledger::Ledger;
use crate::touch_snapshot;

/// Entries whose index lines are fetched ahead: as many as a core can wait for at once.
const PREFETCH_ENTRIES: usize = 32;

/// What filling works on and with.
pub(crate) struct Filling<'a> {
    pub(crate) index: &'a Table,
    pub(crate) ledger: &'a Ledger,
    pub(crate) keyer: &'a Keyer,
    pub(crate) superblock: &'a Superblock,
    pub(crate) plan: &'a Plan,
    pub(crate) snapshot: &'a TouchSnapshot,
    pub(crate) now_ms: u64,
    pub(crate) loading: &'a Loading,
}

/// What the index holds in the end.
#[derive(Default)]
pub(crate) struct Filled {
    pub(crate) blob_count: u64,
    pub(crate) action_count: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) stamp_max: u64,
    pub(crate) corrupt_record_count: u64,
    /// Sealed segments whose footer turned out to be damaged: they get a new one.
    pub(crate) unsealed: Vec<OpenSegment>,
}

/// A segment under way.
#[derive(Clone, Copy)]
struct Source<'a> {
    segment: &'a Arc<Segment>,
    sequence: u64,
    /// Touches assumed for records of which the snapshot does not know.
    fallback: TouchEpoch,
    /// What the snapshot has of the segment, a byte a record.
    saved: Option<&'a [u8]>,
}

/// An entry on its way into the index.
#[derive(Clone, Copy)]
struct Entering {
    entry: FooterEntry,
    restored: Recovered,
}

/// A head or action that found its key taken.
struct Rival {
    sequence: u64,
    entering: Entering,
}

#[derive(Default)]
struct Counts {
    blobs: AtomicU64,
    actions: AtomicU64,
    /// Wraps: replaced records are taken off before others are added.
    stored_bytes: AtomicU64,
    stamp_max: AtomicU64,
    corrupt: AtomicU64,
    left_out: AtomicU64,
}

/// What the passes share.
#[derive(Default)]
struct Shared<'a> {
    counts: Counts,
    /// Lives with heads or actions, for the second pass.
    stamped: Mutex<Vec<&'a Life>>,
    rivals: Mutex<Vec<Rival>>,
    /// Found by scanning, where a footer was damaged.
    refound: Mutex<Vec<(u32, OpenSegment)>>,
}

impl<'a> Filling<'a> {
    /// `None` when it was stopped.
    pub(crate) fn fill(&self, lives: &'a [Life], threads: Threads) -> Option<Filled> {
        let shared = Shared::default();
        for_each(threads.computing, lives, |life| self.enter_plain(life, &shared) && !self.loading.is_stopped());
        let stamped = std::mem::take(&mut *shared.stamped.lock());
        for_each(threads.reading, &stamped, |life| self.enter_stamped(life, &shared) && !self.loading.is_stopped());
        if self.loading.is_stopped() {
            return None;
        }
        let mut rivals = shared.rivals.into_inner();
        rivals.sort_unstable_by_key(|rival| (rival.entering.entry.stamp, rival.sequence));
        for rival in rivals {
            self.settle(&rival, &shared.counts);
        }
        let Counts { blobs, actions, stored_bytes, stamp_max, corrupt, left_out } = shared.counts;
        let left_out = left_out.into_inner();
        if left_out > 0 {
            tracing::warn!(event = "index_full", left_out, "entries are left out of the index; raise index_capacity");
        }
        let mut refound = shared.refound.into_inner();
        refound.sort_unstable_by_key(|(_, open)| open.segment.sequence());
        Some(Filled {
            blob_count: blobs.into_inner(),
            action_count: actions.into_inner(),
            stored_bytes: stored_bytes.into_inner(),
            stamp_max: stamp_max.into_inner(),
            corrupt_record_count: corrupt.into_inner(),
            unsealed: refound.into_iter().map(|(_, open)| open).collect(),
        })
    }

    /// `record_count`: of those that are found, which may be fewer than there were.
    fn source(&self, life: &Life, record_count: u64) -> Source<'a> {
        let (number, sequence) = (life.header.number, life.header.sequence);
        let written_ms = life.written_ms().min(self.now_ms);
        let ring_ms = u64::from(EpochLength::AGE_PERIODS_MAX).saturating_mul(self.plan.epochs.length_ms);
        let mut saved = self.snapshot.segments.get(&(number, sequence)).map(Vec::as_slice);
        let mut touched_ms = written_ms;
        if self.superblock.clean && saved.is_some_and(|touches| touches.len() as u64 != record_count) {
            // A damaged record is missing among those found, so nobody knows whose the bytes are, and a shifted one would say
            // of a good record that it was dropped. All may have been touched until the close.
            saved = None;
            touched_ms = self.snapshot.saved_ms.min(self.now_ms);
        }
        let known = self.now_ms - touched_ms < ring_ms;
        Source {
            segment: self.ledger.segment(number).expect("surveyed segments are in the ledger"),
            sequence,
            fallback: if known { self.plan.epochs.epoch_at(touched_ms) } else { TouchEpoch::OLD },
            saved,
        }
    }

    /// First pass.
    fn enter_plain(&self, life: &'a Life, shared: &Shared<'a>) -> bool {
        let (mut is_stamped, mut stamp_max) = (false, 0);
        let mut ahead: Vec<Entering> = Vec::with_capacity(PREFETCH_ENTRIES);
        let enter = |ahead: &mut Vec<Entering>| {
            ahead.drain(..).for_each(|entering| {
                self.enter(life.header.sequence, entering, &shared.counts);
            });
        };
        self.for_each_entry(life, shared, |source, position, entry| {
            stamp_max = stamp_max.max(entry.stamp);
            if !matches!(entry.kind, RecordKind::Blob | RecordKind::Part) {
                is_stamped = true;
            } else if let Some(entering) = self.entering(source, position, entry) {
                self.index.prefetch(entry.key);
                ahead.push(entering);
                if ahead.len() == PREFETCH_ENTRIES {
                    enter(&mut ahead);
                }
            }
        });
        enter(&mut ahead);
        shared.counts.stamp_max.fetch_max(stamp_max, Ordering::Relaxed);
        if is_stamped {
            shared.stamped.lock().push(life);
        }
        true
    }

    /// Second pass.
    fn enter_stamped(&self, life: &'a Life, shared: &Shared<'a>) -> bool {
        self.for_each_entry(life, shared, |source, position, entry| {
            let counts = match entry.kind {
                RecordKind::Blob | RecordKind::Part => false,
                RecordKind::Head => self.is_complete(source, entry),
                RecordKind::Action => true,
            };
            let Some(entering) = self.entering(source, position, entry).filter(|_| counts) else { return };
            if self.enter(source.sequence, entering, &shared.counts) == Some(Met::Taken) {
                shared.rivals.lock().push(Rival { sequence: source.sequence, entering });
            }
        });
        true
    }

    /// Third pass, in order of stamps.
    fn settle(&self, rival: &Rival, counts: &Counts) {
        let Entering { entry, restored } = &rival.entering;
        let stands = self.index.get(restored.key).and_then(|found| {
            let segment = self.ledger.segment(found.location.segment())?;
            let header = self.header_at(segment, segment.sequence(), found.location)?;
            Some((header.stamp, segment.sequence()))
        });
        // What cannot be read cannot be the result of anything.
        let replaces = stands.is_none_or(|stands| (entry.stamp, rival.sequence) > stands);
        self.restore(restored, |_| replaces, entry.length_bytes, counts);
    }

    /// The entries of a life, in order of its records.
    fn for_each_entry(&self, life: &Life, shared: &Shared<'_>, mut each: impl FnMut(Source<'a>, usize, &FooterEntry)) {
        let source = self.source(life, life.entry_count());
        match &life.contents {
            Contents::Records(found) => {
                found.entries.iter().enumerate().for_each(|(position, entry)| each(source, position, entry));
            }
            Contents::Footer(trailer) => {
                let number = life.header.number;
                let size_bytes = self.plan.geometry.segment_size_bytes;
                let footer = read(source.segment.file(), size_bytes - trailer.footer_bytes, trailer.footer_bytes)
                    .and_then(|footer| FooterView::new(footer, size_bytes));
                if let Some(footer) = footer {
                    return footer.entries().enumerate().for_each(|(position, entry)| each(source, position, &entry));
                }
                // The second pass finds what the first one found.
                let mut refound = shared.refound.lock();
                let position = refound.iter().position(|(other, _)| *other == number).unwrap_or_else(|| {
                    refound.push((number, self.scan_again(source, &shared.counts)));
                    refound.len() - 1
                });
                let entries = &refound[position].1.entries;
                let source = self.source(life, entries.len() as u64);
                entries.iter().enumerate().for_each(|(position, entry)| each(source, position, entry));
            }
        }
    }

    /// A damaged footer costs nothing but a scan.
    fn scan_again(&self, source: Source<'_>, counts: &Counts) -> OpenSegment {
        let Source { segment, sequence, .. } = source;
        tracing::error!(event = "footer_damaged", segment = segment.number(), "its records are found by scanning");
        let size_bytes = self.plan.geometry.segment_size_bytes;
        let found = scan(segment.file(), size_bytes, self.superblock.store_id, sequence, self.keyer);
        counts.corrupt.fetch_add(found.corrupt_count, Ordering::Relaxed);
        OpenSegment {
            segment: Arc::clone(segment),
            end_bytes: found.end_bytes,
            synced_count: found.entries.len(),
            entries: found.entries,
        }
    }

    /// `None` for a record that a clean store had dropped.
    fn entering(&self, source: Source<'_>, position: usize, entry: &FooterEntry) -> Option<Entering> {
        let location = location_of(source.segment.number(), entry);
        let with = |(touched, hit)| Recovered { key: entry.key, location, touched, hit };
        let saved = source.saved.and_then(|touches| touches.get(position));
        let restored =
            match saved.map(|raw| touch_snapshot::restore(self.snapshot, self.plan.epochs, *raw, self.now_ms)) {
                Some(Some(touch)) => with(touch),
                // A clean store's snapshot knows every entry: what is not in it was dropped (damaged, superseded).
                Some(None) if self.superblock.clean => return None,
                Some(None) | None => with((source.fallback, false)),
            };
        Some(Entering { entry: *entry, restored })
    }

    /// `None`: the index is full.
    fn enter(&self, sequence: u64, entering: Entering, counts: &Counts) -> Option<Met> {
        let Entering { entry, restored } = entering;
        let is_plain = matches!(entry.kind, RecordKind::Blob | RecordKind::Part);
        let replaces = |present: Location| is_plain && self.sequence_of(present) < sequence;
        let outcome = self.restore(&restored, replaces, entry.length_bytes, counts)?;
        if outcome == Restored::New {
            match entry.kind {
                RecordKind::Blob | RecordKind::Head => counts.blobs.fetch_add(1, Ordering::Relaxed),
                RecordKind::Action => counts.actions.fetch_add(1, Ordering::Relaxed),
                RecordKind::Part => 0,
            };
            return Some(Met::Nobody);
        }
        Some(Met::Taken)
    }

    fn restore(
        &self,
        restored: &Recovered,
        replaces: impl FnOnce(Location) -> bool,
        length_bytes: u32,
        counts: &Counts,
    ) -> Option<Restored> {
        let age = |touched| self.plan.epochs.age_periods(self.now_ms, touched).unwrap_or(u8::MAX);
        let is_younger = |present| age(restored.touched) < age(present);
        let Ok(outcome) = self.index.restore(restored, replaces, is_younger) else {
            counts.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let freed_bytes = match outcome {
            Restored::New => 0,
            Restored::Replaced(before) => u64::from(before.length_bytes()),
            Restored::Kept(_) => u64::from(length_bytes),
        };
        counts.stored_bytes.fetch_add(u64::from(length_bytes).wrapping_sub(freed_bytes), Ordering::Relaxed);
        Some(outcome)
    }

    fn sequence_of(&self, location: Location) -> u64 {
        self.ledger.segment(location.segment()).map_or(0, |segment| segment.sequence())
    }

    /// A head is published after its parts, but a power cut may keep the one and lose the other.
    fn is_complete(&self, source: Source<'_>, entry: &FooterEntry) -> bool {
        let location = location_of(source.segment.number(), entry);
        self.header_at(source.segment, source.sequence, location).is_some_and(|head| {
            let tag = head.part.unwrap_or_default();
            let part_count = head.digest.size_bytes().div_ceil(u64::from(self.plan.geometry.part_size_bytes));
            let part = |number: u32| -> Key { self.keyer.part(tag.nonce, number) };
            u64::from(tag.number) == part_count && (0..tag.number).all(|number| self.index.get(part(number)).is_some())
        })
    }

    fn header_at(&self, segment: &Segment, sequence: u64, location: Location) -> Option<RecordHeader> {
        let offset_bytes = location.offset_bytes();
        let place = RecordPlace { store_id: self.superblock.store_id, sequence, offset_bytes };
        let length_bytes = location.length_bytes().min(crate::format::record::RECORD_HEADER_BYTES_MAX as u32);
        RecordHeader::decode(read(segment.file(), offset_bytes, length_bytes)?, &place)
    }
}

/// Whether the key was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Nobody,
    Taken,
}
