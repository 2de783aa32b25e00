//! Directories that a command made, as messages: canonical, each distinct one once, and put together as `Tree`s.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cask_index::{Digest, DigestFunction, Hasher};
use cask_proto::reapi::Directory;
use prost::{Message as _, encoding::encode_varint};

/// Tags of `Tree.root` and `Tree.children`, both of them messages.
const ROOT_TAG: u8 = 0x0a;
const CHILD_TAG: u8 = 0x12;

struct Known {
    encoded: Bytes,
    /// In the order of their names.
    children: Vec<Digest>,
}

/// All distinct directories of one result.
pub(crate) struct Directories {
    function: DigestFunction,
    known: HashMap<Digest, Known>,
}

impl Directories {
    pub(crate) fn new(function: DigestFunction) -> Self {
        Self { function, known: HashMap::new() }
    }

    /// Takes in a directory whose children were taken in before. Its lists may come in any order.
    pub(crate) fn add(&mut self, mut directory: Directory, children: &HashMap<String, Digest>) -> Digest {
        directory.files.sort_by(|one, other| one.name.cmp(&other.name));
        directory.directories.sort_by(|one, other| one.name.cmp(&other.name));
        directory.symlinks.sort_by(|one, other| one.name.cmp(&other.name));
        let encoded = Bytes::from(directory.encode_to_vec());
        let digest = Hasher::digest(self.function, &encoded);
        let children = directory.directories.iter().map(|node| children[&node.name]).collect();
        self.known.entry(digest).or_insert(Known { encoded, children });
        digest
    }

    /// The encoded `Tree` below a directory: the root first, then each distinct directory below it once, parents before children,
    /// siblings by name. The same directories give the same bytes.
    pub(crate) fn tree(&self, root: Digest) -> Bytes {
        let order = self.parents_first(root);
        let mut tree = Vec::with_capacity(order.iter().map(|digest| digest.size_bytes() as usize + 11).sum());
        for (index, digest) in order.iter().enumerate() {
            let encoded = &self.known[digest].encoded;
            tree.push(if index == 0 { ROOT_TAG } else { CHILD_TAG });
            encode_varint(encoded.len() as u64, &mut tree);
            tree.extend_from_slice(encoded);
        }
        tree.into()
    }

    /// A directory and all below it, with their bytes.
    pub(crate) fn below(&self, root: Digest) -> impl Iterator<Item = (Digest, Bytes)> {
        self.parents_first(root).into_iter().map(|digest| (digest, self.known[&digest].encoded.clone()))
    }

    /// Backwards in the order in which a walk leaves them, so that all who lead to a directory stand before it.
    fn parents_first(&self, root: Digest) -> Vec<Digest> {
        let mut seen = HashSet::from([root]);
        let mut left = Vec::new();
        // The directory, and how many of its children were gone into; from the last, so that the reversal has them by name.
        let mut path = vec![(root, 0)];
        while let Some((digest, gone_into)) = path.last_mut() {
            let children = &self.known[digest].children;
            if *gone_into == children.len() {
                left.push(*digest);
                path.pop();
                continue;
            }
            *gone_into += 1;
            let child = children[children.len() - *gone_into];
            if seen.insert(child) {
                path.push((child, 0));
            }
        }
        left.reverse();
        left
    }
}
