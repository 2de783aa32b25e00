//! The closure of an action result: every blob that a client may need to use it.
//!
//! That is the output files, stdout and stderr, each `Tree` blob and the files named anywhere in it, and, where a result names a
//! `root_directory_digest`, the `Directory` blobs that can be reached from it. Trees are opened once, when a result is stored,
//! so that a hit is one batched probe. Only digests are decoded: the messages here are projections of the API's, and
//! names and properties are skipped over. Bounded by the limits on trees; synchronous, since it reads the store.

use std::collections::HashSet;

use bytes::Bytes;
use cask_engine::EngineError;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi::{self, ActionResult};
use prost::Message;

use super::ActionError;
use crate::access::limits::Limits;

/// What could be found out about a closure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closure {
    /// Each digest once, in the order it was met; empty blobs are always present and left out.
    pub(super) digests: Vec<Digest>,
    /// False when a `Tree` or `Directory` is absent: it is among `digests`, what it refers to is not.
    pub(super) is_complete: bool,
}

/// True when the closure can be told without reading the store.
pub(super) fn is_flat(result: &ActionResult) -> bool {
    result.output_directories.is_empty()
}

/// The closure of `result`, whose digests are read by `rule`. `read` gives a whole blob of at most so many bytes.
pub(super) fn closure(
    rule: DigestRule,
    result: &ActionResult,
    limits: &Limits,
    read: impl Fn(&Digest, u64) -> Result<Bytes, EngineError>,
) -> Result<Closure, ActionError> {
    let mut walk = Walk {
        rule,
        limits,
        seen: HashSet::new(),
        digests: Vec::new(),
        opened_trees: HashSet::new(),
        visited_directories: HashSet::new(),
    };
    for digest in result.output_files.iter().filter_map(|file| file.digest.as_ref()) {
        walk.add_wire(digest)?;
    }
    for digest in [&result.stdout_digest, &result.stderr_digest].into_iter().flatten() {
        walk.add_wire(digest)?;
    }
    let mut is_complete = true;
    for directory in &result.output_directories {
        if let Some(tree) = &directory.tree_digest {
            let tree = walk.rule.from_wire(tree)?;
            is_complete &= walk.tree(tree, directory.root_directory_digest.as_ref(), &read)?;
        } else if let Some(root) = &directory.root_directory_digest {
            let root = walk.rule.from_wire(root)?;
            is_complete &= walk.directories(root, &read)?;
        }
    }
    Ok(Closure { digests: walk.digests, is_complete })
}

struct Walk<'a> {
    rule: DigestRule,
    limits: &'a Limits,
    seen: HashSet<Digest>,
    digests: Vec<Digest>,
    /// What was opened already, so that a result that names one tree very often costs no more than once. Apart from `seen`,
    /// because a digest may have been met as something else; a `Tree` with a root digest and one without differ.
    opened_trees: HashSet<(Digest, bool)>,
    visited_directories: HashSet<Digest>,
}

impl Walk<'_> {
    /// True when the digest is new and not of the empty blob.
    fn add(&mut self, digest: Digest) -> Result<bool, ActionError> {
        if digest.is_empty_blob() || !self.seen.insert(digest) {
            return Ok(false);
        }
        if self.digests.len() == self.limits.tree_digests_max {
            return Err(ActionError::BeyondLimits(format!(
                "it refers to more than {} blobs",
                self.limits.tree_digests_max
            )));
        }
        self.digests.push(digest);
        Ok(true)
    }

    fn add_wire(&mut self, digest: &reapi::Digest) -> Result<bool, ActionError> {
        let digest = self.rule.from_wire(digest)?;
        self.add(digest)
    }

    /// Adds a `Tree` and what it names; with a root digest also the directories, which then are blobs of their own. False
    /// when the tree is absent, told the first time.
    fn tree(
        &mut self,
        digest: Digest,
        root: Option<&reapi::Digest>,
        read: impl Fn(&Digest, u64) -> Result<Bytes, EngineError>,
    ) -> Result<bool, ActionError> {
        let has_directory_blobs = root.is_some();
        if let Some(root) = root {
            self.add_wire(root)?;
        }
        self.add(digest)?;
        if !self.opened_trees.insert((digest, has_directory_blobs)) {
            return Ok(true);
        }
        let Some(tree) = self.open::<TreeDigests>("Tree", &digest, read)? else { return Ok(false) };
        if tree.children.len() >= self.limits.tree_directories_max {
            return Err(self.too_many_directories());
        }
        for directory in tree.root.iter().chain(&tree.children) {
            for file in &directory.files {
                self.add_wire(file.digest("file")?)?;
            }
            if has_directory_blobs {
                for child in &directory.directories {
                    self.add_wire(child.digest("directory")?)?;
                }
            }
        }
        Ok(true)
    }

    /// Adds the `Directory` blobs reachable from `root` and their files. False when one of them is absent, told the first time.
    fn directories(
        &mut self,
        root: Digest,
        read: impl Fn(&Digest, u64) -> Result<Bytes, EngineError>,
    ) -> Result<bool, ActionError> {
        let mut is_complete = true;
        let mut pending = Vec::new();
        if self.visited_directories.insert(root) {
            pending.push(root);
        }
        while let Some(digest) = pending.pop() {
            self.add(digest)?;
            let Some(directory) = self.open::<DirectoryDigests>("Directory", &digest, &read)? else {
                is_complete = false;
                continue;
            };
            for file in &directory.files {
                self.add_wire(file.digest("file")?)?;
            }
            for child in &directory.directories {
                let child = self.rule.from_wire(child.digest("directory")?)?;
                if self.visited_directories.insert(child) {
                    pending.push(child);
                }
            }
            if self.visited_directories.len() > self.limits.tree_directories_max {
                return Err(self.too_many_directories());
            }
        }
        Ok(is_complete)
    }

    fn open<M: Message + Default>(
        &self,
        kind: &'static str,
        digest: &Digest,
        read: impl Fn(&Digest, u64) -> Result<Bytes, EngineError>,
    ) -> Result<Option<M>, ActionError> {
        if digest.is_empty_blob() {
            return Ok(Some(M::default()));
        }
        let bytes = match read(digest, self.limits.tree_size_bytes_max) {
            Ok(bytes) => bytes,
            Err(EngineError::NotFound) => return Ok(None),
            Err(EngineError::TooLarge { size_bytes, limit_bytes }) => {
                return Err(ActionError::BeyondLimits(format!(
                    "its {kind} {digest} has {size_bytes} bytes, more than the {limit_bytes} that are opened"
                )));
            }
            Err(error) => return Err(error.into()),
        };
        match M::decode(bytes) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(ActionError::Invalid(format!("its {kind} {digest} cannot be read: {error}"))),
        }
    }

    fn too_many_directories(&self) -> ActionError {
        ActionError::BeyondLimits(format!("it has more than {} directories", self.limits.tree_directories_max))
    }
}

/// `Tree`, digests only.
#[derive(Clone, PartialEq, Message)]
struct TreeDigests {
    #[prost(message, optional, tag = "1")]
    root: Option<DirectoryDigests>,
    #[prost(message, repeated, tag = "2")]
    children: Vec<DirectoryDigests>,
}

/// `Directory`, digests only.
#[derive(Clone, PartialEq, Message)]
struct DirectoryDigests {
    #[prost(message, repeated, tag = "1")]
    files: Vec<NodeDigest>,
    #[prost(message, repeated, tag = "2")]
    directories: Vec<NodeDigest>,
}

/// `FileNode` or `DirectoryNode`, digest only.
#[derive(Clone, PartialEq, Message)]
struct NodeDigest {
    #[prost(message, optional, tag = "2")]
    digest: Option<reapi::Digest>,
}

impl NodeDigest {
    fn digest(&self, kind: &'static str) -> Result<&reapi::Digest, ActionError> {
        self.digest.as_ref().ok_or_else(|| ActionError::Invalid(format!("a {kind} in its directories has no digest")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use cask_index::DigestFunction;
    use cask_proto::reapi::{Directory, DirectoryNode, FileNode, OutputDirectory, OutputFile, Tree};

    use super::*;

    fn rule() -> DigestRule {
        DigestRule::like(&DigestFunction::Sha256.empty_blob())
    }

    /// A store of blobs by a made-up digest: byte `n` repeated.
    #[derive(Default)]
    struct Blobs(HashMap<Digest, Bytes>);

    impl Blobs {
        fn with(mut self, n: u8, message: &impl Message) -> Self {
            let bytes = Bytes::from(message.encode_to_vec());
            self.0.insert(digest(n), bytes);
            self
        }
    }

    fn digest(n: u8) -> Digest {
        Digest::new(DigestFunction::Sha256, &[n; 32], u64::from(n) + 1).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "digest fields are optional")]
    fn wire(n: u8) -> Option<reapi::Digest> {
        Some(cask_proto::digest::to_wire(&digest(n)))
    }

    fn file(n: u8) -> FileNode {
        FileNode { name: format!("f{n}"), digest: wire(n), ..FileNode::default() }
    }

    fn directory(files: &[u8], directories: &[u8]) -> Directory {
        Directory {
            files: files.iter().map(|n| file(*n)).collect(),
            directories: directories
                .iter()
                .map(|n| DirectoryNode { name: format!("d{n}"), digest: wire(*n) })
                .collect(),
            ..Directory::default()
        }
    }

    fn result_with(directories: Vec<OutputDirectory>) -> ActionResult {
        ActionResult { output_directories: directories, ..ActionResult::default() }
    }

    fn limits() -> Limits {
        Limits { tree_size_bytes_max: 1 << 20, tree_directories_max: 50, tree_digests_max: 50, ..Limits::default() }
    }

    fn check(result: &ActionResult, blobs: &Blobs, expected: &[u8], is_complete: bool) {
        let read = |digest: &Digest, _| blobs.0.get(digest).cloned().ok_or(EngineError::NotFound);
        let closure = closure(rule(), result, &limits(), read).unwrap();
        let mut found: Vec<u8> = closure.digests.iter().map(|digest| digest.hash()[0]).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(closure.is_complete, is_complete);
    }

    fn refused(result: &ActionResult, blobs: &Blobs) -> ActionError {
        let read = |digest: &Digest, _| blobs.0.get(digest).cloned().ok_or(EngineError::NotFound);
        closure(rule(), result, &limits(), read).unwrap_err()
    }

    #[test]
    fn files_and_streams_are_in_it_once_and_the_empty_blob_never() {
        let empty = cask_proto::digest::to_wire(&DigestFunction::Sha256.empty_blob());
        let output = |digest| OutputFile { path: "p".to_owned(), digest, ..OutputFile::default() };
        let result = ActionResult {
            output_files: vec![output(wire(1)), output(wire(2)), output(wire(1)), output(Some(empty.clone()))],
            stdout_digest: wire(3),
            stderr_digest: Some(empty),
            ..ActionResult::default()
        };
        assert!(is_flat(&result));
        check(&result, &Blobs::default(), &[1, 2, 3], true);
    }

    #[test]
    fn a_tree_brings_the_files_of_all_its_directories() {
        let tree = Tree {
            root: Some(directory(&[10, 11], &[90])),
            children: vec![directory(&[11, 12], &[91]), directory(&[13], &[])],
        };
        let blobs = Blobs::default().with(1, &tree);
        let result = result_with(vec![OutputDirectory { tree_digest: wire(1), ..OutputDirectory::default() }]);
        check(&result, &blobs, &[1, 10, 11, 12, 13], true);
    }

    #[test]
    fn a_tree_with_a_root_digest_brings_its_directories_too() {
        let tree = Tree { root: Some(directory(&[10], &[90])), children: vec![directory(&[11], &[])] };
        let blobs = Blobs::default().with(1, &tree);
        let result = result_with(vec![OutputDirectory {
            tree_digest: wire(1),
            root_directory_digest: wire(89),
            ..OutputDirectory::default()
        }]);
        check(&result, &blobs, &[1, 10, 11, 89, 90], true);
    }

    #[test]
    fn a_root_digest_alone_is_walked_through_the_store_and_shared_directories_once() {
        let blobs = Blobs::default()
            .with(80, &directory(&[1], &[81, 82]))
            .with(81, &directory(&[2], &[83]))
            .with(82, &directory(&[3], &[83]))
            .with(83, &directory(&[4], &[]));
        let result =
            result_with(vec![OutputDirectory { root_directory_digest: wire(80), ..OutputDirectory::default() }]);
        check(&result, &blobs, &[1, 2, 3, 4, 80, 81, 82, 83], true);
    }

    #[test]
    fn what_is_named_very_often_is_opened_once() {
        let tree = Tree { root: Some(directory(&[10], &[90])), children: Vec::new() };
        let blobs = Blobs::default().with(1, &tree).with(80, &directory(&[2], &[81])).with(81, &directory(&[3], &[]));
        let output = |tree: Option<u8>, root: Option<u8>| OutputDirectory {
            tree_digest: tree.and_then(wire),
            root_directory_digest: root.and_then(wire),
            ..OutputDirectory::default()
        };
        let kinds = [output(Some(1), None), output(Some(1), Some(89)), output(None, Some(80)), output(None, Some(81))];
        let opened = std::cell::Cell::new(0);
        let read = |digest: &Digest, _| {
            opened.set(opened.get() + 1);
            blobs.0.get(digest).cloned().ok_or(EngineError::NotFound)
        };
        let result = result_with(kinds.iter().cycle().take(400).cloned().collect());
        let closure = closure(rule(), &result, &limits(), read).unwrap();
        assert!(closure.is_complete);
        assert_eq!(opened.get(), 4, "the tree in its two kinds, and two directories");
        check(&result, &blobs, &[1, 2, 3, 10, 80, 81, 89, 90], true);
    }

    #[test]
    fn an_absent_tree_or_directory_makes_it_incomplete_and_is_in_it() {
        let blobs = Blobs::default().with(80, &directory(&[1], &[81]));
        let tree = OutputDirectory { tree_digest: wire(5), ..OutputDirectory::default() };
        let root = OutputDirectory { root_directory_digest: wire(80), ..OutputDirectory::default() };
        check(&result_with(vec![tree]), &blobs, &[5], false);
        check(&result_with(vec![root]), &blobs, &[1, 80, 81], false);
    }

    #[test]
    fn what_is_no_tree_or_has_no_digests_or_too_many_is_refused() {
        let tree = |n| result_with(vec![OutputDirectory { tree_digest: wire(n), ..OutputDirectory::default() }]);
        let nameless = Directory { files: vec![FileNode::default()], ..Directory::default() };
        let many: Vec<u8> = (100..160).collect();
        let mut blobs = Blobs::default()
            .with(2, &Tree { root: Some(nameless), children: Vec::new() })
            .with(3, &Tree { root: Some(directory(&many, &[])), children: Vec::new() })
            .with(4, &Tree { root: None, children: vec![Directory::default(); 60] });
        blobs.0.insert(digest(1), Bytes::from_static(b"\xff\xff\xff"));
        for (n, text, is_well_formed) in [
            (1, "cannot be read", false),
            (2, "no digest", false),
            (3, "more than 50 blobs", true),
            (4, "50 directories", true),
        ] {
            let error = refused(&tree(n), &blobs);
            assert!(error.to_string().contains(text), "{n}: {error}");
            assert_eq!(matches!(error, ActionError::BeyondLimits(_)), is_well_formed, "{n}: {error}");
        }
    }
}
