//! [`Options`]: how a workload is run.

use std::time::Duration;

use cask_index::DigestFunction;
use cask_proto::InstanceName;

use crate::Target;

/// How a workload is run, and against what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub target: Target,
    /// The instance that all requests name.
    pub instance: InstanceName,
    /// The function of all digests.
    pub digest_function: DigestFunction,
    /// How many connections there are.
    pub connections: usize,
    /// Requests under way at once on each connection.
    pub concurrency: usize,
    /// Threads that share the connections; not more than those.
    pub threads: usize,
    /// When the measured part ends.
    pub limit: Limit,
    /// How long the same requests are made before the measured part.
    pub warm_up: Duration,
    /// Bytes of an answer that may be on their way unasked: the initial window of HTTP/2's streams.
    pub window_bytes: u32,
    /// What contents are made from: the same seed, the same blobs.
    pub seed: u64,
    /// Whether received bytes are compared with what they should be. Costs the client time.
    pub verify: bool,
    /// A server process on this machine, whose processor time and memory are reported.
    pub server_pid: Option<u32>,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time no request is begun; those under way are waited for.
    Duration(Duration),
    /// After this many requests.
    Requests(u64),
}

impl Options {
    /// One connection with one request at a time for five seconds, as a stranger would do it.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            instance: InstanceName::default(),
            digest_function: DigestFunction::Sha256,
            connections: 1,
            concurrency: 1,
            threads: 1,
            limit: Limit::Duration(Duration::from_secs(5)),
            warm_up: Duration::from_millis(500),
            window_bytes: 1 << 20,
            seed: 1,
            verify: false,
            server_pid: None,
        }
    }
}
