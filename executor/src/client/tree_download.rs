//! What an action made, written into a folder.
//!
//! First all of it is looked at: paths, names, and how much Trees unfold to. Only then is anything written, through [`OutputFolder`], which keeps it inside. Nothing that a server says about names is believed.

use std::collections::BTreeMap;

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::{digest::FunctionRule, reapi};
use futures_util::{TryStreamExt as _, stream};
use tokio::io::AsyncWriteExt as _;

use super::{
    RemoteCache,
    output_folder::OutputFolder,
    output_tree::{OutputTree, below},
};
use crate::{
    ClientError,
    action::{ActionFault, RootPath},
};

/// Blobs that come down at the same time.
pub(super) const DOWNLOADS_MAX: usize = 8;
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

/// What is to be written and is no folder.
enum Entry {
    Symlink(String),
    File { digest: Digest, is_executable: bool, content: Bytes },
}

/// All that is to be written.
#[derive(Default)]
struct Plan {
    /// Twice the same is how results name symlinks for old clients and new ones.
    entries: BTreeMap<RootPath, Entry>,
    trees: Vec<(RootPath, OutputTree)>,
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
        // Symlinks first: what another output would put behind one is refused then, in whichever order they come.
        let (symlinks, files): (Vec<_>, Vec<_>) =
            plan.entries.into_iter().partition(|(_, entry)| matches!(entry, Entry::Symlink(_)));
        let in_trees =
            plan.trees.iter().flat_map(|(path, tree)| tree.unfold(path.clone())).flat_map(|(path, directory)| {
                let made =
                    folder.make_folder(&path).map_err(|source| OutputError::Write { path: path.clone(), source });
                let symlinks = directory.symlinks.iter();
                let symlinks = symlinks.map(|link| (&link.name, Entry::Symlink(link.target.clone())));
                let files = directory.files.iter().map(|file| {
                    let (digest, is_executable) = (file.digest, file.is_executable);
                    (&file.name, Entry::File { digest, is_executable, content: Bytes::new() })
                });
                let entries = symlinks.chain(files).map(move |(name, entry)| Ok((below(&path, name), entry)));
                made.err().map(Err).into_iter().chain(entries)
            });
        let all = symlinks.into_iter().chain(files).map(Ok).chain(in_trees);
        stream::iter(all).try_for_each_concurrent(DOWNLOADS_MAX, |(path, entry)| self.put(folder, path, entry)).await
    }

    async fn put(&self, folder: &OutputFolder, path: RootPath, entry: Entry) -> Result<(), OutputError> {
        let failed = |source| OutputError::Write { path: path.clone(), source };
        let (digest, is_executable, content) = match entry {
            Entry::Symlink(target) => return folder.put_symlink(&path, &target).map_err(failed),
            Entry::File { digest, is_executable, content } => (digest, is_executable, content),
        };
        let (file, new) = folder.begin_file(&path, is_executable).map_err(failed)?;
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
        let place = |path: &str| from.join("the output", path);
        let mut plan = Plan::default();
        for file in &result.output_files {
            let digest = required("output file", function, file.digest.as_ref())?;
            let entry = Entry::File { digest, is_executable: file.is_executable, content: file.contents.clone() };
            plan.entries.insert(place(&file.path)?, entry);
        }
        let symlinks = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
        for symlink in symlinks.into_iter().flatten() {
            plan.entries.insert(place(&symlink.path)?, Entry::Symlink(target_of(&symlink.target)?));
        }
        for directory in &result.output_directories {
            plan.trees.push((place(&directory.path)?, self.output_tree(directory, function).await?));
        }
        Ok(plan)
    }
}

pub(super) fn required(
    what: &str,
    function: DigestFunction,
    digest: Option<&reapi::Digest>,
) -> Result<Digest, OutputError> {
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
