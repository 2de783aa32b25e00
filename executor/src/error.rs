//! What can go wrong between a client and a cache, named for what the caller can do about it.

use std::time::Duration;

use cask_index::Digest;
use cask_proto::WireError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A call to a remote cache that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be one of a cache.
    #[error("`{endpoint}` is not the address of a cache: {reason}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers at the address.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// As given.
        endpoint: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The cache does not have it: compute it, or upload it.
    #[error("{0} is not in the cache")]
    NotFound(String),
    /// The cache refuses uploads for lack of space: go on without, or come back later.
    #[error("the cache has no space left: {message}")]
    NoSpace {
        /// The cache's advice.
        message: String,
        /// When to come back, if the cache said so.
        retry_after: Option<Duration>,
    },
    /// The cache does not let us: credentials or rights have to change.
    #[error("the cache refuses: {0}")]
    Denied(String),
    /// The cache cannot be reached or is overloaded, and stayed so over all attempts: try again later.
    #[error("the cache is unavailable, after {attempts} attempts: {message}")]
    Unavailable {
        /// Attempts made without progress.
        attempts: u32,
        /// What the last one said.
        message: String,
    },
    /// The cache answered with an error that repeating the call would not change.
    #[error("the cache answered {code:?}: {message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The cache's words.
        message: String,
    },
    /// The cache broke the protocol: its answer is of no use.
    #[error("the cache's answer is malformed: {0}")]
    Answer(String),
    /// The cache sent other bytes than those of the digest. What was written so far must be thrown away.
    #[error("the cache sent wrong bytes for {digest}: {reason}")]
    WrongBytes {
        /// The blob asked for.
        digest: Digest,
        /// In which way they differ.
        reason: String,
    },
    /// The bytes to upload could not be read.
    #[error("cannot read the bytes of {digest} to upload them")]
    Source {
        /// The blob.
        digest: Digest,
        /// What the source said.
        #[source]
        source: std::io::Error,
    },
    /// The downloaded bytes could not be written.
    #[error("cannot write the downloaded bytes of {digest}")]
    Sink {
        /// The blob.
        digest: Digest,
        /// What the sink said.
        #[source]
        source: std::io::Error,
    },
}

impl From<WireError> for ClientError {
    /// Digests that come *from* a cache and do not parse.
    fn from(error: WireError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl ClientError {
    /// The meaning of a final status; `what` names the thing asked for, for [`ClientError::NotFound`].
    pub(crate) fn of_status(status: &Status, what: impl FnOnce() -> String) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound(what()),
            Code::ResourceExhausted => {
                let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
                Self::NoSpace { message, retry_after }
            }
            Code::PermissionDenied | Code::Unauthenticated => Self::Denied(message),
            code => Self::Refused { code, message },
        }
    }
}
