//! The one table from engine errors to gRPC status and HTTP code.
//!
//! Clients retry UNAVAILABLE, RESOURCE_EXHAUSTED, ABORTED, INTERNAL and UNKNOWN, so a fault that trying again cannot mend never
//! gets one of these.

use std::time::Duration;

use cask_engine::EngineError;
use cask_proto::rpc;
use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::cache::ActionError;

/// What a client is told about an error, on either protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) grpc: Code,
    pub(crate) http: StatusCode,
    /// When to try again: RetryInfo on gRPC, `Retry-After` (in seconds, rounded up) on HTTP.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) message: String,
}

impl From<&EngineError> for Answer {
    fn from(error: &EngineError) -> Answer {
        let (grpc, http, retry_after) = match error {
            EngineError::NotFound => (Code::NotFound, StatusCode::NOT_FOUND, None),
            EngineError::Mismatch { .. } | EngineError::UnsupportedFunction(_) => {
                (Code::InvalidArgument, StatusCode::BAD_REQUEST, None)
            }
            EngineError::TooLarge { .. } => (Code::InvalidArgument, StatusCode::PAYLOAD_TOO_LARGE, None),
            EngineError::Full { retry_after, .. } => {
                (Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE, Some(*retry_after))
            }
            // Nothing mends it: the bytes are gone, and a reader that has part of them must start from another source.
            EngineError::DataLoss(_) => (Code::DataLoss, StatusCode::INTERNAL_SERVER_ERROR, None),
            // The engine quarantines the range that failed, so the next attempt goes to another: worth a retry.
            EngineError::Storage(_) | EngineError::Closed => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, None),
        };
        Answer { grpc, http, retry_after, message: error.to_string() }
    }
}

impl From<&ActionError> for Answer {
    fn from(error: &ActionError) -> Answer {
        match error {
            ActionError::Invalid(_) => Answer {
                grpc: Code::InvalidArgument,
                http: StatusCode::BAD_REQUEST,
                retry_after: None,
                message: error.to_string(),
            },
            ActionError::Engine(error) => error.into(),
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

/// The gRPC status of an error, for `map_err`.
pub(crate) fn grpc<E>(error: E) -> Status
where
    for<'a> Answer: From<&'a E>,
{
    Answer::from(&error).into()
}

/// The status of one item of a batch, whose call itself succeeds.
pub(crate) fn item<E>(outcome: &Result<(), E>) -> rpc::Status
where
    for<'a> Answer: From<&'a E>,
{
    match outcome {
        Ok(()) => rpc::Status::default(),
        Err(error) => {
            let answer = Answer::from(error);
            rpc::Status { code: answer.grpc as i32, message: answer.message, details: Vec::new() }
        }
    }
}
