//! Action results: put with the closure of everything they need, got only while all of it is there.

use cask_engine::EngineError;
use cask_index::Digest;
use cask_proto::reapi::ActionResult;

use super::Cache;

/// What a reader wants inside the result, beside the digests. A wish: what would not fit one message is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InlineOptions {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Output paths, matched exactly.
    pub(crate) output_files: Vec<String>,
}

/// Why an action result was not stored or not served.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// The result contradicts the API. Permanent.
    #[error("invalid action result: {0}")]
    Invalid(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Cache {
    /// Stores `result` under (instance, action), last writer wins, and returns it as stored.
    pub(crate) async fn put_action_result(
        &self,
        _instance: &str,
        _action: &Digest,
        _result: ActionResult,
    ) -> Result<ActionResult, ActionError> {
        todo!()
    }

    /// The result, if it and everything it needs can be read; else `NotFound`.
    pub(crate) async fn get_action_result(
        &self,
        _instance: &str,
        _action: &Digest,
        _inline: InlineOptions,
    ) -> Result<ActionResult, ActionError> {
        todo!()
    }
}
