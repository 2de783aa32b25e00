//! Records of assets: what a URI stands for, kept as action results are, with the closure of everything it needs.
//!
//! Whose they are is an instance name that no client can ask for, because one of its segments is reserved; so an asset is never
//! taken for an action result, nor the other way round. The value belongs to the caller.

use bytes::Bytes;
use cask_engine::EngineError;
use cask_index::Digest;
use cask_proto::InstanceName;
use cask_proto::digest::{DigestRule, to_wire};
use cask_proto::reapi::{ActionResult, OutputDirectory, OutputFile};
use tokio::sync::oneshot;

use super::{ActionError, Cache, blocking};

/// What something refers to.
pub(crate) struct References {
    /// Each digest once.
    pub(crate) digests: Vec<Digest>,
    /// Positions in `digests` of what is absent. Not empty when a directory is absent, whose content is not in `digests`.
    pub(crate) absent: Vec<usize>,
}

impl Cache {
    /// Stores a record, last writer wins, with the blobs without which it is worth nothing.
    pub(crate) async fn put_asset_record(
        &self,
        instance: &InstanceName,
        key: &Digest,
        value: &[u8],
        closure: &[Digest],
    ) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            // Nobody listens any more when the request was cancelled.
            let _ = tell.send(outcome);
        });
        self.engine().put_action(&owner(instance), key, value, closure, done);
        told.await.unwrap_or(Err(EngineError::Closed))
    }

    /// A record whose closure is complete; a hit leases all of it.
    pub(crate) async fn asset_record(
        &self,
        instance: &InstanceName,
        key: &Digest,
    ) -> Result<Option<Bytes>, EngineError> {
        let (engine, owner, key) = (self.engine().clone(), owner(instance), *key);
        // The record may have to come from the disk.
        match blocking(move || engine.get_action(&owner, &key)).await {
            Ok(value) => Ok(Some(value)),
            Err(EngineError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// These blobs, these directories and all below them; what is present is leased. All of them are like `like`, by function
    /// and namespace. `Invalid` when a directory is none.
    pub(crate) async fn references(
        &self,
        like: &Digest,
        blobs: &[Digest],
        directories: &[Digest],
    ) -> Result<References, ActionError> {
        let file = |digest| OutputFile { digest: Some(to_wire(digest)), ..OutputFile::default() };
        let directory =
            |digest| OutputDirectory { root_directory_digest: Some(to_wire(digest)), ..OutputDirectory::default() };
        let as_result = ActionResult {
            output_files: blobs.iter().map(file).collect(),
            output_directories: directories.iter().map(directory).collect(),
            ..ActionResult::default()
        };
        let (closure, _) = self.closure_of(DigestRule::like(like), as_result).await?;
        let mut absent = Vec::new();
        self.engine().find_missing(&closure.digests, &mut absent)?;
        Ok(References { digests: closure.digests, absent })
    }
}

/// Whose records are of an instance: `blobs` is no segment of a client's instance name.
fn owner(instance: &InstanceName) -> String {
    format!("blobs/asset/{instance}")
}
