//! How much: every bound the server puts on what clients make it hold, and the semaphores that enforce the shared ones.
//!
//! A request that meets a full budget waits `budget_wait_max` (the transport's backpressure holds the client meanwhile) and is
//! then refused with an error a client retries later. Nothing here knows gRPC; `status` gives the refusals their codes.

use std::time::Duration;

/// The edge's bounds. `Default` is what a server of a few hundred developers runs with.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Advertised: the most blob bytes one batch request may carry or ask for. Below gRPC's usual 4 MiB message bound by
    /// enough slack for the digests and statuses around the bytes.
    pub(crate) batch_total_size_bytes_max: u64,
    /// The largest message decoded. Well above the batch limit, because clients send `WriteRequest`s of a whole batch limit and
    /// because a decoder's refusal carries a code that misleads them.
    pub(crate) message_size_bytes_max: usize,
    /// The largest message sent to a client that did not ask for more: what stock gRPC clients accept (4 MiB), less slack.
    pub(crate) response_size_bytes_max: usize,
    /// Streaming uploads open at once; parked ones are not counted here.
    pub(crate) concurrent_uploads_max: usize,
    /// Upload bytes in memory that the store has not written yet: staged, in flight and parked, over all clients.
    pub(crate) staged_bytes_max: usize,
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
    /// Tree expansions and walks at once: each may hold a decoded tree.
    pub(crate) concurrent_trees_max: usize,
}

const MIB: usize = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_total_size_bytes_max: (4 * MIB - 64 * 1024) as u64,
            message_size_bytes_max: 16 * MIB,
            response_size_bytes_max: 4 * MIB - 64 * 1024,
            concurrent_uploads_max: 4096,
            staged_bytes_max: 256 * MIB,
            budget_wait_max: Duration::from_secs(10),
            upload_idle_max: Duration::from_secs(60),
            parked_uploads_max: 1024,
            parked_bytes_max: 64 * MIB,
            parked_age_max: Duration::from_secs(600),
            tree_size_bytes_max: 64 * MIB as u64,
            tree_directories_max: 256 * 1024,
            tree_digests_max: 512 * 1024,
            tree_page_directories_max: 1000,
            concurrent_trees_max: 16,
        }
    }
}
