//! Whole blobs that are in memory, verified together: of several at once SHA-256 takes a third of the time.
//!
//! What an [`Upload`] finds of a blob piece by piece is found here at once, blob by blob and in the same words: a batch has no fate
//! of its own. Called by whoever has whole blobs, many or one. It never waits; a blob of one record is not compressed here
//! either, that is for the thread which submits what is handed out.

use std::sync::Arc;

use cask_index::{Digest, DigestFunction, Hasher, sha256_of_each};

use crate::core::Core;
use crate::error::EngineError;
use crate::upload::{BeginUpload, Upload, Verified, mismatch};

/// What is to be done for a blob.
enum Admitted {
    /// Nothing: it is stored already.
    Present,
    /// It is one record, and its size is right.
    OneRecord,
    /// It has parts.
    Large,
}

impl Core {
    /// See [`Engine::verify_each`](crate::Engine::verify_each).
    pub(crate) fn verify_each(
        self: &Arc<Self>,
        blobs: &[(Digest, &[u8])],
    ) -> Vec<Result<Option<Verified>, EngineError>> {
        let admitted: Vec<_> = blobs.iter().map(|&(digest, data)| self.admit_whole(&digest, data)).collect();
        let together: Vec<&[u8]> = blobs
            .iter()
            .zip(&admitted)
            .filter(|((digest, _), admitted)| is_hashed_together(digest, admitted))
            .map(|(&(_, data), _)| data)
            .collect();
        let mut hashes = vec![[0; 32]; together.len()];
        sha256_of_each(&together, &mut hashes);
        let mut hashes = hashes.iter();
        let mut verified = Vec::with_capacity(blobs.len());
        for (&(digest, data), admitted) in blobs.iter().zip(admitted) {
            verified.push(if is_hashed_together(&digest, &admitted) {
                let hash = hashes.next().expect("a hash for each that was hashed together");
                self.verify_hash(digest, data, hash).map(Some)
            } else {
                admitted.and_then(|admitted| self.verify_alone(digest, data, &admitted))
            });
        }
        verified
    }

    /// As `verify_each`, of one.
    pub(crate) fn verify_whole(self: &Arc<Self>, digest: Digest, data: &[u8]) -> Result<Option<Verified>, EngineError> {
        let admitted = self.admit_whole(&digest, data)?;
        self.verify_alone(digest, data, &admitted)
    }

    fn admit_whole(&self, digest: &Digest, data: &[u8]) -> Result<Admitted, EngineError> {
        if !self.admit(digest)? {
            return Ok(Admitted::Present);
        }
        if !self.is_one_record(digest) {
            return Ok(Admitted::Large);
        }
        let (sent_bytes, size_bytes) = (data.len() as u64, digest.size_bytes());
        if sent_bytes < size_bytes {
            return Err(mismatch(digest, format!("only {sent_bytes} bytes were sent")));
        }
        if sent_bytes > size_bytes {
            return Err(mismatch(digest, format!("more than {size_bytes} bytes were sent")));
        }
        Ok(Admitted::OneRecord)
    }

    fn verify_alone(
        self: &Arc<Self>,
        digest: Digest,
        data: &[u8],
        admitted: &Admitted,
    ) -> Result<Option<Verified>, EngineError> {
        match admitted {
            Admitted::Present => Ok(None),
            Admitted::OneRecord => {
                let found = Hasher::digest(digest.function(), data);
                self.verify_hash(digest, data, found.hash()).map(Some)
            }
            Admitted::Large => match Upload::begin(self, digest)? {
                BeginUpload::Present => Ok(None),
                BeginUpload::Upload(upload) => upload.append_whole(data)?.verify().map(Some),
            },
        }
    }

    fn verify_hash(self: &Arc<Self>, digest: Digest, data: &[u8], hash: &[u8]) -> Result<Verified, EngineError> {
        if digest.hash() != hash {
            let found = Digest::new(digest.function(), hash, digest.size_bytes()).expect("a hash of its function");
            return Err(mismatch(&digest, format!("the content hashes to {}", found.hash_hex())));
        }
        Ok(Verified::of_one_record(self, digest, data.to_vec()))
    }
}

fn is_hashed_together(digest: &Digest, admitted: &Result<Admitted, EngineError>) -> bool {
    matches!(admitted, Ok(Admitted::OneRecord)) && digest.function() == DigestFunction::Sha256
}
