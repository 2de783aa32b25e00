//! [`Workload`]: what a run asks for.

/// A workload and its sizes. Data that it reads is stored before the measured time.
#[derive(Clone, Debug, PartialEq)]
pub enum Workload {
    /// `FindMissingBlobs`.
    FindMissing {
        /// Digests a request.
        batch: usize,
        /// The share of digests that the server has, 0 to 1.
        hit_rate: f64,
        /// How many different digests are asked for.
        blobs: usize,
    },
    /// `ByteStream.Read` of whole blobs.
    Read {
        /// Bytes of each.
        size_bytes: u64,
        /// How many different ones are read, in turn.
        blobs: usize,
    },
    /// `ByteStream.Write` of blobs that the server does not have.
    Write {
        /// Bytes of each.
        size_bytes: u64,
        /// Bytes of data in each message.
        message_bytes: usize,
    },
    /// `BatchReadBlobs`.
    BatchRead {
        /// Bytes of each blob.
        size_bytes: u64,
        /// Blobs a request.
        batch: usize,
        /// How many different ones are read, in turn.
        blobs: usize,
    },
    /// `BatchUpdateBlobs` with blobs that the server does not have.
    BatchUpdate {
        /// Bytes of each blob.
        size_bytes: u64,
        /// Blobs a request.
        batch: usize,
    },
    /// `GetActionResult` of results that are there.
    ActionHit {
        /// How many different results are asked for.
        actions: usize,
        /// Output files of each.
        outputs: usize,
    },
    /// `GetActionResult` of results that are not there.
    ActionMiss {
        /// How many different results are asked for.
        actions: usize,
    },
    /// `UpdateActionResult` of actions that the server does not know.
    ActionUpdate {
        /// Output files of each.
        outputs: usize,
    },
    /// What many builds at once ask for; docs/benchmarking.md has the distribution.
    Mixed {
        /// The share of actions whose results are there, 0 to 1.
        hit_rate: f64,
    },
    /// `GET` of blobs over HTTP/1.1.
    HttpGet {
        /// Bytes of each.
        size_bytes: u64,
        /// How many different ones are read, in turn.
        blobs: usize,
    },
    /// `PUT` of blobs that the server does not have, over HTTP/1.1.
    HttpPut {
        /// Bytes of each.
        size_bytes: u64,
    },
}

impl Workload {
    /// Whether it goes over HTTP/1.1, which has one request in flight on a connection; the others go over gRPC.
    pub fn is_http1(&self) -> bool {
        matches!(self, Self::HttpGet { .. } | Self::HttpPut { .. })
    }

    /// Its name on the command line and in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FindMissing { .. } => "find-missing",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::BatchRead { .. } => "batch-read",
            Self::BatchUpdate { .. } => "batch-update",
            Self::ActionHit { .. } => "action-hit",
            Self::ActionMiss { .. } => "action-miss",
            Self::ActionUpdate { .. } => "action-update",
            Self::Mixed { .. } => "mixed",
            Self::HttpGet { .. } => "http-get",
            Self::HttpPut { .. } => "http-put",
        }
    }
}
