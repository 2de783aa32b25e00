//! Uploads of large blobs under way: what the parts and the head of one share, and which there are.
//!
//! Reclaim keeps parts without a head while their upload lives; the head asks here whether all its parts are stored. An
//! upload lives as long as somebody holds it: the stream, or a record of it that waits for the writer.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::EngineError;

/// Nonces of the large uploads under way: reclaim keeps their parts.
#[derive(Default)]
pub(crate) struct LargeUploads(Mutex<HashSet<u64>>);

impl LargeUploads {
    pub(crate) fn begin(self: &Arc<Self>, nonce: u64) -> Arc<LargeUpload> {
        self.0.lock().insert(nonce);
        Arc::new(LargeUpload { nonce, uploads: Arc::clone(self), failure: Mutex::new(None) })
    }

    pub(crate) fn contains(&self, nonce: u64) -> bool {
        self.0.lock().contains(&nonce)
    }
}

/// What the parts and the head of one upload share; under way until the last of them is dropped.
pub(crate) struct LargeUpload {
    nonce: u64,
    uploads: Arc<LargeUploads>,
    failure: Mutex<Option<EngineError>>,
}

impl LargeUpload {
    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    pub(crate) fn part_failed(&self, error: &EngineError) {
        self.failure.lock().get_or_insert_with(|| error.clone());
    }

    /// The first failure of a part, if there was one.
    pub(crate) fn require_intact(&self) -> Result<(), EngineError> {
        self.failure.lock().clone().map_or(Ok(()), Err)
    }
}

impl Drop for LargeUpload {
    fn drop(&mut self) {
        self.uploads.0.lock().remove(&self.nonce);
    }
}
