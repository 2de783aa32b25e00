//! [`OutputUpload`]: the blobs of one result on their way into the cache: first the question which are missing, then those.

use std::{
    collections::HashMap,
    fs::File,
    io::{Seek as _, SeekFrom},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use cask_index::Digest;
use tokio::task::JoinSet;
use tonic::Code;

use super::{
    beneath::{Obstacle, open_directory, open_file},
    fault::ExecutionFault,
};
use crate::{
    ClientError,
    action::RootPath,
    client::{BlobSource, RemoteCache},
};

/// Files that stream at once.
const STREAMS_MAX: usize = 4;

/// Where a blob is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Memory(Bytes),
    /// Below a directory. Opened again when it is sent; if it changed, the cache notices.
    File(PlacedFile),
}

/// See the module.
#[derive(Default)]
pub(crate) struct OutputUpload {
    blobs: HashMap<Digest, Content>,
}

impl OutputUpload {
    pub(crate) fn add(&mut self, digest: Digest, content: Content) {
        // Memory is cheaper, and cannot change.
        match self.blobs.get(&digest) {
            Some(Content::Memory(_)) => {}
            _ => {
                self.blobs.insert(digest, content);
            }
        }
    }

    /// Uploads what the cache does not have.
    ///
    /// Cancel safe: an upload dropped midway stores nothing.
    pub(crate) async fn upload(self, cache: &RemoteCache) -> Result<(), ExecutionFault> {
        self.send(cache).await.map_err(|fault| match fault {
            UploadFault::Cache(error) => refusal(error),
            UploadFault::Task(error) => ExecutionFault::Machine(format!("an upload ended badly: {error}")),
        })
    }

    async fn send(mut self, cache: &RemoteCache) -> Result<(), UploadFault> {
        self.blobs.retain(|digest, _| !digest.is_empty_blob());
        if self.blobs.is_empty() {
            return Ok(());
        }
        let digests: Vec<Digest> = self.blobs.keys().copied().collect();
        let mut small = Vec::new();
        let mut streams = JoinSet::new();
        for digest in cache.find_missing(&digests).await? {
            match self.blobs.remove(&digest) {
                Some(Content::Memory(bytes)) => small.push((digest, bytes)),
                Some(Content::File(source)) => {
                    while streams.len() >= STREAMS_MAX {
                        ended(streams.join_next().await)?;
                    }
                    let cache = cache.clone();
                    streams.spawn(async move { cache.upload_blob(digest, &source).await });
                }
                None => {}
            }
        }
        if !small.is_empty() {
            cache.upload_blobs(small).await?;
        }
        while !streams.is_empty() {
            ended(streams.join_next().await)?;
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum UploadFault {
    #[error(transparent)]
    Cache(#[from] ClientError),
    #[error(transparent)]
    Task(#[from] tokio::task::JoinError),
}

fn ended(outcome: Option<Result<Result<(), ClientError>, tokio::task::JoinError>>) -> Result<(), UploadFault> {
    Ok(outcome.transpose()?.transpose().map(drop)?)
}

/// What the cache will not take from this worker, a blob larger than it stores, it takes from no other.
fn refusal(error: ClientError) -> ExecutionFault {
    match error {
        ClientError::Refused { code: Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange, message } => {
            ExecutionFault::precondition(format!("the cache does not take the outputs: {message}"))
        }
        error => error.into(),
    }
}

/// A file that a command made.
#[derive(Clone, Debug)]
pub(crate) struct PlacedFile {
    /// The directory that the place is below.
    pub(crate) top: Arc<OwnedFd>,
    pub(crate) place: RootPath,
}

impl BlobSource for PlacedFile {
    type Reader = tokio::fs::File;

    async fn open_at(&self, offset_bytes: u64) -> std::io::Result<Self::Reader> {
        let Self { top, place } = self.clone();
        let opened = tokio::task::spawn_blocking(move || -> std::io::Result<File> {
            let (Some(parent), Some(name)) = (place.parent(), place.name()) else {
                return Err(std::io::ErrorKind::IsADirectory.into());
            };
            let directory = open_directory(top.as_fd(), parent.segments()).map_err(|obstacle| match obstacle {
                Obstacle::Failed(error) => error,
                Obstacle::Absent => std::io::ErrorKind::NotFound.into(),
                Obstacle::NotADirectory(_) => std::io::ErrorKind::NotADirectory.into(),
            })?;
            let mut file = File::from(open_file(directory.as_fd(), name)?);
            file.seek(SeekFrom::Start(offset_bytes))?;
            Ok(file)
        });
        Ok(tokio::fs::File::from_std(opened.await.map_err(std::io::Error::other)??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that no cache of this server takes was tried on one worker after the other.
    #[test]
    fn what_the_cache_never_takes_is_the_actions_fault() {
        for (code, is_actions) in [
            (Code::InvalidArgument, true),
            (Code::FailedPrecondition, true),
            (Code::OutOfRange, true),
            (Code::Unimplemented, false),
            (Code::DataLoss, false),
        ] {
            let fault = refusal(ClientError::Refused { code, message: "too large".to_owned() });
            let expected = Code::FailedPrecondition as i32;
            match fault {
                ExecutionFault::Refused(status) => assert!(is_actions && status.code == expected, "{code:?}"),
                ExecutionFault::Machine(_) => assert!(!is_actions, "{code:?}"),
                ExecutionFault::Missing(_) => panic!("{code:?}"),
            }
        }
    }
}
