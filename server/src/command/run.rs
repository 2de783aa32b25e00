//! `cask run`.

use super::Failure;

/// Run a command on a worker, with a folder for its input.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArguments {}

pub(super) fn run(_arguments: RunArguments) -> Result<(), Failure> {
    Err(Failure::Run("not built yet".to_owned()))
}
