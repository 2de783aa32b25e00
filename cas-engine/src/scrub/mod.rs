//! The scrubber's step: reads everything that is stored once a period, and hashes it again.
//!
//! Disks forget without saying so. A cycle visits every segment in use when it begins, in the order of their
//! numbers from a place drawn anew at each start (so that a store that is restarted often is still read whole); nothing
//! of it is on disk. A visit checks a sealed segment's header and footer (`structure`) and each live record (`record`).
//! A segment that is reclaimed under a visit ends it.
//!
//! ```text
//! rests until due -> [ visit a segment: a stretch of records a step ] -> ... -> cycle ended -> rests until its period is over
//! ```
//! The step never sleeps: it says when the next one is due, so that the whole store takes a period, and a small one less.
//! It touches no lease, counts as no use, and gives memory back that it brought pages into. It writes nothing but headers
//! and footers that were found damaged.

mod record;
mod structure;

pub(crate) use record::is_content_of;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::core::Core;
use crate::format::footer::FooterEntry;
use crate::format::segment::LaneClass;
use crate::scrub::record::LargeCheck;
use crate::segment::Segment;
use crate::segment::lane::OpenSegment;
use crate::segment::ledger::Sealed;

/// Read in one step, but for what one record is longer.
const STEP_BYTES: u64 = 4 << 20;
/// However long the period, a store is read at least this fast.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// With nothing stored, how long until the next look.
const NOTHING_STORED_REST_MS: u64 = 60_000;

/// What a step of the scrubber came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// The options say never.
    Off,
    /// Nothing to do before `due_ms` (milliseconds since the Unix epoch).
    Rests {
        /// When the next step is due.
        due_ms: u64,
    },
    /// A stretch was read; the next is due at `due_ms`.
    Verified {
        /// Bytes read.
        read_bytes: u64,
        /// When the next step is due.
        due_ms: u64,
    },
}

/// Where the scrubber is. Locked by whoever takes its step.
pub(crate) struct Scrubber(Mutex<Progress>);

struct Progress {
    due_ms: u64,
    /// Picks where a cycle begins.
    start: u64,
    cycle: Option<Cycle>,
}

struct Cycle {
    began_ms: u64,
    /// Segments still to be visited.
    ahead: VecDeque<Life>,
    visit: Option<Visit>,
}

/// A segment, and the life of it that is to be visited.
#[derive(Clone, Copy)]
struct Life {
    number: u32,
    sequence: u64,
}

/// A segment under scrub.
struct Visit {
    life: Life,
    entries: Vec<FooterEntry>,
    next: usize,
    /// A large blob whose head stands here, part of which is hashed already.
    large: Option<LargeCheck>,
}

/// What a step reads.
#[derive(Default)]
struct Reading {
    bytes: u64,
    /// Ranges that were not in memory before.
    brought: Vec<(Arc<Segment>, u32, u32)>,
}

impl Reading {
    /// The memory goes back to whoever had it. At the end of a step, because neighbours share pages.
    fn give_back(self) {
        for (segment, offset_bytes, length_bytes) in self.brought {
            segment.file().no_longer_needed(offset_bytes, length_bytes);
        }
    }
}

impl Scrubber {
    pub(crate) fn new(start: u64) -> Self {
        Self(Mutex::new(Progress { due_ms: 0, start, cycle: None }))
    }
}

impl Core {
    pub(crate) fn step_scrubber(&self) -> ScrubStep {
        if self.plan.scrub_period_ms == 0 {
            return ScrubStep::Off;
        }
        let now_ms = self.clock.now_ms();
        let mut progress = self.scrubber.0.lock();
        let Progress { due_ms, start, cycle } = &mut *progress;
        if now_ms < *due_ms {
            return ScrubStep::Rests { due_ms: *due_ms };
        }
        if cycle.is_none() {
            *cycle = self.begin_cycle(*start, now_ms);
        }
        let Some(current) = cycle else {
            *due_ms = now_ms + NOTHING_STORED_REST_MS;
            return ScrubStep::Rests { due_ms: *due_ms };
        };
        let mut reading = Reading::default();
        let ended = !self.advance(current, &mut reading);
        let read_bytes = reading.bytes;
        reading.give_back();
        self.counters.scrubbed_bytes.fetch_add(read_bytes, Ordering::Relaxed);
        *due_ms = now_ms + read_bytes * 1000 / self.scrub_bytes_per_second();
        if ended {
            // What is read faster than it has to be is not read more often.
            *due_ms = (*due_ms).max(current.began_ms.saturating_add(self.plan.scrub_period_ms));
            self.counters.scrub_cycles.fetch_add(1, Ordering::Relaxed);
            self.counters.scrub_cycle_ended_ms.store(now_ms, Ordering::Relaxed);
            *cycle = None;
        }
        ScrubStep::Verified { read_bytes, due_ms: *due_ms }
    }

    fn begin_cycle(&self, start: u64, now_ms: u64) -> Option<Cycle> {
        let sealed = self.ledger.sealed_segments();
        let mut ahead: Vec<Life> = sealed
            .iter()
            .map(|Sealed { number, sequence, .. }| Life { number: *number, sequence: *sequence })
            .collect();
        for class in LaneClass::ALL {
            ahead.extend(self.lane(class).lock().open.as_ref().map(Life::of));
        }
        ahead.extend(self.sealing.lock().iter().map(Life::of));
        ahead.sort_unstable_by_key(|life| life.number);
        let first = usize::try_from(start % (ahead.len() as u64).max(1)).unwrap_or(0);
        ahead.rotate_left(first);
        (!ahead.is_empty()).then(|| Cycle { began_ms: now_ms, ahead: ahead.into(), visit: None })
    }

    fn scrub_bytes_per_second(&self) -> u64 {
        let segments = self.ledger.counts();
        let used = u64::from(segments.files.saturating_sub(segments.free));
        let used_bytes = used * u64::from(self.plan.geometry.segment_size_bytes);
        (used_bytes.saturating_mul(1000) / self.plan.scrub_period_ms).max(BYTES_PER_SECOND_MIN)
    }

    /// A stretch; false when the cycle is over.
    fn advance(&self, cycle: &mut Cycle, reading: &mut Reading) -> bool {
        while reading.bytes < STEP_BYTES {
            if cycle.visit.is_none() {
                let Some(life) = cycle.ahead.pop_front() else { return false };
                cycle.visit = self.begin_visit(life, reading);
            }
            let Some(visit) = &mut cycle.visit else { continue };
            if !self.advance_visit(visit, reading) {
                cycle.visit = None;
            }
        }
        true
    }

    /// False when the visit is over.
    fn advance_visit(&self, visit: &mut Visit, reading: &mut Reading) -> bool {
        while reading.bytes < STEP_BYTES {
            if let Some(large) = &mut visit.large {
                if self.scrub_part(large, reading) {
                    visit.large = None;
                }
                continue;
            }
            let Some(entry) = visit.entries.get(visit.next) else { return false };
            visit.next += 1;
            if !self.is_in(visit.life) {
                return false;
            }
            visit.large = self.scrub_record(visit.life.number, entry, reading);
        }
        true
    }

    /// What there is to check in a segment. `None` when its life is over.
    fn begin_visit(&self, life: Life, reading: &mut Reading) -> Option<Visit> {
        let entries = match self.entries_of_open(life) {
            Some(entries) => entries,
            None => {
                let of_life = |sealed: &Sealed| sealed.number == life.number && sealed.sequence == life.sequence;
                let sealed = self.ledger.sealed_segments().into_iter().find(of_life)?;
                self.check_structure(sealed, reading)?
            }
        };
        Some(Visit { life, entries, next: 0, large: None })
    }

    /// The records of a segment that has no footer yet.
    fn entries_of_open(&self, life: Life) -> Option<Vec<FooterEntry>> {
        let is_it =
            |open: &&OpenSegment| open.segment.number() == life.number && open.segment.sequence() == life.sequence;
        for class in LaneClass::ALL {
            if let Some(open) = self.lane(class).lock().open.as_ref().filter(is_it) {
                return Some(open.entries.clone());
            }
        }
        self.sealing.lock().iter().find(is_it).map(|open| open.entries.clone())
    }

    fn is_in(&self, life: Life) -> bool {
        self.ledger.segment(life.number).is_some_and(|segment| segment.sequence() == life.sequence)
    }
}

impl Life {
    fn of(open: &OpenSegment) -> Self {
        Self { number: open.segment.number(), sequence: open.segment.sequence() }
    }
}
