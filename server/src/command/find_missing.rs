//! `cask find-missing`: asks which blobs the cache does not have. Asking leases those it has.

use super::Failure;
use super::remote::{DigestArgument, Remote, print_line};

/// Print which of these blobs a cache does not have.
#[derive(Debug, clap::Args)]
pub(crate) struct FindMissingArguments {
    #[command(flatten)]
    remote: Remote,

    /// Blobs, as HASH/SIZE
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<DigestArgument>,
}

pub(super) fn run(arguments: FindMissingArguments) -> Result<(), Failure> {
    let FindMissingArguments { remote, digests } = arguments;
    let digests: Vec<_> = digests.into_iter().map(|DigestArgument(digest)| digest).collect();
    remote.run(async |cache| {
        for digest in cache.find_missing(&digests).await? {
            print_line(digest)?;
        }
        Ok(())
    })
}
