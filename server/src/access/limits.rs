//! How much: every bound the server puts on what clients make it hold, and the semaphores that enforce the shared ones.
//!
//! A request that meets a full budget waits `budget_wait_max` (the transport's backpressure holds the client meanwhile) and is
//! then refused with an error a client retries later. Nothing here knows gRPC; `status` gives the refusals their codes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::yielding::YieldingBudget;

/// The edge's bounds. `Default` is what a server of a few hundred developers runs with.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Advertised: the most blob bytes one batch request may carry or ask for. Below gRPC's usual 4 MiB message bound by
    /// enough slack for the digests and statuses around the bytes.
    pub(crate) batch_total_size_bytes_max: u64,
    /// The largest message of a method that carries blobs or lists of digests: the batch limit and, on top of it, what frames
    /// very many small blobs.
    pub(crate) message_size_bytes_max: usize,
    /// The largest `WriteRequest`: clients send pieces of up to a whole batch limit, or just under gRPC's usual 4 MiB.
    pub(crate) write_message_size_bytes_max: usize,
    /// The largest message of a method that only names something.
    pub(crate) name_message_size_bytes_max: usize,
    /// Bytes of messages being received, and of requests whose answer is not sent yet, over all clients.
    pub(crate) message_bytes_max: usize,
    /// The same for messages of up to [`SMALL_MESSAGE_BYTES_MAX`], which large ones must not keep out.
    pub(crate) small_message_bytes_max: usize,
    /// How long a message may be on its way, and a part of an upload be filled, before it can be asked to give way to others
    /// that wait for its memory.
    pub(crate) piece_patience: Duration,
    /// Bytes of answers that are not slices of the store and wait for their clients to take them.
    pub(crate) answer_bytes_max: usize,
    /// Bytes of blobs that are stored compressed, decoded for streams whose clients have not taken them yet.
    pub(crate) decoded_bytes_max: usize,
    /// The largest message sent to a client that did not ask for more: what stock gRPC clients accept (4 MiB), less slack.
    pub(crate) response_size_bytes_max: usize,
    /// Streaming uploads open at once; parked ones are not counted here.
    pub(crate) concurrent_uploads_max: usize,
    /// Upload bytes in memory that the store has not written yet: staged, in flight and parked, over all clients.
    pub(crate) staged_bytes_max: usize,
    /// The same for uploads of up to [`SMALL_PART_BYTES_MAX`], which large ones must not keep out.
    pub(crate) small_staged_bytes_max: usize,
    /// How long a request waits for a place in a full budget before it is refused.
    pub(crate) budget_wait_max: Duration,
    /// How long an open upload may be silent before it is parked and its stream ended.
    pub(crate) upload_idle_max: Duration,
    /// Interrupted uploads kept for resumption: how many, how many bytes staged by them, for how long.
    pub(crate) parked_uploads_max: usize,
    pub(crate) parked_bytes_max: usize,
    pub(crate) parked_age_max: Duration,
    /// The largest `Tree` or `Directory` blob that is decoded.
    pub(crate) tree_size_bytes_max: u64,
    /// The most directories, and the most digests in all, that one expansion of a tree visits.
    pub(crate) tree_directories_max: usize,
    pub(crate) tree_digests_max: usize,
    /// Directories in one `GetTree` message, whatever the client asks for.
    pub(crate) tree_page_directories_max: usize,
    /// Trees of action results being opened at once: each may be held decoded.
    pub(crate) concurrent_trees_max: usize,
    /// Logs that are being written: each holds up to 128 KiB.
    pub(crate) open_logs_max: usize,
    /// `GetTree` listings open at once. Apart from the above, because a client that does not read on holds its listing.
    pub(crate) concurrent_listings_max: usize,
    /// Blobs being split or spliced at once: each has a thread, a window of up to 7 MiB, and its list.
    pub(crate) concurrent_chunkings_max: usize,
    /// Chunks of one blob.
    pub(crate) chunk_list_chunks_max: usize,
}

const MIB: usize = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_total_size_bytes_max: (4 * MIB - 64 * 1024) as u64,
            message_size_bytes_max: 8 * MIB,
            write_message_size_bytes_max: 4 * MIB + 64 * 1024,
            name_message_size_bytes_max: 64 * 1024,
            message_bytes_max: 256 * MIB,
            small_message_bytes_max: 64 * MIB,
            piece_patience: Duration::from_secs(5),
            answer_bytes_max: 256 * MIB,
            decoded_bytes_max: 256 * MIB,
            response_size_bytes_max: 4 * MIB - 8 * 1024,
            concurrent_uploads_max: 4096,
            staged_bytes_max: 256 * MIB,
            small_staged_bytes_max: 32 * MIB,
            budget_wait_max: Duration::from_secs(10),
            upload_idle_max: Duration::from_secs(60),
            parked_uploads_max: 1024,
            parked_bytes_max: 64 * MIB,
            parked_age_max: Duration::from_secs(600),
            tree_size_bytes_max: 32 * MIB as u64,
            tree_directories_max: 128 * 1024,
            tree_digests_max: 512 * 1024,
            tree_page_directories_max: 1000,
            concurrent_trees_max: 32,
            open_logs_max: 1024,
            concurrent_listings_max: 32,
            concurrent_chunkings_max: 8,
            chunk_list_chunks_max: 256 * 1024,
        }
    }
}

/// What counts as small when upload bytes are paid for.
pub(crate) const SMALL_PART_BYTES_MAX: usize = 32 * 1024;

/// What counts as small when messages are paid for.
pub(crate) const SMALL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Messages that cost nothing: a call's own buffers take as much.
pub(crate) const FREE_MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// A place in a budget; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// A budget stayed full for as long as the limits let a request wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is at its limit of {limit} {what}")]
pub(crate) struct OverBudget {
    pub(crate) what: &'static str,
    pub(crate) limit: usize,
}

/// One shared, bounded quantity. Waiters are served in the order they came, whatever they ask for.
#[derive(Debug)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    what: &'static str,
    limit: usize,
    wait_max: Duration,
}

impl Budget {
    /// `limit` is at least 1, or nothing could ever pass.
    pub(crate) fn new(what: &'static str, limit: usize, wait_max: Duration) -> Budget {
        // A permit is asked for in u32, so a larger limit could never be reached by one request anyway.
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Budget { semaphore: Arc::new(Semaphore::new(limit)), what, limit, wait_max }
    }

    /// Takes `count` now or not at all.
    pub(crate) fn try_take(&self, count: usize) -> Option<Permit> {
        match Arc::clone(&self.semaphore).try_acquire_many_owned(self.clamp(count)) {
            Ok(permit) => Some(Permit { _permit: permit }),
            Err(TryAcquireError::NoPermits) => None,
            Err(TryAcquireError::Closed) => unreachable!("a budget is never closed"),
        }
    }

    /// Takes `count`, waiting for it. Cancel-safe.
    pub(crate) async fn take(&self, count: usize) -> Result<Permit, OverBudget> {
        let acquire = Arc::clone(&self.semaphore).acquire_many_owned(self.clamp(count));
        match tokio::time::timeout(self.wait_max, acquire).await {
            Ok(Ok(permit)) => Ok(Permit { _permit: permit }),
            Ok(Err(_closed)) => unreachable!("a budget is never closed"),
            Err(_elapsed) => Err(OverBudget { what: self.what, limit: self.limit }),
        }
    }

    /// How much is taken now.
    pub(crate) fn used(&self) -> usize {
        self.limit - self.semaphore.available_permits().min(self.limit)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// More than the whole budget is the whole budget: the request runs alone instead of never.
    fn clamp(&self, count: usize) -> u32 {
        u32::try_from(count.min(self.limit)).expect("a budget's limit fits u32")
    }
}

/// The shared budgets of one server.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) uploads: Budget,
    /// For parts above [`SMALL_PART_BYTES_MAX`].
    pub(crate) staged_bytes: YieldingBudget,
    /// For the others: however many large uploads crawl, small blobs and action results get through.
    pub(crate) small_staged_bytes: YieldingBudget,
    /// For messages above [`SMALL_MESSAGE_BYTES_MAX`].
    pub(crate) message_bytes: YieldingBudget,
    /// For the others.
    pub(crate) small_message_bytes: YieldingBudget,
    pub(crate) answer_bytes: Budget,
    pub(crate) decoded_bytes: Budget,
    pub(crate) trees: Budget,
    pub(crate) listings: Budget,
    pub(crate) chunkings: Budget,
}

impl Budgets {
    pub(crate) fn new(limits: &Limits) -> Budgets {
        let wait_max = limits.budget_wait_max;
        let yielding = |what, limit| YieldingBudget::new(Budget::new(what, limit, wait_max), limits.piece_patience);
        Budgets {
            uploads: Budget::new("open uploads", limits.concurrent_uploads_max, wait_max),
            staged_bytes: yielding("staged upload bytes", limits.staged_bytes_max),
            small_staged_bytes: yielding("staged bytes of small uploads", limits.small_staged_bytes_max),
            message_bytes: yielding("bytes of messages being received", limits.message_bytes_max),
            small_message_bytes: yielding("bytes of small messages being received", limits.small_message_bytes_max),
            answer_bytes: Budget::new("bytes of answers on their way", limits.answer_bytes_max, wait_max),
            decoded_bytes: Budget::new("decoded bytes on their way", limits.decoded_bytes_max, wait_max),
            trees: Budget::new("opened trees", limits.concurrent_trees_max, wait_max),
            listings: Budget::new("tree listings", limits.concurrent_listings_max, wait_max),
            chunkings: Budget::new("blobs being split or spliced", limits.concurrent_chunkings_max, wait_max),
        }
    }

    /// Where a message of `bytes` is paid for.
    pub(crate) fn messages(&self, bytes: usize) -> &YieldingBudget {
        if bytes <= SMALL_MESSAGE_BYTES_MAX { &self.small_message_bytes } else { &self.message_bytes }
    }

    /// Where upload bytes are paid for.
    pub(crate) fn staging(&self, bytes: usize) -> &YieldingBudget {
        if bytes <= SMALL_PART_BYTES_MAX { &self.small_staged_bytes } else { &self.staged_bytes }
    }

    /// All of them by name, for the metrics.
    pub(crate) fn all(&self) -> [(&'static str, &Budget); 10] {
        [
            ("uploads", &self.uploads),
            ("staged_bytes", self.staged_bytes.budget()),
            ("small_staged_bytes", self.small_staged_bytes.budget()),
            ("message_bytes", self.message_bytes.budget()),
            ("small_message_bytes", self.small_message_bytes.budget()),
            ("answer_bytes", &self.answer_bytes),
            ("decoded_bytes", &self.decoded_bytes),
            ("trees", &self.trees),
            ("listings", &self.listings),
            ("chunkings", &self.chunkings),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_budget_waits_then_refuses_and_a_returned_permit_lets_the_next_in() {
        let budget = Budget::new("things", 10, Duration::from_secs(3));
        let first = budget.take(7).await.unwrap();
        assert!(budget.try_take(4).is_none());
        let asked = tokio::time::Instant::now();
        assert_eq!(budget.take(4).await.unwrap_err(), OverBudget { what: "things", limit: 10 });
        assert_eq!(asked.elapsed(), Duration::from_secs(3));
        drop(first);
        assert!(budget.try_take(10).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_budget_gets_all_of_it() {
        let budget = Budget::new("things", 10, Duration::from_secs(3));
        let all = budget.take(1_000_000).await.unwrap();
        assert!(budget.try_take(1).is_none());
        drop(all);
        assert!(budget.try_take(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_leaks_nothing() {
        let budget = Budget::new("things", 10, Duration::from_secs(3));
        let held = budget.take(10).await.unwrap();
        drop(tokio::time::timeout(Duration::from_secs(1), budget.take(5)).await);
        drop(held);
        assert!(budget.try_take(10).is_some());
    }
}
