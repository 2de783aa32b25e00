//! The input of an action, looked at before the action is queued: every directory is one, every blob is there, and a worker
//! can make it.
//!
//! Each distinct directory is read once, in the order of a search by breadth, so nothing recurses and a tree that names one directory very
//! often costs no more than once. What a worker would make of it is counted apart: a tree of thirty directories can stand for
//! a thousand million paths. Files are looked for in batches, which leases them.
//!
//! Cancel-safe: nothing is kept but leases.

use std::collections::HashMap;

use cask_engine::EngineError;
use cask_executor::action::{ActionFault, CheckedDirectory};
use cask_index::Digest;
use cask_proto::digest::DigestRule;

use super::missing::MissingBlobs;
use crate::cache::Cache;

/// What is walked and made at most.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "bounds are named as such")]
pub(super) struct TreeBounds {
    /// Directories that differ.
    pub(super) directories_max: usize,
    /// One directory's message.
    pub(super) directory_bytes_max: u64,
    /// All of their messages.
    pub(super) bytes_max: u64,
    /// Entries with every directory written out wherever it stands.
    pub(super) entries_max: u64,
    /// Directories inside each other.
    pub(super) depth_max: u32,
}

impl Default for TreeBounds {
    fn default() -> Self {
        Self {
            directories_max: 100_000,
            directory_bytes_max: 32 << 20,
            bytes_max: 256 << 20,
            entries_max: 2_000_000,
            depth_max: 512,
        }
    }
}

/// Why an input is refused. What is only missing is no fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeFault {
    #[error("the input directory {0}: {1}")]
    Directory(Digest, Box<ActionFault>),
    #[error("the input has more than {limit} {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Files that are looked for at once.
const FILES_PER_PROBE: usize = 4096;

/// Walks the tree below `root` and adds what is absent to `missing`.
pub(super) async fn check(
    cache: &Cache,
    root: Digest,
    bounds: TreeBounds,
    missing: &mut MissingBlobs,
) -> Result<(), TreeFault> {
    let rule = DigestRule::like(&root);
    let mut graph = Graph::new(root);
    let mut files = Vec::new();
    let mut left_bytes = bounds.bytes_max;
    let mut position = 0;
    while let Some(digest) = graph.digests.get(position).copied() {
        // Of what is in memory nothing ever waits: the thread's other connections need their turn.
        tokio::task::coop::consume_budget().await;
        let too_large = || TreeFault::TooLarge { what: "bytes in one directory", limit: bounds.directory_bytes_max };
        if digest.size_bytes() > bounds.directory_bytes_max {
            return Err(too_large());
        }
        left_bytes = left_bytes
            .checked_sub(digest.size_bytes())
            .ok_or(TreeFault::TooLarge { what: "bytes of directories", limit: bounds.bytes_max })?;
        let directory = match cache.read_whole(&digest, bounds.directory_bytes_max).await {
            Ok(bytes) => {
                CheckedDirectory::decode(rule, bytes).map_err(|fault| TreeFault::Directory(digest, Box::new(fault)))?
            }
            // Found corrupt is as absent: a client that has it sends it again.
            Err(EngineError::NotFound | EngineError::DataLoss(_)) => {
                missing.add(&digest);
                CheckedDirectory::default()
            }
            Err(error) => return Err(error.into()),
        };
        graph.nodes[position].entries = directory.len() as u64;
        for child in &directory.directories {
            graph.link(position, child.digest);
        }
        if graph.digests.len() > bounds.directories_max {
            return Err(TreeFault::TooLarge { what: "directories", limit: bounds.directories_max as u64 });
        }
        for file in &directory.files {
            files.push(file.digest);
            if files.len() == FILES_PER_PROBE {
                probe(cache, &mut files, missing)?;
            }
        }
        position += 1;
    }
    probe(cache, &mut files, missing)?;
    graph.check(bounds)
}

fn probe(cache: &Cache, files: &mut Vec<Digest>, missing: &mut MissingBlobs) -> Result<(), EngineError> {
    let mut absent = Vec::new();
    cache.engine().find_missing(files, &mut absent)?;
    for position in absent {
        missing.add(&files[position]);
    }
    files.clear();
    Ok(())
}

/// The directories that differ, and which is in which.
struct Graph {
    digests: Vec<Digest>,
    positions: HashMap<Digest, u32>,
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    entries: u64,
    children: Vec<u32>,
    /// How often others name it.
    named_count: u32,
}

impl Graph {
    fn new(root: Digest) -> Self {
        Self { digests: vec![root], positions: HashMap::from([(root, 0)]), nodes: vec![Node::default()] }
    }

    fn link(&mut self, parent: usize, child: Digest) {
        let child = *self.positions.entry(child).or_insert_with(|| {
            self.digests.push(child);
            self.nodes.push(Node::default());
            self.nodes.len() as u32 - 1
        });
        self.nodes[parent].children.push(child);
        self.nodes[child as usize].named_count += 1;
    }

    /// Counts paths from the root down: a directory is counted when all that name it are.
    fn check(&self, bounds: TreeBounds) -> Result<(), TreeFault> {
        let mut unseen: Vec<u32> = self.nodes.iter().map(|node| node.named_count).collect();
        let mut path_counts = vec![0_u64; self.nodes.len()];
        let mut depths = vec![0_u32; self.nodes.len()];
        let (mut ready, mut entries) = (vec![0_usize], 0_u64);
        path_counts[0] = 1;
        // A root that is named again, which takes a broken hash function, never becomes ready, and is too deep by right.
        while let Some(position) = ready.pop() {
            let node = &self.nodes[position];
            entries = entries.saturating_add(path_counts[position].saturating_mul(node.entries));
            if depths[position] > bounds.depth_max {
                return Err(TreeFault::TooLarge { what: "levels of directories", limit: u64::from(bounds.depth_max) });
            }
            for &child in &node.children {
                let child = child as usize;
                path_counts[child] = path_counts[child].saturating_add(path_counts[position]);
                depths[child] = depths[child].max(depths[position] + 1);
                unseen[child] -= 1;
                if unseen[child] == 0 {
                    ready.push(child);
                }
            }
        }
        if entries > bounds.entries_max {
            return Err(TreeFault::TooLarge { what: "files, directories and symlinks", limit: bounds.entries_max });
        }
        if unseen.iter().any(|count| *count > 0) {
            return Err(TreeFault::TooLarge { what: "levels of directories", limit: u64::from(bounds.depth_max) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cask_index::{DigestFunction, Hasher};

    use super::*;

    fn digest(number: u32) -> Digest {
        Hasher::digest(DigestFunction::Sha256, &number.to_le_bytes())
    }

    /// Each directory of a chain holds the next one `times` times.
    fn chain(length: u32, times: usize) -> Graph {
        let mut graph = Graph::new(digest(0));
        for number in 1..=length {
            for _ in 0..times {
                graph.link(number as usize - 1, digest(number));
            }
            graph.nodes[number as usize - 1].entries = times as u64;
        }
        graph
    }

    #[test]
    fn a_tree_of_few_directories_that_stands_for_very_many_is_refused() {
        let bounds = TreeBounds { entries_max: 1000, depth_max: 100, ..TreeBounds::default() };
        assert!(chain(31, 1).check(bounds).is_ok());
        // 2 + 4 + ... + 2^9 = 1022.
        assert!(chain(8, 2).check(bounds).is_ok());
        for length in [9, 31, 64, 99] {
            assert!(
                matches!(chain(length, 2).check(bounds), Err(TreeFault::TooLarge { what, .. }) if what.starts_with("files"))
            );
        }
    }

    #[test]
    fn depth_is_that_of_the_longest_way_down() {
        let bounds = TreeBounds { depth_max: 10, ..TreeBounds::default() };
        assert!(chain(10, 1).check(bounds).is_ok());
        let mut graph = chain(11, 1);
        assert!(graph.check(bounds).is_err());
        graph.link(0, digest(11));
        assert!(graph.check(bounds).is_err(), "a short way to the deepest makes it no less deep");
    }

    #[test]
    fn what_holds_itself_is_refused() {
        let mut graph = chain(3, 1);
        graph.link(3, digest(1));
        assert!(graph.check(TreeBounds::default()).is_err());
    }
}
