//! Digest functions, fed piece by piece.

use cask_index::{Digest, DigestFunction};
use sha2::Digest as _;

use crate::error::EngineError;

/// A running hash of one digest function.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(sha2::Sha256),
}

impl Hasher {
    pub(crate) fn new(function: DigestFunction) -> Result<Self, EngineError> {
        match function {
            DigestFunction::Sha256 => Ok(Self::Sha256(sha2::Sha256::new())),
            other => Err(EngineError::UnsupportedFunction(other)),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(data),
        }
    }

    /// The digest of the `size_bytes` bytes that were fed.
    pub(crate) fn finish(self, size_bytes: u64) -> Digest {
        let digest = match self {
            Self::Sha256(hasher) => Digest::new(DigestFunction::Sha256, &hasher.finalize(), size_bytes),
        };
        digest.expect("a hasher gives hashes of its function's length")
    }
}
