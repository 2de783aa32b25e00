//! `cask upload`: puts files into the cache and prints their digests.

use std::path::{Path, PathBuf};

use cask_executor::client::{FileSource, RemoteCache, digest_of_reader};
use cask_index::Digest;

use super::Failure;
use super::remote::{Remote, print_line};

/// Put files into a cache and print their digests.
#[derive(Debug, clap::Args)]
pub(crate) struct UploadArguments {
    #[command(flatten)]
    remote: Remote,

    /// Files to upload
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: UploadArguments) -> Result<(), Failure> {
    let UploadArguments { remote, files } = arguments;
    remote.run(async |cache| upload(&cache, files).await)
}

async fn upload(cache: &RemoteCache, files: Vec<PathBuf>) -> Result<(), Failure> {
    let mut digests = Vec::with_capacity(files.len());
    for file in &files {
        digests.push(digest_of_file(file).await?);
    }
    let mut missing = cache.find_missing(&digests).await?;
    for (file, digest) in files.into_iter().zip(digests) {
        // Removed as it is uploaded: of two equal files one is enough.
        if let Some(position) = missing.iter().position(|candidate| *candidate == digest) {
            missing.swap_remove(position);
            cache.upload_blob(digest, &FileSource(file.clone())).await?;
        }
        print_line(format_args!("{digest}  {}", file.display()))?;
    }
    Ok(())
}

async fn digest_of_file(file: &Path) -> Result<Digest, Failure> {
    let failed = |error| Failure::Run(format!("cannot read {}: {error}", file.display()));
    let mut reader = tokio::fs::File::open(file).await.map_err(failed)?;
    digest_of_reader(&mut reader).await.map_err(failed)
}
