//! The ledger: which segments there are and in which state, the one place where space is given and taken back.
//!
//! Lanes take free segments from it, sealed ones come back and take their turns (`turns`), the reclaimer turns those
//! whose turn it is into free ones. One free segment is kept back for the reinserted lane: reclaim must always be able
//! to move what it keeps.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Segment;
use super::turns::Turns;
use crate::disk::Disk;
use crate::format::segment::LaneClass;

/// Kept back for the reinserted lane.
const RESERVED_FOR_RECLAIM: u32 = 1;
/// After the disk refused a new segment, how long until it is asked again.
const GROWTH_RETRY_MS: u64 = 5_000;
/// After a segment could not be opened for writing, how long until it is tried again.
const OPENING_RETRY_MS: u64 = 30_000;
/// A lane that waited so long is told to refuse: readers hold what was reclaimed, or there is nothing to reclaim.
const WAIT_MS_MAX: u64 = 10_000;
/// ... and to come back after this.
const WAIT_RETRY_MS: u64 = 1_000;

/// A sealed segment, as reclaim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) number: u32,
    pub(crate) sequence: u64,
    pub(crate) sealed_ms: u64,
    /// Looked at before, with too much in it that the floor protects: not worth a look before this time.
    pub(crate) retry_at_ms: u64,
    /// Some of its records are action results, which restricts when it may be reclaimed (see `turns`).
    pub(crate) holds_actions: bool,
}

/// Why there is no segment to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSpace {
    /// Reclaim is at work: wait.
    Wait,
    /// Nothing can be reclaimed before this time.
    Exhausted { until_ms: u64 },
}

/// What makes the store refuse uploads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// Everything is inside its lease floor.
    #[default]
    Floor,
    /// The disk under the store has no room for what `max_size` allows.
    Disk,
    /// Reclaim has emptied segments, and readers still hold bytes of them.
    Readers {
        /// So many segments.
        segments: u32,
    },
    /// Reclaim has not kept up, for a reason of its own.
    Reclaim,
}

/// Counts for the statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SegmentCounts {
    pub(crate) files: u32,
    pub(crate) free: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Longest free first. Used again in this order: until a segment is, a crash brings its records back, and what it
    /// brings back must never be older than what was written over.
    free: VecDeque<u32>,
    sealed: Turns,
    /// In the order they were released. The flag: it held actions.
    draining: Vec<(u32, bool)>,
    quarantined: Vec<u32>,
    /// Could not be opened; when each is free again.
    resting: Vec<(u32, u64)>,
    /// Numbers without a file.
    unmade: Vec<u32>,
    /// Files on disk, and those that are being made.
    file_count: u32,
    next_sequence: u64,
    growth_blocked_until_ms: u64,
    /// Set by the reclaimer when it found nothing to take.
    exhausted_until_ms: Option<u64>,
    /// Why, while that is set.
    shortage: Shortage,
    /// A lane waits for a segment.
    wanted: bool,
    /// Since when a lane waits in vain.
    waiting_since_ms: Option<u64>,
}

/// See the module's head.
pub(crate) struct Ledger {
    disk: Arc<dyn Disk>,
    segment_size_bytes: u32,
    segment_count_max: u32,
    table: Box<[OnceLock<Arc<Segment>>]>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Ledger {
    /// A ledger of no segments; recovery adds those it found. `numbers_max` bounds the numbers in use, which after
    /// `max_size` was lowered may be more than `segment_count_max`.
    pub(crate) fn new(disk: Arc<dyn Disk>, segment_size_bytes: u32, segment_count_max: u32, numbers_max: u32) -> Self {
        Self {
            disk,
            segment_size_bytes,
            segment_count_max,
            table: (0..numbers_max).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(State { next_sequence: 1, ..State::default() }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn segment(&self, number: u32) -> Option<&Arc<Segment>> {
        self.table.get(number as usize)?.get()
    }

    /// Recovery: a file that exists, not readable yet.
    pub(crate) fn add_existing(&self, segment: Arc<Segment>) {
        let number = segment.number();
        assert!(self.table[number as usize].set(segment).is_ok(), "segment {number} was added twice");
        self.state.lock().file_count += 1;
    }

    /// Recovery: all files are added and sorted into free and sealed (oldest first); the rest is open in a lane.
    pub(crate) fn recovered(&self, free: Vec<u32>, sealed: Vec<Sealed>, sequence_max: u64) {
        let mut state = self.state.lock();
        state.unmade = (0..self.table.len() as u32).rev().filter(|number| self.segment(*number).is_none()).collect();
        state.free = free.into();
        sealed.into_iter().for_each(|sealed| state.sealed.add(sealed));
        state.next_sequence = sequence_max.saturating_add(1);
    }

    /// A free segment and the sequence of its next life. Makes a file where none is free and the size allows.
    pub(crate) fn take_free(&self, class: LaneClass, now_ms: u64) -> Result<(Arc<Segment>, u64), NoSpace> {
        let mut state = self.state.lock();
        self.collect_free(&mut state, now_ms);
        let reserved = if class == LaneClass::Reinserted { 0 } else { RESERVED_FOR_RECLAIM };
        if self.available(&state, now_ms) <= reserved {
            return Err(match state.exhausted_until_ms {
                Some(until_ms) if now_ms < until_ms => NoSpace::Exhausted { until_ms },
                _ => self.wait_for_reclaim(&mut state, now_ms),
            });
        }
        let number = match state.free.pop_front() {
            Some(number) => number,
            None => {
                let number = state.unmade.pop().expect("`available` counted it");
                state.file_count += 1;
                drop(state);
                // Without the lock, which every upload takes: allocating a file may last.
                let made = self.make_file(number);
                state = self.state.lock();
                if let Err(error) = made {
                    tracing::warn!(event = "growth_refused", %error, "cannot make a segment file; going on with those there are");
                    state.unmade.push(number);
                    state.file_count -= 1;
                    state.growth_blocked_until_ms = now_ms + GROWTH_RETRY_MS;
                    return Err(self.wait_for_reclaim(&mut state, now_ms));
                }
                number
            }
        };
        state.waiting_since_ms = None;
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        let segment = self.segment(number).expect("a free segment has a file");
        Ok((Arc::clone(segment), sequence))
    }

    /// `number` is the caller's.
    fn make_file(&self, number: u32) -> io::Result<()> {
        let file = self.disk.create_segment(number, self.segment_size_bytes)?;
        let made = self.table[number as usize].set(Arc::new(Segment::new_closed(number, file)));
        assert!(made.is_ok(), "segment {number} was made twice");
        Ok(())
    }

    fn wait_for_reclaim(&self, state: &mut State, now_ms: u64) -> NoSpace {
        let since_ms = *state.waiting_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms) >= WAIT_MS_MAX {
            let until_ms = now_ms + WAIT_RETRY_MS;
            state.exhausted_until_ms = Some(until_ms);
            state.shortage = match state.draining.len() as u32 {
                _ if now_ms < state.growth_blocked_until_ms => Shortage::Disk,
                0 => Shortage::Reclaim,
                segments => Shortage::Readers { segments },
            };
            state.waiting_since_ms = None;
            return NoSpace::Exhausted { until_ms };
        }
        state.exhausted_until_ms = None;
        state.wanted = true;
        self.changed.notify_all();
        NoSpace::Wait
    }

    /// Why uploads are refused, or were last.
    pub(crate) fn shortage(&self) -> Shortage {
        self.state.lock().shortage
    }

    /// True while the disk has no room for the segments that `max_size` would allow.
    pub(crate) fn disk_is_full(&self, now_ms: u64) -> bool {
        now_ms < self.state.lock().growth_blocked_until_ms
    }

    /// True when no segment is sealed or about to be free: reclaim has nothing to work on.
    pub(crate) fn nothing_to_reclaim(&self) -> bool {
        let state = self.state.lock();
        state.sealed.is_empty() && state.draining.is_empty()
    }

    fn available(&self, state: &State, now_ms: u64) -> u32 {
        let growth = if now_ms < state.growth_blocked_until_ms {
            0
        } else {
            self.segment_count_max.saturating_sub(state.file_count).min(state.unmade.len() as u32)
        };
        state.free.len() as u32 + growth
    }

    /// True when a lane waits, or fewer than `low_water` segments are available.
    pub(crate) fn needs_reclaim(&self, low_water: u32, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        self.collect_free(&mut state, now_ms);
        let available = self.available(&state, now_ms);
        if available > RESERVED_FOR_RECLAIM {
            state.wanted = false;
        }
        if state.exhausted_until_ms.is_some_and(|until_ms| now_ms < until_ms) {
            return false;
        }
        state.wanted || available < low_water
    }

    /// `Some(until)` while uploads are to be refused at once.
    pub(crate) fn exhausted_until_ms(&self, now_ms: u64) -> Option<u64> {
        let state = self.state.lock();
        let until_ms = state.exhausted_until_ms.filter(|until_ms| now_ms < *until_ms)?;
        (self.available(&state, now_ms) <= RESERVED_FOR_RECLAIM).then_some(until_ms)
    }

    /// The reclaimer found nothing it may take before `until_ms`.
    pub(crate) fn declare_exhausted(&self, until_ms: u64, shortage: Shortage) {
        let mut state = self.state.lock();
        state.shortage = shortage;
        state.exhausted_until_ms = Some(until_ms);
        state.waiting_since_ms = None;
        drop(state);
        self.changed.notify_all();
    }

    /// True when no segment is free, none is about to be, and none can be made: whoever needs one to make one free is stuck.
    pub(crate) fn is_wedged(&self, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        self.collect_free(&mut state, now_ms);
        self.available(&state, now_ms) == 0 && state.draining.is_empty() && state.resting.is_empty()
    }

    /// A segment took its last record and has its footer.
    pub(crate) fn sealed(&self, sealed: Sealed) {
        let mut state = self.state.lock();
        state.sealed.add(sealed);
        drop(state);
        self.changed.notify_all();
    }

    /// Recovery: its footer turned out to be damaged, so it is to be sealed once more.
    pub(crate) fn unsealed(&self, number: u32) {
        self.state.lock().sealed.remove(number);
    }

    /// The first `count` segments that reclaim may look at now.
    pub(crate) fn candidates(&self, count: usize, now_ms: u64) -> Vec<Sealed> {
        self.state.lock().sealed.first(count, now_ms)
    }

    /// The earliest time at which a sealed segment is worth another look; 0: now.
    pub(crate) fn earliest_retry_ms(&self) -> Option<u64> {
        self.state.lock().sealed.earliest_ms()
    }

    /// The segment is not worth a look before that time.
    pub(crate) fn set_retry(&self, number: u32, retry_at_ms: u64) {
        self.state.lock().sealed.rest(number, retry_at_ms);
    }

    /// The segment is left as it is for another turn.
    pub(crate) fn spare(&self, number: u32) {
        self.state.lock().sealed.requeue(number);
    }

    /// Nothing in the index points into the segment any more: it becomes free when its last reader is gone.
    pub(crate) fn release(&self, number: u32) {
        let mut state = self.state.lock();
        // The scrubber may have met a device's error in it while it was reclaimed.
        if state.quarantined.contains(&number) {
            return;
        }
        let held_actions = state.sealed.remove(number).is_some_and(|sealed| sealed.holds_actions);
        state.draining.push((number, held_actions));
        state.exhausted_until_ms = None;
        state.waiting_since_ms = None;
        self.collect_drained(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    /// The disk failed under it: what it holds may be read, but it is never written again in this process.
    pub(crate) fn quarantine(&self, number: u32) {
        let mut state = self.state.lock();
        state.sealed.remove(number);
        state.quarantined.push(number);
    }

    /// It was taken, and could not be opened: it is free again after a while, when the disk may be in a better mood.
    pub(crate) fn rest(&self, number: u32, now_ms: u64) {
        self.state.lock().resting.push((number, now_ms + OPENING_RETRY_MS));
    }

    fn collect_free(&self, state: &mut State, now_ms: u64) {
        let State { free, resting, .. } = state;
        resting.retain(|(number, until_ms)| {
            let rested = now_ms >= *until_ms;
            if rested {
                // It was free before those that are.
                free.push_front(*number);
            }
            !rested
        });
        self.collect_drained(state);
    }

    fn collect_drained(&self, state: &mut State) {
        let State { draining, free, .. } = state;
        // Of those that held actions, none becomes free before an older one: see `turns`.
        let mut actions_wait = false;
        draining.retain(|(number, held_actions)| {
            let drained = !(*held_actions && actions_wait)
                && self.segment(*number).expect("draining segments have a file").close_if_unpinned();
            if drained {
                free.push_back(*number);
            } else {
                actions_wait |= held_actions;
            }
            !drained
        });
    }

    /// Waits until something changed or the time is over. For threads of the engine only.
    pub(crate) fn wait(&self, patience: Duration) {
        let mut state = self.state.lock();
        self.changed.wait_for(&mut state, patience);
    }

    pub(crate) fn wake_all(&self) {
        self.changed.notify_all();
    }

    pub(crate) fn quarantined_segments(&self) -> Vec<u32> {
        self.state.lock().quarantined.clone()
    }

    pub(crate) fn sealed_segments(&self) -> Vec<Sealed> {
        self.state.lock().sealed.iter().collect()
    }

    /// Pins that live now, over all segments.
    pub(crate) fn pin_count(&self) -> u64 {
        self.table.iter().filter_map(OnceLock::get).map(|segment| u64::from(segment.pin_count())).sum()
    }

    pub(crate) fn counts(&self) -> SegmentCounts {
        let state = self.state.lock();
        SegmentCounts { files: state.file_count, free: state.free.len() as u32 }
    }
}
