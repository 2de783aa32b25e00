//! [`OutputTree`]: the folders of one output directory, as a result names them.
//!
//! A Tree names each folder once and may mean it a thousand million times, so it is measured before it is unfolded, and unfolded one
//! folder at a time.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{digest::DigestRule, reapi};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;

use super::{
    RemoteCache,
    tree_download::{DOWNLOADS_MAX, OutputError, required},
};
use crate::action::{CheckedDirectory, RootPath};

/// Entries that one output directory may have in all.
const ENTRIES_MAX: u64 = 4_000_000;
/// How deep folders may lie.
const DEPTH_MAX: usize = 512;
/// Largest Tree or Directory that is read into memory.
const MESSAGE_BYTES_MAX: u64 = 256 << 20;

/// The folders of one output directory: all are there, and unfold to no more than can be borne.
#[derive(Debug)]
pub(super) struct OutputTree {
    root: Digest,
    by_digest: HashMap<Digest, CheckedDirectory>,
}

/// A Tree whose directories are not decoded: their digests are those of their bytes, whatever is in them.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedTree {
    #[prost(bytes = "bytes", tag = "1")]
    root: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    children: Vec<Bytes>,
}

/// What a folder and all below it come to.
#[derive(Clone, Copy, Default)]
struct Extent {
    entries: u64,
    depth: usize,
}

impl RemoteCache {
    /// Reads the folders of an output directory.
    pub(super) async fn output_tree(
        &self,
        directory: &reapi::OutputDirectory,
        function: DigestFunction,
    ) -> Result<OutputTree, OutputError> {
        let tree = if directory.tree_digest.is_some() {
            let digest = required("tree", function, directory.tree_digest.as_ref())?;
            OutputTree::of_tree(function, self.message(digest).await?)?
        } else {
            let root = required("output directory", function, directory.root_directory_digest.as_ref())?;
            self.directories_from(root).await?
        };
        tree.measure()?;
        Ok(tree)
    }

    async fn directories_from(&self, root: Digest) -> Result<OutputTree, OutputError> {
        let mut tree = OutputTree { root, by_digest: HashMap::new() };
        let mut wanted = HashSet::from([root]);
        while !wanted.is_empty() {
            if (tree.by_digest.len() + wanted.len()) as u64 > ENTRIES_MAX {
                return Err(too_many());
            }
            let fetched: Vec<(Digest, CheckedDirectory)> = stream::iter(std::mem::take(&mut wanted))
                .map(|digest| async move {
                    let message = self.message(digest).await?;
                    Ok::<_, OutputError>((digest, decoded(digest.function(), message)?))
                })
                .buffer_unordered(DOWNLOADS_MAX)
                .try_collect()
                .await?;
            for (digest, directory) in fetched {
                wanted.extend(directory.directories.iter().map(|child| child.digest));
                tree.by_digest.insert(digest, directory);
            }
            wanted.retain(|digest| !tree.by_digest.contains_key(digest));
        }
        Ok(tree)
    }

    async fn message(&self, digest: Digest) -> Result<Bytes, OutputError> {
        if digest.size_bytes() > MESSAGE_BYTES_MAX {
            return Err(OutputError::Malformed(format!("the listing of a folder has {} bytes", digest.size_bytes())));
        }
        let mut message = Vec::new();
        self.download_blob(digest, &mut message).await?;
        Ok(message.into())
    }
}

impl OutputTree {
    fn of_tree(function: DigestFunction, encoded: Bytes) -> Result<Self, OutputError> {
        let tree = EncodedTree::decode(encoded).map_err(|error| OutputError::Malformed(format!("a Tree: {error}")))?;
        let root = Hasher::digest(function, &tree.root);
        let mut by_digest = HashMap::new();
        for directory in std::iter::once(tree.root).chain(tree.children) {
            by_digest.insert(Hasher::digest(function, &directory), decoded(function, directory)?);
        }
        Ok(Self { root, by_digest })
    }

    /// Each folder is looked at once, those below it before it. Cycles cannot be: a digest cannot contain itself.
    fn measure(&self) -> Result<(), OutputError> {
        let mut measured: HashMap<Digest, Extent> = HashMap::new();
        let mut rest = vec![self.root];
        while let Some(&digest) = rest.last() {
            let directory = self.by_digest.get(&digest).ok_or_else(|| {
                OutputError::Malformed(format!("the Tree has no directory {digest}, which it refers to"))
            })?;
            let unmeasured = directory.directories.iter().map(|child| child.digest);
            let before = rest.len();
            rest.extend(unmeasured.filter(|child| !measured.contains_key(child)));
            if rest.len() > before {
                if rest.len() as u64 > ENTRIES_MAX {
                    return Err(too_many());
                }
                continue;
            }
            rest.pop();
            let mut extent = Extent { entries: directory.len() as u64, depth: 0 };
            for child in directory.directories.iter().filter_map(|child| measured.get(&child.digest)) {
                extent.entries = extent.entries.saturating_add(child.entries);
                extent.depth = extent.depth.max(child.depth + 1);
            }
            if extent.entries > ENTRIES_MAX {
                return Err(too_many());
            }
            if extent.depth > DEPTH_MAX {
                return Err(OutputError::Malformed(format!("folders lie deeper than {DEPTH_MAX} in each other")));
            }
            measured.insert(digest, extent);
        }
        Ok(())
    }

    /// The folders and where they stand if the first of them stands at `path`, each before those in it.
    pub(super) fn unfold(&self, path: RootPath) -> impl Iterator<Item = (RootPath, &CheckedDirectory)> {
        let mut rest = vec![(path, self.root)];
        std::iter::from_fn(move || {
            let (path, digest) = rest.pop()?;
            let directory = &self.by_digest[&digest];
            rest.extend(directory.directories.iter().map(|child| (below(&path, &child.name), child.digest)));
            Some((path, directory))
        })
    }
}

/// The place of an entry whose name was checked with its directory.
pub(super) fn below(path: &RootPath, name: &str) -> RootPath {
    path.join("the output", name).expect("a checked name is a path of one segment")
}

fn too_many() -> OutputError {
    OutputError::Malformed(format!("it has more than {ENTRIES_MAX} files and folders"))
}

fn decoded(function: DigestFunction, directory: Bytes) -> Result<CheckedDirectory, OutputError> {
    Ok(CheckedDirectory::decode(DigestRule::like(&function.empty_blob()), directory)?)
}
