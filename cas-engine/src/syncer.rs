//! The syncer's step: bounds what a power cut can lose, and seals.
//!
//! Every open segment with new records is synced, all of them at once, and its watermark moved; a segment that took its last record is
//! synced, given its footer and handed to the ledger. Sealing happens here and not in the writer so that nobody's
//! upload waits for the device.

use std::sync::Arc;

use crate::core::Core;
use crate::disk::Until;
use crate::format::record::RecordKind;
use crate::format::segment::LaneClass;
use crate::segment::lane::OpenSegment;
use crate::segment::ledger::Sealed;
use crate::segment::{Segment, SegmentIo, run_batch};

impl Core {
    /// Returns the number of segments synced.
    pub(crate) fn step_syncer(&self) -> usize {
        self.sync_open_segments() + self.seal_full_segments()
    }

    fn sync_open_segments(&self) -> usize {
        let dirty: Vec<(LaneClass, Arc<Segment>, usize)> = LaneClass::ALL
            .into_iter()
            .filter_map(|class| {
                let lane = self.lane(class).lock();
                let open = lane.open.as_ref().filter(|open| open.synced_count < open.entries.len())?;
                Some((class, Arc::clone(&open.segment), open.entries.len()))
            })
            .collect();
        let syncs: Vec<SegmentIo<'_>> = dirty
            .iter()
            .map(|(_, segment, _)| SegmentIo { segment, offset_bytes: 0, pieces: &[], until: Until::Synced })
            .collect();
        let mut synced = 0;
        for ((class, segment, count), result) in dirty.iter().zip(run_batch(&*self.disk, &syncs)) {
            match result {
                Ok(()) => {
                    synced += 1;
                    self.move_watermark(*class, segment, *count);
                }
                Err(error) => self.quarantine_segment(segment, &error),
            }
        }
        synced
    }

    /// The segment may have become full while it was synced without the lock.
    pub(crate) fn move_watermark(&self, class: LaneClass, segment: &Arc<Segment>, count: usize) {
        let mut lane = self.lane(class).lock();
        let mut sealing = self.sealing.lock();
        let open = lane.open.iter_mut().chain(sealing.iter_mut()).find(|open| Arc::ptr_eq(&open.segment, segment));
        if let Some(open) = open {
            open.synced_count = open.synced_count.max(count);
        }
    }

    fn seal_full_segments(&self) -> usize {
        let mut sealed = 0;
        loop {
            // Taken out one at a time, oldest first: a segment that is neither open nor sealing has the syncer as its
            // only owner.
            let full = {
                let mut sealing = self.sealing.lock();
                let published = sealing.front().is_some_and(|full| full.segment.is_published());
                published.then(|| sealing.pop_front()).flatten()
            };
            let Some(full) = full else { return sealed };
            self.seal(full);
            sealed += 1;
        }
    }

    pub(crate) fn seal(&self, mut full: OpenSegment) {
        let sealed_ms = self.clock.now_ms();
        let footed = full.segment.sync().and_then(|()| {
            full.synced_count = full.entries.len();
            full.write_footer(sealed_ms, self.plan.geometry.segment_size_bytes)
        });
        match footed {
            Ok(()) => self.ledger.sealed(Sealed {
                number: full.segment.number(),
                sequence: full.segment.sequence(),
                sealed_ms,
                retry_at_ms: 0,
                holds_actions: full.entries.iter().any(|entry| entry.kind == RecordKind::Action),
            }),
            Err(error) => self.quarantine(&full, &error),
        }
    }
}
