//! `cask execute`.

use super::Failure;

/// Run an action that is in the cache already, on a worker.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecuteArguments {}

pub(super) fn run(_arguments: ExecuteArguments) -> Result<(), Failure> {
    Err(Failure::Run("not built yet".to_owned()))
}
