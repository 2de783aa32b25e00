//! The writer's step: queued records go to their lanes, one write a lane and all of them at once, and are published.
//!
//! Batches form by themselves: what arrives while one write is under way is the next batch (group commit without a
//! timer). Order within a lane is the order of submission, so a head is published after its parts. No lock is held while
//! the disk works.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cask_index::{Location, TableFull};

use crate::commit_queue::{Publish, Submission};
use crate::config::Durability;
use crate::core::Core;
use crate::disk::Until;
use crate::error::EngineError;
use crate::format::segment::LaneClass;
use crate::segment::lane::{Append, Lane, OpenSegment, Outgoing};
use crate::segment::ledger::NoSpace;
use crate::segment::{Segment, SegmentIo, run_batch};

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

/// Records of one lane that go to its open segment in one write.
struct LaneBatch {
    class: LaneClass,
    submissions: Vec<Submission>,
    append: Append,
}

/// What there is to do for a lane.
enum Planned {
    Write(LaneBatch),
    WaitsForSpace,
    Refused(EngineError),
}

impl Core {
    /// Writes one batch of every lane: as much of each as its open segment takes goes to the disk at once, and is
    /// published before the next segment is opened for the rest.
    pub(crate) fn step_writer(&self) -> WriterStep {
        let mut queued = NEW_LANES.map(|class| (class, self.queue.take(class, BATCH_BYTES_MAX)));
        let has_actions =
            |(class, queued): &(LaneClass, Vec<Submission>)| *class == LaneClass::Action && !queued.is_empty();
        let _appending = queued.iter().any(has_actions).then(|| self.action_appends.lock());
        let (mut worked, mut waits) = (false, false);
        while queued.iter().any(|(_, submissions)| !submissions.is_empty()) {
            let mut batches = Vec::with_capacity(queued.len());
            for (class, submissions) in queued.iter_mut().filter(|(_, submissions)| !submissions.is_empty()) {
                match self.plan_batch(*class, submissions) {
                    Planned::Write(batch) => batches.push(batch),
                    Planned::WaitsForSpace => {
                        self.queue.put_back(*class, std::mem::take(submissions));
                        waits = true;
                    }
                    Planned::Refused(error) => {
                        worked = true;
                        for submission in submissions.drain(..) {
                            self.publish(submission, Err(error.clone()));
                        }
                    }
                }
            }
            worked |= !batches.is_empty();
            let results = self.write_batches(&batches);
            for (batch, result) in batches.into_iter().zip(results) {
                self.finish_batch(batch, result);
            }
        }
        match (worked, waits) {
            (true, _) => WriterStep::Worked,
            (false, true) => WriterStep::WaitsForSpace,
            (false, false) => WriterStep::Idle,
        }
    }

    fn until(&self) -> Until {
        match self.plan.durability {
            Durability::Written => Until::Written,
            Durability::Synced => Until::Synced,
        }
    }

    /// Takes from the front as many as the open segment has room for, opening a fresh one if it has none.
    fn plan_batch(&self, class: LaneClass, submissions: &mut Vec<Submission>) -> Planned {
        let mut lane = self.lane(class).lock();
        let outgoing: Vec<Outgoing<'_>> = submissions.iter().map(Submission::outgoing).collect();
        let count = loop {
            match lane.fitting_count(&outgoing) {
                0 => match self.renew(&mut lane, class, class) {
                    Ok(()) => {}
                    Err(Unopened::Space(NoSpace::Wait)) => return Planned::WaitsForSpace,
                    Err(Unopened::Space(NoSpace::Exhausted { until_ms })) => {
                        return Planned::Refused(self.full(until_ms));
                    }
                    Err(Unopened::Failed(error)) => return Planned::Refused(error),
                },
                count => break count,
            }
        };
        let append = lane.plan(&outgoing[..count]);
        drop(outgoing);
        Planned::Write(LaneBatch { class, submissions: submissions.drain(..count).collect(), append })
    }

    /// One batch of the disk for all lanes, without their locks: the disk may take its time.
    fn write_batches(&self, batches: &[LaneBatch]) -> Vec<std::io::Result<()>> {
        let pieces: Vec<Vec<IoSlice<'_>>> = batches
            .iter()
            .map(|batch| batch.append.pieces(&batch.submissions.iter().map(Submission::outgoing).collect::<Vec<_>>()))
            .collect();
        let until = self.until();
        let batch: Vec<SegmentIo<'_>> = batches
            .iter()
            .zip(&pieces)
            .map(|(LaneBatch { append, .. }, pieces)| SegmentIo {
                segment: &append.segment,
                offset_bytes: append.offset_bytes,
                pieces,
                until,
            })
            .collect();
        run_batch(&*self.disk, &batch)
    }

    /// Notes what was written in its lane and publishes it, or takes the segment out of use.
    fn finish_batch(&self, batch: LaneBatch, result: std::io::Result<()>) {
        let LaneBatch { class, submissions, append } = batch;
        let segment = &append.segment;
        let outcome = result.map_err(|error| {
            self.quarantine_segment(segment, &error);
            EngineError::of_write(&error)
        });
        let outcome = outcome.and_then(|()| {
            let mut lane = self.lane(class).lock();
            // Counted before anybody can see the records, so that the segment is not sealed without them.
            segment.written(submissions.len());
            if lane.commit(&append, self.until()) {
                return Ok(());
            }
            // The syncer met an error of the disk; what is written there is lost with the rest.
            Err(EngineError::Storage(
                segment.failure().unwrap_or_else(|| "the segment was taken out of use".to_owned()),
            ))
        });
        match outcome {
            Ok(()) => {
                self.counters.appended_bytes.fetch_add(u64::from(append.length_bytes()), Ordering::Relaxed);
                for (submission, location) in submissions.into_iter().zip(append.locations()) {
                    self.publish(submission, Ok(location));
                    segment.published();
                }
            }
            Err(error) => {
                for submission in submissions {
                    self.publish(submission, Err(error.clone()));
                }
            }
        }
    }

    /// Hands the lane's full segment to the syncer and opens a fresh one. `on_behalf_of`: whose claim to space counts.
    pub(crate) fn renew(&self, lane: &mut Lane, class: LaneClass, on_behalf_of: LaneClass) -> Result<(), Unopened> {
        let now_ms = self.clock.now_ms();
        let (segment, sequence) = self.ledger.take_free(on_behalf_of, now_ms).map_err(Unopened::Space)?;
        let number = segment.number();
        match OpenSegment::begin(segment, sequence, class, &self.superblock.store_id, now_ms) {
            Ok(fresh) => {
                if let Some(full) = lane.open.replace(fresh) {
                    self.sealing.lock().push_back(full);
                }
                Ok(())
            }
            Err(error) => {
                // Its header may or may not be on the disk, and no record is: it can be written again, header and all.
                self.ledger.rest(number, now_ms);
                tracing::error!(event = "segment_not_opened", segment = number, %error, "cannot open a segment for writing; it is tried again later");
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
            let part = self.header_of_record(location).and_then(|(header, _)| Some((header.digest, header.part?)));
            // What points elsewhere was not lost here: reclaim failed to move it, or it was uploaded again.
            if !self.index.remove(key, location) {
                continue;
            }
            lost += 1;
            // A large blob that lost a part is gone: its head must not go on saying that it is there. A head of another
            // upload has parts of its own.
            if let Some((digest, tag)) = part
                && let Some(head) = self.head_of(self.keyer.blob(&digest), tag.nonce)
            {
                self.index.remove(head.key, head.found.location);
            }
        }
        self.ledger.quarantine(open.segment.number());
        self.counters.quarantined_segments.fetch_add(1, Ordering::Relaxed);
        tracing::error!(event = "segment_quarantined", segment = open.segment.number(), lost, %error, "a write or sync failed");
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
