//! `cask runner`.

use super::Failure;

/// Run commands for a worker.
#[derive(Debug, clap::Args)]
pub(crate) struct RunnerArguments {}

pub(super) fn run(_arguments: RunnerArguments) -> Result<(), Failure> {
    Err(Failure::Run("not built yet".to_owned()))
}
