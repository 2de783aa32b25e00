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

/// Bytes of violations that are listed: a client gets them in trailers, of which many take no more than 8 KiB.
const LISTED_BYTES_MAX: usize = 4 * 1024;
/// What a violation takes beside its subject.
const VIOLATION_OVERHEAD_BYTES: usize = 16;

/// What a client is told that has to upload blobs: in one detail, each once, by the name it knows, and as many as fit. One that
/// uploads these and asks again gets on.
pub(crate) fn missing_status(mut digests: Vec<Digest>) -> rpc::Status {
    digests.sort_by_key(subject);
    digests.dedup();
    let mut listed_bytes = 0;
    let violations: Vec<PreconditionViolation> = digests
        .iter()
        .map(subject)
        .take_while(|subject| {
            listed_bytes += subject.len() + VIOLATION_OVERHEAD_BYTES;
            listed_bytes <= LISTED_BYTES_MAX
        })
        .map(|subject| PreconditionViolation::new("MISSING", subject, ""))
        .collect();
    let message = match digests.as_slice() {
        [digest] => format!("the blob {digest} is not in the cache"),
        digests if digests.len() == violations.len() => format!("{} blobs are not in the cache", digests.len()),
        digests => {
            format!("{} blobs are not in the cache; the first {} are listed", digests.len(), violations.len())
        }
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

#[cfg(test)]
mod tests {
    use cask_index::{DigestFunction, Hasher};

    use super::*;

    #[test]
    fn no_more_missing_blobs_are_listed_than_a_client_can_take() {
        for (count, is_cut) in [(1, false), (3, false), (100_000_u32, true)] {
            let digests = (0..count).map(|n| Hasher::digest(DigestFunction::Sha256, &n.to_le_bytes())).collect();
            let status = missing_status(digests);
            assert!(status.encoded_len() < 6 * 1024, "{count}: {} bytes", status.encoded_len());
            assert_eq!(status.message.contains("are listed"), is_cut, "{}", status.message);
            assert!(!status.details.is_empty());
        }
    }
}
