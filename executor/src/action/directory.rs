//! `Directory` messages: decoded and held to their canonical form.

use bytes::Bytes;
use cask_index::Digest;
use cask_proto::digest::DigestRule;
use cask_proto::reapi::{self, NodeProperties};
use prost::Message as _;

use super::ActionFault;
use super::fault::excerpt;
use super::place::NAME_BYTES_MAX;

/// The longest that a symlink can hold: a longer one no worker could make.
const TARGET_BYTES_MAX: usize = 4095;

/// A directory whose names are sorted, unique over all three lists, and single segments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckedDirectory {
    /// Sorted by name.
    pub files: Vec<FileEntry>,
    /// Sorted by name.
    pub directories: Vec<DirectoryEntry>,
    /// Sorted by name.
    pub symlinks: Vec<SymlinkEntry>,
    /// Of the directory itself.
    pub properties: Option<NodeProperties>,
}

/// A file in a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct FileEntry {
    /// A single path segment.
    pub name: String,
    /// Of its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Wishes for its times and mode.
    pub properties: Option<NodeProperties>,
}

/// A directory in a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectoryEntry {
    /// A single path segment.
    pub name: String,
    /// Of its Directory message.
    pub digest: Digest,
}

/// A symlink in a directory.
#[derive(Clone, Debug, PartialEq)]
pub struct SymlinkEntry {
    /// A single path segment.
    pub name: String,
    /// Not empty, no NUL, no longer than a symlink can be; it may lead anywhere.
    pub target: String,
    /// Wishes for its times.
    pub properties: Option<NodeProperties>,
}

impl CheckedDirectory {
    /// Decodes and checks a Directory. `rule` is that of the action: one function for all of it.
    pub fn decode(rule: DigestRule, message: Bytes) -> Result<Self, ActionFault> {
        let message = reapi::Directory::decode(message).map_err(|_| ActionFault::Undecodable("input directory"))?;
        Self::check(rule, message)
    }

    /// Checks a decoded Directory.
    pub fn check(rule: DigestRule, message: reapi::Directory) -> Result<Self, ActionFault> {
        check_names(message.files.iter().map(|file| file.name.as_str()))?;
        check_names(message.directories.iter().map(|directory| directory.name.as_str()))?;
        check_names(message.symlinks.iter().map(|symlink| symlink.name.as_str()))?;
        check_unique(&message)?;
        let digest = |digest: Option<&reapi::Digest>| {
            rule.from_wire_field("digest", digest).map_err(|error| ActionFault::Digest("an input directory", error))
        };
        let mut checked = Self { properties: message.node_properties, ..Self::default() };
        for file in message.files {
            checked.files.push(FileEntry {
                digest: digest(file.digest.as_ref())?,
                name: file.name,
                is_executable: file.is_executable,
                properties: file.node_properties,
            });
        }
        for directory in message.directories {
            checked
                .directories
                .push(DirectoryEntry { digest: digest(directory.digest.as_ref())?, name: directory.name });
        }
        for symlink in message.symlinks {
            let target = &symlink.target;
            if target.is_empty() || target.contains('\0') || target.len() > TARGET_BYTES_MAX {
                return Err(ActionFault::SymlinkTarget(excerpt(&symlink.name)));
            }
            checked.symlinks.push(SymlinkEntry {
                name: symlink.name,
                target: symlink.target,
                properties: symlink.node_properties,
            });
        }
        Ok(checked)
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.files.len() + self.directories.len() + self.symlinks.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Single segments, strictly rising by their bytes.
fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ActionFault> {
    let mut before: Option<&str> = None;
    for name in names {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name.len() > NAME_BYTES_MAX {
            return Err(ActionFault::Name(excerpt(name)));
        }
        match before {
            Some(before) if before == name => return Err(ActionFault::Duplicate(excerpt(name))),
            Some(before) if before > name => return Err(ActionFault::Unsorted(excerpt(before), excerpt(name))),
            _ => before = Some(name),
        }
    }
    Ok(())
}

/// No name in two of the lists, which are sorted by now.
fn check_unique(message: &reapi::Directory) -> Result<(), ActionFault> {
    let files = message.files.iter().map(|file| file.name.as_str());
    let directories = message.directories.iter().map(|directory| directory.name.as_str());
    let symlinks = message.symlinks.iter().map(|symlink| symlink.name.as_str());
    let mut names: Vec<&str> = files.chain(directories).chain(symlinks).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ActionFault::Duplicate(excerpt(pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use cask_index::DigestFunction;
    use cask_proto::digest::to_wire;
    use cask_proto::reapi::{Directory, DirectoryNode, FileNode, SymlinkNode};

    use super::*;

    fn rule() -> DigestRule {
        DigestRule::like(&DigestFunction::Sha256.empty_blob())
    }

    #[expect(clippy::unnecessary_wraps, reason = "digest fields are optional")]
    fn digest() -> Option<reapi::Digest> {
        Some(to_wire(&DigestFunction::Sha256.empty_blob()))
    }

    fn directory(files: &[&str], directories: &[&str], symlinks: &[&str]) -> Directory {
        let text = |name: &&str| (*name).to_owned();
        let file = |name| FileNode { name: text(name), digest: digest(), ..FileNode::default() };
        let node = |name| DirectoryNode { name: text(name), digest: digest() };
        let symlink = |name| SymlinkNode { name: text(name), target: "t".to_owned(), ..SymlinkNode::default() };
        Directory {
            files: files.iter().map(file).collect(),
            directories: directories.iter().map(node).collect(),
            symlinks: symlinks.iter().map(symlink).collect(),
            node_properties: None,
        }
    }

    #[test]
    fn a_canonical_directory_passes() {
        let checked = CheckedDirectory::check(rule(), directory(&["B", "a", "é"], &["c", "d"], &[".x"]));
        assert_eq!(checked.expect("a directory").len(), 6);
        assert!(CheckedDirectory::decode(rule(), Bytes::new()).expect("an empty directory").is_empty());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "/", "a/b", "../a", "/etc", "a\0", &"n".repeat(256)] {
            for message in [directory(&[name], &[], &[]), directory(&[], &[name], &[]), directory(&[], &[], &[name])] {
                let refused = CheckedDirectory::check(rule(), message);
                assert!(matches!(refused, Err(ActionFault::Name(_))), "{name:?}: {refused:?}");
            }
        }
    }

    #[test]
    fn names_are_sorted_and_unique() {
        for message in [directory(&["b", "a"], &[], &[]), directory(&[], &["b", "a"], &[])] {
            assert!(matches!(CheckedDirectory::check(rule(), message), Err(ActionFault::Unsorted(..))));
        }
        for message in [
            directory(&["a", "a"], &[], &[]),
            directory(&["a"], &["a"], &[]),
            directory(&["a"], &[], &["a"]),
            directory(&[], &["a", "z"], &["a"]),
        ] {
            assert_eq!(CheckedDirectory::check(rule(), message), Err(ActionFault::Duplicate("a".to_owned())));
        }
    }

    #[test]
    fn digests_are_set_and_of_the_actions_function() {
        let mut message = directory(&["a"], &[], &[]);
        message.files[0].digest = Some(to_wire(&DigestFunction::Sha1.empty_blob()));
        assert!(matches!(CheckedDirectory::check(rule(), message.clone()), Err(ActionFault::Digest(..))));
        message.files[0].digest = None;
        assert!(matches!(CheckedDirectory::check(rule(), message), Err(ActionFault::Digest(..))));
    }

    #[test]
    fn symlinks_lead_somewhere() {
        let mut message = directory(&[], &[], &["s"]);
        message.symlinks[0].target = "t".repeat(4095);
        assert!(CheckedDirectory::check(rule(), message).is_ok());
        for target in ["", "a\0b", &"t".repeat(4096)] {
            let mut message = directory(&[], &[], &["s"]);
            message.symlinks[0].target = target.to_owned();
            assert!(matches!(CheckedDirectory::check(rule(), message), Err(ActionFault::SymlinkTarget(_))));
        }
    }
}
