//! The queue's journal in the engine: each slot is an action record of an owner whom no client can name.
//!
//! ```text
//! slots      the first slot that was never used, rounded up: what a start has to look through
//! slot N     a kind byte, and for a task its record; what is removed is overwritten, since the engine has no removal
//! ```
//! Records are evicted as all others are, so those in use are read now and then, which keeps them. A journal can only lose what
//! the store would drop before anything a client was promised.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cask_engine::{Engine, EngineError};
use cask_executor::farm::{QueueStore, QueueStoreError};
use cask_executor::scheduler::JournalSlot;
use cask_index::{Digest, DigestFunction, Hasher};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// `blobs` is no segment of a client's instance name.
const OWNER: &str = "blobs/queue";

/// The kinds of slots. Numbers are never reused.
const KIND_REMOVED: u8 = 0;
const KIND_TASK: u8 = 1;

/// The high-water mark rises in steps, so that a growing queue does not write it for each task.
const SLOTS_STEP: u32 = 1024;

/// How often what is in use is read. The shortest lease that makes sense is longer.
const TOUCH_INTERVAL_MAX: Duration = Duration::from_secs(600);

pub(super) struct Journal {
    engine: Engine,
    state: Mutex<State>,
    /// Held while the mark is written, so that it only rises.
    raising: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Slots below this are looked through at the next start.
    slots_end: u32,
    in_use: HashSet<JournalSlot>,
}

impl Journal {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, state: Mutex::default(), raising: tokio::sync::Mutex::default() }
    }

    async fn write(&self, key: Digest, value: Bytes) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the journal is dropped.
            let _ = tell.send(outcome);
        });
        self.engine.put_action(OWNER, &key, &value, &[], done);
        told.await.unwrap_or(Err(EngineError::Closed))
    }

    /// Sees to it that the next start looks at `slot`.
    async fn raise(&self, slot: JournalSlot) -> Result<(), EngineError> {
        if slot.0 < self.state.lock().slots_end {
            return Ok(());
        }
        let _raising = self.raising.lock().await;
        if slot.0 < self.state.lock().slots_end {
            return Ok(());
        }
        let slots_end = (slot.0 / SLOTS_STEP + 1).saturating_mul(SLOTS_STEP);
        self.write(slots_key(), Bytes::copy_from_slice(&slots_end.to_le_bytes())).await?;
        self.state.lock().slots_end = slots_end;
        Ok(())
    }

    /// Reads what is in use, again and again, so that it stays. Never ends.
    pub(super) async fn keep(&self, lease: Duration) {
        let interval = (lease / 4).clamp(Duration::from_secs(1), TOUCH_INTERVAL_MAX);
        loop {
            tokio::time::sleep(interval).await;
            let slots: Vec<JournalSlot> = self.state.lock().in_use.iter().copied().collect();
            let engine = self.engine.clone();
            let lost = tokio::task::spawn_blocking(move || {
                let keys = std::iter::once(slots_key()).chain(slots.into_iter().map(slot_key));
                keys.filter(|key| matches!(engine.get_action(OWNER, key), Err(EngineError::NotFound))).count()
            });
            // The mark of a queue that was never used is not there either.
            if let Ok(lost @ 1..) = lost.await
                && self.state.lock().slots_end > 0
            {
                tracing::warn!(event = "queue.records_lost", lost, "a restart now would lose tasks; raise max_size");
            }
        }
    }
}

#[tonic::async_trait]
impl QueueStore for Journal {
    async fn load(&self) -> Result<Vec<(JournalSlot, Bytes)>, QueueStoreError> {
        let engine = self.engine.clone();
        let loaded = tokio::task::spawn_blocking(move || load(&engine));
        let (slots_end, records) = loaded.await.unwrap_or(Err(EngineError::Closed)).map_err(store_error)?;
        let in_use = records.iter().map(|(slot, _)| *slot).collect();
        *self.state.lock() = State { slots_end, in_use };
        Ok(records)
    }

    async fn put(&self, slot: JournalSlot, record: Option<Bytes>) -> Result<(), QueueStoreError> {
        // Too large for the store is a finished task with a very large result: its client has it or gets it from the action
        // cache, so the journal can do without.
        let size_bytes_max = self.engine.action_value_size_bytes_max() - 1;
        let record = record.filter(|record| record.len() <= size_bytes_max);
        let mut value = BytesMut::with_capacity(1 + record.as_ref().map_or(0, Bytes::len));
        value.put_u8(if record.is_some() { KIND_TASK } else { KIND_REMOVED });
        value.extend_from_slice(record.as_deref().unwrap_or_default());
        self.raise(slot).await.map_err(store_error)?;
        self.write(slot_key(slot), value.freeze()).await.map_err(store_error)?;
        let mut state = self.state.lock();
        if record.is_some() {
            state.in_use.insert(slot);
        } else {
            state.in_use.remove(&slot);
        }
        Ok(())
    }
}

fn load(engine: &Engine) -> Result<(u32, Vec<(JournalSlot, Bytes)>), EngineError> {
    let slots_end = match engine.get_action(OWNER, &slots_key()) {
        Ok(value) => match <[u8; 4]>::try_from(&value[..]) {
            Ok(bytes) => u32::from_le_bytes(bytes),
            Err(_) => return Err(EngineError::Storage("the queue's mark is not one".to_owned())),
        },
        Err(EngineError::NotFound) => 0,
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    for slot in (0..slots_end).map(JournalSlot) {
        match engine.get_action(OWNER, &slot_key(slot)) {
            Ok(mut value) if value.first() == Some(&KIND_TASK) => records.push((slot, value.split_off(1))),
            Ok(_) | Err(EngineError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((slots_end, records))
}

fn slots_key() -> Digest {
    key("slots")
}

fn slot_key(slot: JournalSlot) -> Digest {
    key(&format!("slot {}", slot.0))
}

fn key(text: &str) -> Digest {
    Hasher::digest(DigestFunction::Sha256, text.as_bytes()).with_size_bytes(0)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err, which hands it over")]
fn store_error(error: EngineError) -> QueueStoreError {
    let retry_after = match &error {
        EngineError::Full { retry_after, .. } => Some(*retry_after),
        _ => None,
    };
    QueueStoreError { message: error.to_string(), retry_after }
}
