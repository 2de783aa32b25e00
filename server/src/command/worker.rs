//! `cask worker`.

use super::Failure;

/// Run actions for a server.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArguments {}

pub(super) fn run(_arguments: WorkerArguments) -> Result<(), Failure> {
    Err(Failure::Run("not built yet".to_owned()))
}
