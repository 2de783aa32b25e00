//! [`Table`]: keys to locations and touch epochs, in memory of a fixed size.
//!
//! A key has two buckets of eight slots (`bucket`), both in the shard that its first selector falls into; an insert takes
//! the emptier one, and if both are full, the shard's stash. Entries never move, so readers need no lock and no retry
//! loop: a key that is there all along is found by one look at each place. Writers take their shard's lock.
//!
//! Invariants: a fingerprint stands at most once among the places of a key; the word of a slot is nonzero exactly while
//! it holds an entry; counts are changed under the lock of their shard.
//!
//! Two keys with equal fingerprints and a shared bucket are one entry here (once in about 2^53 absent lookups). The
//! caller's comparison of the full digest in the record makes that a miss.
//!
//! Called by the engine: every upload, read, FindMissing, reclaim. Never blocks on anything but a shard's lock, never
//! allocates after it was made, never reads a clock.

use std::fmt;
use std::io;

use crate::bucket::{self, SLOTS, Slot, StaleEpochs};
use crate::key::{Fingerprint, Selector};
use crate::memory::Lines;
use crate::stash::{self, Stash};
use crate::sync::{AtomicU64, Ordering, WriterLock};
use crate::{EpochLength, Key, Location, TouchEpoch};

/// What the table knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where the record stands. Compare the full digest there: the entry may be another key's.
    pub location: Location,
    /// When the entry was last touched.
    pub touched: TouchEpoch,
    /// Touched since it was inserted or relocated.
    pub hit: bool,
}

/// What an insert did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The key was absent.
    New,
    /// The key was there; this is what it said before.
    Replaced(Found),
}

/// An entry that recovery found on disk.
#[derive(Clone, Copy, Debug)]
pub struct Recovered {
    /// Its key.
    pub key: Key,
    /// Where the record stands.
    pub location: Location,
    /// When it was last touched, as far as is known.
    pub touched: TouchEpoch,
    /// Touched since it was written.
    pub hit: bool,
}

/// What [`Table::restore`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The key was absent.
    New,
    /// It was there, at this location; the restored one took its place.
    Replaced(Location),
    /// It was there, at this location, and stays.
    Kept(Location),
}

/// The table cannot take this key now: a table made large enough never says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("both buckets and the shard's stash are full")]
pub struct TableFull;

/// Sharded two-choice table; lock-free readers, one writer lock a shard. Entries never move.
pub struct Table {
    /// The fingerprint lines of all buckets, then those of the stashes.
    fingerprints: Lines,
    /// The location lines, in the same order. Apart, so that FindMissing reads half of the memory.
    locations: Lines,
    shards: Box<[Shard]>,
    buckets_per_shard: usize,
    stash_buckets_per_shard: usize,
}

#[repr(align(64))]
struct Shard {
    writer: WriterLock,
    entry_count: AtomicU64,
    stash: Stash,
}

/// A full table of 5 slots for every 4 entries.
const SLOTS_PER_ENTRY: (u64, u64) = (5, 4);
/// Shards are no smaller than this many buckets, so that their loads differ by little...
const BUCKETS_PER_SHARD_MIN: usize = if cfg!(loom) { 2 } else { 1024 };
/// ... and no more than enough to keep a few dozen writers apart.
const SHARD_COUNT_MAX: usize = 256;
/// What selectors can tell apart.
const BUCKET_COUNT_MAX: u64 = 1 << Selector::BITS;

/// The places of a key: two buckets of `shard` that differ, and two of its stash.
#[derive(Clone, Copy, Default)]
pub(crate) struct Places {
    fingerprint: Fingerprint,
    shard: usize,
    buckets: (usize, usize),
    stash_fraction: u64,
}

/// A slot by number.
#[derive(Clone, Copy)]
pub(crate) struct SlotIndex {
    bucket: usize,
    slot: usize,
}

impl Table {
    /// A table for that many entries. Slots are `entry_count_max / 0.8` rounded up; memory is zero pages until touched.
    /// Fails when the kernel refuses the memory.
    pub fn with_capacity(entry_count_max: u64) -> io::Result<Self> {
        let (slots, entries) = SLOTS_PER_ENTRY;
        let bucket_count = u128::from(entry_count_max) * u128::from(slots);
        let bucket_count = bucket_count.div_ceil(u128::from(entries) * SLOTS as u128).max(2);
        if bucket_count > u128::from(BUCKET_COUNT_MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more entries than an index can hold"));
        }
        let bucket_count = bucket_count as usize;
        let shard_count = (bucket_count / BUCKETS_PER_SHARD_MIN).clamp(1, SHARD_COUNT_MAX);
        let buckets_per_shard = bucket_count.div_ceil(shard_count);
        let stash_buckets_per_shard = stash::bucket_count(buckets_per_shard);

        let line_count = shard_count * (buckets_per_shard + stash_buckets_per_shard);
        let shard = || Shard { writer: WriterLock::new(), entry_count: AtomicU64::new(0), stash: Stash::new() };
        Ok(Table {
            fingerprints: Lines::new(line_count)?,
            locations: Lines::new(line_count)?,
            shards: (0..shard_count).map(|_| shard()).collect(),
            buckets_per_shard,
            stash_buckets_per_shard,
        })
    }

    /// The key's entry. Happens after the insert or relocation that stored the location it returns.
    ///
    /// While an entry is removed beside it, and its slot used again, the location of another entry may be returned.
    #[inline]
    pub fn get(&self, key: Key) -> Option<Found> {
        let places = self.places(key);
        self.prefetch_buckets(&places);
        self.slot(self.find(&places)?).get(places.fingerprint)
    }

    /// Stores where the key's record stands, over what was stored before. Not when both buckets and the stash are full.
    pub fn insert(&self, key: Key, location: Location, touched: TouchEpoch) -> Result<Inserted, TableFull> {
        let places = self.places(key);
        self.prefetch_buckets(&places);
        let shard = &self.shards[places.shard];
        let _writer = shard.writer.lock();
        if let Some(index) = self.find(&places) {
            return Ok(Inserted::Replaced(self.slot(index).replace(places.fingerprint, location, touched)));
        }
        let index = self.empty_slot(&places).ok_or(TableFull)?;
        self.slot(index).publish(places.fingerprint, location, touched);
        shard.entry_count.fetch_add(1, Ordering::Relaxed);
        if self.is_stash_bucket(index.bucket) {
            shard.stash.entry_added();
        }
        Ok(Inserted::New)
    }

    /// Enters what recovery found, beside readers and touches. When the key is there already, `replaces(present)` decides
    /// which location stays, and `is_younger(present)` whether the restored touch is the later one. So the outcome does
    /// not depend on the order in which several threads restore, and a touch by a reader is never undone.
    pub fn restore(
        &self,
        entry: &Recovered,
        replaces: impl FnOnce(Location) -> bool,
        is_younger: impl FnOnce(TouchEpoch) -> bool,
    ) -> Result<Restored, TableFull> {
        let places = self.places(entry.key);
        let shard = &self.shards[places.shard];
        let _writer = shard.writer.lock();
        if let Some(index) = self.find(&places) {
            let slot = self.slot(index);
            let present = slot.present();
            let restored = if replaces(present.location) {
                slot.point_to(entry.location);
                Restored::Replaced(present.location)
            } else {
                Restored::Kept(present.location)
            };
            if is_younger(present.touched) {
                slot.set_touched_from(places.fingerprint, present, entry.touched, entry.hit);
            }
            return Ok(restored);
        }
        let index = self.empty_slot(&places).ok_or(TableFull)?;
        self.slot(index).publish(places.fingerprint, entry.location, entry.touched);
        if entry.hit {
            bucket::touch(self.word(index), places.fingerprint, entry.touched);
        }
        shard.entry_count.fetch_add(1, Ordering::Relaxed);
        if self.is_stash_bucket(index.bucket) {
            shard.stash.entry_added();
        }
        Ok(Restored::New)
    }

    /// Fetches the lines of a key that is about to be looked up or entered; no effect but on time.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        self.prefetch_buckets(&self.places(key));
    }

    /// Points the entry from `from` to `to`, keeping its touch epoch, as not hit; false when it is not (any more)
    /// at `from`.
    pub fn relocate(&self, key: Key, from: Location, to: Location) -> bool {
        let places = self.places(key);
        let _writer = self.shards[places.shard].writer.lock();
        self.find(&places).is_some_and(|index| self.slot(index).relocate(from, to))
    }

    /// Removes the entry if it is still at `location`.
    pub fn remove(&self, key: Key, location: Location) -> bool {
        self.remove_where(key, |slot, _| slot.remove(location))
    }

    /// Removes the entry if it is still at its location and was not touched since `found` was read.
    ///
    /// For whoever drops entries by age: a touch that comes after the age was looked at makes this fail, so nothing is
    /// dropped that somebody was just told to be present.
    pub fn remove_untouched(&self, key: Key, found: Found) -> bool {
        self.remove_where(key, |slot, fingerprint| slot.remove_untouched(fingerprint, found))
    }

    /// Calls `each` with the location of every entry that may be of the same hash as the blob `key`, whatever its size:
    /// for callers that know no size (the HTTP cache). About one in 2^28 lookups shows another blob's; compare the digest in
    /// the record. Touches nothing.
    pub fn for_each_of_hash(&self, key: Key, mut each: impl FnMut(Location)) {
        let places = self.places(key);
        let (first, second) = places.buckets;
        let (third, fourth) = self.stash_buckets(&places);
        for bucket in [first, second, third, fourth] {
            let slots = bucket::slots_with_hash_of(&self.fingerprints[bucket], places.fingerprint);
            for slot in (0..SLOTS).filter(|slot| slots >> slot & 1 == 1) {
                each(Location::from_word(self.locations[bucket].words[slot].load(Ordering::Acquire)));
            }
        }
    }

    fn remove_where(&self, key: Key, remove: impl FnOnce(Slot<'_>, Fingerprint) -> bool) -> bool {
        let places = self.places(key);
        let shard = &self.shards[places.shard];
        let _writer = shard.writer.lock();
        let Some(index) = self.find(&places) else { return false };
        let removed = remove(self.slot(index), places.fingerprint);
        if removed {
            shard.entry_count.fetch_sub(1, Ordering::Relaxed);
            if self.is_stash_bucket(index.bucket) {
                shard.stash.entry_removed();
            }
        }
        removed
    }

    /// Removes every entry whose location is doomed, and says how many there were. Looks at the whole table, a shard at a
    /// time under its lock: for the rare occasion that a segment's own list of records is lost.
    pub fn remove_located(&self, is_doomed: impl Fn(Location) -> bool) -> u64 {
        let mut removed = 0;
        for (index, shard) in self.shards.iter().enumerate() {
            // Does not read zero pages into being where nothing was ever inserted.
            if shard.entry_count.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let _writer = shard.writer.lock();
            let first = index * self.buckets_per_shard;
            let stash = self.stash_first_bucket(index);
            let stash_count = if shard.stash.is_empty() { 0 } else { self.stash_buckets_per_shard };
            for bucket in (first..first + self.buckets_per_shard).chain(stash..stash + stash_count) {
                for slot in 0..SLOTS {
                    if !self.slot(SlotIndex { bucket, slot }).remove_if(&is_doomed) {
                        continue;
                    }
                    removed += 1;
                    shard.entry_count.fetch_sub(1, Ordering::Relaxed);
                    if self.is_stash_bucket(bucket) {
                        shard.stash.entry_removed();
                    }
                }
            }
        }
        removed
    }

    /// Sets the touch epoch when it differs. False when absent. Takes no lock.
    #[inline]
    pub fn touch(&self, key: Key, epoch: TouchEpoch) -> bool {
        let places = self.places(key);
        self.prefetch_buckets(&places);
        self.touch_in_buckets(&places, epoch) || self.touch_in_stash(&places, epoch)
    }

    /// Sets every entry older than [`EpochLength::AGE_PERIODS_MAX`] to OLD; to be run at least every 8 periods. Takes no
    /// lock. Touches and inserts go on beside it.
    pub fn age(&self, epochs: EpochLength, now_ms: u64) {
        let is_stale = |epoch: &u8| {
            let age = epochs.age_periods(now_ms, TouchEpoch::from_u8(*epoch));
            age.is_some_and(|age| age > EpochLength::AGE_PERIODS_MAX)
        };
        let stale = (0..1 << TouchEpoch::BITS).filter(is_stale).fold(0, |stale, epoch| stale | 1 << epoch);
        for (index, shard) in self.shards.iter().enumerate() {
            // Does not read zero pages into being where nothing was ever inserted.
            if shard.entry_count.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let first = index * self.buckets_per_shard;
            let buckets = &self.fingerprints[first..first + self.buckets_per_shard];
            let stash = &self.fingerprints[self.stash_first_bucket(index)..][..self.stash_buckets_per_shard];
            let stash = if shard.stash.is_empty() { &[] } else { stash };
            buckets.iter().chain(stash).for_each(|line| bucket::sweep(line, StaleEpochs(stale)));
        }
    }

    /// Entries in the table. Exact while nobody writes.
    pub fn entry_count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.entry_count.load(Ordering::Relaxed)).sum()
    }

    /// Entries that stand in a stash: more than a few say that the table is too small.
    pub fn stash_entry_count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.stash.entry_count()).sum()
    }

    /// Slots of the buckets; the stashes come on top.
    pub fn slot_count(&self) -> u64 {
        (self.shards.len() * self.buckets_per_shard * SLOTS) as u64
    }

    /// Slots of the stashes.
    pub fn stash_slot_count(&self) -> u64 {
        (self.shards.len() * self.stash_buckets_per_shard * SLOTS) as u64
    }

    /// Bytes reserved (virtual), all in.
    pub fn memory_bytes(&self) -> u64 {
        let lines = self.fingerprints.reserved_bytes() + self.locations.reserved_bytes();
        (lines + size_of_val(&*self.shards) + size_of::<Self>()) as u64
    }

    #[inline]
    pub(crate) fn places(&self, key: Key) -> Places {
        let (shard, first) = key.first_selector().scale_twice(self.shards.len(), self.buckets_per_shard);
        let second = stash::other_than(first, key.second_selector().scale(self.buckets_per_shard));
        let shard_first = shard * self.buckets_per_shard;
        Places {
            fingerprint: key.fingerprint(),
            shard,
            buckets: (shard_first + first, shard_first + second),
            stash_fraction: key.stash_fraction(),
        }
    }

    #[inline]
    fn stash_buckets(&self, places: &Places) -> (usize, usize) {
        let (first, second) = stash::buckets_of(places.stash_fraction, self.stash_buckets_per_shard);
        let stash_first = self.stash_first_bucket(places.shard);
        (stash_first + first, stash_first + second)
    }

    /// Stashes lie behind all buckets of all shards.
    fn stash_first_bucket(&self, shard: usize) -> usize {
        self.shards.len() * self.buckets_per_shard + shard * self.stash_buckets_per_shard
    }

    fn is_stash_bucket(&self, bucket: usize) -> bool {
        bucket >= self.shards.len() * self.buckets_per_shard
    }

    /// Fetches the fingerprint lines of a key that is about to be looked up.
    #[inline]
    pub(crate) fn prefetch_buckets(&self, places: &Places) {
        self.fingerprints.prefetch(places.buckets.0);
        self.fingerprints.prefetch(places.buckets.1);
    }

    /// The same for what is not in its buckets.
    #[inline]
    pub(crate) fn prefetch_stash(&self, places: &Places) {
        if !self.shards[places.shard].stash.is_empty() {
            let (first, second) = self.stash_buckets(places);
            self.fingerprints.prefetch(first);
            self.fingerprints.prefetch(second);
        }
    }

    #[inline]
    pub(crate) fn touch_in_buckets(&self, places: &Places, epoch: TouchEpoch) -> bool {
        self.touch_in(places.buckets, places, epoch)
    }

    #[inline]
    pub(crate) fn touch_in_stash(&self, places: &Places, epoch: TouchEpoch) -> bool {
        !self.shards[places.shard].stash.is_empty() && self.touch_in(self.stash_buckets(places), places, epoch)
    }

    #[inline]
    fn touch_in(&self, (first, second): (usize, usize), places: &Places, epoch: TouchEpoch) -> bool {
        let difference = |bucket: usize| bucket::difference(&self.fingerprints[bucket], places.fingerprint, epoch);
        let least = difference(first).min(difference(second));
        if least.is_nothing() || !least.is_of_touch() {
            return least.is_nothing();
        }
        self.find_in((first, second), places.fingerprint).is_some_and(|index| self.touch_at(index, places, epoch))
    }

    #[inline]
    fn touch_at(&self, index: SlotIndex, places: &Places, epoch: TouchEpoch) -> bool {
        // False when it was removed since it was found: absent, as it was at that moment.
        bucket::touch(self.word(index), places.fingerprint, epoch)
    }

    /// The slot with the key's fingerprint. Without the lock it may be emptied or reused at any time.
    #[inline]
    fn find(&self, places: &Places) -> Option<SlotIndex> {
        self.find_in_buckets(places).or_else(|| self.find_in_stash(places))
    }

    #[inline]
    fn find_in_buckets(&self, places: &Places) -> Option<SlotIndex> {
        self.find_in(places.buckets, places.fingerprint)
    }

    #[inline]
    fn find_in_stash(&self, places: &Places) -> Option<SlotIndex> {
        if self.shards[places.shard].stash.is_empty() {
            return None;
        }
        self.find_in(self.stash_buckets(places), places.fingerprint)
    }

    /// Both buckets are looked at before anything is decided: which of them holds a key cannot be predicted.
    #[inline]
    fn find_in(&self, (first, second): (usize, usize), fingerprint: Fingerprint) -> Option<SlotIndex> {
        let slots_in = |bucket: usize| bucket::slots_with(&self.fingerprints[bucket], fingerprint);
        let slots = slots_in(first) | slots_in(second) << SLOTS;
        let index = slots.trailing_zeros() as usize;
        let bucket = if index < SLOTS { first } else { second };
        (slots != 0).then_some(SlotIndex { bucket, slot: index % SLOTS })
    }

    /// Where a new entry goes: the emptier bucket, else the emptier bucket of the stash. Under the lock.
    fn empty_slot(&self, places: &Places) -> Option<SlotIndex> {
        self.empty_slot_in(places.buckets).or_else(|| self.empty_slot_in(self.stash_buckets(places)))
    }

    fn empty_slot_in(&self, (first, second): (usize, usize)) -> Option<SlotIndex> {
        let empty = |bucket: usize| (bucket, bucket::empty_slots(&self.fingerprints[bucket]));
        let (first, second) = (empty(first), empty(second));
        let (bucket, slots) = if second.1.count_ones() > first.1.count_ones() { second } else { first };
        (slots != 0).then_some(SlotIndex { bucket, slot: slots.trailing_zeros() as usize })
    }

    #[inline]
    fn word(&self, index: SlotIndex) -> &AtomicU64 {
        &self.fingerprints[index.bucket].words[index.slot]
    }

    #[inline]
    fn slot(&self, index: SlotIndex) -> Slot<'_> {
        Slot { word: self.word(index), location: &self.locations[index.bucket].words[index.slot] }
    }
}

/// Sizes only.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("entry_count", &self.entry_count())
            .field("slot_count", &self.slot_count())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Keyer;

    fn key(number: u32) -> Key {
        Keyer::new(&[9; 32]).part(0, number)
    }

    fn keys(count: u32) -> impl Iterator<Item = (Key, Location)> {
        let keyer = Keyer::new(&[9; 32]);
        (0..count)
            .map(move |number| (keyer.part(0, number), Location::new(number % (1 << 24), 64 * (number % 1000), 64)))
    }

    const EPOCH: TouchEpoch = TouchEpoch::OLD;

    /// What is restored beside readers: the newer place, the later touch, and whatever a reader did meanwhile.
    #[test]
    fn restoring_keeps_the_newer_place_and_the_later_touch() {
        let table = Table::with_capacity(100).unwrap();
        let epoch = TouchEpoch::from_u8;
        let here = |segment| Location::new(segment, 64, 128);
        let entry =
            |segment, touched, hit| Recovered { key: key(1), location: here(segment), touched: epoch(touched), hit };
        let restore = |entry: Recovered| {
            let newer = |present: Location| present.segment() < entry.location.segment();
            let younger = |present: TouchEpoch| present.as_u8() < entry.touched.as_u8();
            table.restore(&entry, newer, younger).unwrap()
        };
        let found = |segment, touched, hit| Some(Found { location: here(segment), touched: epoch(touched), hit });
        assert_eq!(restore(entry(5, 10, true)), Restored::New);
        assert_eq!(table.get(key(1)), found(5, 10, true));
        assert_eq!(restore(entry(3, 8, false)), Restored::Kept(here(5)));
        assert_eq!(table.get(key(1)), found(5, 10, true), "older in every way");
        assert_eq!(restore(entry(4, 12, false)), Restored::Kept(here(5)));
        assert_eq!(table.get(key(1)), found(5, 12, false), "an older place, touched later");
        assert!(table.touch(key(1), epoch(40)));
        assert_eq!(restore(entry(9, 20, false)), Restored::Replaced(here(5)));
        assert_eq!(table.get(key(1)), found(9, 40, true), "a newer place, and the reader's touch");
        assert_eq!(table.entry_count(), 1);
    }

    #[test]
    fn an_entry_through_its_life() {
        let table = Table::with_capacity(100).unwrap();
        let (one, two) = (TouchEpoch::from_u8(1), TouchEpoch::from_u8(2));
        let (here, there) = (Location::new(1, 64, 128), Location::new(2, 0, 128));
        let found = |location, touched, hit| Some(Found { location, touched, hit });
        assert_eq!(table.get(key(1)), None);
        assert!(!table.touch(key(1), one));
        assert!(!table.remove(key(1), here));
        assert!(!table.relocate(key(1), here, there));

        assert_eq!(table.insert(key(1), here, one), Ok(Inserted::New));
        assert_eq!(table.get(key(1)), found(here, one, false));
        assert_eq!(table.get(key(2)), None);
        assert_eq!(table.entry_count(), 1);
        assert!(table.touch(key(1), one));
        assert_eq!(table.get(key(1)), found(here, one, true), "the same epoch, and yet a hit");
        assert!(table.touch(key(1), two));
        assert_eq!(table.get(key(1)), found(here, two, true));

        assert!(!table.relocate(key(1), there, here), "it is not there");
        assert!(table.relocate(key(1), here, there));
        assert_eq!(table.get(key(1)), found(there, two, false), "relocation keeps the epoch");
        assert_eq!(table.insert(key(1), here, one), Ok(Inserted::Replaced(found(there, two, false).unwrap())));
        assert_eq!(table.get(key(1)), found(here, one, false));
        assert_eq!(table.entry_count(), 1);

        assert!(!table.remove(key(1), there), "it is not there any more");
        for stale in [found(here, two, false), found(here, one, true), found(there, one, false)] {
            assert!(!table.remove_untouched(key(1), stale.unwrap()), "touched or moved since: {stale:?}");
        }
        assert!(table.remove_untouched(key(1), found(here, one, false).unwrap()));
        assert_eq!(table.get(key(1)), None);
        assert_eq!(table.entry_count(), 0);
        assert_eq!(table.insert(key(1), there, one), Ok(Inserted::New));
        assert!(table.remove(key(1), there));
        assert_eq!(table.entry_count(), 0);
    }

    #[test]
    fn a_million_entries_fit_in_24_bytes_each() {
        let count = if cfg!(miri) { 2000 } else { 1_000_000 };
        let table = Table::with_capacity(u64::from(count)).unwrap();
        for (key, location) in keys(count) {
            assert_eq!(table.insert(key, location, EPOCH), Ok(Inserted::New));
        }
        assert_eq!(table.entry_count(), u64::from(count));
        if !cfg!(miri) {
            assert!(table.memory_bytes() / u64::from(count) <= 24, "{} bytes", table.memory_bytes());
        }
        assert!(
            keys(count).all(|(key, location)| table.get(key) == Some(Found { location, touched: EPOCH, hit: false }))
        );
    }

    #[test]
    fn a_blob_is_found_by_its_hash_alone() {
        use crate::{Digest, DigestFunction};
        let keyer = Keyer::new(&[9; 32]);
        let digest = |fill: u8, size| Digest::new(DigestFunction::Sha256, &[fill; 32], size).unwrap();
        let table = Table::with_capacity(1000).unwrap();
        for fill in 0..100 {
            let location = Location::new(u32::from(fill), 0, 64);
            table.insert(keyer.blob(&digest(fill, 1000 + u64::from(fill))), location, EPOCH).unwrap();
        }
        for fill in 0..200 {
            let mut found = Vec::new();
            table.for_each_of_hash(keyer.blob(&digest(fill, 0)), |location| found.push(location.segment()));
            let expected: Vec<u32> = if fill < 100 { vec![u32::from(fill)] } else { vec![] };
            assert_eq!(found, expected);
        }
    }

    /// A table of two buckets takes exactly what there are slots for, then refuses, and goes on after a removal.
    #[test]
    fn a_full_table_says_so_and_recovers() {
        let table = Table::with_capacity(1).unwrap();
        let room = (table.slot_count() + table.stash_slot_count()) as u32;
        for (key, location) in keys(room) {
            assert_eq!(table.insert(key, location, EPOCH), Ok(Inserted::New));
        }
        assert_eq!(table.stash_entry_count(), table.stash_slot_count());
        let (extra, extra_location) = keys(room + 1).last().unwrap();
        assert_eq!(table.insert(extra, extra_location, EPOCH), Err(TableFull));
        assert_eq!(table.get(extra), None);
        let (kept, kept_location) = keys(1).last().unwrap();
        assert!(matches!(table.insert(kept, kept_location, EPOCH), Ok(Inserted::Replaced(_))), "no new slot needed");
        for (gone, gone_location) in keys(room) {
            assert!(table.remove(gone, gone_location));
            assert_eq!(table.insert(extra, extra_location, EPOCH), Ok(Inserted::New));
            assert!(table.remove(extra, extra_location));
            assert_eq!(table.insert(gone, gone_location, EPOCH), Ok(Inserted::New));
        }
        assert_eq!(table.entry_count(), u64::from(room));
    }

    #[test]
    fn sizes_are_as_documented() {
        for (entry_count_max, slot_count) in [(0, 16), (1, 16), (12, 16), (13, 24), (1000, 1256)] {
            assert_eq!(Table::with_capacity(entry_count_max).unwrap().slot_count(), slot_count, "{entry_count_max}");
        }
        for too_many in [u64::MAX, 1 << 40] {
            assert!(Table::with_capacity(too_many).is_err(), "{too_many}");
        }
    }

    #[test]
    fn both_buckets_are_in_the_shard_and_differ() {
        let table = Table::with_capacity(if cfg!(miri) { 100 } else { 100_000 }).unwrap();
        for extreme in [0, u128::MAX, 1 << 92, 1 << 127, (1 << 93) - 1] {
            let places = table.places(Key::from_bytes(u128::to_le_bytes(extreme)));
            let shard = places.shard * table.buckets_per_shard..(places.shard + 1) * table.buckets_per_shard;
            assert!(places.shard < table.shards.len());
            let (first, second) = places.buckets;
            assert!(shard.contains(&first) && shard.contains(&second), "{extreme:x}");
            assert_ne!(first, second, "{extreme:x}");
            let stash_first = table.stash_first_bucket(places.shard);
            let stash = stash_first..stash_first + table.stash_buckets_per_shard;
            let (first, second) = table.stash_buckets(&places);
            assert!(stash.contains(&first) && stash.contains(&second), "{extreme:x}");
            assert_ne!(first, second, "{extreme:x}");
        }
    }

    /// What aging is for: epochs come round, and an entry of long ago must not look fresh.
    #[test]
    fn old_touches_leave_the_ring_and_fresh_ones_stay() {
        let epochs = EpochLength { length_ms: 10 };
        let table = Table::with_capacity(100).unwrap();
        let now_ms = |period: u64| 10 * period + 5;
        for period in 0..100 {
            table.insert(key(period), Location::new(0, 0, 64), epochs.epoch_at(now_ms(period.into()))).unwrap();
            if period % 8 == 7 {
                table.age(epochs, now_ms(period.into()));
                for touched in 0..=period {
                    let age = period - touched;
                    let expected = if age <= 48 { Some(age as u8) } else { None };
                    let found = table.get(key(touched)).unwrap();
                    assert_eq!(
                        epochs.age_periods(now_ms(period.into()), found.touched),
                        expected,
                        "{touched} at {period}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_batch_reports_the_absent_in_order_and_touches_the_present() {
        let table = Table::with_capacity(if cfg!(miri) { 100 } else { 1000 }).unwrap();
        let epoch = TouchEpoch::from_u8(5);
        for length in [0, 1, 15, 16, 17, if cfg!(miri) { 35 } else { 100 }] {
            let present = |position: usize| !position.is_multiple_of(3);
            let batch: Vec<Key> = (0..length).map(|position| key(position as u32)).collect();
            for (position, &key) in batch.iter().enumerate().filter(|&(position, _)| present(position)) {
                table.insert(key, Location::new(position as u32, 0, 64), EPOCH).unwrap();
            }
            let mut absent = Vec::new();
            table.touch_batch(&batch, epoch, |position| absent.push(position));
            assert_eq!(absent, (0..length).filter(|&position| !present(position)).collect::<Vec<_>>());
            for (position, &key) in batch.iter().enumerate() {
                assert_eq!(table.get(key).map(|found| found.touched), present(position).then_some(epoch));
            }
        }
    }
}
