//! What an action made, written into a folder.
//!
//! First all of it is looked at: paths and names, Trees unfolded, with bounds on how much they may unfold to. Only then is
//! anything written, through [`OutputFolder`], which keeps it inside. Nothing that a server says about names is believed.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{
    digest::{DigestRule, FunctionRule},
    reapi,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;

use super::{RemoteCache, output_folder::OutputFolder};
use crate::{
    ClientError,
    action::{ActionFault, CheckedDirectory, RootPath},
};

/// Blobs that come down at the same time.
const DOWNLOADS_MAX: usize = 8;
/// Entries that the outputs of one action may have in all. A Tree names each folder once and may mean it a billion times.
const ENTRIES_MAX: usize = 2_000_000;
/// How deep folders may lie.
const DEPTH_MAX: usize = 512;
/// What a fault calls the paths here.
const OUTPUT: &str = "the output";
/// Largest Tree or Directory that is read into memory.
const MESSAGE_BYTES_MAX: u64 = 256 << 20;

/// Why outputs could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The cache failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An output's path, or what is in a folder, is not what may be written.
    #[error("the result is refused")]
    Refused(#[from] ActionFault),
    /// A result, Tree or Directory that makes no sense.
    #[error("the result is malformed: {0}")]
    Malformed(String),
    /// The file system failed.
    #[error("cannot write {path}")]
    Write {
        /// Below the output folder.
        path: RootPath,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Where outputs are written.
#[derive(Debug)]
pub struct OutputPlacement<'a> {
    /// Stands for the input root.
    pub folder: &'a OutputFolder,
    /// Of the command: paths of outputs are as seen from there.
    pub working_directory: RootPath,
    /// Of the action's digests, and so of its result's.
    pub function: DigestFunction,
}

enum Entry {
    Folder,
    Symlink(String),
    File { digest: Digest, is_executable: bool, content: Bytes },
}

/// What is to be written. Ordered, so that folders come before what is in them.
#[derive(Default)]
struct Plan(BTreeMap<RootPath, Entry>);

impl Plan {
    fn add(&mut self, path: RootPath, entry: Entry) -> Result<(), OutputError> {
        if self.0.len() == ENTRIES_MAX {
            return Err(too_many());
        }
        // Twice the same is how results name symlinks for old and new clients.
        self.0.insert(path, entry);
        Ok(())
    }
}

impl RemoteCache {
    /// Writes an action's outputs.
    pub async fn download_outputs(
        &self,
        result: &reapi::ActionResult,
        placement: &OutputPlacement<'_>,
    ) -> Result<(), OutputError> {
        let plan = self.plan(result, placement).await?;
        let folder = placement.folder;
        let mut files = Vec::new();
        for (path, entry) in plan.0 {
            let failed = |source| OutputError::Write { path: path.clone(), source };
            match entry {
                Entry::Folder => folder.make_folder(&path).map_err(failed)?,
                Entry::Symlink(target) => folder.put_symlink(&path, &target).map_err(failed)?,
                Entry::File { digest, is_executable, content } => files.push((path, digest, is_executable, content)),
            }
        }
        let downloads = files.into_iter().map(|(path, digest, is_executable, content)| async move {
            self.download_file(folder, &path, digest, is_executable, content).await
        });
        stream::iter(downloads).buffer_unordered(DOWNLOADS_MAX).try_collect::<()>().await
    }

    async fn download_file(
        &self,
        folder: &OutputFolder,
        path: &RootPath,
        digest: Digest,
        is_executable: bool,
        content: Bytes,
    ) -> Result<(), OutputError> {
        let failed = |source| OutputError::Write { path: path.clone(), source };
        let (file, new) = folder.begin_file(path, is_executable).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(file);
        if !content.is_empty() && Hasher::digest(digest.function(), &content) == digest {
            file.write_all(&content).await.map_err(failed)?;
            file.flush().await.map_err(failed)?;
        } else {
            self.download_blob(digest, &mut file).await?;
        }
        // Closed before it can be executed: the system refuses to run what is open for writing.
        drop(file.into_std().await);
        new.keep().map_err(failed)
    }

    async fn plan(&self, result: &reapi::ActionResult, placement: &OutputPlacement<'_>) -> Result<Plan, OutputError> {
        let (from, function) = (&placement.working_directory, placement.function);
        let mut plan = Plan::default();
        for file in &result.output_files {
            let digest = required("output file", function, file.digest.as_ref())?;
            let entry = Entry::File { digest, is_executable: file.is_executable, content: file.contents.clone() };
            plan.add(from.join(OUTPUT, &file.path)?, entry)?;
        }
        let symlinks = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
        for symlink in symlinks.into_iter().flatten() {
            plan.add(from.join(OUTPUT, &symlink.path)?, Entry::Symlink(target_of(&symlink.target)?))?;
        }
        for directory in &result.output_directories {
            let path = from.join(OUTPUT, &directory.path)?;
            let folders = self.folders(directory, function).await?;
            folders.unfold(path, &mut plan)?;
        }
        Ok(plan)
    }

    async fn folders(
        &self,
        directory: &reapi::OutputDirectory,
        function: DigestFunction,
    ) -> Result<Folders, OutputError> {
        if directory.tree_digest.is_some() {
            let digest = required("tree", function, directory.tree_digest.as_ref())?;
            return Folders::of_tree(function, self.message(digest).await?);
        }
        let root = required("output directory", function, directory.root_directory_digest.as_ref())?;
        let mut folders = Folders { root, by_digest: HashMap::new() };
        let mut wanted = HashSet::from([root]);
        while !wanted.is_empty() {
            if folders.by_digest.len() + wanted.len() > ENTRIES_MAX {
                return Err(too_many());
            }
            let fetched: Vec<_> = stream::iter(std::mem::take(&mut wanted))
                .map(|digest| async move { Ok((digest, decoded(function, self.message(digest).await?)?)) })
                .buffer_unordered(DOWNLOADS_MAX)
                .try_collect::<Vec<(Digest, CheckedDirectory)>>()
                .await
                .map_err(|error: OutputError| error)?;
            for (digest, directory) in fetched {
                wanted.extend(directory.directories.iter().map(|child| child.digest));
                folders.by_digest.insert(digest, directory);
            }
            wanted.retain(|digest| !folders.by_digest.contains_key(digest));
        }
        Ok(folders)
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

/// The folders of one output directory.
struct Folders {
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

impl Folders {
    fn of_tree(function: DigestFunction, encoded: Bytes) -> Result<Self, OutputError> {
        let tree = EncodedTree::decode(encoded).map_err(|error| OutputError::Malformed(format!("a Tree: {error}")))?;
        let root = Hasher::digest(function, &tree.root);
        let mut by_digest = HashMap::new();
        for directory in std::iter::once(tree.root).chain(tree.children) {
            by_digest.insert(Hasher::digest(function, &directory), decoded(function, directory)?);
        }
        Ok(Self { root, by_digest })
    }

    /// Adds all that is in them. Cycles cannot be: a digest cannot contain itself.
    fn unfold(&self, path: RootPath, plan: &mut Plan) -> Result<(), OutputError> {
        let mut rest = vec![(path, self.root)];
        while let Some((path, digest)) = rest.pop() {
            let directory = self.by_digest.get(&digest).ok_or_else(|| {
                OutputError::Malformed(format!("the Tree has no directory {digest}, which \"{path}\" is"))
            })?;
            if path.segments().len() > DEPTH_MAX {
                return Err(OutputError::Malformed(format!("\"{path}\" lies deeper than {DEPTH_MAX} folders")));
            }
            for file in &directory.files {
                let (digest, is_executable) = (file.digest, file.is_executable);
                let entry = Entry::File { digest, is_executable, content: Bytes::new() };
                plan.add(path.join(OUTPUT, &file.name)?, entry)?;
            }
            for symlink in &directory.symlinks {
                plan.add(path.join(OUTPUT, &symlink.name)?, Entry::Symlink(symlink.target.clone()))?;
            }
            for child in &directory.directories {
                rest.push((path.join(OUTPUT, &child.name)?, child.digest));
            }
            if rest.len() > ENTRIES_MAX {
                return Err(too_many());
            }
            plan.add(path, Entry::Folder)?;
        }
        Ok(())
    }
}

fn too_many() -> OutputError {
    OutputError::Malformed(format!("it has more than {ENTRIES_MAX} files and folders"))
}

fn decoded(function: DigestFunction, directory: Bytes) -> Result<CheckedDirectory, OutputError> {
    Ok(CheckedDirectory::decode(DigestRule::like(&function.empty_blob()), directory)?)
}

fn required(what: &str, function: DigestFunction, digest: Option<&reapi::Digest>) -> Result<Digest, OutputError> {
    let digest = digest.ok_or_else(|| OutputError::Malformed(format!("the {what} has no digest")))?;
    Ok(FunctionRule::Named(function).from_wire(digest).map_err(ClientError::from)?)
}

/// Any text is a target, where the system can store it at all: it is not followed.
fn target_of(target: &str) -> Result<String, OutputError> {
    if target.is_empty() || target.contains('\0') {
        return Err(OutputError::Malformed(format!("a symlink to \"{}\"", target.escape_debug())));
    }
    Ok(target.to_owned())
}
