//! Records on their way to the disk: verified, in memory, waiting for the writer.
//!
//! One queue a lane keeps the order of submission (a head never overtakes its parts). A blob that is already on its
//! way is not queued twice: the second one's completion waits for the first one's record.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use cask_index::Key;
use parking_lot::{Condvar, Mutex};

use crate::error::EngineError;
use crate::format::record::RecordHeader;
use crate::format::segment::LaneClass;
use crate::large_upload::LargeUpload;

/// Called once, when the data is stored (to the configured durability) or has failed. Runs on an engine thread, or on
/// the caller's where the answer is known at once; must not block.
pub type Completion = Box<dyn FnOnce(Result<(), EngineError>) + Send + 'static>;

/// What becomes of a record once it is written.
pub(crate) enum Publish {
    /// Its key is entered.
    Entry,
    /// Its key is entered, and its upload told.
    Part(Arc<LargeUpload>),
    /// Its key is entered if all parts are stored.
    Head(Arc<LargeUpload>),
}

/// A record to be written.
pub(crate) struct Submission {
    pub(crate) class: LaneClass,
    pub(crate) key: Key,
    pub(crate) header: RecordHeader,
    pub(crate) payload: Vec<u8>,
    pub(crate) publish: Publish,
    pub(crate) done: Option<Completion>,
}

#[derive(Default)]
struct State {
    lanes: [VecDeque<Submission>; 4],
    /// Blobs in the queue or being written, and who else waits for them.
    under_way: HashMap<Key, Vec<Completion>>,
    closed: bool,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct CommitQueue {
    state: Mutex<State>,
    arrived: Condvar,
}

impl CommitQueue {
    /// Queues a record. `unique`: another record of the same key under way serves as well.
    pub(crate) fn submit(&self, submission: Submission, unique: bool) {
        self.submit_all(std::iter::once(submission), unique);
    }

    /// Queues records in their order, with one call for the writer: it wakes once and finds all of them.
    pub(crate) fn submit_all(&self, submissions: impl Iterator<Item = Submission>, unique: bool) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            for done in submissions.filter_map(|submission| submission.done) {
                done(Err(EngineError::Closed));
            }
            return;
        }
        let mut has_queued = false;
        for mut submission in submissions {
            if unique {
                if let Some(waiting) = state.under_way.get_mut(&submission.key) {
                    waiting.extend(submission.done.take());
                    continue;
                }
                state.under_way.insert(submission.key, Vec::new());
            }
            state.lanes[submission.class.index()].push_back(submission);
            has_queued = true;
        }
        drop(state);
        if has_queued {
            self.arrived.notify_one();
        }
    }

    /// Takes up to `bytes_max` bytes of payload (at least one record) from a lane's front.
    pub(crate) fn take(&self, class: LaneClass, bytes_max: usize) -> Vec<Submission> {
        let mut state = self.state.lock();
        let lane = &mut state.lanes[class.index()];
        let mut bytes = 0;
        let count = lane
            .iter()
            .take_while(|submission| {
                let fits = bytes == 0 || bytes + submission.payload.len() <= bytes_max;
                bytes += submission.payload.len().max(1);
                fits
            })
            .count();
        lane.drain(..count).collect()
    }

    /// Puts records back to the front, in order.
    pub(crate) fn put_back(&self, class: LaneClass, submissions: Vec<Submission>) {
        let mut state = self.state.lock();
        for submission in submissions.into_iter().rev() {
            state.lanes[class.index()].push_front(submission);
        }
    }

    /// The record of `key` is published or has failed: whoever else waits for it.
    pub(crate) fn finished(&self, key: Key) -> Vec<Completion> {
        self.state.lock().under_way.remove(&key).unwrap_or_default()
    }

    /// Waits for work; false when the queue is closed and empty.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        if state.lanes.iter().all(VecDeque::is_empty) {
            if state.closed {
                return false;
            }
            self.arrived.wait_for(&mut state, patience);
        }
        true
    }

    /// Nothing more is taken; what is queued is still to be written.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.arrived.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}
