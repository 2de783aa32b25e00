//! The journal's way to its store: of each slot in order, the last record only, several slots at a time.
//!
//! A record that waits is replaced by the next of its slot, so a task that is queued, given away and finished while the disk is
//! slow costs one write. A write that fails is told to who waits for it and tried again after a pause: a record is the whole state
//! of its task, so the one tried again is the newest there is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cask_proto::queue::TaskRecord;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, oneshot};

use super::{QueueStore, QueueStoreError};
use crate::scheduler::JournalSlot;

/// Writes on their way at once: enough that a batch of the store carries many.
const WRITES_MAX: usize = 256;

/// How long after a failed write the next is tried.
const RETRY_DELAY: Duration = Duration::from_secs(1);

type Outcome = Result<(), QueueStoreError>;

pub(super) struct Journal {
    store: Arc<dyn QueueStore>,
    state: Mutex<State>,
    /// Something to write, or the end.
    woken: Notify,
    /// The end was reached.
    ended: Notify,
}

#[derive(Default)]
struct State {
    waiting: HashMap<JournalSlot, Entry>,
    /// The slots of `waiting` that are not being written, oldest first.
    order: VecDeque<JournalSlot>,
    writing: HashSet<JournalSlot>,
    is_stopping: bool,
    has_ended: bool,
}

#[derive(Default)]
struct Entry {
    record: Option<Box<TaskRecord>>,
    told: Vec<oneshot::Sender<Outcome>>,
}

/// Records whose writing somebody may wait for.
#[derive(Default)]
pub(super) struct Written(Vec<oneshot::Receiver<Outcome>>);

impl Written {
    pub(super) fn expect(&mut self, record: oneshot::Receiver<Outcome>) {
        self.0.push(record);
    }

    /// Waits for all of them. Cancel-safe.
    pub(super) async fn all(self) -> Outcome {
        for record in self.0 {
            // Dropped unanswered: the journal is closed, and the process about to end.
            record.await.unwrap_or_else(|_| {
                Err(QueueStoreError { message: "the server is shutting down".to_owned(), retry_after: None })
            })?;
        }
        Ok(())
    }
}

impl Journal {
    pub(super) fn new(store: Arc<dyn QueueStore>) -> Self {
        Self { store, state: Mutex::default(), woken: Notify::new(), ended: Notify::new() }
    }

    /// Takes a record to be written. Called under the scheduler's lock, so the order is the scheduler's.
    pub(super) fn push(&self, slot: JournalSlot, record: Option<Box<TaskRecord>>) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        if state.has_ended {
            return told;
        }
        let is_new = !state.waiting.contains_key(&slot);
        let entry = state.waiting.entry(slot).or_default();
        entry.record = record;
        // Those who stopped waiting need no place.
        entry.told.retain(|waiter| !waiter.is_closed());
        entry.told.push(tell);
        if is_new && !state.writing.contains(&slot) {
            state.order.push_back(slot);
            drop(state);
            self.woken.notify_one();
        }
        told
    }

    pub(super) fn backlog(&self) -> usize {
        let state = self.state.lock();
        state.waiting.len() + state.writing.len()
    }

    /// Writes until it is stopped and has written everything.
    pub(super) async fn write(&self) {
        let mut writes = FuturesUnordered::new();
        let mut pause = None;
        loop {
            while pause.is_none()
                && writes.len() < WRITES_MAX
                && let Some((slot, entry)) = self.begin()
            {
                writes.push(self.write_one(slot, entry));
            }
            if writes.is_empty() && self.is_over() {
                break;
            }
            tokio::select! {
                Some(is_written) = writes.next(), if !writes.is_empty() => {
                    if !is_written {
                        pause = Some(Box::pin(tokio::time::sleep(RETRY_DELAY)));
                    }
                }
                () = async { pause.as_mut().expect("asked for only when there is one").await }, if pause.is_some() => {
                    pause = None;
                }
                () = self.woken.notified() => {}
            }
        }
        self.ended.notify_waiters();
    }

    fn begin(&self) -> Option<(JournalSlot, Entry)> {
        let mut state = self.state.lock();
        let slot = state.order.pop_front()?;
        state.writing.insert(slot);
        let entry = state.waiting.remove(&slot).expect("what is in the order waits");
        Some((slot, entry))
    }

    /// True when it was written.
    async fn write_one(&self, slot: JournalSlot, entry: Entry) -> bool {
        let Entry { record, told } = entry;
        let bytes = record.as_ref().map(|record| Bytes::from(record.encode_to_vec()));
        let outcome = self.store.put(slot, bytes).await;
        if let Err(error) = &outcome {
            tracing::warn!(event = "queue.write_failed", slot = slot.0, %error, "the queue's journal was not written");
        }
        let is_written = outcome.is_ok();
        let mut state = self.state.lock();
        state.writing.remove(&slot);
        if state.waiting.contains_key(&slot) {
            state.order.push_back(slot);
        } else if !is_written && !state.is_stopping {
            state.waiting.insert(slot, Entry { record, told: Vec::new() });
            state.order.push_back(slot);
        }
        drop(state);
        for waiter in told {
            let _ = waiter.send(outcome.clone());
        }
        is_written
    }

    /// Whether there is nothing left to do, ever.
    fn is_over(&self) -> bool {
        let mut state = self.state.lock();
        state.has_ended = state.is_stopping && state.waiting.is_empty();
        state.has_ended
    }

    /// Returns when all that was pushed is written, or given up.
    pub(super) async fn stop(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        {
            let mut state = self.state.lock();
            if state.has_ended {
                return;
            }
            state.is_stopping = true;
        }
        self.woken.notify_one();
        ended.await;
    }
}
