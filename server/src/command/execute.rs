//! `cask execute`: runs an action that is in the cache already, as a build tool or `cask run` left it there.

use std::path::PathBuf;

use cask_executor::ClientError;
use cask_executor::action::{CheckedCommand, RootPath};
use cask_executor::client::RemoteCache;
use cask_index::Digest;
use cask_proto::digest::FunctionRule;
use cask_proto::reapi;
use prost::Message as _;

use super::Failure;
use super::remote::{DigestArgument, Remote};
use super::run::{Policy, bring_back};
use super::watch::{self, EXIT_CODES_HELP, watch};

/// Largest Action or Command that is read.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// Run an action that is in the cache already, on a worker.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES_HELP)]
pub(crate) struct ExecuteArguments {
    #[command(flatten)]
    remote: Remote,

    /// The action, as HASH/SIZE
    #[arg(value_name = "ACTION_DIGEST")]
    action: DigestArgument,

    /// Put its outputs at their places below this folder, which stands for the input root; without, they stay in the cache
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    #[command(flatten)]
    policy: Policy,
}

pub(super) fn run(arguments: ExecuteArguments) -> Result<(), Failure> {
    let ExecuteArguments { remote, action: DigestArgument(action), output_dir, policy } = arguments;
    let done = remote.run(async |cache| {
        let cache = watch::client(&cache);
        let watched = watch(&cache, cache.execute(action, &policy.into()), None).await?;
        if let Some(folder) = output_dir {
            let working_directory = working_directory(&cache, action).await?;
            bring_back(&cache, &watched, &folder, working_directory, action.function()).await?;
        }
        watched.exit()
    });
    done.map_err(watch::as_not_run)
}

/// What the paths of the action's outputs are relative to.
async fn working_directory(cache: &RemoteCache, action: Digest) -> Result<RootPath, Failure> {
    let message = reapi::Action::decode(&read(cache, action).await?[..]);
    let message = message.map_err(|error| Failure::Run(format!("{action} is no action: {error}")))?;
    let rule = FunctionRule::Named(action.function());
    let command = rule.from_wire_field("command_digest", message.command_digest.as_ref()).map_err(ClientError::from)?;
    let command = CheckedCommand::decode(read(cache, command).await?.into());
    Ok(command.map_err(|fault| Failure::Run(fault.to_string()))?.working_directory)
}

async fn read(cache: &RemoteCache, digest: Digest) -> Result<Vec<u8>, Failure> {
    if digest.size_bytes() > MESSAGE_BYTES_MAX {
        return Err(Failure::Run(format!("{digest} is no action: it is too large")));
    }
    let mut message = Vec::new();
    cache.download_blob(digest, &mut message).await?;
    Ok(message)
}
