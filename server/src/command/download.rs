//! `cask download`: gets a blob out of the cache, verified.

use std::path::{Path, PathBuf};

use cask_executor::client::RemoteCache;
use cask_index::Digest;
use tokio::io::AsyncWriteExt;

use super::Failure;
use super::remote::{DigestArgument, Remote};

/// Get a blob out of a cache, verified.
#[derive(Debug, clap::Args)]
pub(crate) struct DownloadArguments {
    #[command(flatten)]
    remote: Remote,

    /// The blob, as HASH/SIZE
    #[arg(value_name = "DIGEST")]
    digest: DigestArgument,

    /// Where to write it; without, to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: DownloadArguments) -> Result<(), Failure> {
    let DownloadArguments { remote, digest: DigestArgument(digest), output } = arguments;
    remote.run(async |cache| {
        if let Some(file) = output {
            return to_file(&cache, digest, &file).await;
        }
        let mut output = tokio::io::stdout();
        cache.download_blob(digest, &mut output).await?;
        output.flush().await.map_err(|error| Failure::Run(format!("cannot print: {error}")))
    })
}

/// A pipe, a device or a terminal, which is written to and must not be replaced by a file.
async fn is_special(file: &Path) -> bool {
    tokio::fs::metadata(file).await.is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Under another name until it is whole and verified, so that a file of the wanted name is never half a blob.
async fn to_file(cache: &RemoteCache, digest: Digest, file: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::Run(format!("cannot write {}: {error}", file.display()));
    if is_special(file).await {
        let mut output = tokio::fs::OpenOptions::new().write(true).open(file).await.map_err(failed)?;
        cache.download_blob(digest, &mut output).await?;
        return output.flush().await.map_err(failed);
    }
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let outcome = async {
        let mut output = tokio::fs::File::create(&partial).await.map_err(failed)?;
        cache.download_blob(digest, &mut output).await?;
        output.flush().await.map_err(failed)?;
        tokio::fs::rename(&partial, file).await.map_err(failed)
    }
    .await;
    if outcome.is_err() {
        // It may not have been made; the failure itself is what is reported.
        let _ = tokio::fs::remove_file(&partial).await;
    }
    outcome
}
