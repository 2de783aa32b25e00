//! The one table from engine errors to gRPC status and HTTP code.
//!
//! Clients retry `UNAVAILABLE`, `RESOURCE_EXHAUSTED`, `ABORTED`, `INTERNAL`, `UNKNOWN`, `CANCELLED` and `DEADLINE_EXCEEDED`, so a
//! fault that trying again cannot mend never gets one of these.

use std::time::Duration;

use cask_engine::EngineError;
use cask_proto::wire::FramingFault;
use cask_proto::{WireError, rpc};
use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::access::instances::{InstanceError, ReadOnly};
use crate::cache::{ActionError, ChunkingError, LogError, StartError};

/// An index is filled in seconds, whatever its size.
const LOADING_RETRY: Duration = Duration::from_secs(1);

/// What a client is told about an error, on either protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) grpc: Code,
    pub(crate) http: StatusCode,
    /// When to try again: `RetryInfo` on gRPC, `Retry-After` (in seconds, rounded up) on HTTP.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) message: String,
}

impl From<&EngineError> for Answer {
    fn from(error: &EngineError) -> Answer {
        let (grpc, http, retry_after) = match error {
            EngineError::NotFound => (Code::NotFound, StatusCode::NOT_FOUND, None),
            EngineError::Mismatch { .. } => (Code::InvalidArgument, StatusCode::BAD_REQUEST, None),
            EngineError::TooLarge { .. } => (Code::InvalidArgument, StatusCode::PAYLOAD_TOO_LARGE, None),
            EngineError::Full { retry_after, .. } => {
                (Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE, Some(*retry_after))
            }
            // Nothing mends it: the bytes are gone, and a reader that has part of them must start from another source.
            EngineError::DataLoss(_) => (Code::DataLoss, StatusCode::INTERNAL_SERVER_ERROR, None),
            // The engine quarantines the range that failed, so the next attempt goes to another: worth a retry.
            EngineError::Storage(_) | EngineError::Closed => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, None),
            EngineError::Loading => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, Some(LOADING_RETRY)),
        };
        Answer { grpc, http, retry_after, message: error.to_string() }
    }
}

impl From<&ActionError> for Answer {
    fn from(error: &ActionError) -> Answer {
        match error {
            ActionError::Invalid(_) | ActionError::BeyondLimits(_) => Answer::invalid(error.to_string()),
            ActionError::Engine(error) => error.into(),
        }
    }
}

impl From<&LogError> for Answer {
    fn from(error: &LogError) -> Answer {
        match error {
            LogError::Unknown => Answer { message: error.to_string(), ..(&EngineError::NotFound).into() },
            LogError::Offset { .. } => Answer::invalid(error.to_string()),
            LogError::Beyond { .. } => Answer {
                grpc: Code::OutOfRange,
                http: StatusCode::RANGE_NOT_SATISFIABLE,
                ..Answer::invalid(error.to_string())
            },
            LogError::Finished | LogError::TooLong { .. } => Answer::precondition(error.to_string()),
            LogError::TooMany { .. } => Answer::exhausted(error.to_string()),
            LogError::Engine(error) => error.into(),
        }
    }
}

impl From<&ChunkingError> for Answer {
    fn from(error: &ChunkingError) -> Answer {
        match error {
            ChunkingError::ChunksMissing { .. } => {
                Answer { message: error.to_string(), ..Answer::from(&EngineError::NotFound) }
            }
            ChunkingError::SizesDiffer { .. } => Answer::invalid(error.to_string()),
            ChunkingError::TooManyChunks { .. } => Answer::precondition(error.to_string()),
            ChunkingError::Engine(error) => error.into(),
        }
    }
}

impl From<&StartError> for Answer {
    fn from(error: &StartError) -> Answer {
        match error {
            StartError::Offset { .. } => Answer::invalid(error.to_string()),
            // The other stream ends sooner or later, so this is worth a retry.
            StartError::Busy => Answer {
                grpc: Code::Aborted,
                http: StatusCode::CONFLICT,
                retry_after: None,
                message: error.to_string(),
            },
            StartError::Engine(error) => error.into(),
        }
    }
}

impl From<&InstanceError> for Answer {
    fn from(error: &InstanceError) -> Answer {
        Answer::invalid(error.to_string())
    }
}

impl From<&ReadOnly> for Answer {
    fn from(error: &ReadOnly) -> Answer {
        Answer {
            grpc: Code::PermissionDenied,
            http: StatusCode::FORBIDDEN,
            retry_after: None,
            message: error.to_string(),
        }
    }
}

impl From<&FramingFault> for Answer {
    fn from(fault: &FramingFault) -> Answer {
        match fault {
            FramingFault::Compressed => Answer::unimplemented(fault.to_string()),
            _ => Answer::invalid(fault.to_string()),
        }
    }
}

impl From<&WireError> for Answer {
    fn from(error: &WireError) -> Answer {
        Answer::invalid(error.to_string())
    }
}

impl Answer {
    /// The request is right and part of it did not fit now.
    pub(crate) fn exhausted(message: impl Into<String>) -> Answer {
        Answer {
            grpc: Code::ResourceExhausted,
            http: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: None,
            message: message.into(),
        }
    }

    /// The request is right but asks for what this server or the state of its blobs does not allow, and trying again does not help.
    pub(crate) fn precondition(message: impl Into<String>) -> Answer {
        Answer {
            grpc: Code::FailedPrecondition,
            http: StatusCode::CONFLICT,
            retry_after: None,
            message: message.into(),
        }
    }

    /// What the client waits for does not exist here and never will.
    pub(crate) fn unimplemented(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::Unimplemented, http: StatusCode::NOT_IMPLEMENTED, ..Answer::invalid(message) }
    }

    /// An offset is outside of what it is in.
    pub(crate) fn out_of_range(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::OutOfRange, http: StatusCode::RANGE_NOT_SATISFIABLE, ..Answer::invalid(message) }
    }

    /// The client took too long, this time.
    pub(crate) fn too_late(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::DeadlineExceeded, http: StatusCode::REQUEST_TIMEOUT, ..Answer::invalid(message) }
    }

    /// Another call was in the way.
    pub(crate) fn aborted(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::Aborted, http: StatusCode::CONFLICT, ..Answer::invalid(message) }
    }

    /// The server cannot now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::Unavailable, http: StatusCode::SERVICE_UNAVAILABLE, ..Answer::invalid(message) }
    }

    /// The client is gone; nobody reads this.
    pub(crate) fn cancelled(message: impl Into<String>) -> Answer {
        Answer { grpc: Code::Cancelled, http: StatusCode::REQUEST_TIMEOUT, ..Answer::invalid(message) }
    }

    /// The request is wrong and will be wrong when it is sent again.
    pub(crate) fn invalid(message: impl Into<String>) -> Answer {
        Answer {
            grpc: Code::InvalidArgument,
            http: StatusCode::BAD_REQUEST,
            retry_after: None,
            message: message.into(),
        }
    }
}

impl From<Answer> for Status {
    fn from(answer: Answer) -> Status {
        match answer.retry_after {
            Some(delay) => {
                Status::with_error_details(answer.grpc, answer.message, ErrorDetails::with_retry_info(Some(delay)))
            }
            None => Status::new(answer.grpc, answer.message),
        }
    }
}

/// What is said about an error, for `map_err`, which hands it over by value.
#[expect(clippy::needless_pass_by_value)]
pub(crate) fn answer_of<E>(error: E) -> Answer
where
    for<'a> Answer: From<&'a E>,
{
    Answer::from(&error)
}

/// The gRPC status of an error, for `map_err`.
pub(crate) fn grpc<E>(error: E) -> Status
where
    for<'a> Answer: From<&'a E>,
{
    answer_of(error).into()
}

/// The status of one item of a batch, whose call itself succeeds.
impl From<Answer> for rpc::Status {
    fn from(answer: Answer) -> rpc::Status {
        rpc::Status { code: answer.grpc as i32, message: answer.message, details: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;

    use super::*;

    #[test]
    fn every_error_has_its_place_in_the_table() {
        let digest = DigestFunction::Sha256.empty_blob();
        let retry_after = Duration::from_millis(1500);
        let mismatch = EngineError::Mismatch { expected: digest, found: "other".to_owned() };
        let full = EngineError::Full { retry_after, advice: "raise max_size".to_owned() };
        for (error, grpc, http, retry) in [
            (EngineError::NotFound, Code::NotFound, 404, None),
            (mismatch, Code::InvalidArgument, 400, None),
            (EngineError::TooLarge { size_bytes: 2, limit_bytes: 1 }, Code::InvalidArgument, 413, None),
            (full, Code::ResourceExhausted, 507, Some(retry_after)),
            (EngineError::DataLoss(digest), Code::DataLoss, 500, None),
            (EngineError::Storage("EIO".to_owned()), Code::Unavailable, 503, None),
            (EngineError::Closed, Code::Unavailable, 503, None),
            (EngineError::Loading, Code::Unavailable, 503, Some(LOADING_RETRY)),
        ] {
            let answer = Answer::from(&error);
            assert_eq!((answer.grpc, answer.http.as_u16(), answer.retry_after), (grpc, http, retry), "{error}");
            let status = super::grpc(error);
            assert_eq!(status.code(), grpc);
            assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), retry);
        }
    }

    #[test]
    fn only_what_a_retry_can_mend_has_a_code_that_clients_retry() {
        let digest = DigestFunction::Sha256.empty_blob();
        let retried = [
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::Aborted,
            Code::Internal,
            Code::Unknown,
            Code::Cancelled,
            Code::DeadlineExceeded,
        ];
        for permanent in [
            Answer::from(&EngineError::NotFound),
            Answer::from(&EngineError::TooLarge { size_bytes: 2, limit_bytes: 1 }),
            Answer::from(&EngineError::DataLoss(digest)),
            Answer::from(&ActionError::Invalid("reason".to_owned())),
            Answer::from(&ActionError::BeyondLimits("reason".to_owned())),
            Answer::from(&ChunkingError::ChunksMissing { count: 1, first: digest }),
            Answer::from(&ChunkingError::SizesDiffer { blob: digest, found: "7".to_owned() }),
            Answer::from(&ChunkingError::TooManyChunks { limit: 1 }),
            Answer::from(&StartError::Offset { offset: 1, received_bytes: 0 }),
            Answer::from(&WireError::DigestUnset("digest")),
        ] {
            assert!(!retried.contains(&permanent.grpc), "{permanent:?}");
        }
    }
}
