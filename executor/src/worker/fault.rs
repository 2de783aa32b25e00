//! Why an execution ended without the command's own word: the action's fault, said to the client, or the machine's, said to the
//! scheduler.

use cask_index::Digest;
use cask_proto::{digest::is_inferred_by_length, rpc};
use prost::Message as _;
use tonic::Code;
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

use crate::{ClientError, action::ActionFault};

/// How an execution failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExecutionFault {
    /// No worker could do better: the status of the response.
    #[error("{}", .0.message)]
    Refused(rpc::Status),
    /// The client has to upload these first. Never empty.
    #[error("{} blobs are not in the cache", .0.len())]
    Missing(Vec<Digest>),
    /// Another worker may well succeed.
    #[error("{0}")]
    Machine(String),
}

impl ExecutionFault {
    /// The client asked for something that cannot be.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::refused(Code::InvalidArgument, message)
    }

    /// What the client asked for does not fit what is there.
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::refused(Code::FailedPrecondition, message)
    }

    pub(crate) fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused(rpc::Status { code: code as i32, message: message.into(), details: Vec::new() })
    }

    /// The disk, or whatever stands between us and it.
    pub(crate) fn machine(what: &str, error: &std::io::Error) -> Self {
        Self::Machine(format!("{what}: {error}"))
    }

    /// Of two that happened at once: the machine's first, which says nothing of the action; then what cannot be helped by uploading.
    pub(crate) fn and(self, other: Option<Self>) -> Self {
        match (self, other) {
            (Self::Missing(mut digests), Some(Self::Missing(others))) => {
                digests.extend(others);
                Self::Missing(digests)
            }
            (fault, None) | (fault @ Self::Machine(_), _) | (fault @ Self::Refused(_), Some(Self::Missing(_))) => fault,
            (_, Some(other)) => other,
        }
    }
}

/// What a client is told that has to upload blobs: all in one detail, each once, by the name it knows.
pub(crate) fn missing_status(mut digests: Vec<Digest>) -> rpc::Status {
    digests.sort_by_key(subject);
    digests.dedup();
    let violations: Vec<PreconditionViolation> =
        digests.iter().map(|digest| PreconditionViolation::new("MISSING", subject(digest), "")).collect();
    let message = match digests.as_slice() {
        [digest] => format!("the blob {digest} is not in the cache"),
        digests => format!("{} blobs are not in the cache", digests.len()),
    };
    let details = ErrorDetails::with_precondition_failure(violations);
    let status = tonic::Status::with_error_details(Code::FailedPrecondition, message, details);
    rpc::Status::decode(status.details()).expect("the library encodes what it encodes")
}

/// A blob's name in a precondition failure.
fn subject(digest: &Digest) -> String {
    let function = digest.function();
    if is_inferred_by_length(function) {
        format!("blobs/{}/{}", digest.hash_hex(), digest.size_bytes())
    } else {
        format!("blobs/{}/{}/{}", function.name(), digest.hash_hex(), digest.size_bytes())
    }
}

impl From<ActionFault> for ExecutionFault {
    fn from(fault: ActionFault) -> Self {
        Self::invalid(fault.to_string())
    }
}

impl From<ClientError> for ExecutionFault {
    fn from(error: ClientError) -> Self {
        match error {
            // A full cache is the same one for all workers.
            ClientError::NoSpace { .. } => Self::refused(Code::ResourceExhausted, error.to_string()),
            error => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                Self::Machine(format!("{error}{cause}"))
            }
        }
    }
}
