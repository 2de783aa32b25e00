//! The writer's step: queued records go to their lanes, in one positioned write a batch, and are published.
//!
//! Batches form by themselves: what arrives while one write is under way is the next batch (group commit without a
//! timer). Order within a lane is the order of submission, so a head is published after its parts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Location, TableFull};

use crate::commit_queue::{Publish, Submission};
use crate::config::Durability;
use crate::core::Core;
use crate::error::EngineError;
use crate::format::record::RecordKind;
use crate::format::segment::LaneClass;
use crate::segment::Segment;
use crate::segment::lane::{Lane, OpenSegment, Outgoing};
use crate::segment::ledger::NoSpace;

/// Lanes that take new records; the reinserted lane is the reclaimer's.
const NEW_LANES: [LaneClass; 3] = [LaneClass::Small, LaneClass::Large, LaneClass::Action];
/// Payload bytes written in one go.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// With the index full, how long a refused client is told to wait for reclaim to make room in it.
const INDEX_FULL_RETRY_MS: u64 = 1000;

/// What a step of the writer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterStep {
    /// Records were written, or failed for good.
    Worked,
    /// Nothing was queued.
    Idle,
    /// Records wait for a free segment; reclaim has to act first.
    WaitsForSpace,
}

/// A batch that is on the disk, or failed.
struct Written {
    submission: Submission,
    outcome: Result<Location, EngineError>,
    /// Where it was written, whatever came of it.
    segment: Option<u32>,
}

impl Core {
    /// Writes one batch of every lane.
    pub(crate) fn step_writer(&self) -> WriterStep {
        let mut step = WriterStep::Idle;
        let mut written = Vec::new();
        let mut touched = Vec::new();
        for class in NEW_LANES {
            let submissions = self.queue.take(class, BATCH_BYTES_MAX);
            if submissions.is_empty() {
                continue;
            }
            let waiting = self.write_lane(class, submissions, &mut written, &mut touched);
            if !waiting.is_empty() {
                self.queue.put_back(class, waiting);
                step = WriterStep::WaitsForSpace;
            }
        }
        if written.is_empty() {
            return step;
        }
        if self.plan.durability == Durability::Synced {
            self.sync_batch(&touched, &mut written);
        }
        for Written { submission, outcome, segment } in written {
            self.publish(submission, outcome);
            if let Some(segment) = segment.and_then(|number| self.ledger.segment(number)) {
                segment.published();
            }
        }
        WriterStep::Worked
    }

    /// Writes as many as there is space for; returns the rest.
    fn write_lane(
        &self,
        class: LaneClass,
        submissions: Vec<Submission>,
        written: &mut Vec<Written>,
        touched: &mut Vec<Arc<Segment>>,
    ) -> Vec<Submission> {
        let mut lane = self.lane(class).lock();
        let mut rest = submissions;
        while !rest.is_empty() {
            let outgoing: Vec<Outgoing<'_>> = rest.iter().map(Submission::outgoing).collect();
            let count = lane.fitting_count(&outgoing);
            if count == 0 {
                match self.renew(&mut lane, class) {
                    Ok(()) => continue,
                    Err(Unopened::Space(NoSpace::Wait)) => return rest,
                    Err(Unopened::Space(NoSpace::Exhausted { until_ms })) => {
                        written.extend(rest.into_iter().map(|submission| Written {
                            submission,
                            outcome: Err(self.full(until_ms)),
                            segment: None,
                        }));
                        return Vec::new();
                    }
                    Err(Unopened::Failed(error)) => {
                        written.extend(rest.into_iter().map(|submission| Written {
                            submission,
                            outcome: Err(error.clone()),
                            segment: None,
                        }));
                        return Vec::new();
                    }
                }
            }
            let appended = lane.append(&outgoing[..count]);
            drop(outgoing);
            let batch: Vec<Submission> = rest.drain(..count).collect();
            match appended {
                Ok(locations) => {
                    let bytes: u64 = locations.iter().map(|location| u64::from(location.length_bytes())).sum();
                    self.counters.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
                    let open = lane.open.as_ref().expect("just appended to");
                    open.segment.written(locations.len());
                    if !touched.iter().any(|segment| Arc::ptr_eq(segment, &open.segment)) {
                        touched.push(Arc::clone(&open.segment));
                    }
                    written.extend(batch.into_iter().zip(locations).map(|(submission, location)| Written {
                        submission,
                        outcome: Ok(location),
                        segment: Some(location.segment()),
                    }));
                }
                Err(error) => {
                    self.abandon(&mut lane, &error);
                    let error = EngineError::of_write(&error);
                    written.extend(batch.into_iter().map(|submission| Written {
                        submission,
                        outcome: Err(error.clone()),
                        segment: None,
                    }));
                }
            }
        }
        rest
    }

    /// Hands the lane's full segment to the syncer and opens a fresh one.
    pub(crate) fn renew(&self, lane: &mut Lane, class: LaneClass) -> Result<(), Unopened> {
        let now_ms = self.clock.now_ms();
        let (segment, sequence) = self.ledger.take_free(class, now_ms).map_err(Unopened::Space)?;
        let number = segment.number();
        match OpenSegment::begin(segment, sequence, class, &self.superblock.store_id, now_ms) {
            Ok(fresh) => {
                if let Some(full) = lane.open.replace(fresh) {
                    self.sealing.lock().push_back(full);
                }
                Ok(())
            }
            Err(error) => {
                // Its header may or may not be on the disk; the file is out of use until the next start reads it.
                self.ledger.quarantine(number);
                self.counters.quarantined_segments.fetch_add(1, Ordering::Relaxed);
                tracing::error!(event = "segment_quarantined", segment = number, %error, "cannot open a segment for writing");
                Err(Unopened::Failed(EngineError::of_write(&error)))
            }
        }
    }

    /// A write or sync failed under the lane's segment: what is not known to be durable is a miss from now on, and the
    /// segment is not written again. The same range is never retried: the kernel may have dropped the dirty pages.
    pub(crate) fn abandon(&self, lane: &mut Lane, error: &std::io::Error) {
        if let Some(open) = lane.open.take() {
            self.quarantine(&open, error);
        }
    }

    pub(crate) fn quarantine(&self, open: &OpenSegment, error: &std::io::Error) {
        open.segment.fail(error);
        let mut lost = 0;
        for (key, location) in open.unsynced() {
            // A large blob that lost a part is gone: its head must not go on saying that it is there.
            if let Some((header, _)) =
                self.header_of_record(location).filter(|(header, _)| header.kind == RecordKind::Part)
            {
                let head = self.keyer.blob(&header.digest);
                if let Some(found) = self.index.get(head) {
                    self.index.remove(head, found.location);
                }
            }
            lost += usize::from(self.index.remove(key, location));
        }
        self.ledger.quarantine(open.segment.number());
        self.counters.quarantined_segments.fetch_add(1, Ordering::Relaxed);
        tracing::error!(event = "segment_quarantined", segment = open.segment.number(), lost, %error, "a write or sync failed");
    }

    fn sync_batch(&self, touched: &[Arc<Segment>], written: &mut [Written]) {
        for segment in touched {
            let Err(error) = segment.sync() else {
                self.note_synced(segment);
                continue;
            };
            self.quarantine_segment(segment, &error);
            for one in written.iter_mut() {
                if one.outcome.as_ref().is_ok_and(|location| location.segment() == segment.number()) {
                    one.outcome = Err(EngineError::Storage(error.to_string()));
                }
            }
        }
    }

    /// Only the writer appends to the lanes of new records, and it is the writer that synced: all entries are covered.
    fn note_synced(&self, segment: &Arc<Segment>) {
        for class in NEW_LANES {
            let mut lane = self.lane(class).lock();
            if let Some(open) = lane.open.as_mut().filter(|open| Arc::ptr_eq(&open.segment, segment)) {
                open.synced_count = open.entries.len();
            }
        }
    }

    /// Finds the open or sealing segment and quarantines it.
    pub(crate) fn quarantine_segment(&self, segment: &Arc<Segment>, error: &std::io::Error) {
        for class in LaneClass::ALL {
            let mut lane = self.lane(class).lock();
            if lane.open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.segment, segment)) {
                return self.abandon(&mut lane, error);
            }
        }
        let mut sealing = self.sealing.lock();
        let position = sealing.iter().position(|open| Arc::ptr_eq(&open.segment, segment));
        if let Some(open) = position.and_then(|position| sealing.remove(position)) {
            self.quarantine(&open, error);
        }
    }

    fn publish(&self, submission: Submission, outcome: Result<Location, EngineError>) {
        let Submission { key, publish, done, payload, .. } = submission;
        drop(payload);
        let outcome = outcome.and_then(|location| {
            if let Publish::Head(upload) = &publish {
                upload.require_intact()?;
            }
            match self.index.insert(key, location, self.epoch()) {
                // The syncer may have met the disk's error between the write and now.
                Ok(_) => match self.ledger.segment(location.segment()).and_then(|segment| segment.failure()) {
                    None => Ok(()),
                    Some(failure) => {
                        self.index.remove(key, location);
                        Err(EngineError::Storage(failure))
                    }
                },
                Err(TableFull) => Err(self.index_full()),
            }
        });
        if let (Publish::Part(upload), Err(error)) = (&publish, &outcome) {
            upload.part_failed(error);
        }
        // The upload counts as under way until its head is entered.
        drop(publish);
        for waiting in self.queue.finished(key) {
            waiting(outcome.clone());
        }
        if let Some(done) = done {
            done(outcome);
        }
    }

    /// At close: whatever still waits for space will not get it.
    pub(crate) fn fail_queued(&self) {
        for class in NEW_LANES {
            for submission in self.queue.take(class, usize::MAX) {
                self.publish(submission, Err(EngineError::Closed));
            }
        }
    }

    fn index_full(&self) -> EngineError {
        self.counters.uploads_refused.fetch_add(1, Ordering::Relaxed);
        EngineError::Full {
            retry_after: std::time::Duration::from_millis(INDEX_FULL_RETRY_MS),
            advice: format!(
                "the index holds {} entries and takes no more; raise index_capacity",
                self.index.entry_count()
            ),
        }
    }
}

/// Why a lane has no open segment.
pub(crate) enum Unopened {
    Space(NoSpace),
    Failed(EngineError),
}

impl Submission {
    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing { key: self.key, header: self.header, payload: &self.payload }
    }
}
