//! Whole small blobs that come one by one, each from a task of its own, and are hashed together all the same.
//!
//! Who brings one lets the other tasks of its thread go first, once; they may bring more. The first that is back hashes all that have
//! gathered, its own among them, and hands them to the engine. There is no timer: alone, a blob waits for nothing but a look at the
//! sockets. A gathering belongs to a thread only in that few threads share one; any thread may hash what is in it.
//!
//! Cancellation: a put that is dropped before it was hashed takes its blob back; from then on it is stored, and the others never notice.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cask_engine::{Completion, Engine, EngineError};
use cask_index::Digest;
use parking_lot::Mutex;

use super::Cache;
use super::upload::{completion, outcome};
use crate::access::limits::SMALL_PART_BYTES_MAX;

/// Blobs that are hashed without waiting for more: twice what fills the widest lanes, and at most two MiB, a third of a millisecond.
const GATHERED_MAX: usize = 64;

/// Threads that bring blobs are few; those that share a gathering only share its lock.
const GATHERINGS: usize = 16;

/// One a thread, or nearly.
#[derive(Default)]
pub(super) struct Gatherings([Mutex<Gathering>; GATHERINGS]);

#[derive(Default)]
struct Gathering {
    waiting: Vec<Waiting>,
    /// Of the next blob.
    next_number: u64,
}

struct Waiting {
    number: u64,
    digest: Digest,
    data: Bytes,
    done: Completion,
}

/// A blob among those that wait; dropped, it is taken out.
struct Place<'a> {
    gathering: &'a Mutex<Gathering>,
    number: u64,
}

impl Gatherings {
    fn of_thread(&self) -> &Mutex<Gathering> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let number = THREAD.get().unwrap_or_else(|| {
            let number = THREADS.fetch_add(1, Ordering::Relaxed);
            THREAD.set(Some(number));
            number
        });
        &self.0[number % GATHERINGS]
    }
}

impl Gathering {
    /// Everything that waits, if `number` is among it.
    fn take_with(&mut self, number: u64) -> Vec<Waiting> {
        let is_first_taken = self.waiting.first().is_none_or(|first| first.number > number);
        if is_first_taken { Vec::new() } else { std::mem::take(&mut self.waiting) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let taken_out = {
            let mut gathering = self.gathering.lock();
            let position = gathering.waiting.binary_search_by_key(&self.number, |waiting| waiting.number);
            position.ok().map(|position| gathering.waiting.remove(position))
        };
        // Its completion gives back what it held, and that is not done under the lock.
        drop(taken_out);
    }
}

impl Cache {
    /// The largest blob for [`put_small`](Self::put_small).
    pub(crate) const SMALL_BLOB_BYTES_MAX: usize = SMALL_PART_BYTES_MAX;

    /// As `put`, for a small blob: hashed together with those that other tasks of this thread bring now. Cancel safe.
    pub(crate) async fn put_small(&self, digest: Digest, data: Bytes) -> Result<(), EngineError> {
        debug_assert!(data.len() <= Self::SMALL_BLOB_BYTES_MAX);
        let permit = match self.try_stage(data.len()) {
            Some(permit) => permit,
            None => self.stage(data.len()).await?.into_permit(),
        };
        let (done, told) = completion(Some(permit));
        let (place, is_full) = {
            let gathering = self.shared.gatherings.of_thread();
            let mut gathered = gathering.lock();
            let number = gathered.next_number;
            gathered.next_number += 1;
            gathered.waiting.push(Waiting { number, digest, data, done });
            (Place { gathering, number }, gathered.waiting.len() >= GATHERED_MAX)
        };
        if !is_full {
            tokio::task::yield_now().await;
        }
        let gathered = place.gathering.lock().take_with(place.number);
        hand_over(self.engine(), gathered);
        drop(place);
        outcome(told).await
    }
}

/// Hashes the blobs together and gives them to the engine.
fn hand_over(engine: &Engine, gathered: Vec<Waiting>) {
    if gathered.is_empty() {
        return;
    }
    let blobs: Vec<(Digest, &[u8])> = gathered.iter().map(|blob| (blob.digest, &blob.data[..])).collect();
    let outcomes = engine.verify_each(&blobs);
    let mut verified = Vec::with_capacity(gathered.len());
    for (Waiting { done, .. }, outcome) in gathered.into_iter().zip(outcomes) {
        match outcome {
            Ok(Some(blob)) => verified.push((blob, done)),
            Ok(None) => done(Ok(())),
            Err(error) => done(Err(error)),
        }
    }
    // Small, so this thread may compress them.
    engine.submit_each(verified);
}
