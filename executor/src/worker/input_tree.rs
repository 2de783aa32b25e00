//! [`InputTree`]: all directories of an action's input, fetched, checked, and bounded, before anything of it is made.
//!
//! Level by level, each distinct directory once. What comes is verified against its digest and held to its canonical form, so that
//! names are single segments: no path of the tree leaves it or passes through a symlink.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cask_index::Digest;
use cask_proto::digest::DigestRule;
use parking_lot::Mutex;

use super::{fault::ExecutionFault, file_cache::FileKey};
use crate::{
    action::{CheckedCommand, CheckedDirectory, RootPath},
    client::RemoteCache,
};

/// What Linux allows for one name.
const NAME_BYTES_MAX: usize = 255;

/// As many as the kernel follows.
const SYMLINKS_MAX: usize = 40;

/// Bounds on one input tree.
#[derive(Clone, Debug)]
pub struct InputLimits {
    /// Files, directories and symlinks, each as often as it stands in the tree.
    pub nodes_max: usize,
    /// Directories below each other.
    pub depth_max: usize,
    /// Of all Directory messages, each once.
    pub directory_bytes_max: u64,
    /// Of the path of one directory; what the kernel takes, less what stands before it.
    pub path_bytes_max: usize,
    /// Of all paths of directories.
    pub path_bytes_total_max: usize,
    /// Of all files, each once.
    pub file_bytes_max: u64,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            nodes_max: 2_000_000,
            depth_max: 512,
            directory_bytes_max: 256 << 20,
            path_bytes_max: 3_500,
            path_bytes_total_max: 256 << 20,
            file_bytes_max: 1 << 40,
        }
    }
}

/// A directory at its place.
#[derive(Debug)]
pub struct InputDirectory {
    /// From the root, with slashes; the root's is empty.
    pub path: String,
    /// What is in it.
    pub listing: Arc<CheckedDirectory>,
}

/// All directories of an input.
#[derive(Debug)]
pub struct InputTree {
    /// Parents before children; the first is the root.
    pub directories: Vec<InputDirectory>,
}

/// Directories seen lately, so that a tree that differs in one file costs the reading of the few directories above that. Two
/// generations: when the young one is full, the old one goes.
#[derive(Debug)]
pub(crate) struct DirectoryCache {
    generations: Mutex<[HashMap<Digest, Arc<CheckedDirectory>>; 2]>,
    /// Entries of one generation, counted by what the directories hold.
    entries_max: usize,
    entries: std::sync::atomic::AtomicUsize,
}

impl DirectoryCache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { generations: Mutex::default(), entries_max, entries: 0.into() }
    }

    fn get(&self, digest: &Digest) -> Option<Arc<CheckedDirectory>> {
        let mut generations = self.generations.lock();
        if let Some(directory) = generations[0].get(digest) {
            return Some(Arc::clone(directory));
        }
        let directory = generations[1].remove(digest)?;
        self.put_into(&mut generations, *digest, &directory);
        Some(directory)
    }

    fn put(&self, digest: Digest, directory: &Arc<CheckedDirectory>) {
        self.put_into(&mut self.generations.lock(), digest, directory);
    }

    fn put_into(
        &self,
        generations: &mut [HashMap<Digest, Arc<CheckedDirectory>>; 2],
        digest: Digest,
        directory: &Arc<CheckedDirectory>,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        if generations[0].insert(digest, Arc::clone(directory)).is_some() {
            return;
        }
        // Under the lock; the atomic only spares a second field in it.
        let entries = self.entries.load(Relaxed) + 1 + directory.len();
        self.entries.store(entries, Relaxed);
        if entries > self.entries_max {
            generations[1] = std::mem::take(&mut generations[0]);
            self.entries.store(0, Relaxed);
        }
    }
}

impl InputTree {
    /// Fetches and checks the tree below `root`. Blobs that the cache does not have are all named, those of files too as far as
    /// the directories that are there name them.
    ///
    /// Cancel safe: nothing is kept but directories in the cache of them.
    pub(crate) async fn fetch(
        cache: &RemoteCache,
        known: &DirectoryCache,
        root: Digest,
        limits: &InputLimits,
    ) -> Result<Self, ExecutionFault> {
        let rule = DigestRule::like(&root);
        let mut listings: HashMap<Digest, Arc<CheckedDirectory>> = HashMap::new();
        let mut missing = Vec::new();
        let mut level = vec![root];
        let (mut directory_bytes, mut depth) = (0_u64, 0);
        while !level.is_empty() {
            depth += 1;
            if depth > limits.depth_max {
                return Err(ExecutionFault::invalid(format!(
                    "the input tree is more than {} directories deep",
                    limits.depth_max
                )));
            }
            directory_bytes = level.iter().fold(directory_bytes, |sum, digest| sum.saturating_add(digest.size_bytes()));
            if directory_bytes > limits.directory_bytes_max {
                return Err(ExecutionFault::invalid(format!(
                    "the directories of the input tree have more than {} bytes",
                    limits.directory_bytes_max
                )));
            }
            let mut found: Vec<(Digest, Arc<CheckedDirectory>)> = Vec::with_capacity(level.len());
            let mut unknown = Vec::new();
            for digest in level {
                match known.get(&digest) {
                    Some(directory) => found.push((digest, directory)),
                    None => unknown.push(digest),
                }
            }
            let blobs = if unknown.is_empty() { Vec::new() } else { cache.read_blobs(&unknown).await? };
            for (digest, blob) in unknown.into_iter().zip(blobs) {
                let Some(blob) = blob else {
                    missing.push(digest);
                    continue;
                };
                let directory = Arc::new(CheckedDirectory::decode(rule, blob)?);
                check_names(&directory)?;
                known.put(digest, &directory);
                found.push((digest, directory));
            }
            let mut next = HashSet::new();
            for (digest, directory) in found {
                next.extend(directory.directories.iter().map(|entry| entry.digest));
                listings.insert(digest, directory);
            }
            next.retain(|digest| !listings.contains_key(digest));
            level = next.into_iter().collect();
        }
        if !missing.is_empty() {
            let files: HashSet<Digest> =
                listings.values().flat_map(|listing| listing.files.iter().map(|file| file.digest)).collect();
            missing.extend(cache.find_missing(&files.into_iter().collect::<Vec<_>>()).await?);
            return Err(ExecutionFault::Missing(missing));
        }
        Self::spread(root, &listings, limits)
    }

    /// Each directory at each of its places; all that `root` leads to are among the listings. A small message can name a directory as often as it likes, so the counting comes first.
    pub fn spread(
        root: Digest,
        listings: &HashMap<Digest, Arc<CheckedDirectory>>,
        limits: &InputLimits,
    ) -> Result<Self, ExecutionFault> {
        let (mut nodes, mut path_bytes) = (1_usize, 0_usize);
        let mut directories = vec![InputDirectory { path: String::new(), listing: Arc::clone(&listings[&root]) }];
        let mut next = 0;
        while next < directories.len() {
            let listing = Arc::clone(&directories[next].listing);
            nodes += listing.len();
            if nodes > limits.nodes_max {
                return Err(ExecutionFault::invalid(format!(
                    "the input tree has more than {} files, directories and symlinks",
                    limits.nodes_max
                )));
            }
            for entry in &listing.directories {
                let parent = &directories[next].path;
                let path = if parent.is_empty() { entry.name.clone() } else { format!("{parent}/{}", entry.name) };
                path_bytes += path.len();
                if path.len() > limits.path_bytes_max || path_bytes > limits.path_bytes_total_max {
                    return Err(ExecutionFault::invalid("the paths of the input tree are too long"));
                }
                directories.push(InputDirectory { path, listing: Arc::clone(&listings[&entry.digest]) });
            }
            next += 1;
        }
        let tree = Self { directories };
        let file_bytes = tree.files().iter().fold(0_u64, |sum, key| sum.saturating_add(key.digest.size_bytes()));
        if file_bytes > limits.file_bytes_max {
            return Err(ExecutionFault::invalid(format!(
                "the input's files have {file_bytes} bytes, which is more than this worker takes"
            )));
        }
        Ok(tree)
    }

    /// The files that are needed, each once.
    pub fn files(&self) -> Vec<FileKey> {
        let mut seen = HashSet::new();
        let mut files = Vec::new();
        for directory in &self.directories {
            for file in &directory.listing.files {
                let key = FileKey { digest: file.digest, is_executable: file.is_executable };
                if seen.insert(key) {
                    files.push(key);
                }
            }
        }
        files
    }

    /// Whether a directory stands there.
    pub(crate) fn has_directory(&self, place: &RootPath) -> bool {
        let path = place.to_string();
        self.directories.iter().any(|directory| directory.path == path)
    }

    /// Whether the tree is a whole system to the command: its program is in it, by the path it would have if the input root were `/`.
    pub(crate) fn has_program(&self, command: &CheckedCommand) -> bool {
        let Some(program) = command.arguments.first() else { return false };
        if program.starts_with('/') {
            return self.has_file(program);
        }
        if program.contains('/') {
            return false;
        }
        let path = command.environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
        path.split(':')
            .filter(|folder| folder.starts_with('/'))
            .any(|folder| self.has_file(&format!("{folder}/{program}")))
    }

    /// Follows the tree's own symlinks, as the kernel would below a root of its own.
    fn has_file(&self, path: &str) -> bool {
        let first = path.split('/').find(|segment| !segment.is_empty()).unwrap_or("");
        let top = &self.directories[0].listing;
        let is_there = top.directories.iter().any(|entry| entry.name == first)
            || top.symlinks.iter().any(|entry| entry.name == first)
            || top.files.iter().any(|entry| entry.name == first);
        if !is_there {
            return false;
        }
        let by_path: HashMap<&str, &CheckedDirectory> =
            self.directories.iter().map(|directory| (directory.path.as_str(), &*directory.listing)).collect();
        let mut rest: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut here: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(segment) = rest.pop() {
            match segment.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => {}
            }
            let Some(listing) = by_path.get(here.join("/").as_str()) else { return false };
            if listing.directories.iter().any(|entry| entry.name == segment) {
                here.push(segment);
            } else if let Some(symlink) = listing.symlinks.iter().find(|entry| entry.name == segment) {
                links += 1;
                if links > SYMLINKS_MAX {
                    return false;
                }
                if symlink.target.starts_with('/') {
                    here.clear();
                }
                rest.extend(symlink.target.rsplit('/').map(str::to_owned));
            } else {
                return listing.files.iter().any(|entry| entry.name == segment)
                    && rest.iter().all(|segment| segment.is_empty() || segment == ".");
            }
        }
        false
    }
}

fn check_names(directory: &CheckedDirectory) -> Result<(), ExecutionFault> {
    let files = directory.files.iter().map(|file| &file.name);
    let directories = directory.directories.iter().map(|directory| &directory.name);
    let symlinks = directory.symlinks.iter().map(|symlink| &symlink.name);
    match files.chain(directories).chain(symlinks).find(|name| name.len() > NAME_BYTES_MAX) {
        Some(name) => Err(ExecutionFault::invalid(format!(
            "a name in the input tree has {} bytes; {NAME_BYTES_MAX} are possible",
            name.len()
        ))),
        None => Ok(()),
    }
}
