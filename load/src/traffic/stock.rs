//! [`Stock`]: everything a run needs, made before the first connection: blobs, requests, and what has to be uploaded first.

use std::sync::atomic::AtomicU64;

use cask_index::Digest;

use super::answer::{Expect, Known};
use super::content::{Content, Family, Shape, Tail};
use super::message::{self, Address};
use super::operation::Operation;
use super::source::{Requests, Source};
use crate::wire::headers::Method;
use crate::{LoadError, Workload};

/// Bytes of the blobs that are only asked for.
const SMALL_BLOB_BYTES: u64 = 64;
/// Bytes of an action's outputs.
const OUTPUT_BYTES: u64 = 1024;
/// Bytes of the actions, as of a common `Action` message.
const ACTION_BYTES: u64 = 142;
/// Uploads go in batches up to these, below the limits of servers; larger blobs go as streams.
const BATCH_BYTES: u64 = 2 << 20;
const BATCH_BLOBS: u64 = 500;
const MESSAGE_BYTES: usize = 1 << 20;
/// The most memory that requests may take.
const REQUEST_BYTES_MAX: u64 = 1 << 30;

/// What a run is made of.
pub(crate) struct Stock {
    pub(crate) content: Content,
    pub(crate) address: Address,
    /// In this order, before the measured time: a source and how many requests of it.
    pub(crate) preparation: Vec<(Source, u64)>,
    /// What is measured: sources and how often each is drawn.
    pub(crate) sources: Vec<(u32, Source)>,
    /// What answers are compared with, and blobs a request.
    checked: Option<(Shape, u64)>,
}

impl Stock {
    /// Everything for `workload`.
    pub(crate) fn new(workload: &Workload, content: Content, address: Address) -> Result<Self, LoadError> {
        let mut stock = Self { content, address, preparation: Vec::new(), sources: Vec::new(), checked: None };
        let source = match *workload {
            Workload::FindMissing { batch, hit_rate, blobs } => stock.find_missing(batch, hit_rate, blobs)?,
            Workload::Read { size_bytes, blobs } => {
                let digests = stock.stored(size_bytes, blobs as u64);
                let mut requests = Requests::default();
                digests.iter().for_each(|digest| requests.push(|out| stock.address.put_read(out, digest)));
                stock.checked = Some((stock.content.shape(size_bytes), 1));
                Source::Replay {
                    operation: Operation::Read,
                    method: Method::Read,
                    requests,
                    expect: Expect::Blob { size_bytes },
                }
            }
            Workload::Write { size_bytes, message_bytes } => {
                let shape = stock.content.shape(size_bytes);
                Source::Write { shape, family: Family::Fresh, message_bytes, next: AtomicU64::new(0) }
            }
            Workload::BatchRead { size_bytes, batch, blobs } => {
                let digests = stock.stored(size_bytes, blobs.next_multiple_of(batch) as u64);
                let mut requests = Requests::default();
                for digests in digests.chunks_exact(batch) {
                    requests.push(|out| stock.address.put_batch_read(out, digests.iter()));
                }
                stock.checked = Some((stock.content.shape(size_bytes), batch as u64));
                Source::Replay {
                    operation: Operation::BatchRead,
                    method: Method::BatchReadBlobs,
                    requests,
                    expect: Expect::Blobs { count: batch as u64, size_bytes },
                }
            }
            Workload::BatchUpdate { size_bytes, batch } => {
                let shape = stock.content.shape(size_bytes);
                Source::BatchUpdate { shape, family: Family::Fresh, batch, next: AtomicU64::new(0) }
            }
            Workload::ActionHit { actions, outputs } => stock.action_hit(actions, outputs),
            Workload::ActionMiss { actions } => stock.action_miss(actions),
            Workload::ActionUpdate { outputs } => {
                let digests = stock.stored(OUTPUT_BYTES, outputs as u64);
                Source::ActionUpdate {
                    shape: stock.content.shape(ACTION_BYTES),
                    family: Family::FreshAction,
                    result: message::action_result(digests.iter()),
                    next: AtomicU64::new(0),
                }
            }
        };
        stock.sources.push((1, source));
        Ok(stock)
    }

    /// What an answer to request `number` of a replayed source is compared with, and the tail of its n-th blob.
    pub(crate) fn known(&self, number: u64) -> Option<(Known<'_>, impl Fn(u64) -> Tail + '_)> {
        let (shape, batch) = self.checked.as_ref()?;
        let tail = move |at| self.content.tail(Family::Stored, number * batch + at);
        Some((Known { content: &self.content, shape }, tail))
    }

    fn digests(&self, shape: &Shape, family: Family, count: u64) -> Vec<Digest> {
        (0..count).map(|number| shape.digest(&self.content.tail(family, number))).collect()
    }

    /// Digests of blobs 0 to `count` of a size, which the preparation will store.
    fn stored(&mut self, size_bytes: u64, count: u64) -> Vec<Digest> {
        let shape = self.content.shape(size_bytes);
        let digests = self.digests(&shape, Family::Stored, count);
        let (family, next) = (Family::Stored, AtomicU64::new(0));
        let batch = (BATCH_BYTES / size_bytes.max(1)).clamp(1, BATCH_BLOBS.min(count.max(1)));
        self.preparation.push(if size_bytes > BATCH_BYTES {
            (Source::Write { shape, family, message_bytes: MESSAGE_BYTES, next }, count)
        } else {
            (Source::BatchUpdate { shape, family, batch: batch as usize, next }, count.div_ceil(batch))
        });
        digests
    }

    fn find_missing(&mut self, batch: usize, hit_rate: f64, blobs: usize) -> Result<Source, LoadError> {
        let blobs = blobs.next_multiple_of(batch);
        // A digest with its function's longest hash.
        let request_bytes = blobs as u64 * (self.content.function().hash_length_bytes() as u64 * 2 + 10);
        if request_bytes > REQUEST_BYTES_MAX {
            return Err(LoadError::TooLarge { what: "the requests for so many digests", bytes: request_bytes });
        }
        let present = (batch as f64 * hit_rate).round() as usize;
        let requests_count = blobs / batch;
        let stored = self.stored(SMALL_BLOB_BYTES, (present * requests_count) as u64);
        let shape = self.content.shape(SMALL_BLOB_BYTES);
        let absent = self.digests(&shape, Family::Absent, ((batch - present) * requests_count) as u64);
        let (mut stored, mut absent) = (stored.iter(), absent.iter());
        let mut requests = Requests::default();
        for _ in 0..requests_count {
            // The present ones are spread evenly.
            let mut owed = 0;
            let digests = (0..batch).filter_map(|_| {
                owed += present;
                if owed >= batch {
                    owed -= batch;
                    stored.next()
                } else {
                    absent.next()
                }
            });
            requests.push(|out| self.address.put_find_missing(out, digests));
        }
        if present == 0 {
            self.preparation.clear();
        }
        let expect = Expect::Missing { of: batch as u64, missing: (batch - present) as u64 };
        Ok(Source::Replay { operation: Operation::FindMissing, method: Method::FindMissingBlobs, requests, expect })
    }

    fn action_hit(&mut self, actions: usize, outputs: usize) -> Source {
        let files = self.stored(OUTPUT_BYTES, (actions * outputs) as u64);
        if outputs == 0 {
            self.preparation.clear();
        }
        let shape = self.content.shape(ACTION_BYTES);
        let digests = self.digests(&shape, Family::Action, actions as u64);
        let (mut updates, mut requests) = (Requests::default(), Requests::default());
        for (number, action) in digests.iter().enumerate() {
            let result = message::action_result(files[number * outputs..(number + 1) * outputs].iter());
            updates.push(|out| self.address.put_update_action(out, action, &result));
            requests.push(|out| self.address.put_get_action(out, action));
        }
        let update = Source::Replay {
            operation: Operation::ActionUpdate,
            method: Method::UpdateActionResult,
            requests: updates,
            expect: Expect::Something,
        };
        self.preparation.push((update, actions as u64));
        Source::Replay {
            operation: Operation::ActionHit,
            method: Method::GetActionResult,
            requests,
            expect: Expect::Something,
        }
    }

    fn action_miss(&mut self, actions: usize) -> Source {
        let shape = self.content.shape(ACTION_BYTES);
        let digests = self.digests(&shape, Family::Absent, actions as u64);
        let mut requests = Requests::default();
        digests.iter().for_each(|action| requests.push(|out| self.address.put_get_action(out, action)));
        Source::Replay {
            operation: Operation::ActionMiss,
            method: Method::GetActionResult,
            requests,
            expect: Expect::Absence,
        }
    }
}
