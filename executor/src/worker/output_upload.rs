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

use super::{
    beneath::{Obstacle, open_directory, open_file},
    fault::ExecutionFault,
};
use crate::{
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
    pub(crate) async fn upload(mut self, cache: &RemoteCache) -> Result<(), ExecutionFault> {
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

type Ended = Option<Result<Result<(), crate::ClientError>, tokio::task::JoinError>>;

fn ended(outcome: Ended) -> Result<(), ExecutionFault> {
    match outcome {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(error)) => Err(ExecutionFault::Machine(format!("an upload ended badly: {error}"))),
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
