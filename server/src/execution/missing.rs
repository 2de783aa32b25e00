//! What an action lacks, told so that a client can send all of it at once.
//!
//! A refusal's details travel in gRPC's trailers, and many clients take no more than 8 KiB of those. So no more blobs are listed than fit;
//! the message says how many there are. A client that sends what is listed, or looks for all that is missing, gets on either way.

use std::collections::HashSet;

use cask_index::Digest;
use cask_proto::digest::is_inferred_by_length;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt};

/// Bytes of violations, before base64 makes a third more of them.
const LISTED_BYTES_MAX: usize = 4 * 1024;
/// What a violation takes beside its subject.
const VIOLATION_OVERHEAD_BYTES: usize = 16;
/// Further ones are counted each time they are met: they are not kept to be told apart.
const TOLD_APART_MAX: usize = 64 * 1024;

/// Blobs that are not there.
#[derive(Debug, Default)]
pub(crate) struct MissingBlobs {
    seen: HashSet<Digest>,
    subjects: Vec<String>,
    listed_bytes: usize,
    count: usize,
}

impl MissingBlobs {
    /// One more; said twice it counts once.
    pub(crate) fn add(&mut self, digest: &Digest) {
        if self.seen.len() < TOLD_APART_MAX && !self.seen.insert(*digest) {
            return;
        }
        self.count += 1;
        let subject = subject(digest);
        let bytes = subject.len() + VIOLATION_OVERHEAD_BYTES;
        if self.listed_bytes + bytes <= LISTED_BYTES_MAX {
            self.listed_bytes += bytes;
            self.subjects.push(subject);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How the action that needs them is refused.
    pub(crate) fn into_status(self) -> Status {
        let listed = self.subjects.len();
        let message = match self.count {
            1 => "a blob that the action needs is missing".to_owned(),
            count if count == listed => format!("{count} blobs that the action needs are missing"),
            count => format!("{count} blobs that the action needs are missing; the first {listed} are listed"),
        };
        let violations = self.subjects.into_iter().map(|subject| PreconditionViolation::new("MISSING", subject, ""));
        let details = ErrorDetails::with_precondition_failure(violations.collect::<Vec<_>>());
        Status::with_error_details(Code::FailedPrecondition, message, details)
    }
}

/// A blob as clients look for it in a violation.
fn subject(digest: &Digest) -> String {
    let function = digest.function();
    let (hash, size_bytes) = (digest.hash_hex(), digest.size_bytes());
    if is_inferred_by_length(function) {
        format!("blobs/{hash}/{size_bytes}")
    } else {
        format!("blobs/{}/{hash}/{size_bytes}", function.name())
    }
}

#[cfg(test)]
mod tests {
    use cask_index::{DigestFunction, Hasher};

    use super::*;

    fn digest(number: u32) -> Digest {
        Hasher::digest(DigestFunction::Sha256, &number.to_le_bytes())
    }

    #[test]
    fn each_blob_is_listed_once_with_its_function_where_the_length_does_not_tell() {
        let blake = Hasher::digest(DigestFunction::Blake3, b"x");
        let mut missing = MissingBlobs::default();
        assert!(missing.is_empty());
        for digest in [digest(1), blake, digest(1)] {
            missing.add(&digest);
        }
        let status = missing.into_status();
        assert_eq!(
            (status.code(), status.message()),
            (Code::FailedPrecondition, "2 blobs that the action needs are missing")
        );
        let violations = status.get_details_precondition_failure().expect("one detail").violations;
        let subjects: Vec<_> = violations.iter().map(|violation| violation.subject.clone()).collect();
        let hex = |digest: &Digest| digest.hash_hex();
        assert_eq!(subjects, [format!("blobs/{}/4", hex(&digest(1))), format!("blobs/blake3/{}/1", hex(&blake))]);
        assert!(violations.iter().all(|violation| violation.r#type == "MISSING"));
    }

    /// Trailers above 8 KiB are refused whole by common clients, which then know nothing at all.
    #[test]
    fn a_refusal_fits_the_trailers_that_clients_take() {
        let mut missing = MissingBlobs::default();
        for number in 0..100_000 {
            missing.add(&digest(number));
        }
        let status = missing.into_status();
        assert!(status.details().len() * 4 / 3 + status.message().len() < 7 * 1024, "{}", status.details().len());
        assert!(status.message().starts_with("100000 blobs"), "{}", status.message());
        let listed = status.get_details_precondition_failure().expect("one detail").violations.len();
        assert!(listed > 30 && status.message().ends_with(&format!("the first {listed} are listed")));
    }
}
