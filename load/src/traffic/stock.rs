//! [`Stock`]: everything a run needs, made before the first connection: blobs, requests, and what has to be uploaded first.

use std::sync::atomic::AtomicU64;

use cask_index::Digest;

use super::answer::Expect;
use super::content::{Content, Family, Shape};
use super::message::{self, Address};
use super::mixed::{self, Weights};
use super::operation::Operation;
use super::source::{Requests, Source, Stored};
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
/// Messages of streams that are uploaded before the measured time, and of those of builds.
const MESSAGE_BYTES: usize = 1 << 20;
const BUILD_MESSAGE_BYTES: usize = 16 << 10;
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
}

impl Stock {
    /// Everything for `workload`.
    pub(crate) fn new(workload: &Workload, content: Content, address: Address) -> Result<Self, LoadError> {
        let mut stock = Self { content, address, preparation: Vec::new(), sources: Vec::new() };
        let source = match *workload {
            Workload::FindMissing { batch, hit_rate, blobs } => stock.find_missing(batch, hit_rate, blobs)?,
            Workload::Read { size_bytes, blobs } => stock.read(size_bytes, blobs as u64),
            Workload::Write { size_bytes, message_bytes } => stock.write(size_bytes, message_bytes),
            Workload::BatchRead { size_bytes, batch, blobs } => stock.batch_read(size_bytes, batch, blobs),
            Workload::BatchUpdate { size_bytes, batch } => {
                let shape = stock.content.shape(size_bytes);
                Source::BatchUpdate { shape, family: Family::Fresh, batch, next: AtomicU64::new(0) }
            }
            Workload::ActionHit { actions, outputs } => stock.action_hit(actions, outputs),
            Workload::ActionMiss { actions } => stock.action_miss(actions),
            Workload::ActionUpdate { outputs } => stock.action_update(outputs),
            Workload::HttpGet { size_bytes, blobs } => stock.http_get(size_bytes, blobs as u64),
            Workload::HttpPut { size_bytes } => {
                let shape = stock.content.shape(size_bytes);
                Source::HttpPut { shape, family: Family::Fresh, next: AtomicU64::new(0) }
            }
            Workload::Mixed { hit_rate } => {
                stock.mix(hit_rate)?;
                return Ok(stock);
            }
        };
        stock.sources.push((1, source));
        Ok(stock)
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
        if count > 0 {
            self.preparation.push(if size_bytes > BATCH_BYTES {
                (Source::Write { shape, family, message_bytes: MESSAGE_BYTES, next }, count)
            } else {
                (Source::BatchUpdate { shape, family, batch: batch as usize, next }, count.div_ceil(batch))
            });
        }
        digests
    }

    fn find_missing(&mut self, batch: usize, hit_rate: f64, blobs: usize) -> Result<Source, LoadError> {
        let blobs = blobs.next_multiple_of(batch);
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
        Ok(Source::Replay {
            operation: Operation::FindMissing,
            method: Method::FindMissingBlobs,
            requests,
            expect: Expect::Missing { of: batch as u64, missing: (batch - present) as u64 },
            stored: None,
        })
    }

    fn read(&mut self, size_bytes: u64, blobs: u64) -> Source {
        let digests = self.stored(size_bytes, blobs);
        let mut requests = Requests::default();
        for digest in &digests {
            requests.push(|out| self.address.put_read(out, digest));
        }
        Source::Replay {
            operation: Operation::Read,
            method: Method::Read,
            requests,
            expect: Expect::Blob { size_bytes },
            stored: Some(Stored { shape: self.content.shape(size_bytes), batch: 1 }),
        }
    }

    fn write(&self, size_bytes: u64, message_bytes: usize) -> Source {
        let shape = self.content.shape(size_bytes);
        Source::Write { shape, family: Family::Fresh, message_bytes, next: AtomicU64::new(0) }
    }

    fn batch_read(&mut self, size_bytes: u64, batch: usize, blobs: usize) -> Source {
        let digests = self.stored(size_bytes, blobs.next_multiple_of(batch) as u64);
        let mut requests = Requests::default();
        for digests in digests.chunks_exact(batch) {
            requests.push(|out| self.address.put_batch_read(out, digests.iter()));
        }
        Source::Replay {
            operation: Operation::BatchRead,
            method: Method::BatchReadBlobs,
            requests,
            expect: Expect::Blobs { count: batch as u64, size_bytes },
            stored: Some(Stored { shape: self.content.shape(size_bytes), batch: batch as u64 }),
        }
    }

    fn action_hit(&mut self, actions: usize, outputs: usize) -> Source {
        let files = self.stored(OUTPUT_BYTES, (actions * outputs) as u64);
        let shape = self.content.shape(ACTION_BYTES);
        let digests = self.digests(&shape, Family::Action, actions as u64);
        let (mut updates, mut requests) = (Requests::default(), Requests::default());
        for (number, action) in digests.iter().enumerate() {
            let result = message::action_result(files[number * outputs..(number + 1) * outputs].iter());
            updates.push(|out| self.address.put_update_action(out, action, &result));
            requests.push(|out| self.address.put_get_action(out, action));
        }
        let update = Source::Once {
            operation: Operation::ActionUpdate,
            method: Method::UpdateActionResult,
            requests: updates,
            next: AtomicU64::new(0),
        };
        self.preparation.push((update, actions as u64));
        Source::Replay {
            operation: Operation::ActionHit,
            method: Method::GetActionResult,
            requests,
            expect: Expect::Something,
            stored: None,
        }
    }

    fn action_miss(&self, actions: usize) -> Source {
        let shape = self.content.shape(ACTION_BYTES);
        let digests = self.digests(&shape, Family::Absent, actions as u64);
        let mut requests = Requests::default();
        for action in &digests {
            requests.push(|out| self.address.put_get_action(out, action));
        }
        Source::Replay {
            operation: Operation::ActionMiss,
            method: Method::GetActionResult,
            requests,
            expect: Expect::Absence,
            stored: None,
        }
    }

    fn action_update(&mut self, outputs: usize) -> Source {
        let digests = self.stored(OUTPUT_BYTES, outputs as u64);
        Source::ActionUpdate {
            shape: self.content.shape(ACTION_BYTES),
            family: Family::FreshAction,
            result: message::action_result(digests.iter()),
            next: AtomicU64::new(0),
        }
    }

    fn http_get(&mut self, size_bytes: u64, blobs: u64) -> Source {
        let shape = self.content.shape(size_bytes);
        let digests = self.digests(&shape, Family::Stored, blobs);
        self.preparation.push((Source::HttpPut { shape, family: Family::Stored, next: AtomicU64::new(0) }, blobs));
        let mut requests = Requests::default();
        for digest in &digests {
            requests.push(|out| self.address.put_http(out, "GET", digest, None));
        }
        Source::Replay {
            operation: Operation::HttpGet,
            method: Method::Read,
            requests,
            expect: Expect::Body { size_bytes },
            stored: Some(Stored { shape: self.content.shape(size_bytes), batch: 1 }),
        }
    }

    /// The sources of [`mixed`] with their weights.
    fn mix(&mut self, hit_rate: f64) -> Result<(), LoadError> {
        let Weights { action_hit, per_miss, read } = Weights::new(hit_rate);
        let mut sources = Vec::new();
        if action_hit > 0 {
            sources.push((action_hit, self.action_hit(mixed::ACTIONS, mixed::OUTPUTS)));
            for (size_bytes, share) in mixed::OUTPUT_SIZES {
                let blobs = (mixed::READ_BYTES / size_bytes).clamp(1, mixed::READ_BLOBS_MAX);
                sources.push((mixed::share(read, share), self.read(size_bytes, blobs)));
            }
        }
        if per_miss > 0 {
            sources.push((per_miss, self.action_miss(mixed::ACTIONS)));
            sources.push((per_miss, self.find_missing(mixed::FIND_BATCH, mixed::FIND_HIT_RATE, mixed::FIND_BLOBS)?));
            for size_bytes in mixed::MESSAGE_SIZES {
                sources.push((per_miss, self.write(size_bytes, BUILD_MESSAGE_BYTES)));
            }
            for (size_bytes, share) in mixed::OUTPUT_SIZES {
                sources.push((mixed::share(per_miss, share), self.write(size_bytes, BUILD_MESSAGE_BYTES)));
            }
            sources.push((per_miss, self.action_update(mixed::OUTPUTS)));
        }
        self.sources = sources;
        Ok(())
    }
}
