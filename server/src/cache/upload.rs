//! One streaming upload.

use cask_engine::EngineError;

/// One streaming upload. Dropping it at any point abandons it and gives back all it holds.
pub(crate) struct UploadSession {}

impl UploadSession {
    /// Appends `data`, of any length. After an error the session is of no more use: drop it.
    pub(crate) async fn write(&mut self, _data: &[u8]) -> Result<(), EngineError> {
        todo!()
    }

    /// Verifies size and hash and stores the blob; returns when it is readable (to the configured durability).
    pub(crate) async fn finish(self) -> Result<(), EngineError> {
        todo!()
    }
}
